//! Here: the bytes of a recoded image as one member of an archive: magic, version, lengths, checksums, and the two
//! parts that they are about.
//! Not here: what the parts say (`skeleton.rs`, `layout.rs`), archives.

use super::layout::damaged;
use crate::checksum::{crc32c, crc32c_append};
use crate::error::{Fault, Result};
use crate::limits::{MAX_MEMBER_BYTES, MAX_PIXELS, MAX_SIDE_PX};

/// What a recoded image begins with.
pub(crate) const MAGIC: [u8; 8] = *b"BARLOWJC";

/// The newest version of the member; this build reads all up to it.
pub const VERSION: u32 = 1;

const HEADER_BYTES: usize = 44;

/// A recoded image, its header checked; the checksums of its parts are when they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member<'a> {
    /// In pixels, within the limits.
    pub(crate) width: u32,
    /// In pixels, within the limits.
    pub(crate) height: u32,
    /// Of the original file.
    pub(crate) original: Part<'a>,
    skeleton: Part<'a>,
    layout: Part<'a>,
}

/// Length, checksum and, if they are here, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    pub(crate) length: u32,
    pub(crate) crc32c: u32,
    bytes: &'a [u8],
}

impl<'a> Part<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { length: bytes.len() as u32, crc32c: crc32c(bytes), bytes }
    }

    /// Length and checksum, as they are stored.
    fn numbers(self) -> [u8; 8] {
        (u64::from(self.crc32c) << 32 | u64::from(self.length)).to_le_bytes()
    }

    /// Whether these are the bytes.
    pub(crate) fn check(self, bytes: &[u8]) -> Result<()> {
        match crc32c(bytes) {
            found if found == self.crc32c && bytes.len() == self.length as usize => Ok(()),
            found => {
                Err(damaged(&format!("checksum mismatch (stored {:08x}, data {found:08x})", self.crc32c)))
            }
        }
    }
}

impl<'a> Member<'a> {
    /// Reads the header and checks all lengths; allocates nothing.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let short = |at: usize| u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let word = |at: usize| short(at) | short(at + 2) << 16;
        if bytes.len() < HEADER_BYTES || !bytes.starts_with(&MAGIC) {
            return Err(damaged("its header ends early"));
        }
        let (found, supported) = (word(8), VERSION);
        if found == 0 || found > supported {
            return Err(Fault::RecodedVersion { found, supported }.into());
        }
        if crc32c(&bytes[..40]) != word(40) {
            return Err(damaged("checksum mismatch of the header"));
        }
        let (width, height) = (short(20), short(22));
        for (what, found, limit) in [
            ("image width in pixels", width.into(), MAX_SIDE_PX.into()),
            ("image height in pixels", height.into(), MAX_SIDE_PX.into()),
            ("number of pixels", u64::from(width) * u64::from(height), MAX_PIXELS),
            ("size of a recoded image in bytes", bytes.len() as u64, MAX_MEMBER_BYTES),
            ("size of the original file in bytes", word(12).into(), MAX_MEMBER_BYTES),
        ] {
            if found > limit {
                return Err(Fault::Limit { what, found, limit }.into());
            }
        }
        let rest = &bytes[HEADER_BYTES..];
        let (skeleton, layout) = rest
            .split_at_checked(word(24) as usize)
            .filter(|(_, layout)| layout.len() == word(32) as usize)
            .ok_or_else(|| damaged("parts of another length than its header says"))?;
        if width == 0 || height == 0 {
            return Err(damaged("zero width or height"));
        }
        Ok(Self {
            width,
            height,
            original: Part { length: word(12), crc32c: word(16), bytes: &[] },
            skeleton: Part { length: word(24), crc32c: word(28), bytes: skeleton },
            layout: Part { length: word(32), crc32c: word(36), bytes: layout },
        })
    }

    /// What the file was besides its coefficients.
    pub(crate) fn skeleton(&self) -> Result<&'a [u8]> {
        self.skeleton.check(self.skeleton.bytes).map(|()| self.skeleton.bytes)
    }

    /// Its coefficients; `checked`: somebody knows already that these are the bytes of their checksum.
    pub(crate) fn layout(&self, checked: bool) -> Result<&'a [u8]> {
        if checked {
            return Ok(self.layout.bytes);
        }
        self.layout.check(self.layout.bytes).map(|()| self.layout.bytes)
    }
}

/// The member of an original file, its skeleton and its layout in two parts; all are within the limits.
pub(super) fn write(
    (width, height): (u32, u32),
    original: &[u8],
    skeleton: &[u8],
    layout: [&[u8]; 2],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + skeleton.len() + layout[0].len() + layout[1].len());
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend(Part::of(original).numbers());
    out.extend([width as u16, height as u16].map(u16::to_le_bytes).as_flattened());
    out.extend(Part::of(skeleton).numbers());
    let length = (layout[0].len() + layout[1].len()) as u32;
    let both = crc32c_append(crc32c(layout[0]), layout[1]);
    out.extend(Part { length, crc32c: both, bytes: &[] }.numbers());
    out.extend(crc32c(&out).to_le_bytes());
    for part in [skeleton, layout[0], layout[1]] {
        out.extend_from_slice(part);
    }
    out
}
