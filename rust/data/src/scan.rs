//! Here: any source of images to an index of it, in place: nothing is extracted, moved or rewritten.
//! Not here: pixels (headers only), writing.
//!
//! ```text
//! source ─list─► items ─extras, labels─► plan (images, each with its label and extra files) ─scan─► index
//!                                                                                           └pack─► shards + index
//! ```

mod extras;
mod labels;
mod list;

use std::path::Path;

use crate::checksum::crc32c;
use crate::decode::{Header, peek};
use crate::error::{Error, Fault, Result};
use crate::index::{Builder, Extra, Index, Sample, check_extras};
use crate::limits::MAX_MEMBER_BYTES;
use crate::store::{Files, Shard};
use crate::workers::{self, Progress};

pub use extras::ExtraFile;
pub use labels::Candidate;
pub use list::{Listing, REJECTED_NAME};

/// Bytes that a worker takes at a time.
pub(crate) const RUN_BYTES: u64 = 256 << 10;

/// An index and what was left out of it.
pub struct Scanned {
    /// With shard paths relative to the source.
    pub index: Index,
    /// Files that are no images, do not claim to be, and belong to none, and links inside of archives.
    pub ignored: u64,
}

/// What is in a source, by names and first bytes: the images with their labels, in their final order.
pub struct Plan {
    /// Files and folders.
    pub listing: Listing,
    /// Everything that is, or claims to be, an image.
    pub candidates: Vec<Candidate>,
    /// Extensions of the extra files, in byte order.
    pub kinds: Vec<Vec<u8>>,
    /// In label order.
    pub class_names: Vec<Vec<u8>>,
    /// Whether labels come from `.cls` members and not from folders.
    pub numbered: bool,
}

/// Indexes a source: a tar of class folders, a folder of tars (WebDataset or class folders), a folder of
/// class folders, or a flat folder of images. Reads all of it once, with `threads` threads (0: all
/// processors); the first damaged file is an error. `with_extras`: extra members are recorded, too.
pub fn scan(source: &Path, threads: usize, with_extras: bool, progress: Progress<'_>) -> Result<Scanned> {
    let plan = plan(source, with_extras, progress)?;
    let files = Files::default();
    let total = plan.candidates.len() as u64;
    let runs = workers::runs(plan.candidates.iter().map(Candidate::bytes), RUN_BYTES);
    let mut buffers = vec![Vec::new(); workers::threads(threads).min(runs.len())];
    let work = |buffer: &mut Vec<u8>, run: usize| -> Vec<Result<Probed>> {
        let candidates = runs.get(run).cloned().unwrap_or_default();
        candidates.map(|at| probe(&plan, &files, at, buffer)).collect()
    };
    let mut indexing = Indexing::new(&plan)?;
    let mut done = 0;
    workers::ordered(runs.len(), &mut buffers, work, |found| {
        for result in found.unwrap_or_default() {
            indexing.add(done, result?)?;
            done += 1;
        }
        progress(done as u64, total)
    })?;
    let index = Index::from_bytes(indexing.builder.finish(), &plan.listing.root)?;
    Ok(Scanned { index, ignored: plan.listing.ignored })
}

/// Lists a source and gives its images their labels. Reads tar headers, `.cls` members, and a few bytes of
/// files whose names do not tell.
pub fn plan(source: &Path, with_extras: bool, progress: Progress<'_>) -> Result<Plan> {
    let mut listing = list::list(source, with_extras, &mut || progress(0, 0))
        .map_err(|error| error.in_shard(source.display()))?;
    extras::attach(&mut listing)?;
    let items = std::mem::take(&mut listing.items);
    let labelled =
        labels::assign(items, listing.in_archives).map_err(|error| error.in_shard(source.display()))?;
    if labelled.candidates.is_empty() {
        return Err(Error::from(Fault::Empty(listing.hint)).in_shard(source.display()));
    }
    let labels::Labelled { mut candidates, class_names, numbered } = labelled;
    let kinds = extras::number(&mut candidates);
    Ok(Plan { listing, candidates, kinds, class_names, numbered })
}

/// What is to be known of an image and its extra files.
struct Probed {
    header: Header,
    crc32c: u32,
    extras: Vec<Extra>,
}

fn probe(plan: &Plan, files: &Files, at: usize, buffer: &mut Vec<u8>) -> Result<Probed> {
    plan.read(files, at, buffer)?;
    let header = peek(buffer).map_err(|error| plan.locate(at, error))?;
    let crc32c = crc32c(buffer);
    let mut extras = Vec::new();
    plan.read_extras(files, at, |extra, _| extras.push(extra))?;
    Ok(Probed { header, crc32c, extras })
}

impl Plan {
    /// Reads the encoded bytes of a candidate.
    pub fn read(&self, files: &Files, at: usize, into: &mut Vec<u8>) -> Result<()> {
        let Candidate { shard, offset, length, .. } = self.candidates[at];
        if length > MAX_MEMBER_BYTES {
            let limit = MAX_MEMBER_BYTES;
            return Err(self.locate(at, Fault::Limit { what: "image, bytes,", found: length, limit }.into()));
        }
        self.read_part(files, shard, offset, length, into).map_err(|error| self.locate(at, error))
    }

    /// Reads the extra files of a candidate, in their order, and gives each with its bytes. Shard and offset
    /// are those of the source.
    pub fn read_extras(&self, files: &Files, at: usize, mut each: impl FnMut(Extra, Vec<u8>)) -> Result<()> {
        let extras = &self.candidates[at].extras;
        check_extras(extras.iter().map(|extra| extra.length)).map_err(|error| {
            match extras.iter().max_by_key(|extra| extra.length) {
                Some(largest) => self.locate_file(largest.shard, &largest.name, largest.offset, error),
                None => error,
            }
        })?;
        for ExtraFile { shard, name, offset, length, kind } in extras {
            let mut bytes = Vec::new();
            self.read_part(files, *shard, *offset, *length, &mut bytes)
                .map_err(|error| self.locate_file(*shard, name, *offset, error))?;
            let crc32c = crc32c(&bytes);
            let (kind, shard, offset, length) = (*kind, *shard, *offset, *length as u32);
            each(Extra { kind, shard, offset, length, crc32c }, bytes);
        }
        Ok(())
    }

    fn read_part(
        &self,
        files: &Files,
        shard: u32,
        offset: u64,
        length: u64,
        into: &mut Vec<u8>,
    ) -> Result<()> {
        let file = &self.listing.shards[shard as usize];
        let path = self.listing.path(shard);
        files.read(&Shard { number: shard, path: &path, bytes: file.bytes }, offset, length, into)
    }

    /// Adds the address of a candidate to an error.
    pub fn locate(&self, at: usize, error: Error) -> Error {
        let Candidate { shard, name, offset, .. } = &self.candidates[at];
        self.locate_file(*shard, name, *offset, error)
    }

    /// Adds the address of a file of the source to an error.
    pub fn locate_file(&self, shard: u32, name: &[u8], offset: u64, error: Error) -> Error {
        let error = error.in_shard(self.listing.path(shard).display());
        match self.listing.in_archives {
            true => error.in_member(name).at(offset),
            false => error,
        }
    }
}

/// The builder of an index in place, with the shards that have come up so far.
struct Indexing<'a> {
    plan: &'a Plan,
    builder: Builder,
    /// The last shard in the listing's numbers and in the index's.
    shard: Option<(u32, u32)>,
}

impl<'a> Indexing<'a> {
    fn new(plan: &'a Plan) -> Result<Self> {
        let mut builder = Builder::new();
        for name in &plan.class_names {
            builder.class(name)?;
        }
        for kind in &plan.kinds {
            builder.kind(kind)?;
        }
        Ok(Self { plan, builder, shard: None })
    }

    /// The number of a shard in the index.
    fn shard(&mut self, listed: u32) -> Result<u32> {
        if let Some((_, indexed)) = self.shard.filter(|&(last, _)| last == listed) {
            return Ok(indexed);
        }
        let file = &self.plan.listing.shards[listed as usize];
        let indexed = self.builder.shard(&file.path, file.bytes)?;
        self.shard = Some((listed, indexed));
        Ok(indexed)
    }

    fn add(&mut self, at: usize, probed: Probed) -> Result<()> {
        let Probed { header, crc32c, mut extras } = probed;
        let candidate = &self.plan.candidates[at];
        let shard = self.shard(candidate.shard)?;
        let sample = Sample {
            shard,
            offset: candidate.offset,
            length: candidate.length as u32,
            label: candidate.label,
            width: header.width,
            height: header.height,
            format: header.format,
            crc32c,
            proven: false,
        };
        let added = self.builder.sample(&candidate.name, &sample);
        added.map_err(|error| self.plan.locate(at, error))?;
        for extra in &mut extras {
            extra.shard = self.shard(extra.shard)?;
        }
        self.builder.extras(extras).map_err(|error| self.plan.locate(at, error))
    }
}
