//! Here: a source of images to shards and an index, every image decoded once to prove it; and back.
//! With `durable`, the only writes of the crate.
//! Not here: changes to image bytes: what is packed is what was there, or what `recode` gives it back from.

mod durable;
mod names;
mod shards;
mod split;
mod target;
mod unpack;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::checksum::crc32c;
use crate::decode::{Decoder, Format, Header, Image, peek};
use crate::error::{Error, Fault, Place, Result};
use crate::index::{Extra, FILE_NAME, Index, Sample, check_extras};
use crate::limits::MAX_MEMBER_BYTES;
use crate::recode::{Proof, Recoder};
use crate::scan::{self, Plan, REJECTED_NAME, RUN_BYTES};
use crate::store::Files;
use crate::workers::{self, Progress};
use durable::Staging;
use shards::{Packed, ShardWriter, Written};
use target::{check_apart, check_target};

pub use unpack::{Unpacked, unpack};

/// Folders of the two parts if images are held out.
pub const PARTS: [&str; 2] = ["train", "held-out"];

/// What to do with an image that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Stop, and leave nothing.
    Raise,
    /// Leave it out, and list it in the report and in `rejected.jsonl`.
    Skip,
}

/// How to pack.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most bytes of a shard, unless one image is larger.
    pub shard_bytes: u64,
    /// Fewest shards, unless there are fewer images.
    pub min_shards: u64,
    /// Share of each class that goes to a second folder, in [0, 1).
    pub held_out: f64,
    /// For images that cannot be decoded.
    pub on_error: OnError,
    /// Whether extra members are packed, too.
    pub with_extras: bool,
    /// Decode every image to prove it. Otherwise headers alone are read, at the speed of the disk, and what
    /// is damaged behind them shows up in training.
    pub decode: bool,
    /// Store JPEGs as what decodes fast and gives the file back (see [`recode`](crate::recode)).
    pub recode: bool,
    /// How it is proven that each of these comes back; what is stored is the same.
    pub prove: Proof,
    /// Whether an earlier output may be replaced; nothing else ever is.
    pub overwrite: bool,
    /// 0: one per processor.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shard_bytes: 256 << 20,
            min_shards: 1,
            held_out: 0.0,
            on_error: OnError::Raise,
            with_extras: true,
            decode: true,
            recode: false,
            prove: Proof::Strict,
            overwrite: false,
            threads: 0,
        }
    }
}

/// An image that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Where it is in the source.
    pub place: Place,
    /// Why.
    pub reason: String,
}

/// What recoding did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recoded {
    /// Images.
    pub images: u64,
    /// Their size before, in bytes.
    pub from_bytes: u64,
    /// Their size now.
    pub to_bytes: u64,
    /// JPEGs that are stored as they were, by the reason.
    pub kept: BTreeMap<&'static str, u64>,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Images written, held-out ones among them.
    pub images: u64,
    /// Images held out.
    pub held_out_images: u64,
    /// Extra members written.
    pub extra_members: u64,
    /// Shards written.
    pub shards: u64,
    /// Size of all shards.
    pub bytes: u64,
    /// Number of classes; 0 if there are no labels.
    pub classes: u64,
    /// Files of the source that are no images and belong to none, and links inside of archives.
    pub ignored: u64,
    /// Classes that have images held out and none to train on.
    pub classes_without_training: u64,
    /// What was recoded.
    pub recoded: Recoded,
    /// Images that were left out.
    pub rejects: Vec<Reject>,
    /// Wall time.
    pub seconds: f64,
}

/// Packs a source (see [`scan::scan`]) into the folder `out`: `shard-00000.tar` and so on, and an index.
/// Members keep their names, and names that [`unpack`] could not give back are refused; labels that come from
/// `.cls` members are written as such, extra members behind their image. `out` is complete or absent, and the
/// same source and options give the same bytes.
pub fn pack(source: &Path, out: &Path, options: &Options, progress: Progress<'_>) -> Result<Report> {
    let started = Instant::now();
    if options.shard_bytes == 0 || options.min_shards == 0 {
        return Err(Fault::Setting("shard_bytes and min_shards must be at least 1".into()).into());
    }
    durable::recover(out).map_err(|error| Error::from(error).in_shard(out.display()))?;
    check_target(out, options.overwrite)?;
    check_apart(source, out)?;
    let plan = scan::plan(source, options.with_extras, progress)?;
    names::check(&plan)?;
    let split::Split { held, classes_without_training } =
        split::held_out(&plan.candidates, plan.class_names.len(), options.held_out)?;
    let located = |error: std::io::Error| Error::from(error).in_shard(out.display());
    let staging = Staging::new(out).map_err(located)?;
    let mut packing = Packing { plan: &plan, options, progress, done: 0, report: Report::default() };
    if options.held_out == 0.0 {
        packing.part(staging.path(), (0..plan.candidates.len()).collect())?;
    } else {
        for (part, is_held) in PARTS.into_iter().zip([false, true]) {
            let folder = staging.path().join(part);
            fs::create_dir(&folder).map_err(located)?;
            let written =
                packing.part(&folder, (0..held.len()).filter(|&at| held[at] == is_held).collect())?;
            packing.report.held_out_images = written.images;
        }
    }
    let mut report = packing.report;
    if !report.rejects.is_empty() {
        let lines: String = report.rejects.iter().map(target::json_line).collect();
        durable::write_synced(&staging.path().join(REJECTED_NAME), lines.as_bytes()).map_err(located)?;
    }
    staging.commit().map_err(located)?;
    report.classes = plan.class_names.len() as u64;
    report.ignored = plan.listing.ignored;
    report.classes_without_training = classes_without_training;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Writes an index to a file, or into a folder as `barlow.index`; gives the path of the file. If that is not
/// the folder that its shard paths are relative to, they are written as absolute ones.
pub fn write_index(index: &Index, to: &Path) -> Result<PathBuf> {
    let path = if to.is_dir() { to.join(FILE_NAME) } else { to.to_path_buf() };
    let write = || -> Result<()> {
        let absolute = std::path::absolute(&path)?;
        let folder = absolute.parent().unwrap_or(Path::new("/"));
        let moved;
        let index = if fs::canonicalize(folder)? == fs::canonicalize(index.root())? {
            index
        } else {
            moved = index.moved_to(folder)?;
            &moved
        };
        Ok(durable::write_file(&path, index.as_bytes())?)
    };
    write().map_err(|error| error.in_shard(path.display()))?;
    Ok(path)
}

/// How many times its bytes a recoded image may take at most, in hundredths. Few photographs would take more;
/// those that a low quality has made small already would, and as they are they decode fast enough.
const MOST_GROWTH: u64 = 145;

/// Why an image that would is stored as it is.
const TOO_LARGE: &str = "a recoded image of more than 1.45 times the bytes";

struct Packing<'a> {
    plan: &'a Plan,
    options: &'a Options,
    progress: Progress<'a>,
    done: u64,
    report: Report,
}

/// An image that has been read, and decoded if it was to be.
struct Proven {
    /// What is stored: the image, or the member that it was recoded to.
    data: Vec<u8>,
    /// Whether it was, or why not, if it was to be.
    recoding: Option<std::result::Result<(), &'static str>>,
    header: Header,
    crc32c: u32,
    extras: Vec<(Extra, Vec<u8>)>,
}

impl Packing<'_> {
    /// Packs some of the candidates, in order, into a folder.
    fn part(&mut self, folder: &Path, chosen: Vec<usize>) -> Result<Written> {
        let plan = self.plan;
        let sizes = chosen.iter().map(|&at| self.stored_bytes(at)).collect::<Result<Vec<u64>>>()?;
        let (most, planned) = match (self.options.recode, self.options.shard_bytes) {
            (false, most) => (u64::MAX, most),
            (true, most) => (most, (u128::from(most) * 100 / u128::from(MOST_GROWTH)) as u64),
        };
        let cuts = shards::cuts(&sizes, planned, self.options.min_shards);
        let mut writer = ShardWriter::new(folder, plan, cuts, most)?;
        let files = Files::default();
        let runs = workers::runs(chosen.iter().map(|&at| plan.candidates[at].bytes()), RUN_BYTES);
        let threads = workers::threads(self.options.threads).min(runs.len());
        let mut states = (0..threads).map(|_| Tools::new(self.options)).collect::<Result<Vec<Tools>>>()?;
        let work = |tools: &mut Tools, run: usize| -> Vec<Result<Proven>> {
            let chosen = runs.get(run).and_then(|run| chosen.get(run.clone())).unwrap_or_default();
            chosen.iter().map(|&at| prove(plan, &files, at, tools)).collect()
        };
        let mut results = chosen.iter().zip(&sizes);
        workers::ordered(runs.len(), &mut states, work, |proven| {
            for (proven, (&at, &size)) in proven.unwrap_or_default().into_iter().zip(&mut results) {
                self.take(&mut writer, at, size, proven)?;
            }
            (self.progress)(self.done, plan.candidates.len() as u64)
        })
        .map_err(|error| error.in_shard(folder.display()))?;
        let written = writer.finish().map_err(|error| error.in_shard(folder.display()))?;
        if written.images == 0 {
            return Err(Fault::Empty(": all of them are damaged").into());
        }
        self.report.images += written.images;
        self.report.extra_members += written.extra_members;
        self.report.shards += written.shards;
        self.report.bytes += written.bytes;
        Ok(written)
    }

    fn stored_bytes(&self, at: usize) -> Result<u64> {
        let candidate = &self.plan.candidates[at];
        let extras = check_extras(candidate.extras.iter().map(|extra| extra.length));
        if candidate.length > MAX_MEMBER_BYTES || extras.is_err() {
            // It will be refused when it is read, with the policy for that.
            return Ok(0);
        }
        shards::stored_bytes(candidate, self.plan.numbered).map_err(|error| self.plan.locate(at, error))
    }

    fn take(
        &mut self,
        writer: &mut ShardWriter<'_>,
        at: usize,
        size: u64,
        proven: Result<Proven>,
    ) -> Result<()> {
        self.done += 1;
        match proven {
            Ok(proven) => self.write(writer, at, size, proven),
            Err(error) if self.options.on_error == OnError::Skip && is_about_an_image(&error) => {
                let reject = Reject { place: error.place().clone(), reason: error.fault().to_string() };
                self.report.rejects.push(reject);
                writer.skip(size)
            }
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, writer: &mut ShardWriter<'_>, at: usize, size: u64, proven: Proven) -> Result<()> {
        let Proven { data, recoding, mut header, crc32c, extras } = proven;
        let candidate = &self.plan.candidates[at];
        let mut name = Cow::from(&candidate.name);
        let recoded = &mut self.report.recoded;
        match (recoding, names::recoded(&candidate.name)) {
            (Some(Ok(())), Some(longer)) => {
                recoded.images += 1;
                recoded.from_bytes += candidate.length;
                recoded.to_bytes += data.len() as u64;
                header.format = Format::Recoded;
                name = longer.into();
            }
            (Some(Err(reason)), _) => *recoded.kept.entry(reason).or_default() += 1,
            _ => {}
        }
        let sample = Sample {
            shard: 0,
            offset: 0,
            length: data.len() as u32,
            label: candidate.label,
            width: header.width,
            height: header.height,
            format: header.format,
            crc32c,
            // To recode an image all of it is read, with less patience than to decode it.
            proven: self.options.decode || header.format == Format::Recoded,
        };
        writer.push(Packed { candidate, name: &name, sample, data: &data, extras: &extras }, size)
    }
}

/// What a thread decodes and recodes with.
struct Tools {
    /// `None` if headers are enough.
    decoder: Option<(Decoder, Image)>,
    recoder: Recoder,
    /// Whether JPEGs are recoded.
    recode: bool,
    /// The last image that was read, if it is not stored itself: its memory is for the next one.
    data: Vec<u8>,
}

impl Tools {
    fn new(options: &Options) -> Result<Self> {
        let decoder = match options.decode {
            true => Some((Decoder::new()?, Image::default())),
            false => None,
        };
        Ok(Self { decoder, recoder: Recoder::with(options.prove), recode: options.recode, data: Vec::new() })
    }
}

/// Reads an image and decodes all of it. What can be recoded is read in full by that; of what is recoded already,
/// the original is made, too: damage to what pixels do not need would get a fresh checksum otherwise.
fn prove(plan: &Plan, files: &Files, at: usize, tools: &mut Tools) -> Result<Proven> {
    let Tools { decoder, recoder, recode, data } = tools;
    plan.read(files, at, data)?;
    let header = peek(data).map_err(|error| plan.locate(at, error))?;
    let recoding =
        (*recode && header.format == Format::Jpeg).then(|| recoded(recoder, data, &plan.candidates[at].name));
    if let Some((decoder, image)) = decoder.as_mut().filter(|_| !matches!(recoding, Some(Ok(_)))) {
        let mut proof = decoder.decode(data, image);
        if header.format == Format::Recoded {
            proof = proof.and_then(|()| recoder.restore(data).map(drop));
        }
        proof.map_err(|error| plan.locate(at, error))?;
    }
    let (data, recoding) = match recoding {
        Some(Ok(member)) => (member, Some(Ok(()))),
        Some(Err(reason)) => (std::mem::take(data), Some(Err(reason))),
        None => (std::mem::take(data), None),
    };
    let crc32c = crc32c(&data);
    let mut extras = Vec::new();
    plan.read_extras(files, at, |extra, bytes| extras.push((extra, bytes)))?;
    Ok(Proven { data, recoding, header, crc32c, extras })
}

/// The member for a JPEG, or why it is stored as it is.
fn recoded(recoder: &mut Recoder, data: &[u8], name: &[u8]) -> std::result::Result<Vec<u8>, &'static str> {
    if names::recoded(name).is_none() {
        return Err("a name that is too long for a suffix");
    }
    let member = recoder.recode(data)?;
    if member.len() as u64 * 100 > data.len() as u64 * MOST_GROWTH { Err(TOO_LARGE) } else { Ok(member) }
}

/// Whether skipping may pass over it: a bad image is left out, a bad archive or disk is not.
fn is_about_an_image(error: &Error) -> bool {
    matches!(
        error.fault(),
        Fault::UnknownFormat | Fault::Damaged { .. } | Fault::Unsupported { .. } | Fault::Limit { .. }
    )
}

/// Progress is told at most this often by code that has nothing else to wait for.
const TICK: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
