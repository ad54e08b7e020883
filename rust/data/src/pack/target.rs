//! Here: the folder that packing writes to: whether it may be, and the list of rejects in it.
//! Not here: shards, the write protocol.

use std::fs;
use std::path::{Path, PathBuf};

use super::{PARTS, Reject};
use crate::error::{Error, Fault, Place, Result};
use crate::index::{FILE_NAME, Index, index_path};
use crate::scan::REJECTED_NAME;

/// An output may be written where nothing is, or in place of an earlier output.
pub(super) fn check_target(out: &Path, overwrite: bool) -> Result<()> {
    let refuse = |text: &str| Err(Fault::Setting(format!("{}: {text}", out.display())).into());
    // Without a slash at the end, behind which a link looks like its folder.
    let plain: PathBuf = out.components().collect();
    if fs::symlink_metadata(plain).is_ok_and(|metadata| metadata.is_symlink()) {
        return refuse("is a link; give the folder that it leads to");
    }
    match fs::read_dir(out).map(|mut entries| entries.next().is_none()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => refuse("exists and is no folder"),
        Err(error) => Err(Error::from(error).in_shard(out.display())),
        Ok(true) => Ok(()),
        Ok(false) if !is_output(out) => refuse("exists and holds something else than packed shards"),
        Ok(false) if !overwrite => refuse("exists already; --overwrite replaces it"),
        Ok(false) => Ok(()),
    }
}

/// Refuses a source that lies in the output that it would replace: its other parts would be lost.
pub(super) fn check_apart(source: &Path, out: &Path) -> Result<()> {
    let (Ok(source), Ok(target)) = (fs::canonicalize(source), fs::canonicalize(out)) else { return Ok(()) };
    if source.starts_with(&target) {
        let text = format!("{}: the source lies in it; choose another folder", out.display());
        return Err(Fault::Setting(text).into());
    }
    Ok(())
}

/// Whether a folder has what `pack` writes and nothing else: it may then be replaced.
fn is_output(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let names: Option<Vec<String>> =
        entries.map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    let Some(mut names) = names else { return false };
    names.retain(|name| name != REJECTED_NAME);
    names.sort_unstable();
    if names == ["held-out", "train"] {
        return PARTS.iter().all(|part| is_output(&folder.join(part)));
    }
    names.retain(|name| name != FILE_NAME);
    let Ok(index) = Index::open(&index_path(folder)) else { return false };
    let mut shards: Vec<PathBuf> =
        (0..index.num_shards() as u32).map(|shard| index.shard_path(shard)).collect();
    shards.sort_unstable();
    // What `barlow index` writes beside a shard for DALI is made of it, and goes with it.
    let of_a_shard =
        |name: &String| shards.binary_search(&index.root().join(name).with_extension("tar")).is_ok();
    names.retain(|name| !(name.ends_with(".idx") && of_a_shard(name)));
    shards == names.iter().map(|name| index.root().join(name)).collect::<Vec<_>>()
}

/// A line of `rejected.jsonl`.
pub(super) fn json_line(reject: &Reject) -> String {
    let text = |value: &Option<String>| value.as_deref().map_or("null".into(), json_text);
    let Place { shard, member, offset } = &reject.place;
    let offset = offset.map_or("null".into(), |offset| offset.to_string());
    format!(
        "{{\"shard\": {}, \"member\": {}, \"offset\": {offset}, \"reason\": {}}}\n",
        text(shard),
        text(member),
        json_text(&reject.reason)
    )
}

fn json_text(text: &str) -> String {
    let mut json = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            _ if character.is_control() => json.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => json.push(character),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reject_is_a_line_of_json() {
        let place = Place { shard: Some("a \"b\"\n\\".into()), member: None, offset: Some(3) };
        let line = json_line(&Reject { place, reason: "ä".into() });
        assert_eq!(
            line,
            "{\"shard\": \"a \\\"b\\\"\\u000a\\\\\", \"member\": null, \"offset\": 3, \"reason\": \"ä\"}\n"
        );
    }
}
