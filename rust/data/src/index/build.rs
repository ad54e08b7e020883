//! Here: an index from its parts: shards, classes and samples in, bytes out.
//! Not here: files, where the parts come from.

use sha2::{Digest, Sha256};

use super::format::{ExtraRecord, Header, NO_LABEL, PROVEN, SampleRecord, write_string_place};
use super::{Extra, Sample};
use crate::decode::Format;
use crate::error::{Fault, Result};
use crate::limits::{
    MAX_CLASSES, MAX_EXTRAS, MAX_EXTRAS_BYTES, MAX_KINDS, MAX_NAME_BYTES, MAX_SAMPLES, MAX_SHARDS,
};

/// Collects the sections of an index. A shard stands before its samples, classes in label order, kinds in
/// byte order, extra members behind their sample.
pub struct Builder {
    samples: Vec<u8>,
    shards: Vec<u8>,
    classes: Vec<u8>,
    /// For each sample up to the last one that has extra members: how many those before it have.
    starts: Vec<u8>,
    num_starts: u64,
    extras: Vec<u8>,
    kinds: Vec<u8>,
    strings: Vec<u8>,
    num_samples: u64,
    num_shards: u64,
    num_classes: u64,
    num_extras: u64,
    num_kinds: u64,
    recoded: bool,
    last_shard: (usize, usize),
    content: Sha256,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            samples: Vec::new(),
            shards: Vec::new(),
            classes: Vec::new(),
            starts: Vec::new(),
            num_starts: 0,
            extras: Vec::new(),
            kinds: Vec::new(),
            strings: Vec::new(),
            num_samples: 0,
            num_shards: 0,
            num_classes: 0,
            num_extras: 0,
            num_kinds: 0,
            recoded: false,
            last_shard: (0, 0),
            content: Sha256::new(),
        }
    }

    /// Adds a file of `bytes` bytes and gives its number. `path` is relative to the folder of the index,
    /// or absolute.
    pub fn shard(&mut self, path: &[u8], bytes: u64) -> Result<u32> {
        let number = count("number of shards", &mut self.num_shards, MAX_SHARDS)?;
        let at = self.string("shard path, bytes,", path)?;
        self.last_shard = (at, path.len());
        self.shards.extend(bytes.to_le_bytes());
        write_string_place(at as u64, path.len(), &mut self.shards);
        Ok(number)
    }

    /// Adds a class and gives its label.
    pub fn class(&mut self, name: &[u8]) -> Result<u32> {
        let label = count("number of classes", &mut self.num_classes, MAX_CLASSES)?;
        let at = self.string("class name, bytes,", name)?;
        write_string_place(at as u64, name.len(), &mut self.classes);
        self.content.update([b'c']);
        self.content.update((name.len() as u32).to_le_bytes());
        self.content.update(name);
        Ok(label)
    }

    /// Adds an extension of extra members and gives its number.
    pub fn kind(&mut self, extension: &[u8]) -> Result<u32> {
        let kind = count("number of extra member extensions", &mut self.num_kinds, MAX_KINDS)?;
        let at = self.string("extra member extension, bytes,", extension)?;
        write_string_place(at as u64, extension.len(), &mut self.kinds);
        Ok(kind)
    }

    /// Adds the extra members of the sample that was added last; of each kind one at most.
    pub fn extras(&mut self, mut extras: Vec<Extra>) -> Result<()> {
        extras.sort_unstable_by_key(|extra| extra.kind);
        check_extras(extras.iter().map(|extra| extra.length.into()))?;
        if extras.windows(2).any(|pair| pair[0].kind == pair[1].kind) {
            return Err(Fault::Source("two extra members of one sample and extension".into()).into());
        }
        if !extras.is_empty() {
            self.fill_starts(self.num_samples);
        }
        for Extra { kind, shard, offset, length, crc32c } in extras {
            ExtraRecord { offset, length, crc32c, shard, kind }.write(&mut self.extras);
            self.num_extras += 1;
        }
        Ok(())
    }

    fn fill_starts(&mut self, up_to: u64) {
        for _ in self.num_starts..up_to {
            self.starts.extend(self.num_extras.to_le_bytes());
        }
        self.num_starts = self.num_starts.max(up_to);
    }

    /// Adds a sample under its member name.
    pub fn sample(&mut self, name: &[u8], sample: &Sample) -> Result<()> {
        count("number of samples", &mut self.num_samples, MAX_SAMPLES)?;
        // A loose image is a shard of its own and has the shard's path as its name: stored once.
        let (shard_at, shard_bytes) = self.last_shard;
        let at = match self.strings.get(shard_at..shard_at + shard_bytes) {
            Some(path) if path == name => shard_at,
            _ => self.string("member name, bytes,", name)?,
        };
        self.recoded |= sample.format == Format::Recoded;
        let side = |what, px: u32| {
            u16::try_from(px).map_err(|_| Fault::Limit { what, found: px.into(), limit: u16::MAX.into() })
        };
        let label = sample.label.unwrap_or(NO_LABEL);
        let record = SampleRecord {
            offset: sample.offset,
            name_at: at as u64,
            length: sample.length,
            crc32c: sample.crc32c,
            shard: sample.shard,
            label,
            width: side("image width in pixels", sample.width)?,
            height: side("image height in pixels", sample.height)?,
            name_bytes: name.len() as u16,
            format: sample.format as u8,
            flags: if sample.proven { PROVEN } else { 0 },
        };
        record.write(&mut self.samples);
        self.content.update([b's']);
        self.content.update((name.len() as u32).to_le_bytes());
        self.content.update(name);
        for word in [label, sample.length, sample.crc32c, sample.width, sample.height] {
            self.content.update(word.to_le_bytes());
        }
        Ok(())
    }

    /// The index file. Its digest is the sha256 over names, labels, lengths, checksums and sizes in
    /// pixels of all samples in order, and the class names: the same data in other shards keep it, and the
    /// same images with and without extra members.
    pub fn finish(mut self) -> Vec<u8> {
        if self.num_kinds > 0 {
            self.fill_starts(self.num_samples + 1);
        }
        let header = Header {
            num_samples: self.num_samples,
            num_shards: self.num_shards,
            num_classes: self.num_classes,
            strings_bytes: self.strings.len() as u64,
            digest: self.content.finalize().into(),
            num_extras: self.num_extras,
            num_kinds: self.num_kinds,
            recoded: self.recoded,
        };
        let Self { samples, shards, classes, starts, extras, kinds, strings, .. } = self;
        header.assemble([&samples, &shards, &classes, &starts, &extras, &kinds, &strings])
    }

    fn string(&mut self, what: &'static str, text: &[u8]) -> Result<usize> {
        let length = text.len() as u64;
        if length > MAX_NAME_BYTES {
            return Err(Fault::Limit { what, found: length, limit: MAX_NAME_BYTES }.into());
        }
        let at = self.strings.len();
        self.strings.extend(text);
        Ok(at)
    }
}

/// Refuses extra members of one sample, given by their lengths, that are too many or too large together.
pub fn check_extras(lengths: impl ExactSizeIterator<Item = u64>) -> Result<()> {
    let (found, limit) = (lengths.len() as u64, MAX_EXTRAS);
    if found > limit {
        return Err(Fault::Limit { what: "number of extra members of a sample", found, limit }.into());
    }
    let (found, limit) = (lengths.fold(0, u64::saturating_add), MAX_EXTRAS_BYTES);
    if found > limit {
        return Err(Fault::Limit { what: "extra members of a sample, bytes,", found, limit }.into());
    }
    Ok(())
}

/// The number of one more thing.
fn count(what: &'static str, number: &mut u64, limit: u64) -> Result<u32> {
    let this = *number;
    *number += 1;
    // The largest 32-bit number is no label, so a count never ends there.
    match u32::try_from(this) {
        Ok(number) if this < limit => Ok(number),
        _ => Err(Fault::Limit { what, found: this + 1, limit }.into()),
    }
}
