//! Here: which files a source has, in a fixed order: members of archives, or loose files of folders.
//! Not here: labels, the content of images beyond their first bytes.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::decode::Format;
use crate::error::{Error, Fault, Result};
use crate::index::{FILE_NAME, extension as full_extension};
use crate::tar;

use super::extras::ExtraFile;

/// List of the rejected images that `pack` leaves beside its shards.
pub const REJECTED_NAME: &str = "rejected.jsonl";

/// Enough for the longest magic number, WebP's.
const MAGIC_BYTES: u64 = 12;

/// A `.cls` member is a number.
const MAX_LABEL_BYTES: u64 = 32;

/// The files of a source.
pub struct Listing {
    /// Absolute; shard paths are relative to it.
    pub root: PathBuf,
    /// In the order of the items.
    pub shards: Vec<ShardFile>,
    /// What matters of them.
    pub(super) items: Vec<Item>,
    /// Files of no interest, and links inside of archives.
    pub ignored: u64,
    /// Whether shards are archives; otherwise each is one file.
    pub in_archives: bool,
    /// Whether files beside the images are of interest.
    pub(super) with_extras: bool,
    /// For the user who pointed at the wrong folder.
    pub(super) hint: &'static str,
}

/// An archive, or a loose file.
pub struct ShardFile {
    /// Relative to the root; as bytes, because names need not be UTF-8.
    pub path: Vec<u8>,
    /// Size.
    pub bytes: u64,
}

/// An image, or something beside it.
pub(super) struct Item {
    pub(super) shard: u32,
    pub(super) name: Vec<u8>,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) role: Role,
    /// Of an image.
    pub(super) extras: Vec<ExtraFile>,
}

pub(super) enum Role {
    /// Or what claims to be one.
    Image,
    /// The text of a `.cls` member.
    Label(Vec<u8>),
    /// Any other file that can belong to an image, by its name.
    Extra,
}

impl Listing {
    /// Absolute path of a shard.
    pub fn path(&self, shard: u32) -> PathBuf {
        self.root.join(OsStr::from_bytes(&self.shards[shard as usize].path))
    }

    /// Whether a file that is neither image nor label can belong to an image; counted as ignored if not.
    fn takes_extra(&mut self, name: &[u8]) -> bool {
        let taken = self.with_extras && !full_extension(name).is_empty();
        self.ignored += u64::from(!taken);
        taken
    }

    fn shard(&mut self, path: Vec<u8>, bytes: u64) -> u32 {
        self.shards.push(ShardFile { path, bytes });
        (self.shards.len() - 1) as u32
    }
}

/// Lists a source; `alive` is called now and then and may stop it.
pub(super) fn list(
    source: &Path,
    with_extras: bool,
    alive: &mut dyn FnMut() -> Result<()>,
) -> Result<Listing> {
    let absolute = std::path::absolute(source)?;
    let new = |root: &Path, in_archives| Listing {
        root: root.to_path_buf(),
        shards: Vec::new(),
        items: Vec::new(),
        ignored: 0,
        in_archives,
        with_extras,
        hint: "",
    };
    if !std::fs::metadata(&absolute)?.is_dir() {
        let mut listing = new(absolute.parent().unwrap_or(Path::new("/")), true);
        let name = absolute.file_name().unwrap_or_default().as_bytes().to_vec();
        archive(&mut listing, name, alive)?;
        return Ok(listing);
    }
    let mut files = Vec::new();
    walk(&absolute, b"", &mut Vec::new(), &mut files, alive)?;
    files.sort_unstable();
    let archives: Vec<&Loose> =
        files.iter().filter(|file| file.folder.is_empty() && file.is_archive()).collect();
    if archives.is_empty() {
        let mut listing = new(&absolute, false);
        loose_images(&mut listing, &files, alive)?;
        return Ok(listing);
    }
    let mut listing = new(&absolute, true);
    let other = files.iter().filter(|file| !(file.folder.is_empty() && file.is_archive()));
    for file in other {
        let path = file.path();
        if is_image(&path, || first_bytes(&absolute.join(OsStr::from_bytes(&path))))? {
            let (tar, image) = (crate::error::printable(&archives[0].name), crate::error::printable(&path));
            let text = format!("the folder has archives ({tar}) and loose images ({image}); give one kind");
            return Err(Fault::Source(text).into());
        }
        listing.ignored += 1;
    }
    for file in archives {
        archive(&mut listing, file.name.clone(), alive)?;
    }
    Ok(listing)
}

/// Adds the images and labels of one archive.
fn archive(listing: &mut Listing, path: Vec<u8>, alive: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let absolute = listing.root.join(OsStr::from_bytes(&path));
    let mut work = || -> Result<()> {
        // Looked at before it is opened: opening a named pipe would wait for a writer.
        let metadata = std::fs::metadata(&absolute)?;
        if !metadata.is_file() {
            return Err(Fault::NotATar.into());
        }
        let file = File::open(&absolute)?;
        let shard = listing.shard(path.clone(), metadata.len());
        let read = |offset: u64, buffer: &mut [u8]| Ok(file.read_exact_at(buffer, offset)?);
        let mut members = tar::members(metadata.len(), read);
        for (number, member) in members.by_ref().enumerate() {
            if number % 256 == 0 {
                alive()?;
            }
            let member = member.map_err(|error| explain(error, &file))?;
            add_member(listing, shard, member, &file)?;
        }
        listing.ignored += members.links();
        Ok(())
    };
    work().map_err(|error| error.in_shard(absolute.display()))
}

/// Says what a file that is no archive is instead, if it is a common kind.
fn explain(error: Error, file: &File) -> Error {
    let mut magic = [0; 4];
    if !matches!(error.fault(), Fault::NotATar) || file.read_exact_at(&mut magic, 0).is_err() {
        return error;
    }
    let kind = match magic {
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "zstd",
        [0xfd, b'7', b'z', b'X'] => "xz",
        [b'B', b'Z', b'h', _] => "bzip2",
        [b'P', b'K', 3, 4] => "zip",
        _ => return error,
    };
    Fault::Source(format!(
        "a {kind} file, not a tar: samples of compressed archives cannot be read in place; unpack it first"
    ))
    .into()
}

fn add_member(listing: &mut Listing, shard: u32, member: tar::Member, file: &File) -> Result<()> {
    let tar::Member { name, offset, length } = member;
    if is_hidden(&name) {
        return Ok(());
    }
    let role = match extension(&name).as_deref() {
        Some(b"cls") if length > MAX_LABEL_BYTES => {
            let limit = MAX_LABEL_BYTES;
            let fault = Fault::Limit { what: "label, bytes,", found: length, limit };
            return Err(Error::from(fault).in_member(&name).at(offset));
        }
        Some(b"cls") => {
            let mut text = vec![0; length as usize];
            file.read_exact_at(&mut text, offset)?;
            Role::Label(text)
        }
        _ => {
            let begin = || {
                let mut magic = vec![0; length.min(MAGIC_BYTES) as usize];
                file.read_exact_at(&mut magic, offset)?;
                Ok(magic)
            };
            match is_image(&name, begin)? {
                true => Role::Image,
                false if listing.takes_extra(&name) => Role::Extra,
                false => return Ok(()),
            }
        }
    };
    listing.items.push(Item { shard, name, offset, length, role, extras: Vec::new() });
    Ok(())
}

/// A file in a folder. Ordered as torchvision's `ImageFolder` orders: by class, then by folder, then by
/// name, so that files of a folder come before those of its sub-folders.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Loose {
    class: Vec<u8>,
    folder: Vec<u8>,
    name: Vec<u8>,
    bytes: u64,
}

impl Loose {
    fn path(&self) -> Vec<u8> {
        joined(&self.folder, &self.name)
    }

    fn is_archive(&self) -> bool {
        extension(&self.name).as_deref() == Some(b"tar")
    }
}

fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder {
        b"" => name.to_vec(),
        _ => [folder, b"/", name].concat(),
    }
}

/// Regular files below a folder, hidden ones left out. Links are followed; one that leads back into
/// its own folders is an error.
fn walk(
    root: &Path,
    folder: &[u8],
    above: &mut Vec<(u64, u64)>,
    files: &mut Vec<Loose>,
    alive: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    alive()?;
    let path = root.join(OsStr::from_bytes(folder));
    let located = |error: std::io::Error| Error::from(error).in_shard(path.display());
    let metadata = std::fs::metadata(&path).map_err(located)?;
    let identity = (metadata.dev(), metadata.ino());
    if above.contains(&identity) {
        let text = "a link leads back to a folder above it".to_owned();
        return Err(Error::from(Fault::Source(text)).in_shard(path.display()));
    }
    above.push(identity);
    for entry in std::fs::read_dir(&path).map_err(located)? {
        let name = entry.map_err(located)?.file_name().as_bytes().to_vec();
        let own = [FILE_NAME.as_bytes(), REJECTED_NAME.as_bytes()].contains(&name.as_slice());
        if is_hidden(&name) || own {
            continue;
        }
        let inner = joined(folder, &name);
        let inner_path = root.join(OsStr::from_bytes(&inner));
        let metadata = std::fs::metadata(&inner_path)
            .map_err(|error| Error::from(error).in_shard(inner_path.display()))?;
        if metadata.is_dir() {
            walk(root, &inner, above, files, alive)?;
        } else if metadata.is_file() {
            let class = folder.split(|&byte| byte == b'/').next().unwrap_or_default().to_vec();
            files.push(Loose { class, folder: folder.to_vec(), name, bytes: metadata.len() });
        }
    }
    above.pop();
    Ok(())
}

/// Adds each image of a folder, and what may belong to one, as a shard of its own. A `.cls` is not among
/// that: in folders it is no label, and packed it would become one.
fn loose_images(listing: &mut Listing, files: &[Loose], alive: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    for (number, file) in files.iter().enumerate() {
        if number % 256 == 0 {
            alive()?;
        }
        let path = file.path();
        let absolute = listing.root.join(OsStr::from_bytes(&path));
        let role = if is_image(&path, || first_bytes(&absolute))? {
            Role::Image
        } else if file.is_archive() {
            listing.hint = match file.folder.as_slice() {
                b"train" | b"held-out" => ": they were packed in two parts; give train or held-out in it",
                _ => ": the tar archives lie deeper; give the folder that has them",
            };
            listing.ignored += 1;
            continue;
        } else if extension(&path).as_deref() == Some(b"cls") {
            listing.ignored += 1;
            continue;
        } else if listing.takes_extra(&path) {
            Role::Extra
        } else {
            continue;
        };
        let shard = listing.shard(path.clone(), file.bytes);
        listing.items.push(Item {
            shard,
            name: path,
            offset: 0,
            length: file.bytes,
            role,
            extras: Vec::new(),
        });
    }
    Ok(())
}

/// Whether something is or claims to be an image. Content decides; but what is named like an image
/// counts as one too, so that a damaged file is an error later and not silently left out now.
fn is_image(name: &[u8], first_bytes: impl FnOnce() -> Result<Vec<u8>>) -> Result<bool> {
    match extension(name).as_deref() {
        Some(b"jpg" | b"jpeg" | b"png" | b"webp" | b"bjc") => Ok(true),
        _ => Ok(Format::sniff(&first_bytes()?).is_some()),
    }
}

fn first_bytes(path: &Path) -> Result<Vec<u8>> {
    let located = |error: std::io::Error| Error::from(error).in_shard(path.display());
    let mut magic = Vec::new();
    File::open(path).map_err(located)?.take(MAGIC_BYTES).read_to_end(&mut magic).map_err(located)?;
    Ok(magic)
}

/// What follows the last dot of the last component, in lower case.
fn extension(name: &[u8]) -> Option<Vec<u8>> {
    let base = name.rsplit(|&byte| byte == b'/').next()?;
    let dot = base.iter().rposition(|&byte| byte == b'.')?;
    Some(base[dot + 1..].to_ascii_lowercase())
}

/// Whether a component begins with a dot: `.DS_Store`, `__MACOSX/._x.jpg`. `.` and `..` are no names.
fn is_hidden(name: &[u8]) -> bool {
    name.split(|&byte| byte == b'/').any(|part| part.starts_with(b".") && part != b"." && part != b"..")
}
