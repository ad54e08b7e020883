//! Here: the index of a data set: for each sample its shard, offset, length, label, size and checksum, and
//! where its extra members lie.
//! Not here: image bytes, order, writing to disk.
//!
//! The file is mapped, so all processes of a machine share one copy, and checked once when opened;
//! after that no access can panic, whatever the file says. Offsets in a map are never trusted: a file
//! that someone changes in place meanwhile can give wrong answers, not wrong memory.

mod build;
mod extras;
mod format;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::decode::Format;
use crate::error::{Error, Fault, Result};
use crate::limits::{MAX_CLASSES, MAX_MEMBER_BYTES, MAX_NAME_BYTES, MAX_SAMPLES, MAX_SHARDS};
use format::{CLASS_BYTES, HEADER_BYTES, Header, NO_LABEL, PROVEN, SAMPLE_BYTES, SHARD_BYTES, SampleRecord};

pub use build::{Builder, check_extras};
pub use extras::{Extra, extension, stem};
pub use format::VERSION;

/// Name of the index in a folder of shards.
pub const FILE_NAME: &str = "barlow.index";

/// One sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Number of its shard.
    pub shard: u32,
    /// Where its bytes begin in the shard.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u32,
    /// Its class, if it has one.
    pub label: Option<u32>,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Of the encoded bytes.
    pub format: Format,
    /// Of the encoded bytes.
    pub crc32c: u32,
    /// All of it was decoded without harm when it was packed; `index` only reads headers.
    pub proven: bool,
}

/// A checked, immutable index.
pub struct Index {
    bytes: Bytes,
    header: Header,
    root: PathBuf,
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

/// Where the index of a source belongs: in the folder, or beside the archive (`x.tar.index`); an index
/// file is its own, known by its name or its first bytes.
pub fn index_path(source: &Path) -> PathBuf {
    if source.is_dir() {
        return source.join(FILE_NAME);
    }
    let is_index = || -> std::io::Result<bool> {
        let mut magic = [0; format::MAGIC.len()];
        std::io::Read::read_exact(&mut File::open(source)?, &mut magic)?;
        Ok(magic == format::MAGIC)
    };
    if source.extension().is_some_and(|extension| extension == "index") || is_index().unwrap_or(false) {
        return source.to_path_buf();
    }
    let mut beside = source.as_os_str().to_owned();
    beside.push(".index");
    beside.into()
}

impl Index {
    /// Opens an index file, or the one that belongs to a folder or an archive ([`index_path`]).
    pub fn open(path: &Path) -> Result<Self> {
        let path = index_path(path);
        Self::open_file(&path).map_err(|error| error.in_shard(path.display()))
    }

    fn open_file(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let absolute = std::path::absolute(path)?;
        let root = absolute.parent().unwrap_or(Path::new("/")).to_path_buf();
        if file.metadata()?.len() < HEADER_BYTES as u64 {
            return Err(Fault::NotAnIndex.into());
        }
        // SAFETY: the map is read-only. barlow replaces an index by renaming and never writes into one,
        // so the map keeps the old file; every read below is checked against the length of the map.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Self::checked(Bytes::Mapped(map), root)
    }

    /// An index in memory; `root` is the folder that its shard paths are relative to.
    pub fn from_bytes(bytes: Vec<u8>, root: &Path) -> Result<Self> {
        Self::checked(Bytes::Owned(bytes), std::path::absolute(root)?)
    }

    fn checked(bytes: Bytes, root: PathBuf) -> Result<Self> {
        let header = Header::read(bytes.as_slice())?;
        let limit = |what, found: u64, limit: u64| match found > limit {
            true => Err(Fault::Limit { what, found, limit }),
            false => Ok(()),
        };
        limit("number of samples", header.num_samples, MAX_SAMPLES)?;
        limit("number of shards", header.num_shards, MAX_SHARDS)?;
        limit("number of classes", header.num_classes, MAX_CLASSES)?;
        let index = Self { bytes, header, root };
        index.check_kinds()?;
        index.check_records()?;
        Ok(index)
    }

    /// All records, and that neighbours in a shard do not overlap; a few nanoseconds each.
    fn check_records(&self) -> Result<()> {
        let named = |name: Option<&[u8]>| match name {
            Some(name) if name.len() as u64 <= MAX_NAME_BYTES => Ok(()),
            _ => Err(Fault::IndexDamaged("string out of bounds")),
        };
        for shard in 0..self.header.num_shards {
            named(self.shard_record(shard).map(|(_, path)| path))?;
        }
        for class in 0..self.header.num_classes {
            named(self.class_name(class))?;
        }
        let mut before: Option<Sample> = None;
        for id in 0..self.header.num_samples {
            let id = id as u32;
            let sample = self.sample(id)?;
            named(self.record(id).and_then(|record| self.string(record.name_at, record.name_bytes.into())))?;
            if let Some(before) = before.filter(|before| before.shard == sample.shard) {
                let end = |sample: &Sample| sample.offset + u64::from(sample.length);
                let same = before.offset == sample.offset && before.length == sample.length;
                if !same && before.offset < end(&sample) && sample.offset < end(&before) {
                    return Err(Fault::IndexDamaged("overlapping samples").into());
                }
            }
            before = Some(sample);
        }
        Ok(())
    }

    /// The file's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.header.num_samples as usize
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One sample; an error if there is no such id or its record is impossible.
    pub fn sample(&self, id: u32) -> Result<Sample> {
        let damaged = |what| Error::from(Fault::IndexDamaged(what));
        let record = self.record(id).ok_or_else(|| damaged("no such sample"))?;
        let (shard_bytes, _) =
            self.shard_record(record.shard.into()).ok_or_else(|| damaged("shard number"))?;
        let end = record.offset.checked_add(record.length.into());
        if end.is_none_or(|end| end > shard_bytes) {
            return Err(damaged("sample outside of its shard"));
        }
        if record.length == 0 || u64::from(record.length) > MAX_MEMBER_BYTES {
            return Err(damaged("sample length"));
        }
        if record.width == 0 || record.height == 0 {
            return Err(damaged("image size"));
        }
        let format = match record.format {
            1 => Format::Jpeg,
            2 => Format::Png,
            3 => Format::WebP,
            4 if self.header.recoded => Format::Recoded,
            _ => return Err(damaged("image format")),
        };
        let label = Some(record.label).filter(|&label| label != NO_LABEL);
        if label.is_some_and(|label| u64::from(label) >= self.header.num_classes) {
            return Err(damaged("label"));
        }
        if record.flags & !PROVEN != 0 {
            return Err(damaged("flags"));
        }
        Ok(Sample {
            shard: record.shard,
            offset: record.offset,
            length: record.length,
            label,
            width: record.width.into(),
            height: record.height.into(),
            format,
            crc32c: record.crc32c,
            proven: record.flags & PROVEN != 0,
        })
    }

    /// Member name of a sample: opaque bytes; empty if there is no such sample.
    pub fn name(&self, id: u32) -> &[u8] {
        let record = self.record(id);
        record.and_then(|record| self.string(record.name_at, record.name_bytes.into())).unwrap_or_default()
    }

    /// Number of shards.
    pub fn num_shards(&self) -> usize {
        self.header.num_shards as usize
    }

    /// Where a shard is; the root if there is no such shard.
    pub fn shard_path(&self, shard: u32) -> PathBuf {
        let (_, path) = self.shard_record(shard.into()).unwrap_or_default();
        self.root.join(OsStr::from_bytes(path))
    }

    /// Size of a shard when it was indexed; 0 if there is no such shard.
    pub fn shard_bytes(&self, shard: u32) -> u64 {
        self.shard_record(shard.into()).unwrap_or_default().0
    }

    /// Names in label order; bytes that are no UTF-8 are replaced.
    pub fn class_names(&self) -> Vec<String> {
        let name = |label| String::from_utf8_lossy(self.class_name(label).unwrap_or_default()).into_owned();
        (0..self.header.num_classes).map(name).collect()
    }

    /// The absolute folder that shard paths are relative to.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Identifies the data, wherever they lie and however they are sharded (see [`Builder::finish`]).
    pub fn digest(&self) -> [u8; 32] {
        self.header.digest
    }

    /// The samples `ids`, in that order, with all classes and the shards that they need.
    pub fn subset(&self, ids: &[u32]) -> Result<Self> {
        if ids.is_empty() {
            return Err(Fault::Empty(": the subset is empty").into());
        }
        self.rebuilt(ids.iter().copied(), &self.root)
    }

    /// The same data for an index file in another folder: shard paths become absolute.
    pub fn moved_to(&self, root: &Path) -> Result<Self> {
        self.rebuilt(0..self.len() as u32, root)
    }

    fn rebuilt(&self, ids: impl Iterator<Item = u32>, root: &Path) -> Result<Self> {
        let mut builder = Builder::new();
        for label in 0..self.header.num_classes {
            builder.class(self.class_name(label).unwrap_or_default())?;
        }
        for kind in self.kinds() {
            builder.kind(kind)?;
        }
        let mut renumbered = HashMap::new();
        for id in ids {
            if id as usize >= self.len() {
                return Err(Fault::Setting(format!("no sample {id}: there are {}", self.len())).into());
            }
            let mut renumber = |builder: &mut Builder, shard: u32| -> Result<u32> {
                if let Some(&known) = renumbered.get(&shard) {
                    return Ok(known);
                }
                let (bytes, relative) = self.shard_record(shard.into()).unwrap_or_default();
                let absolute = self.shard_path(shard);
                let path = if root == self.root { relative } else { absolute.as_os_str().as_bytes() };
                Ok(*renumbered.entry(shard).or_insert(builder.shard(path, bytes)?))
            };
            let mut sample = self.sample(id)?;
            sample.shard = renumber(&mut builder, sample.shard)?;
            builder.sample(self.name(id), &sample)?;
            let mut extras = self.extras(id)?;
            for extra in &mut extras {
                extra.shard = renumber(&mut builder, extra.shard)?;
            }
            builder.extras(extras)?;
        }
        Self::from_bytes(builder.finish(), root)
    }

    fn record(&self, id: u32) -> Option<SampleRecord> {
        let at = HEADER_BYTES.checked_add((id as usize).checked_mul(SAMPLE_BYTES)?)?;
        let known = u64::from(id) < self.header.num_samples;
        SampleRecord::read(self.as_bytes().get(at..)?.get(..SAMPLE_BYTES)?).filter(|_| known)
    }

    /// Size and path.
    fn shard_record(&self, shard: u64) -> Option<(u64, &[u8])> {
        let record = self.entry(self.header.shards_at()?, shard, self.header.num_shards, SHARD_BYTES)?;
        let path = self.string(format::u64_at(record, 8)?, format::u32_at(record, 16)?)?;
        Some((format::u64_at(record, 0)?, path))
    }

    fn class_name(&self, label: u64) -> Option<&[u8]> {
        let record = self.entry(self.header.classes_at()?, label, self.header.num_classes, CLASS_BYTES)?;
        self.string(format::u64_at(record, 0)?, format::u32_at(record, 8)?)
    }

    fn entry(&self, section_at: u64, number: u64, count: u64, bytes: usize) -> Option<&[u8]> {
        let at = section_at.checked_add(number.checked_mul(bytes as u64)?)?;
        let record = self.as_bytes().get(usize::try_from(at).ok()?..)?.get(..bytes)?;
        (number < count).then_some(record)
    }

    fn string(&self, at: u64, length: u32) -> Option<&[u8]> {
        let section = self.as_bytes().get(usize::try_from(self.header.strings_at()?).ok()?..)?;
        section.get(usize::try_from(at).ok()?..)?.get(..length as usize)
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests;
