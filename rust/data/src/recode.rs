//! Here: JPEGs whose entropy coding is undone once, when they are packed, and done again to get them back.
//! Not here: archives, files, which members are stored so.
//!
//! ```text
//! JPEG ─take_apart─► coefficients ─layout─► bytes that expand fast ─┐
//!            └─────► skeleton (everything else) ────────────────────┴─► member
//! member ─layout─► coefficients ─► pixels, or with the skeleton ─build─► JPEG
//! ```
//!
//! A member is written only if it is proven ([`Proof`]) that [`Recoder::restore`] makes the file of it, byte by byte.
//! Everything that is unusual, damaged or beyond a limit is left to be stored as it is.

mod bits;
mod codes;
pub mod coefficients;
mod colour;
mod compress;
mod entropy;
mod expand;
mod idct;
pub mod layout;
mod lookup;
mod member;
mod order;
mod pieces;
mod pixels;
mod progressive;
mod reading;
mod restore;
#[cfg(test)]
mod samples;
mod scans;
mod segments;
mod sequential;
mod simd;
mod skeleton;
mod sparse;
mod strict;
mod stuffing;
mod upsample;
mod writing;

pub use coefficients::{Coefficients, Component, Transform};
pub use layout::Layout;
pub(crate) use member::Member;
pub use member::VERSION;
pub use pixels::Scratch;

use crate::error::{Error, Result};
use crate::jpeg;
use crate::limits::{MAX_MEMBER_BYTES, MAX_PIXELS, MAX_SIDE_PX};
use crate::ops::simd::Simd;
use entropy::Tools;
use layout::damaged;
use restore::{Making, Parts};
use skeleton::Skeleton;

/// What is appended to the name of a member that is recoded.
pub const SUFFIX: &[u8] = b".bjc";

/// Why a file cannot be recoded, or a skeleton not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unusual(pub(crate) &'static str);

/// Of a member whose header and coefficients do not belong together.
pub(crate) fn other_size() -> Error {
    damaged("its header has another size than its coefficients")
}

/// Whether bytes begin as a recoded image does.
pub fn sniff(bytes: &[u8]) -> bool {
    bytes.starts_with(&member::MAGIC)
}

/// The name that a recoded member's file had.
pub fn original_name(name: &[u8]) -> &[u8] {
    name.strip_suffix(SUFFIX).filter(|name| !name.is_empty() && !name.ends_with(b"/")).unwrap_or(name)
}

/// How it is proven that a file comes back byte for byte. Members are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Proof {
    /// The file is made of its member, all of it, in the very way in which it is restored, and compared. What single
    /// files are proven by.
    #[default]
    Rewritten,
    /// The same but for the Huffman codes of sequential scans that were read strictly, so that a writer has no choice:
    /// of these it is compared that the member's coefficients are those that were read. See `recode/strict.rs`.
    Strict,
}

/// Recodes and restores; one per thread, reused so that its buffers are.
#[derive(Default)]
pub struct Recoder {
    proof: Proof,
    tools: Tools,
    parts: Parts,
    skeleton: Vec<u8>,
    layout: layout::Writing,
    /// The file that is made of a member to compare it.
    file: Vec<u8>,
}

impl Recoder {
    /// Buffers grow with the first images.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with another proof than the default.
    pub fn with(proof: Proof) -> Self {
        Self { proof, ..Self::default() }
    }

    /// The member for a JPEG, which [`restore`](Self::restore) has been seen to give back byte for byte; or why
    /// it is to be stored as it is.
    pub fn recode(&mut self, bytes: &[u8]) -> std::result::Result<Vec<u8>, &'static str> {
        self.attempt(bytes).map_err(|Unusual(reason)| reason)
    }

    fn attempt(&mut self, bytes: &[u8]) -> std::result::Result<Vec<u8>, Unusual> {
        let refused = |_| Unusual("a file that is damaged, unsupported or beyond a limit");
        if !jpeg::sniff(bytes) || bytes.len() as u64 > MAX_MEMBER_BYTES {
            return Err(Unusual("no JPEG, or a very large one"));
        }
        let frame = jpeg::header(bytes).map_err(refused)?;
        let pixels = u64::from(frame.width) * u64::from(frame.height);
        if frame.width.max(frame.height) > MAX_SIDE_PX || pixels > MAX_PIXELS {
            return Err(Unusual("a very large image"));
        }
        jpeg::check(bytes, &frame).map_err(refused)?;
        let skeleton = restore::take_apart(&mut self.tools, bytes, &mut self.parts)?;
        self.skeleton.clear();
        skeleton.write(&mut self.skeleton);
        let layout = self.layout.write(&self.parts.sparse);
        let member = member::write((frame.width, frame.height), bytes, &self.skeleton, layout);
        if member.len() as u64 > MAX_MEMBER_BYTES {
            return Err(Unusual("a very large member"));
        }
        let parts = &self.parts;
        let making = match self.proof {
            Proof::Strict if parts.strict => Making::Compare(bytes, &parts.scans),
            _ => Making::Write,
        };
        // The checksum of the original is that of these bytes: what equals them has it.
        let rebuilt = rebuild(&mut self.tools, &member, making, &mut self.file);
        let same = rebuilt.is_ok_and(|(_, layout)| match making {
            Making::Write => self.file == bytes,
            Making::Compare(..) => {
                expand::same(Simd::detect(), &mut self.tools.expander, &layout, &parts.sparse)
            }
        });
        if same { Ok(member) } else { Err(OTHERWISE) }
    }

    /// The original file, checked against its checksum.
    ///
    /// # Errors
    /// `Damaged`, `Limit` or `RecodedVersion`; what is allocated before the limits are checked is less than
    /// four times the member.
    pub fn restore(&mut self, member: &[u8]) -> Result<Vec<u8>> {
        let mut file = Vec::new();
        rebuild(&mut self.tools, member, Making::Write, &mut file)?.0.original.check(&file)?;
        Ok(file)
    }

    /// The same without that last check, for tests of what a member can be: a JPEG that decodes to the pixels of
    /// the member itself, or not at all.
    pub fn rebuild(&mut self, member: &[u8]) -> Result<Vec<u8>> {
        let mut file = Vec::new();
        rebuild(&mut self.tools, member, Making::Write, &mut file)?;
        Ok(file)
    }
}

const OTHERWISE: Unusual =
    Unusual("an encoder that chose otherwise than ours, or beyond libjpeg's own arithmetic");

/// Writes the file of a member to `file`, over what was there.
fn rebuild<'a>(
    tools: &mut Tools,
    member: &'a [u8],
    making: Making<'_>,
    file: &mut Vec<u8>,
) -> Result<(Member<'a>, Layout<'a>)> {
    let member = Member::parse(member)?;
    let skeleton = Skeleton::parse(member.skeleton()?)?;
    // Each scan goes over all coefficients, whether or not it has anything to say of them.
    jpeg::check_scans(&skeleton.outside, &jpeg::header(&skeleton.outside)?)?;
    let layout = Layout::parse(member.layout(false)?)?;
    if (layout.width, layout.height) != (member.width, member.height) {
        return Err(other_size());
    }
    let limit = member.original.length as usize;
    file.clear();
    if matches!(making, Making::Write) {
        file.reserve(limit);
    }
    restore::build(tools, skeleton, &layout, (making, limit), file)?;
    Ok((member, layout))
}

#[cfg(test)]
mod tests;
