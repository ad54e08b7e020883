//! Here: an index from its parts: shards, classes and samples in, bytes out.
//! Not here: files, where the parts come from.

use sha2::{Digest, Sha256};

use super::Sample;
use super::format::{Header, NO_LABEL, PROVEN, SampleRecord, write_string_place};
use crate::error::{Fault, Result};
use crate::limits::{MAX_CLASSES, MAX_NAME_BYTES, MAX_SAMPLES, MAX_SHARDS};

/// Collects the sections of an index. A shard stands before its samples, classes in label order.
pub struct Builder {
    samples: Vec<u8>,
    shards: Vec<u8>,
    classes: Vec<u8>,
    strings: Vec<u8>,
    num_samples: u64,
    num_shards: u64,
    num_classes: u64,
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
            strings: Vec::new(),
            num_samples: 0,
            num_shards: 0,
            num_classes: 0,
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

    /// Adds a sample under its member name.
    pub fn sample(&mut self, name: &[u8], sample: &Sample) -> Result<()> {
        count("number of samples", &mut self.num_samples, MAX_SAMPLES)?;
        // A loose image is a shard of its own and has the shard's path as its name: stored once.
        let (shard_at, shard_bytes) = self.last_shard;
        let at = match self.strings.get(shard_at..shard_at + shard_bytes) {
            Some(path) if path == name => shard_at,
            _ => self.string("member name, bytes,", name)?,
        };
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
    /// pixels of all samples in order, and the class names: the same data in other shards keep it.
    pub fn finish(self) -> Vec<u8> {
        let header = Header {
            num_samples: self.num_samples,
            num_shards: self.num_shards,
            num_classes: self.num_classes,
            strings_bytes: self.strings.len() as u64,
            digest: self.content.finalize().into(),
        };
        header.assemble([&self.samples, &self.shards, &self.classes, &self.strings])
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
