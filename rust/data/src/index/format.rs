//! Here: the bytes of an index file: where each number stands, little-endian (docs/index-format.md).
//! Not here: what the numbers must satisfy, files.

use crate::checksum::{crc32c, crc32c_append};
use crate::error::{Fault, Result};

/// The newest version of the layout; this build reads all up to it.
pub const VERSION: u32 = 3;

/// The layout without extra members. An index that has none is still written so: those who know no other
/// version can read it.
const PLAIN: u32 = 1;

/// The layout with extra members and without recoded images, likewise.
const WITH_EXTRAS: u32 = 2;

pub(super) const MAGIC: [u8; 8] = *b"BARLOWIX";
pub(super) const HEADER_BYTES: usize = 128;
pub(super) const SAMPLE_BYTES: usize = 40;
pub(super) const SHARD_BYTES: usize = 24;
pub(super) const CLASS_BYTES: usize = 16;
pub(super) const START_BYTES: usize = 8;
pub(super) const EXTRA_BYTES: usize = 24;
pub(super) const KIND_BYTES: usize = 16;
/// In place of a label.
pub(super) const NO_LABEL: u32 = u32::MAX;

/// Flag of a sample that was decoded in full before it was packed.
pub(super) const PROVEN: u8 = 1;

const CHECKSUM_AT: usize = 124;

/// Counts, and where the string section begins; the sections follow each other in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) num_samples: u64,
    pub(super) num_shards: u64,
    pub(super) num_classes: u64,
    pub(super) strings_bytes: u64,
    /// sha256 of the content (see `Builder`).
    pub(super) digest: [u8; 32],
    pub(super) num_extras: u64,
    /// Different extensions of extra members; 0: the data set has none, and no section for them.
    pub(super) num_kinds: u64,
    /// Whether images are among the samples that older builds cannot read.
    pub(super) recoded: bool,
}

impl Header {
    pub(super) fn shards_at(&self) -> Option<u64> {
        self.num_samples.checked_mul(SAMPLE_BYTES as u64)?.checked_add(HEADER_BYTES as u64)
    }

    pub(super) fn classes_at(&self) -> Option<u64> {
        self.num_shards.checked_mul(SHARD_BYTES as u64)?.checked_add(self.shards_at()?)
    }

    pub(super) fn starts_at(&self) -> Option<u64> {
        self.num_classes.checked_mul(CLASS_BYTES as u64)?.checked_add(self.classes_at()?)
    }

    pub(super) fn extras_at(&self) -> Option<u64> {
        let starts = if self.num_kinds == 0 { 0 } else { self.num_samples.checked_add(1)? };
        starts.checked_mul(START_BYTES as u64)?.checked_add(self.starts_at()?)
    }

    pub(super) fn kinds_at(&self) -> Option<u64> {
        self.num_extras.checked_mul(EXTRA_BYTES as u64)?.checked_add(self.extras_at()?)
    }

    pub(super) fn strings_at(&self) -> Option<u64> {
        self.num_kinds.checked_mul(KIND_BYTES as u64)?.checked_add(self.kinds_at()?)
    }

    pub(super) fn file_bytes(&self) -> Option<u64> {
        self.strings_at()?.checked_add(self.strings_bytes)
    }

    /// Header and sections as a file; the checksum covers every other byte of it.
    pub(super) fn assemble(&self, sections: [&[u8]; 7]) -> Vec<u8> {
        let mut file =
            Vec::with_capacity(HEADER_BYTES + sections.iter().map(|part| part.len()).sum::<usize>());
        file.extend(MAGIC);
        let version = match (self.recoded, self.num_kinds) {
            (true, _) => VERSION,
            (false, 0) => PLAIN,
            (false, _) => WITH_EXTRAS,
        };
        file.extend(version.to_le_bytes());
        file.extend((HEADER_BYTES as u32).to_le_bytes());
        for count in [self.num_samples, self.num_shards, self.num_classes, self.strings_bytes] {
            file.extend(count.to_le_bytes());
        }
        file.extend(self.digest);
        for count in [self.num_extras, self.num_kinds] {
            file.extend(count.to_le_bytes());
        }
        file.resize(HEADER_BYTES, 0);
        for section in sections {
            file.extend(section);
        }
        let checksum = checksum(&file).to_le_bytes();
        file[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum);
        file
    }

    /// Reads and checks everything that does not need the records: magic, version, checksum, sizes.
    pub(super) fn read(file: &[u8]) -> Result<Self> {
        if file.len() < HEADER_BYTES || file.get(..8) != Some(&MAGIC) {
            return Err(Fault::NotAnIndex.into());
        }
        let short = Fault::IndexDamaged("header");
        let found = u32_at(file, 8).ok_or(short)?;
        if !(PLAIN..=VERSION).contains(&found) {
            return Err(Fault::IndexVersion { found, supported: VERSION }.into());
        }
        let indexed = u32_at(file, CHECKSUM_AT).ok_or(Fault::IndexDamaged("header"))?;
        if indexed != checksum(file) {
            return Err(Fault::IndexDamaged("checksum mismatch").into());
        }
        let header = Self::fields(file).ok_or(Fault::IndexDamaged("header"))?;
        match header.file_bytes() {
            Some(bytes) if bytes == file.len() as u64 => Ok(header),
            _ => Err(Fault::IndexDamaged("size").into()),
        }
    }

    fn fields(file: &[u8]) -> Option<Self> {
        let reserved = file.get(if u32_at(file, 8)? == PLAIN { 80 } else { 96 }..CHECKSUM_AT)?;
        let plain = u32_at(file, 12)? == HEADER_BYTES as u32 && reserved.iter().all(|&byte| byte == 0);
        plain.then_some(Self {
            num_samples: u64_at(file, 16)?,
            num_shards: u64_at(file, 24)?,
            num_classes: u64_at(file, 32)?,
            strings_bytes: u64_at(file, 40)?,
            digest: file.get(48..80)?.try_into().ok()?,
            num_extras: u64_at(file, 80)?,
            num_kinds: u64_at(file, 88)?,
            recoded: u32_at(file, 8)? == VERSION,
        })
    }
}

/// crc32c of the file but for the checksum itself.
fn checksum(file: &[u8]) -> u32 {
    let (before, after) = (file.get(..CHECKSUM_AT), file.get(HEADER_BYTES..));
    crc32c_append(crc32c(before.unwrap_or_default()), after.unwrap_or_default())
}

/// One sample, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SampleRecord {
    pub(super) offset: u64,
    pub(super) name_at: u64,
    pub(super) length: u32,
    pub(super) crc32c: u32,
    pub(super) shard: u32,
    pub(super) label: u32,
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) name_bytes: u16,
    pub(super) format: u8,
    pub(super) flags: u8,
}

impl SampleRecord {
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.offset.to_le_bytes());
        to.extend(self.name_at.to_le_bytes());
        for word in [self.length, self.crc32c, self.shard, self.label] {
            to.extend(word.to_le_bytes());
        }
        for half in [self.width, self.height, self.name_bytes] {
            to.extend(half.to_le_bytes());
        }
        to.extend([self.format, self.flags]);
    }

    /// `record` has exactly [`SAMPLE_BYTES`] bytes, or the answer is `None`.
    pub(super) fn read(record: &[u8]) -> Option<Self> {
        let record: &[u8; SAMPLE_BYTES] = record.try_into().ok()?;
        let half = |at: usize| u16::from_le_bytes([record[at], record[at + 1]]);
        Some(Self {
            offset: u64_at(record, 0)?,
            name_at: u64_at(record, 8)?,
            length: u32_at(record, 16)?,
            crc32c: u32_at(record, 20)?,
            shard: u32_at(record, 24)?,
            label: u32_at(record, 28)?,
            width: half(32),
            height: half(34),
            name_bytes: half(36),
            format: record[38],
            flags: record[39],
        })
    }
}

/// One extra member, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ExtraRecord {
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) crc32c: u32,
    pub(super) shard: u32,
    pub(super) kind: u32,
}

impl ExtraRecord {
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.offset.to_le_bytes());
        for word in [self.length, self.crc32c, self.shard, self.kind] {
            to.extend(word.to_le_bytes());
        }
    }

    /// `record` has at least [`EXTRA_BYTES`] bytes, or the answer is `None`.
    pub(super) fn read(record: &[u8]) -> Option<Self> {
        Some(Self {
            offset: u64_at(record, 0)?,
            length: u32_at(record, 8)?,
            crc32c: u32_at(record, 12)?,
            shard: u32_at(record, 16)?,
            kind: u32_at(record, 20)?,
        })
    }
}

/// Where a string lies in the string section; the tail of shard, class and kind records.
pub(super) fn write_string_place(at: u64, length: usize, to: &mut Vec<u8>) {
    to.extend(at.to_le_bytes());
    to.extend((length as u32).to_le_bytes());
    to.extend([0; 4]);
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.get(..4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..)?.get(..8)?.try_into().ok()?))
}
