//! Here: the one write protocol: temporary name, write, fsync, rename, fsync of the folder. What stands
//! at the final name is whole, or nothing does.
//! Not here: what is written.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes a file that appears whole or not at all.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = beside(path, "tmp");
    let written = write_synced(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_folder(path.parent())
}

/// Writes a file inside of a folder that is not yet at its final name.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A folder in the making; removed if it is dropped before it is committed.
pub(super) struct Staging {
    temporary: PathBuf,
    target: PathBuf,
}

impl Staging {
    /// Creates `target.tmp-PID`. What a killed process of the same number left there is removed: that
    /// is no rarity in containers, where the number is always the same.
    pub(super) fn new(target: &Path) -> io::Result<Self> {
        let target = std::path::absolute(target)?;
        let temporary = beside(&target, "tmp");
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        if fs::symlink_metadata(&temporary).is_ok() {
            fs::remove_dir_all(&temporary)?;
        }
        fs::create_dir(&temporary)?;
        Ok(Self { temporary, target })
    }

    /// Where to write meanwhile.
    pub(super) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Moves the folder to its name, in place of what is there. The caller has made sure that an
    /// existing folder may go; it is moved aside first, because a folder can only replace an empty one.
    pub(super) fn commit(self) -> io::Result<()> {
        sync_folder(Some(&self.temporary))?;
        let old = beside(&self.target, "old");
        let replaced = fs::rename(&self.target, &old).is_ok();
        if let Err(error) = fs::rename(&self.temporary, &self.target) {
            if replaced {
                fs::rename(&old, &self.target)?;
            }
            return Err(error);
        }
        sync_folder(self.target.parent())?;
        if replaced {
            fs::remove_dir_all(&old)?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a commit there is nothing left to remove.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// Makes names in a folder durable.
pub(super) fn sync_folder(folder: Option<&Path>) -> io::Result<()> {
    match folder {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn beside(path: &Path, kind: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(format!(".{kind}-{}", std::process::id()));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("barlow-durable-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_replaces_another_and_leaves_no_litter() {
        let folder = folder("file");
        let path = folder.join("x");
        write_file(&path, b"one").unwrap();
        write_file(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(write_file(&folder.join("absent/x"), b"").is_err());
        fs::create_dir(folder.join("taken")).unwrap();
        assert!(write_file(&folder.join("taken"), b"").is_err());
        assert_eq!(names(&folder), ["taken", "x"]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_folder_appears_when_committed_and_not_before() {
        let folder = folder("folder");
        let target = folder.join("deep/out");
        let staging = Staging::new(&target).unwrap();
        write_synced(&staging.path().join("x"), b"1").unwrap();
        assert!(!target.exists());
        staging.commit().unwrap();
        assert_eq!(names(&target), ["x"]);

        let staging = Staging::new(&target).unwrap();
        write_synced(&staging.path().join("y"), b"2").unwrap();
        drop(staging);
        assert_eq!(names(&target), ["x"]);

        // What a killed process left is no obstacle, and a committed folder replaces the old one.
        fs::create_dir(beside(&target, "tmp")).unwrap();
        fs::write(beside(&target, "tmp").join("litter"), b"").unwrap();
        let staging = Staging::new(&target).unwrap();
        write_synced(&staging.path().join("y"), b"2").unwrap();
        staging.commit().unwrap();
        assert_eq!(names(&target), ["y"]);
        assert_eq!(names(&folder.join("deep")), ["out"]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
