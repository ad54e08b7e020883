//! Here: member names as paths below a folder: which ones can be written there, and that no two of them collide.
//! Not here: reading, writing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::{Error, Fault, Result, printable};
use crate::scan::{Plan, stem};

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

/// Refuses what unpacking could not give back: names that lead elsewhere or are too long for a file, and two
/// that are one path, or of which one would be the folder of the other.
pub(super) fn check(plan: &Plan) -> Result<()> {
    for (at, candidate) in plan.candidates.iter().enumerate() {
        inner_path(&candidate.name).map_err(|error| plan.locate(at, error))?;
        if parts(&candidate.name).any(|part| part.len() > MAX_COMPONENT_BYTES) {
            let text = format!("a name with more than {MAX_COMPONENT_BYTES} bytes between two slashes");
            return Err(plan.locate(at, Fault::Source(text).into()));
        }
    }
    let images = plan.candidates.iter().map(|candidate| candidate.name.as_slice());
    unique(plan, images)?;
    if plan.numbered {
        let labels: Vec<Vec<u8>> =
            plan.candidates.iter().map(|candidate| [stem(&candidate.name), b".cls"].concat()).collect();
        unique(plan, labels.iter().map(Vec::as_slice))?;
    }
    Ok(())
}

fn unique<'a>(plan: &Plan, names: impl Iterator<Item = &'a [u8]>) -> Result<()> {
    let names: Vec<&[u8]> = names.collect();
    let Some((first, second)) = collision(&names) else { return Ok(()) };
    let earlier = &plan.candidates[first];
    let text = format!(
        "the name collides with an earlier one ({}: {}); `barlow index` can use such archives where they are",
        plan.listing.path(earlier.shard).display(),
        printable(&earlier.name)
    );
    Err(plan.locate(second, Fault::Source(text).into()))
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
