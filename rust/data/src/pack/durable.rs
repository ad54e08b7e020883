//! Here: the one write protocol: temporary name, write, fsync, rename, fsync of the folder. What stands
//! at the final name is whole, or nothing does.
//! Not here: what is written.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
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
    /// Locked as long as the process lives, which tells a folder in the making from what a dead one left.
    _lock: File,
}

impl Staging {
    /// Creates `target.tmp-PID`. Call [`recover`] before: where the number of a process is always the same, as
    /// in containers, a killed one may have left this very folder.
    pub(super) fn new(target: &Path) -> io::Result<Self> {
        let target = plain(target)?;
        let temporary = beside(&target, "tmp");
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::create_dir(&temporary)?;
        let lock = File::open(&temporary)?;
        // Some file systems know no locks: there, leftovers stay.
        let _ = lock.try_lock();
        Ok(Self { temporary, target, _lock: lock })
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

/// Cleans up behind processes that died while they wrote `target`: what they had begun is removed, and what
/// they had moved aside to replace it goes back if nothing has taken its place.
pub(super) fn recover(target: &Path) -> io::Result<()> {
    let target = plain(target)?;
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else { return Ok(()) };
    let Ok(entries) = fs::read_dir(parent) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        let left = |kind: &str| {
            let rest = path.file_name()?.as_bytes().strip_prefix(name.as_bytes())?;
            let number = rest.strip_prefix(format!(".{kind}-").as_bytes())?;
            (!number.is_empty() && number.iter().all(u8::is_ascii_digit)).then_some(())
        };
        let (begun, aside) = (left("tmp").is_some(), left("old").is_some());
        if !(begun || aside) || !path.is_dir() {
            continue;
        }
        match File::open(&path)?.try_lock() {
            Ok(()) => {}
            // Without locks only the own number is surely that of a dead process.
            Err(TryLockError::Error(_)) if path == beside(&target, "tmp") => {}
            Err(_) => continue,
        }
        if aside && fs::symlink_metadata(&target).is_err() {
            fs::rename(&path, &target)?;
            sync_folder(Some(parent))?;
        } else {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// Absolute and without a slash at the end, so that something can be appended to the name.
fn plain(path: &Path) -> io::Result<PathBuf> {
    Ok(std::path::absolute(path)?.components().collect())
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
        recover(&target).unwrap();
        let staging = Staging::new(&target.join("")).unwrap();
        write_synced(&staging.path().join("y"), b"2").unwrap();
        staging.commit().unwrap();
        assert_eq!(names(&target), ["y"]);
        assert_eq!(names(&folder.join("deep")), ["out"]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_the_dead_left_goes_and_what_the_living_write_stays() {
        let folder = folder("recover");
        let target = folder.join("out");
        for name in ["out.tmp-1", "out.old-2", "out.tmp-x", "out.tmp-", "other.tmp-1", "out2.tmp-1"] {
            fs::create_dir(folder.join(name)).unwrap();
            fs::write(folder.join(name).join(name), b"").unwrap();
        }
        let staging = Staging::new(&target).unwrap();
        let own = staging.path().file_name().unwrap().to_str().unwrap().to_owned();
        // The last process died between its two renames: the output comes back.
        recover(&target).unwrap();
        let strangers = ["other.tmp-1", "out2.tmp-1", "out.tmp-", "out.tmp-x"].map(String::from);
        let mut expected = [&strangers[..], &["out".into(), own]].concat();
        expected.sort();
        assert_eq!(names(&folder), expected);
        assert_eq!(names(&target), ["out.old-2"]);
        // Where something stands, what was moved aside is old.
        fs::create_dir(folder.join("out.old-3")).unwrap();
        recover(&target).unwrap();
        assert_eq!(names(&folder), expected);
        assert_eq!(names(&target), ["out.old-2"]);
        drop(staging);
        fs::remove_dir_all(&folder).unwrap();
    }
}
