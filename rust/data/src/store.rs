//! Here: the only reads of samples' bytes: file handles, kept open within bounds, and checked samples.
//! Not here: what the bytes mean, batching, threads.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::checksum::crc32c;
use crate::error::{Error, Fault, Result};
use crate::index::{Extra, Index};
use crate::recode::{self, Recoder};

/// Handles kept open: half of the 1024 files that a process may commonly open. Batches jump between
/// shards, so with fewer handles than shards nearly every read would open its shard anew.
const MAX_HANDLES: usize = 512;

/// Reads samples of an index by id. Shared by all threads.
pub struct Store {
    index: Arc<Index>,
    files: Files,
}

impl Store {
    /// Opens nothing yet.
    pub fn new(index: Arc<Index>) -> Self {
        Self { index, files: Files::default() }
    }

    /// Replaces the content of `into` by the encoded bytes of a sample. They are the bytes that were
    /// indexed, or there is an error that names shard, member and offset.
    pub fn read(&self, id: u32, into: &mut Vec<u8>) -> Result<()> {
        let sample = self.index.sample(id).map_err(|error| error.in_shard(self.index.root().display()))?;
        self.part(sample.shard, sample.offset, sample.length, sample.crc32c, into)
            .map_err(|error| error.in_member(self.index.name(id)))
    }

    /// The same, but for a recoded image the file that it was made of, checked.
    pub fn read_original(&self, id: u32, into: &mut Vec<u8>) -> Result<()> {
        self.read(id, into)?;
        if recode::sniff(into) {
            let sample = self.index.sample(id)?;
            *into = Recoder::new().restore(into).map_err(|error| {
                let path = self.index.shard_path(sample.shard);
                error.in_member(self.index.name(id)).at(sample.offset).in_shard(path.display())
            })?;
        }
        Ok(())
    }

    /// The same for the extra members of a sample that are of these kinds ([`Index::kinds`]), in this order;
    /// `None` for one that it lacks.
    pub fn read_extras(&self, id: u32, kinds: &[u32]) -> Result<Vec<Option<Vec<u8>>>> {
        let there = self.index.extras(id).map_err(|error| error.in_shard(self.index.root().display()))?;
        let read = |&kind: &u32| {
            let Some(&extra) = there.iter().find(|extra| extra.kind == kind) else { return Ok(None) };
            let Extra { shard, offset, length, crc32c, .. } = extra;
            let mut bytes = Vec::new();
            self.part(shard, offset, length, crc32c, &mut bytes)
                .map_err(|error| error.in_member(&self.index.extra_name(id, kind)))?;
            Ok(Some(bytes))
        };
        kinds.iter().map(read).collect()
    }

    /// Reads and checks bytes; an error has their shard and offset.
    fn part(&self, number: u32, offset: u64, length: u32, indexed: u32, into: &mut Vec<u8>) -> Result<()> {
        let path = self.index.shard_path(number);
        let shard = Shard { number, path: &path, bytes: self.index.shard_bytes(number) };
        let read = self.files.read(&shard, offset, length.into(), into);
        read.and_then(|()| match crc32c(into) {
            found if found == indexed => Ok(()),
            found => Err(Fault::Checksum { indexed, found }.into()),
        })
        .map_err(|error| error.at(offset).in_shard(path.display()))
    }
}

/// A file to read from, as it was when it was listed.
pub struct Shard<'a> {
    /// Tells the shards of one [`Files`] apart.
    pub number: u32,
    /// Where it is.
    pub path: &'a Path,
    /// Its size in bytes then; a file of another size is refused.
    pub bytes: u64,
}

/// File handles, the least recently used of which are closed first.
#[derive(Default)]
pub struct Files {
    open: Mutex<Handles>,
}

#[derive(Default)]
struct Handles {
    by_shard: HashMap<u32, Handle>,
    clock: u64,
}

struct Handle {
    file: Arc<File>,
    last_used: u64,
}

impl Files {
    /// Replaces the content of `into` by `length` bytes of a shard.
    pub fn read(&self, shard: &Shard<'_>, offset: u64, length: u64, into: &mut Vec<u8>) -> Result<()> {
        let length =
            usize::try_from(length).map_err(|_| Error::from(Fault::IndexDamaged("sample length")))?;
        // What is there is overwritten: only what is to be added is filled.
        into.resize(length, 0);
        // A loose image is its own shard and read once per epoch; its handle is not worth a place.
        let file = match offset == 0 && shard.bytes == length as u64 {
            true => Arc::new(open(shard)?),
            false => self.handle(shard)?,
        };
        file.read_exact_at(into, offset)?;
        Ok(())
    }

    fn handle(&self, shard: &Shard<'_>) -> Result<Arc<File>> {
        let mut handles = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        handles.clock += 1;
        let now = handles.clock;
        if let Some(handle) = handles.by_shard.get_mut(&shard.number) {
            handle.last_used = now;
            return Ok(Arc::clone(&handle.file));
        }
        // Opening under the lock: threads that want the same shard wait for it instead of opening it too.
        let file = Arc::new(open(shard)?);
        if handles.by_shard.len() >= MAX_HANDLES {
            let oldest = handles.by_shard.iter().min_by_key(|(_, handle)| handle.last_used);
            if let Some(number) = oldest.map(|(&number, _)| number) {
                handles.by_shard.remove(&number);
            }
        }
        handles.by_shard.insert(shard.number, Handle { file: Arc::clone(&file), last_used: now });
        Ok(file)
    }
}

fn open(shard: &Shard<'_>) -> Result<File> {
    let file = File::open(shard.path)?;
    match file.metadata()?.len() {
        found if found == shard.bytes => Ok(file),
        found => Err(Fault::ShardChanged { found, indexed: shard.bytes }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Format;
    use crate::index::{Builder, Sample};
    use std::path::PathBuf;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Shards of three samples of four bytes; sample i is filled with the byte i.
    fn example(name: &str, num_shards: u32) -> (Folder, Store) {
        let folder = Folder(std::env::temp_dir().join(format!("barlow-store-{name}-{}", std::process::id())));
        std::fs::create_dir_all(&folder.0).unwrap();
        let mut builder = Builder::new();
        for shard in 0..num_shards {
            let path = format!("{shard}.tar");
            let bytes: Vec<u8> = (0..12).map(|at| (shard * 3 + at / 4) as u8).collect();
            std::fs::write(folder.0.join(&path), &bytes).unwrap();
            builder.shard(path.as_bytes(), 12).unwrap();
            for (at, data) in bytes.chunks(4).enumerate() {
                let sample = Sample {
                    shard,
                    offset: 4 * at as u64,
                    length: 4,
                    label: None,
                    width: 1,
                    height: 1,
                    format: Format::Jpeg,
                    crc32c: crc32c::crc32c(data),
                    proven: false,
                };
                builder.sample(format!("{shard}-{at}").as_bytes(), &sample).unwrap();
            }
        }
        let index = Index::from_bytes(builder.finish(), &folder.0).unwrap();
        (folder, Store::new(Arc::new(index)))
    }

    #[test]
    fn more_shards_than_handles_are_read_from_several_threads() {
        let num_shards = MAX_HANDLES as u32 + 40;
        let (_folder, store) = example("many", num_shards);
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let store = &store;
                scope.spawn(move || {
                    let mut bytes = vec![1; 100];
                    for i in 0..num_shards * 3 {
                        let id = (i * 7 + thread) % (num_shards * 3);
                        store.read(id, &mut bytes).unwrap();
                        assert_eq!(bytes, [id as u8; 4]);
                    }
                });
            }
        });
        assert_eq!(store.files.open.lock().unwrap().by_shard.len(), MAX_HANDLES);
    }

    #[test]
    fn a_fault_names_shard_member_and_offset() {
        let (folder, store) = example("faults", 3);
        let refused = |id| store.read(id, &mut Vec::new()).unwrap_err();
        std::fs::write(folder.0.join("0.tar"), [0, 0, 0, 0, 1, 1, 9, 1, 2, 2, 2, 2]).unwrap();
        let error = refused(1);
        assert!(matches!(error.fault(), Fault::Checksum { .. }), "{error}");
        assert!(error.place().shard.as_ref().unwrap().ends_with("/0.tar"));
        assert_eq!((error.place().member.as_deref(), error.place().offset), (Some("0-1"), Some(4)));
        assert!(store.read(0, &mut Vec::new()).is_ok());

        std::fs::write(folder.0.join("1.tar"), [3; 11]).unwrap();
        assert!(matches!(refused(3).fault(), Fault::ShardChanged { found: 11, indexed: 12 }));
        std::fs::remove_file(folder.0.join("2.tar")).unwrap();
        assert_eq!(refused(6).fault().kind(), "io");
        assert_eq!(refused(9).fault().kind(), "index");
    }
}
