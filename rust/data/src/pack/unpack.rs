//! Here: shards back to files, byte for byte, checked against the index where there is one; recoded images as what
//! they were.
//! Not here: overwriting, links, owners, times, and any path that a stranger's archive could choose.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::durable::{self, Staging};
use super::names::inner_path;
use super::{OnError, PARTS, Reject, TICK, check_target};
use crate::checksum::{crc32c, crc32c_append};
use crate::decode::peek;
use crate::error::{Error, Fault, Result};
use crate::index::{Index, index_path};
use crate::limits::MAX_MEMBER_BYTES;
use crate::recode::{self, Recoder, SUFFIX, original_name};
use crate::tar::{self, Member};
use crate::workers::Progress;

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Unpacked {
    /// Files written.
    pub files: u64,
    /// Those of them that were recoded images.
    pub restored: u64,
    /// Their size.
    pub bytes: u64,
    /// Members that are damaged, of which nothing was written.
    pub rejects: Vec<Reject>,
    /// Wall time.
    pub seconds: f64,
}

/// Writes the regular members of a tar, of the tars of a folder, or of both parts of a packed folder,
/// to files below the new folder `out`. Progress is in bytes. The files are not synced one by one:
/// they can be had again.
///
/// `on_error` is for members that are not what the index says, and recoded images that do not give their file;
/// damage to an archive itself is an error always.
pub fn unpack(source: &Path, out: &Path, on_error: OnError, progress: Progress<'_>) -> Result<Unpacked> {
    let started = Instant::now();
    durable::recover(out).map_err(|error| Error::from(error).in_shard(out.display()))?;
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Fault::Setting(format!("{}: exists and is not empty", out.display())).into());
    }
    check_target(out, false)?;
    let archives = archives(source).map_err(|error| error.in_shard(source.display()))?;
    let total = archives.iter().map(|archive| archive.bytes).sum();
    let staging = Staging::new(out).map_err(|error| Error::from(error).in_shard(out.display()))?;
    let mut unpacking = Unpacking {
        folder: staging.path(),
        on_error,
        progress,
        told: started,
        before: 0,
        total,
        recoder: Recoder::new(),
        result: Unpacked::default(),
    };
    for archive in &archives {
        unpacking.archive(archive).map_err(|error| error.in_shard(archive.path.display()))?;
        unpacking.before += archive.bytes;
    }
    if unpacking.result.files == 0 {
        let none =
            if unpacking.result.rejects.is_empty() { ": the archives hold no files" } else { ALL_DAMAGED };
        return Err(Error::from(Fault::Empty(none)).in_shard(source.display()));
    }
    (unpacking.progress)(total, total)?;
    let mut result = unpacking.result;
    staging.commit().map_err(|error| Error::from(error).in_shard(out.display()))?;
    result.seconds = started.elapsed().as_secs_f64();
    Ok(result)
}

const ALL_DAMAGED: &str = ": every file of the archives is damaged";

struct Archive {
    path: PathBuf,
    bytes: u64,
    /// Checksum and length of what is at an offset, as far as an index knows.
    known: HashMap<u64, (u32, u32)>,
}

fn archives(source: &Path) -> Result<Vec<Archive>> {
    let mut paths = Vec::new();
    if fs::metadata(source)?.is_dir() {
        tars_in(source, &mut paths)?;
        if paths.is_empty() {
            for folder in PARTS.map(|part| source.join(part)).into_iter().filter(|folder| folder.is_dir()) {
                tars_in(&folder, &mut paths)?;
            }
        }
    } else {
        paths.push(source.to_path_buf());
    }
    if paths.is_empty() {
        return Err(Fault::Empty(": no tar archives here").into());
    }
    let mut archives = Vec::new();
    let mut indexes: HashMap<PathBuf, Option<Known>> = HashMap::new();
    for path in paths {
        let bytes = fs::metadata(&path)?.len();
        // A packed folder has one index for its shards, a lone archive may have one beside it.
        let beside = index_path(&path);
        let index =
            if beside.is_file() { beside } else { index_path(path.parent().unwrap_or(Path::new("."))) };
        let known = match indexes.get_mut(&index) {
            Some(known) => known,
            None => {
                let known = if index.is_file() { Some(known_by(&index)?) } else { None };
                indexes.entry(index).or_insert(known)
            }
        };
        let absolute = std::path::absolute(&path)?;
        let known = known.as_mut().and_then(|known| known.remove(&absolute)).unwrap_or_default();
        archives.push(Archive { path, bytes, known });
    }
    Ok(archives)
}

fn tars_in(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tar") && path.is_file() {
            found.push(path);
        }
    }
    found.sort_unstable();
    paths.append(&mut found);
    Ok(())
}

/// For each shard, checksum and length by offset.
type Known = HashMap<PathBuf, HashMap<u64, (u32, u32)>>;

fn known_by(index: &Path) -> Result<Known> {
    let index = Index::open(index)?;
    let mut known: Vec<HashMap<u64, (u32, u32)>> = vec![HashMap::new(); index.num_shards()];
    for id in 0..index.len() as u32 {
        let sample = index.sample(id)?;
        if let Some(shard) = known.get_mut(sample.shard as usize) {
            shard.insert(sample.offset, (sample.crc32c, sample.length));
        }
        for extra in index.extras(id)? {
            if let Some(shard) = known.get_mut(extra.shard as usize) {
                shard.insert(extra.offset, (extra.crc32c, extra.length));
            }
        }
    }
    Ok(known.into_iter().enumerate().map(|(shard, known)| (index.shard_path(shard as u32), known)).collect())
}

struct Unpacking<'a> {
    folder: &'a Path,
    on_error: OnError,
    progress: Progress<'a>,
    told: Instant,
    before: u64,
    total: u64,
    recoder: Recoder,
    result: Unpacked,
}

impl Unpacking<'_> {
    fn archive(&mut self, archive: &Archive) -> Result<()> {
        let file = File::open(&archive.path)?;
        let read = |offset: u64, buffer: &mut [u8]| Ok(file.read_exact_at(buffer, offset)?);
        let mut met = 0;
        for member in tar::members(archive.bytes, read) {
            let member = member?;
            let known = archive.known.get(&member.offset).copied();
            met += usize::from(known.is_some());
            match self.member(&file, &member, known).map_err(|error| locate(error, &member)) {
                Err(error) if self.on_error == OnError::Skip && error.fault().is_damage() => {
                    let reason = error.fault().to_string();
                    let place = error.in_shard(archive.path.display()).place().clone();
                    self.result.rejects.push(Reject { place, reason });
                }
                outcome => outcome?,
            }
            if self.told.elapsed() >= TICK {
                (self.progress)(self.before + member.offset, self.total)?;
                self.told = Instant::now();
            }
        }
        if met < archive.known.len() {
            return Err(Fault::IndexDamaged("it has samples that the shard has not; index it again").into());
        }
        Ok(())
    }

    /// Writes a member to its file. `known` are checksum and length that it should have in the archive.
    fn member(&mut self, file: &File, member: &Member, known: Option<(u32, u32)>) -> Result<()> {
        let mut begin = [0; 8];
        let begin = &mut begin[..member.length.min(8) as usize];
        file.read_exact_at(begin, member.offset)?;
        let bytes = if recode::sniff(begin) && is_recoded(file, member)? {
            let original = self.restored(file, member, known)?;
            self.create(original_name(&member.name))?.1.write_all(&original)?;
            self.result.restored += 1;
            original.len() as u64
        } else {
            self.copy(file, member, known)?
        };
        self.result.files += 1;
        self.result.bytes += bytes;
        Ok(())
    }

    /// Copies a member as it is; gives its length. Its checksum is known when all of it is written.
    fn copy(&self, file: &File, member: &Member, known: Option<(u32, u32)>) -> Result<u64> {
        let (path, mut target) = self.create(&member.name)?;
        let mut buffer = vec![0; member.length.min(1 << 20) as usize];
        let (mut at, end, mut crc) = (member.offset, member.offset + member.length, 0);
        while at < end {
            let count = (end - at).min(buffer.len() as u64) as usize;
            let piece = &mut buffer[..count];
            file.read_exact_at(piece, at)?;
            target.write_all(piece)?;
            crc = crc32c_append(crc, piece);
            at += count as u64;
        }
        if let Err(error) = compare(known, crc, member.length) {
            fs::remove_file(path)?;
            return Err(error);
        }
        Ok(member.length)
    }

    /// The original file of a recoded image.
    fn restored(&mut self, file: &File, member: &Member, known: Option<(u32, u32)>) -> Result<Vec<u8>> {
        let bytes = read(file, member)?;
        compare(known, crc32c(&bytes), member.length)?;
        self.recoder.restore(&bytes)
    }

    fn create(&self, name: &[u8]) -> Result<(PathBuf, File)> {
        let path = self.folder.join(inner_path(name)?);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // New: two members of one name would silently become one file.
        let file = File::create_new(&path)?;
        Ok((path, file))
    }
}

/// Whether what begins as a recoded image is meant as one: its name says so, or its header is one. Any file may begin
/// with the same eight bytes.
fn is_recoded(file: &File, member: &Member) -> Result<bool> {
    Ok(member.name.ends_with(SUFFIX)
        || member.length <= MAX_MEMBER_BYTES && peek(&read(file, member)?).is_ok())
}

/// All of a member that may be a recoded image.
fn read(file: &File, member: &Member) -> Result<Vec<u8>> {
    let (found, limit) = (member.length, MAX_MEMBER_BYTES);
    if found > limit {
        return Err(Fault::Limit { what: "size of a recoded image in bytes", found, limit }.into());
    }
    let mut bytes = vec![0; found as usize];
    file.read_exact_at(&mut bytes, member.offset)?;
    Ok(bytes)
}

/// Whether a member is what the index, if there is one, says.
fn compare(known: Option<(u32, u32)>, found: u32, length: u64) -> Result<()> {
    match known {
        Some((indexed, bytes)) if (indexed, u64::from(bytes)) != (found, length) => {
            Err(Fault::Checksum { indexed, found }.into())
        }
        _ => Ok(()),
    }
}

fn locate(error: Error, member: &Member) -> Error {
    error.at(member.offset).in_member(&member.name)
}
