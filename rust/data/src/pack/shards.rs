//! Here: samples in order to tar shards and their index, byte for byte the same each time.
//! Not here: where samples come from, which of them belong together.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::durable;
use crate::error::Result;
use crate::index::{Builder, Extra, FILE_NAME, Sample, stem};
use crate::scan::{Candidate, Plan};
use crate::tar;

/// Writes the shards of one folder.
pub(super) struct ShardWriter<'a> {
    folder: &'a Path,
    builder: Builder,
    /// Sizes of the shards to be, in bytes of members; see [`cuts`].
    cuts: std::vec::IntoIter<u64>,
    open: Option<Open>,
    num_shards: u32,
    num_samples: u64,
    num_extras: u64,
    bytes: u64,
    numbered: bool,
    /// Most bytes of a shard of several samples.
    most: u64,
}

/// The shard that is being written.
struct Open {
    file: BufWriter<File>,
    name: String,
    bytes: u64,
    room: u64,
    /// Samples go to the index once the size of their shard is known.
    samples: Vec<(Vec<u8>, Sample, Vec<Extra>)>,
}

/// A sample with all of its bytes; shards and offsets are still those of the source.
pub(super) struct Packed<'a> {
    pub(super) candidate: &'a Candidate,
    /// Of the image's member.
    pub(super) name: &'a [u8],
    pub(super) sample: Sample,
    pub(super) data: &'a [u8],
    /// In the order of the candidate's extra files.
    pub(super) extras: &'a [(Extra, Vec<u8>)],
}

/// What one folder came to be.
pub(super) struct Written {
    pub(super) images: u64,
    pub(super) extra_members: u64,
    pub(super) shards: u64,
    pub(super) bytes: u64,
}

/// Cuts samples of the given sizes into shards: at most `shard_bytes` each, unless one sample alone is
/// larger, and at least `min_shards` of about equal size, unless there are fewer samples. Gives the
/// sizes of the shards.
pub(super) fn cuts(sizes: &[u64], shard_bytes: u64, min_shards: u64) -> Vec<u64> {
    let total: u64 = sizes.iter().sum();
    let wanted = total.div_ceil(shard_bytes.max(1)).max(min_shards).min(sizes.len() as u64).max(1);
    let mut cuts = Vec::new();
    let (mut before, mut size) = (0, 0);
    for (number, &next) in sizes.iter().enumerate() {
        let closed = cuts.len() as u64;
        // Where shards of equal size would end.
        let share = (u128::from(total) * u128::from(closed + 1) / u128::from(wanted)) as u64;
        let scarce = sizes.len() as u64 - number as u64 <= wanted.saturating_sub(closed + 1);
        if size > 0
            && (size + next > shard_bytes || (before + size >= share && closed + 1 < wanted) || scarce)
        {
            cuts.push(size);
            before += size;
            size = 0;
        }
        size += next;
    }
    if size > 0 {
        cuts.push(size);
    }
    cuts
}

/// Bytes that a sample takes in a shard; with `numbered`, labels are also written as `.cls` members.
pub(super) fn stored_bytes(candidate: &Candidate, numbered: bool) -> Result<u64> {
    let Candidate { name, length, label, extras, .. } = candidate;
    let mut bytes = 0;
    for (name, length) in
        [(name, length)].into_iter().chain(extras.iter().map(|extra| (&extra.name, &extra.length)))
    {
        bytes += tar::header_for(name, *length)?.len() as u64 + length + tar::padding(*length).len() as u64;
    }
    if let Some(label) = label.filter(|_| numbered) {
        bytes += label_member(name, label)?.len() as u64;
    }
    Ok(bytes)
}

/// The `.cls` member that tells the class where no folder does.
fn label_member(name: &[u8], label: u32) -> Result<Vec<u8>> {
    let text = label.to_string();
    let length = text.len() as u64;
    let mut member = tar::header_for(&[stem(name), b".cls"].concat(), length)?;
    member.extend(text.as_bytes());
    member.extend(tar::padding(length));
    Ok(member)
}

impl<'a> ShardWriter<'a> {
    /// For some samples of `plan`; `cuts` as from [`cuts`]. Where samples turn out to be larger than planned,
    /// shards end at `most` bytes, however many that makes.
    pub(super) fn new(folder: &'a Path, plan: &Plan, cuts: Vec<u64>, most: u64) -> Result<Self> {
        let mut builder = Builder::new();
        for name in &plan.class_names {
            builder.class(name)?;
        }
        for kind in &plan.kinds {
            builder.kind(kind)?;
        }
        Ok(Self {
            folder,
            builder,
            cuts: cuts.into_iter(),
            open: None,
            num_shards: 0,
            num_samples: 0,
            num_extras: 0,
            bytes: 0,
            numbered: plan.numbered,
            most,
        })
    }

    /// Appends a sample of `size` bytes ([`stored_bytes`]): image, label, extra members.
    pub(super) fn push(&mut self, packed: Packed<'_>, size: u64) -> Result<()> {
        let Packed { candidate, name, mut sample, data, extras } = packed;
        // Recoded it may be larger than planned, and its name is longer.
        let larger = (data.len() as u64).saturating_sub(candidate.length);
        let blocks = if name == candidate.name { 0 } else { 4 * tar::BLOCK as u64 };
        self.make_room(size, size + larger + blocks)?;
        let Some(open) = &mut self.open else { return Ok(()) };
        sample.offset = open.member(name, data)?;
        if let Some(label) = sample.label.filter(|_| self.numbered) {
            let member = label_member(&candidate.name, label)?;
            open.file.write_all(&member)?;
            open.bytes += member.len() as u64;
        }
        let mut placed = Vec::with_capacity(extras.len());
        for (file, (extra, data)) in candidate.extras.iter().zip(extras) {
            placed.push(Extra { offset: open.member(&file.name, data)?, ..*extra });
        }
        open.room = open.room.saturating_sub(size);
        self.num_extras += placed.len() as u64;
        open.samples.push((name.to_vec(), sample, placed));
        self.num_samples += 1;
        Ok(())
    }

    /// A sample whose place stays empty because it was rejected: the cuts were made with it.
    pub(super) fn skip(&mut self, size: u64) -> Result<()> {
        self.make_room(size, 0)?;
        if let Some(open) = &mut self.open {
            open.room = open.room.saturating_sub(size);
        }
        Ok(())
    }

    /// Opens the next shard if the current one has had its share, or would get more than `most` bytes with
    /// `stored` more.
    fn make_room(&mut self, size: u64, stored: u64) -> Result<()> {
        let mut room = None;
        if let Some(open) = self.open.as_ref().filter(|open| open.room >= size) {
            if open.samples.is_empty() || open.bytes + stored + tar::END.len() as u64 <= self.most {
                return Ok(());
            }
            room = Some(open.room);
        }
        self.close()?;
        let name = format!("shard-{:05}.tar", self.num_shards);
        // Images of more bytes than that are written from where they are.
        let file = BufWriter::with_capacity(64 << 10, File::create(self.folder.join(&name))?);
        let room = room.or_else(|| self.cuts.next()).unwrap_or(u64::MAX);
        self.open = Some(Open { file, name, bytes: 0, room, samples: Vec::new() });
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if open.samples.is_empty() {
            // Every image of it was rejected.
            std::fs::remove_file(self.folder.join(&open.name))?;
            return Ok(());
        }
        open.file.write_all(&tar::END)?;
        open.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        let bytes = open.bytes + tar::END.len() as u64;
        let shard = self.builder.shard(open.name.as_bytes(), bytes)?;
        for (name, mut sample, mut extras) in open.samples {
            sample.shard = shard;
            self.builder.sample(&name, &sample)?;
            extras.iter_mut().for_each(|extra| extra.shard = shard);
            self.builder.extras(extras)?;
        }
        self.num_shards += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// Closes the last shard and writes the index.
    pub(super) fn finish(mut self) -> Result<Written> {
        self.close()?;
        let index: PathBuf = self.folder.join(FILE_NAME);
        durable::write_synced(&index, &self.builder.finish())?;
        durable::sync_folder(Some(self.folder))?;
        Ok(Written {
            images: self.num_samples,
            extra_members: self.num_extras,
            shards: self.num_shards.into(),
            bytes: self.bytes,
        })
    }
}

impl Open {
    /// Appends a member; gives the offset of its data.
    fn member(&mut self, name: &[u8], data: &[u8]) -> Result<u64> {
        let length = data.len() as u64;
        let header = tar::header_for(name, length)?;
        let offset = self.bytes + header.len() as u64;
        self.file.write_all(&header)?;
        self.file.write_all(data)?;
        self.file.write_all(tar::padding(length))?;
        self.bytes = offset + length + tar::padding(length).len() as u64;
        Ok(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shards_are_equal_and_as_many_as_needed() {
        assert_eq!(cuts(&[10; 12], 1000, 1), [120]);
        assert_eq!(cuts(&[10; 12], 1000, 4), [30; 4]);
        assert_eq!(cuts(&[10; 12], 60, 1), [60, 60]);
        assert_eq!(cuts(&[10; 12], 50, 1), [40, 40, 40]);
        assert_eq!(cuts(&[10; 3], 1000, 5), [10; 3]);
        assert_eq!(cuts(&[100, 1, 1, 1], 1000, 4), [100, 1, 1, 1]);
        assert_eq!(cuts(&[1, 1, 1, 100], 1000, 3), [2, 1, 100]);
        assert_eq!(cuts(&[], 10, 3), [0; 0]);
    }

    proptest! {
        #[test]
        fn cuts_keep_their_promises(
            sizes in prop::collection::vec(1u64..2000, 1..200), shard_bytes in 1u64..5000, min_shards in 1u64..20,
        ) {
            let cuts = cuts(&sizes, shard_bytes, min_shards);
            prop_assert_eq!(cuts.iter().sum::<u64>(), sizes.iter().sum::<u64>());
            prop_assert!(cuts.len() as u64 >= min_shards.min(sizes.len() as u64), "{:?}", cuts);
            let mut sizes = sizes.into_iter();
            for cut in cuts {
                let mut size = 0;
                let mut count = 0;
                while size < cut {
                    size += sizes.next().unwrap();
                    count += 1;
                }
                prop_assert_eq!(size, cut);
                prop_assert!(size <= shard_bytes || count == 1);
            }
        }
    }
}
