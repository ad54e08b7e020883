//! Here: the extra members of samples (captions, json): which there are, and where their bytes lie.
//! Not here: the bytes, what they mean, which members are extra (`scan`).
//!
//! Opening an index looks at none of these records: who asks for no extra member pays nothing for them.
//! Each is checked whenever it is handed out.

use super::Index;
use super::format::{EXTRA_BYTES, ExtraRecord, KIND_BYTES, START_BYTES, u32_at, u64_at};
use crate::error::{Error, Fault, Result, printable};
use crate::limits::{MAX_EXTRAS, MAX_EXTRAS_BYTES, MAX_KINDS, MAX_NAME_BYTES};

/// Where one extra member of a sample lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extra {
    /// Number of its extension ([`Index::kinds`]).
    pub kind: u32,
    /// Number of its shard.
    pub shard: u32,
    /// Where its bytes begin in the shard.
    pub offset: u64,
    /// How many bytes it has; may be none.
    pub length: u32,
    /// Of its bytes.
    pub crc32c: u32,
}

/// What members of one sample have in common: the name up to the first dot of its last component.
pub fn stem(name: &[u8]) -> &[u8] {
    let base = name.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let dot = name[base..].iter().position(|&byte| byte == b'.');
    &name[..dot.map_or(name.len(), |dot| base + dot)]
}

/// What tells the members of one sample apart: all that follows that dot, ASCII letters in lower case; empty
/// where there is none. WebDataset has it so too.
pub fn extension(name: &[u8]) -> Vec<u8> {
    name.get(stem(name).len() + 1..).unwrap_or_default().to_ascii_lowercase()
}

fn damaged(what: &'static str) -> Error {
    Fault::IndexDamaged(what).into()
}

impl Index {
    /// What does not need the records: the extensions, and that there are as many records as it says.
    pub(super) fn check_kinds(&self) -> Result<()> {
        let (found, limit) = (self.header.num_kinds, MAX_KINDS);
        if found > limit {
            return Err(Fault::Limit { what: "number of extra member extensions", found, limit }.into());
        }
        let mut before: &[u8] = &[];
        for kind in 0..found {
            let name = self.kind_record(kind).filter(|name| name.len() as u64 <= MAX_NAME_BYTES);
            let name = name.ok_or_else(|| damaged("string out of bounds"))?;
            // Sorted, so none is empty and none is there twice.
            if name <= before {
                return Err(damaged("order of extra member extensions"));
            }
            before = name;
        }
        let whole = match found {
            0 => self.header.num_extras == 0,
            _ => self.start(self.header.num_samples) == Some(self.header.num_extras),
        };
        if whole { Ok(()) } else { Err(damaged("number of extra members")) }
    }

    /// The different extensions of extra members, in byte order: what follows the first dot of a member's
    /// name, ASCII letters in lower case.
    pub fn kinds(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.header.num_kinds).map(|kind| self.kind_record(kind).unwrap_or_default())
    }

    /// The extension with this number; empty if there is none.
    pub fn kind_name(&self, kind: u32) -> &[u8] {
        self.kind_record(kind.into()).unwrap_or_default()
    }

    /// The number of an extension; `None` if no sample of the data set has such a member.
    pub fn kind(&self, extension: &[u8]) -> Option<u32> {
        let (mut low, mut high) = (0, self.header.num_kinds);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.kind_record(middle)?.cmp(extension) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return u32::try_from(middle).ok(),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The numbers of these extensions; the error names one that no sample has, and those that there are.
    pub fn kinds_of<E: AsRef<[u8]>>(&self, extensions: &[E]) -> Result<Vec<u32>> {
        let number = |extension: &E| {
            self.kind(extension.as_ref()).ok_or_else(|| {
                let there = match self.header.num_kinds {
                    0 => "it knows no extra members (`barlow index` records them)".to_owned(),
                    count => {
                        let shown = self.kinds().take(10).map(printable).collect::<Vec<_>>().join(", ");
                        format!("it has {shown}{}", if count > 10 { ", ..." } else { "" })
                    }
                };
                let wanted = printable(extension.as_ref());
                Fault::Setting(format!("no sample of the index has a member \"{wanted}\": {there}")).into()
            })
        };
        extensions.iter().map(number).collect()
    }

    /// The extra members of a sample by rising kind, at most one of each.
    pub fn extras(&self, id: u32) -> Result<Vec<Extra>> {
        if self.header.num_kinds == 0 {
            return Ok(Vec::new());
        }
        let range = self.start(id.into()).zip(self.start(u64::from(id) + 1));
        let (from, to) = range.ok_or_else(|| damaged("no such sample"))?;
        if from > to || to > self.header.num_extras || to - from > MAX_EXTRAS {
            return Err(damaged("number of extra members"));
        }
        let mut extras: Vec<Extra> = Vec::with_capacity((to - from) as usize);
        let mut bytes = 0;
        for number in from..to {
            let extra = self.extra(number)?;
            bytes += u64::from(extra.length);
            if bytes > MAX_EXTRAS_BYTES {
                return Err(damaged("extra member length"));
            }
            if extras.last().is_some_and(|before| before.kind >= extra.kind) {
                return Err(damaged("two extra members of one extension"));
            }
            extras.push(extra);
        }
        Ok(extras)
    }

    /// The name of an extra member, as far as the index knows it: letters of its extension in lower case.
    pub fn extra_name(&self, id: u32, kind: u32) -> Vec<u8> {
        [stem(self.name(id)), b".", self.kind_name(kind)].concat()
    }

    fn extra(&self, number: u64) -> Result<Extra> {
        let section_at = self.header.extras_at();
        let record = section_at.and_then(|at| self.entry(at, number, self.header.num_extras, EXTRA_BYTES));
        let record = record.and_then(ExtraRecord::read).ok_or_else(|| damaged("no such extra member"))?;
        let ExtraRecord { offset, length, crc32c, shard, kind } = record;
        let (shard_bytes, _) = self.shard_record(shard.into()).ok_or_else(|| damaged("shard number"))?;
        if offset.checked_add(length.into()).is_none_or(|end| end > shard_bytes) {
            return Err(damaged("extra member outside of its shard"));
        }
        if u64::from(kind) >= self.header.num_kinds {
            return Err(damaged("extra member extension"));
        }
        Ok(Extra { kind, shard, offset, length, crc32c })
    }

    /// How many extra members the samples before this one have.
    fn start(&self, id: u64) -> Option<u64> {
        let count = self.header.num_samples.checked_add(1)?;
        u64_at(self.entry(self.header.starts_at()?, id, count, START_BYTES)?, 0)
    }

    fn kind_record(&self, kind: u64) -> Option<&[u8]> {
        let record = self.entry(self.header.kinds_at()?, kind, self.header.num_kinds, KIND_BYTES)?;
        self.string(u64_at(record, 0)?, u32_at(record, 8)?)
    }
}

#[cfg(test)]
mod tests;
