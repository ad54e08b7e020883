//! Here: member names as paths below a folder: which ones can be written there, and that no two of them collide.
//! Not here: reading, writing.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::{Error, Fault, Result, printable};
use crate::index::stem;
use crate::limits::MAX_NAME_BYTES;
use crate::recode::{SUFFIX, original_name};
use crate::scan::{Candidate, ExtraFile, Plan};

/// Longest component of a path on Linux (`NAME_MAX`).
const MAX_COMPONENT_BYTES: usize = 255;

/// The relative path that a member name stands for; a name that could lead elsewhere is refused.
pub(super) fn inner_path(name: &[u8]) -> Result<PathBuf> {
    let refuse = || Error::from(Fault::Source("a member name that leads out of the folder".into()));
    if name.starts_with(b"/") || name.split(|&byte| byte == b'/').any(|part| part == b"..") {
        return Err(refuse());
    }
    let path: PathBuf = parts(name).map(OsStr::from_bytes).collect();
    if path.as_os_str().is_empty() { Err(refuse()) } else { Ok(path) }
}

/// The name of a recoded image's member; `None` if it would be too long for some tool.
pub(super) fn recoded(name: &[u8]) -> Option<Vec<u8>> {
    let name = [name, SUFFIX].concat();
    let fits = parts(&name).all(|part| part.len() <= MAX_COMPONENT_BYTES);
    (fits && name.len() as u64 <= MAX_NAME_BYTES).then_some(name)
}

/// A file to be.
struct Named<'a> {
    name: Cow<'a, [u8]>,
    /// The file of the source that an error is about: an image, for its label too, or an extra member.
    of: (u32, &'a [u8], u64),
}

/// Refuses what unpacking could not give back: names that lead elsewhere or are too long for a file, and two
/// that are one path, or of which one would be the folder of the other.
pub(super) fn check(plan: &Plan) -> Result<()> {
    let mut files = Vec::with_capacity(plan.candidates.len());
    for Candidate { name, shard, offset, extras, .. } in &plan.candidates {
        let of = (*shard, name.as_slice(), *offset);
        // The name that it gets back, should it be a recoded image.
        files.push(Named { name: Cow::from(original_name(name)), of });
        if plan.numbered {
            files.push(Named { name: Cow::from([stem(name), b".cls"].concat()), of });
        }
        files.extend(extras.iter().map(|ExtraFile { name, shard, offset, .. }| Named {
            name: Cow::from(name),
            of: (*shard, name, *offset),
        }));
    }
    let locate = |file: &Named<'_>, error| {
        let (shard, name, offset) = file.of;
        plan.locate_file(shard, name, offset, error)
    };
    for file in &files {
        inner_path(&file.name).map_err(|error| locate(file, error))?;
        if parts(&file.name).any(|part| part.len() > MAX_COMPONENT_BYTES) {
            let text = format!("a name with more than {MAX_COMPONENT_BYTES} bytes between two slashes");
            return Err(locate(file, Fault::Source(text).into()));
        }
    }
    let names: Vec<&[u8]> = files.iter().map(|file| &*file.name).collect();
    let Some((first, second)) = collision(&names) else { return Ok(()) };
    let (shard, name, _) = files[first].of;
    let text = format!(
        "the name collides with an earlier one ({}: {}); `barlow index` can use such archives where they are",
        plan.listing.path(shard).display(),
        printable(name)
    );
    Err(locate(&files[second], Fault::Source(text).into()))
}

/// Two names of which one is, or lies below, the other: (the earlier, the later).
fn collision(names: &[&[u8]]) -> Option<(usize, usize)> {
    let mut order: Vec<usize> = (0..names.len()).collect();
    // By components: what lies below a name follows it at once.
    order.sort_unstable_by(|&a, &b| parts(names[a]).cmp(parts(names[b])).then(a.cmp(&b)));
    let pair = order.windows(2).find(|pair| {
        let (mut above, mut below) = (parts(names[pair[0]]), parts(names[pair[1]]));
        above.all(|part| below.next() == Some(part))
    })?;
    Some((pair[0].min(pair[1]), pair[0].max(pair[1])))
}

/// The components of a path; `a//./b` is `a/b`.
fn parts(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_folder() {
        assert_eq!(inner_path(b"./a//b/./c.jpg").unwrap(), PathBuf::from("a/b/c.jpg"));
        assert_eq!(inner_path(b"..a/b..").unwrap(), PathBuf::from("..a/b.."));
        for name in [&b"/etc/x"[..], b"../x", b"a/../../x", b"a/..", b"//x", b".", b""] {
            assert!(inner_path(name).is_err(), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn names_that_would_be_one_file_are_found() {
        let found = |names: &[&str]| {
            let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
            collision(&names)
        };
        assert_eq!(found(&["b/1", "a/1", "a/2", "a/10", "aa", "a1/1"]), None);
        assert_eq!(found(&["b", "a/1", "c", "./a//1"]), Some((1, 3)));
        assert_eq!(found(&["x/y/z", "a", "x", "x.jpg"]), Some((0, 2)));
        // A byte below the slash sorts between a folder and its files where names are compared as bytes.
        assert_eq!(found(&["a", "a!", "a/b"]), Some((0, 2)));
    }
}
