//! Here: any source of images to an index of it, in place: nothing is extracted, moved or rewritten.
//! Not here: pixels (headers only), writing.
//!
//! ```text
//! source ─list─► items (images, labels) ─labels─► plan (candidates with labels) ─scan─► index
//!                                                                               └pack─► shards + index
//! ```

mod labels;
mod list;

use std::path::Path;

use crate::decode::{Header, peek};
use crate::error::{Error, Fault, Result};
use crate::index::{Builder, Index, Sample};
use crate::limits::MAX_MEMBER_BYTES;
use crate::store::{Files, Shard};
use crate::workers::{self, Progress};

pub use labels::{Candidate, stem};
pub use list::{Listing, REJECTED_NAME};

/// Bytes that a worker takes at a time.
pub(crate) const RUN_BYTES: u64 = 256 << 10;

/// An index and what was left out of it.
pub struct Scanned {
    /// With shard paths relative to the source.
    pub index: Index,
    /// Files that are no images and do not claim to be, and links inside of archives.
    pub ignored: u64,
}

/// What is in a source, by names and first bytes: the images with their labels, in their final order.
pub struct Plan {
    /// Files and folders.
    pub listing: Listing,
    /// Everything that is, or claims to be, an image.
    pub candidates: Vec<Candidate>,
    /// In label order.
    pub class_names: Vec<Vec<u8>>,
    /// Whether labels come from `.cls` members and not from folders.
    pub numbered: bool,
}

/// Indexes a source: a tar of class folders, a folder of tars (WebDataset or class folders), a folder of
/// class folders, or a flat folder of images. Reads all of it once, with `threads` threads (0: all
/// processors); the first damaged file is an error.
pub fn scan(source: &Path, threads: usize, progress: Progress<'_>) -> Result<Scanned> {
    let plan = plan(source, progress)?;
    let files = Files::default();
    let total = plan.candidates.len() as u64;
    let runs = workers::runs(plan.candidates.iter().map(|candidate| candidate.length), RUN_BYTES);
    let mut buffers = vec![Vec::new(); workers::threads(threads).min(runs.len())];
    let work = |buffer: &mut Vec<u8>, run: usize| -> Vec<Result<(Header, u32)>> {
        let candidates = runs.get(run).cloned().unwrap_or_default();
        candidates.map(|at| probe(&plan, &files, at, buffer)).collect()
    };
    let mut indexing = Indexing::new(&plan)?;
    let mut done = 0;
    workers::ordered(runs.len(), &mut buffers, work, |found| {
        for result in found.unwrap_or_default() {
            let (header, crc32c) = result?;
            indexing.add(done, header, crc32c)?;
            done += 1;
        }
        progress(done as u64, total)
    })?;
    let index = Index::from_bytes(indexing.builder.finish(), &plan.listing.root)?;
    Ok(Scanned { index, ignored: plan.listing.ignored })
}

/// Lists a source and gives its images their labels. Reads tar headers, `.cls` members, and a few bytes of
/// files whose names do not tell.
pub fn plan(source: &Path, progress: Progress<'_>) -> Result<Plan> {
    let mut listing =
        list::list(source, &mut || progress(0, 0)).map_err(|error| error.in_shard(source.display()))?;
    let items = std::mem::take(&mut listing.items);
    let labelled =
        labels::assign(items, listing.in_archives).map_err(|error| error.in_shard(source.display()))?;
    if labelled.candidates.is_empty() {
        return Err(Error::from(Fault::Empty(listing.hint)).in_shard(source.display()));
    }
    let labels::Labelled { candidates, class_names, numbered } = labelled;
    Ok(Plan { listing, candidates, class_names, numbered })
}

fn probe(plan: &Plan, files: &Files, at: usize, buffer: &mut Vec<u8>) -> Result<(Header, u32)> {
    plan.read(files, at, buffer)?;
    let header = peek(buffer).map_err(|error| plan.locate(at, error))?;
    Ok((header, crc32c::crc32c(buffer)))
}

impl Plan {
    /// Reads the encoded bytes of a candidate.
    pub fn read(&self, files: &Files, at: usize, into: &mut Vec<u8>) -> Result<()> {
        let Candidate { shard, offset, length, .. } = self.candidates[at];
        if length > MAX_MEMBER_BYTES {
            let limit = MAX_MEMBER_BYTES;
            return Err(self.locate(at, Fault::Limit { what: "image, bytes,", found: length, limit }.into()));
        }
        let file = &self.listing.shards[shard as usize];
        let path = self.listing.path(shard);
        let shard = Shard { number: shard, path: &path, bytes: file.bytes };
        files.read(&shard, offset, length, into).map_err(|error| self.locate(at, error))
    }

    /// Adds the address of a candidate to an error.
    pub fn locate(&self, at: usize, error: Error) -> Error {
        let candidate = &self.candidates[at];
        let error = error.in_shard(self.listing.path(candidate.shard).display());
        match self.listing.in_archives {
            true => error.in_member(&candidate.name).at(candidate.offset),
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
        Ok(Self { plan, builder, shard: None })
    }

    fn add(&mut self, at: usize, header: Header, crc32c: u32) -> Result<()> {
        let candidate = &self.plan.candidates[at];
        let shard = match self.shard {
            Some((listed, indexed)) if listed == candidate.shard => indexed,
            _ => {
                let file = &self.plan.listing.shards[candidate.shard as usize];
                self.builder.shard(&file.path, file.bytes)?
            }
        };
        self.shard = Some((candidate.shard, shard));
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
        self.builder.sample(&candidate.name, &sample).map_err(|error| self.plan.locate(at, error))
    }
}
