//! Here: one stream of batches: its threads, ordered delivery, cancellation, panic containment, counters.
//! Not here: pixels, formats, the order itself, the memory of batches (`slots.rs`), Python.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::augment::{Augmenter, View};
use crate::decode::{Decoder, Image};
use crate::error::{Error, Fault, Result};
use crate::index::Index;
use crate::order::{Order, Position};
use crate::slots::{Claims, Filled, Memory, Ring, Row, lock};
use crate::store::Store;
use crate::workers;

/// What a stream of batches is.
pub struct Settings {
    /// The samples.
    pub index: Arc<Index>,
    /// The views cut from each of them.
    pub views: Vec<View>,
    /// Which samples make up which batch; its seed is also that of the views' parameters.
    pub order: Order,
    /// Worker threads; 0 means one for each core this process may run on.
    pub threads: usize,
    /// The first batch.
    pub start: Position,
    /// The stream ends before this epoch; `None`: never.
    pub end_epoch: Option<u32>,
}

/// A stream of batches, from a position on. Threads start with the first memory that is lent.
///
/// Memory: the caller decides by `lend` how many batches are in flight. Each thread keeps one sample's
/// encoded bytes, its pixels and the scratch of one `Augmenter`; nothing else grows with the data set.
pub struct Loader {
    shared: Arc<Shared>,
    order: Order,
    end_epoch: Option<u32>,
    /// The batch that memory is wanted for, with its samples; `None` at the end of the stream.
    next: Mutex<Option<(Position, Vec<u32>)>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The process whose threads they are; 0 before they start.
    owner: AtomicU32,
    delivered: AtomicU64,
    waited_ns: AtomicU64,
}

/// What all threads of a loader see.
struct Shared {
    ring: Arc<Ring>,
    index: Arc<Index>,
    store: Store,
    views: Vec<View>,
    seed: u64,
    /// One for each thread.
    counters: Vec<Counters>,
}

impl Shared {
    /// Adds the address of a sample to an error that has none.
    fn locate(&self, id: u32, error: Error) -> Error {
        let Ok(sample) = self.index.sample(id) else {
            return error;
        };
        let shard = self.index.shard_path(sample.shard);
        error.at(sample.offset).in_member(self.index.name(id)).in_shard(shard.display())
    }
}

/// What one thread has done; on cache lines of its own, so that counting is free.
#[derive(Default)]
#[repr(align(128))]
struct Counters {
    bytes: AtomicU64,
    read_ns: AtomicU64,
    decode_ns: AtomicU64,
    augment_ns: AtomicU64,
}

/// What a stream has done so far; seconds of work are summed over threads.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Samples in the batches that were taken.
    pub images: u64,
    /// Encoded bytes read.
    pub bytes: u64,
    /// Seconds of reading and checking bytes.
    pub read_s: f64,
    /// Seconds of decoding.
    pub decode_s: f64,
    /// Seconds of cutting views and their operations.
    pub augment_s: f64,
    /// Seconds that the consumer waited in `take`.
    pub waited_s: f64,
    /// Worker threads.
    pub threads: usize,
    /// Batches in flight now.
    pub lent: usize,
    /// Those of them that are finished.
    pub finished: usize,
}

impl Loader {
    /// Checks the settings; starts nothing.
    pub fn new(settings: Settings) -> Result<Self> {
        let Settings { index, views, order, threads, start, end_epoch } = settings;
        views.iter().try_for_each(View::validate)?;
        let steps = order.steps_per_epoch();
        if start.step >= steps {
            let step = start.step;
            return Err(Fault::Setting(format!("step {step} is not in an epoch of {steps} steps")).into());
        }
        let counters = (0..workers::threads(threads)).map(|_| Counters::default()).collect();
        let store = Store::new(index.clone());
        let shared = Shared { ring: Ring::new(), index, store, views, seed: order.seed, counters };
        let loader = Self {
            shared: Arc::new(shared),
            order,
            end_epoch,
            next: Mutex::default(),
            threads: Mutex::default(),
            owner: AtomicU32::new(0),
            delivered: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
        };
        *lock(&loader.next) = loader.batch_from(start);
        Ok(loader)
    }

    /// The batch at `position`, which may be one step behind the end of its epoch.
    fn batch_from(&self, mut position: Position) -> Option<(Position, Vec<u32>)> {
        if position.step >= self.order.steps_per_epoch() {
            position = Position { epoch: position.epoch.checked_add(1)?, step: 0 };
        }
        let ended = self.end_epoch.is_some_and(|end| position.epoch >= end);
        (!ended).then(|| (position, self.order.batch(position)))
    }

    /// The batch that memory is wanted for next, without anybody waiting: its position and number of
    /// rows. `None` when the stream has no further batch.
    pub fn wanted(&self) -> Option<Filled> {
        lock(&self.next).as_ref().map(|(position, ids)| Filled { position: *position, rows: ids.len() })
    }

    /// Bytes of one row of each view.
    pub fn row_bytes(&self) -> impl Iterator<Item = usize> + '_ {
        self.shared.views.iter().map(|view| 3 * (view.size() as usize).pow(2))
    }

    /// Lends memory for the batch that is `wanted`, with rows of `row_bytes` bytes for each view
    /// (channels first). The contract of the memory is `Memory::new`'s.
    pub fn lend(&self, memory: Memory) -> Result<()> {
        let mut next = lock(&self.next);
        let Some((position, ids)) = next.as_ref() else {
            return Err(Fault::Setting("the stream has no further batch".into()).into());
        };
        if !memory.has_rows_of(self.row_bytes()) {
            return Err(Fault::Setting("lent memory does not fit the views".into()).into());
        }
        let position = *position;
        self.shared.ring.lend(position, ids.clone(), memory)?;
        *next = self.batch_from(Position { step: position.step + 1, ..position });
        self.start()
    }

    /// Starts the threads, once.
    fn start(&self) -> Result<()> {
        let mut threads = lock(&self.threads);
        if self.owner.load(Ordering::Relaxed) != 0 {
            return Ok(());
        }
        self.owner.store(process::id(), Ordering::Relaxed);
        for number in 0..self.shared.counters.len() {
            let claims = Claims::new(self.shared.ring.clone());
            let mut worker = Worker { shared: self.shared.clone(), number, tools: None };
            let builder = thread::Builder::new().name(format!("barlow-{number}"));
            threads.push(builder.spawn(move || work(claims, |row| worker.fill(row)))?);
        }
        Ok(())
    }

    /// Waits up to `timeout` for the oldest batch in flight and gives its memory back; `None` when it is
    /// not finished by then. A sample that failed is the error of its whole batch, in its order.
    pub fn take(&self, timeout: Duration) -> Result<Option<Filled>> {
        let start = Instant::now();
        let taken = self.shared.ring.take(timeout);
        count(&self.waited_ns, start.elapsed());
        if let Ok(Some(filled)) = &taken {
            self.delivered.fetch_add(filled.rows as u64, Ordering::Relaxed);
        }
        taken
    }

    /// What has been done so far.
    pub fn stats(&self) -> Stats {
        let sum = |of: fn(&Counters) -> &AtomicU64| -> u64 {
            self.shared.counters.iter().map(|counters| of(counters).load(Ordering::Relaxed)).sum()
        };
        let seconds = |nanoseconds: u64| nanoseconds as f64 * 1e-9;
        let (lent, finished) = self.shared.ring.occupancy();
        Stats {
            images: self.delivered.load(Ordering::Relaxed),
            bytes: sum(|counters| &counters.bytes),
            read_s: seconds(sum(|counters| &counters.read_ns)),
            decode_s: seconds(sum(|counters| &counters.decode_ns)),
            augment_s: seconds(sum(|counters| &counters.augment_ns)),
            waited_s: seconds(self.waited_ns.load(Ordering::Relaxed)),
            threads: self.shared.counters.len(),
            lent,
            finished,
        }
    }

    /// True in a child that was forked off after the threads had started: they are not here, and locks
    /// may be held by them for ever. Nothing but `close` and `drop` may be called then.
    pub fn is_forked(&self) -> bool {
        let owner = self.owner.load(Ordering::Relaxed);
        owner != 0 && owner != process::id()
    }

    /// Ends the threads, each after the sample it is on, and waits for them. After that all lent memory
    /// is the caller's again.
    pub fn close(&self) {
        if self.is_forked() {
            match self.threads.try_lock() {
                Ok(mut threads) => mem::forget(mem::take(&mut *threads)),
                Err(TryLockError::Poisoned(threads)) => mem::forget(mem::take(&mut *threads.into_inner())),
                Err(TryLockError::WouldBlock) => {}
            }
            return;
        }
        self.shared.ring.stop();
        // Under the lock: whoever returns from `close` knows that the threads are gone.
        for thread in lock(&self.threads).drain(..) {
            // It cannot have panicked: `work` contains panics.
            let _ = thread.join();
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.close();
    }
}

/// The life of a thread: rows until the ring is stopped. A panic is the error of its row.
fn work(mut claims: Claims, mut fill: impl FnMut(&mut Row<'_>) -> Result<()>) {
    while let Some(mut row) = claims.claim() {
        let outcome = fill(&mut row);
        row.finish(outcome);
    }
}

/// A panic as an error. What `step` has changed must not be used again after one.
fn contained(step: impl FnOnce() -> Result<()>) -> Result<()> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| Err(Error::from_panic(&*panic)))
}

/// One thread's part of the loader.
struct Worker {
    shared: Arc<Shared>,
    number: usize,
    /// `None` before the first sample, and after a panic, which may have left them inconsistent.
    tools: Option<Tools>,
}

/// What a thread keeps from sample to sample.
struct Tools {
    bytes: Vec<u8>,
    image: Image,
    decoder: Decoder,
    augmenter: Augmenter,
}

impl Worker {
    fn fill(&mut self, row: &mut Row<'_>) -> Result<()> {
        let id = row.id();
        let outcome = contained(|| self.produce(row));
        outcome.map_err(|error| self.shared.locate(id, error))
    }

    fn produce(&mut self, row: &mut Row<'_>) -> Result<()> {
        let mut tools = match self.tools.take() {
            Some(tools) => tools,
            None => Tools {
                bytes: Vec::new(),
                image: Image::default(),
                decoder: Decoder::new()?,
                augmenter: Augmenter::new(),
            },
        };
        let outcome = match self.shared.counters.get(self.number) {
            Some(counters) => tools.produce(&self.shared, counters, row),
            None => Err(Fault::Bug("a thread without counters".into()).into()),
        };
        self.tools = Some(tools);
        outcome
    }
}

impl Tools {
    /// Reads, decodes once, cuts every view.
    fn produce(&mut self, shared: &Shared, counters: &Counters, row: &mut Row<'_>) -> Result<()> {
        let (id, epoch) = (row.id(), row.position().epoch);
        let sample = shared.index.sample(id)?;
        let start = Instant::now();
        shared.store.read(id, &mut self.bytes)?;
        let read = Instant::now();
        self.decoder.decode(&self.bytes, &mut self.image)?;
        let decoded = Instant::now();
        if (self.image.width, self.image.height) != (sample.width as usize, sample.height as usize) {
            return Err(Fault::IndexDamaged("the image has another size").into());
        }
        for (v, view) in shared.views.iter().enumerate() {
            let parameters = view.draw(shared.seed, epoch, id, v as u16, sample.width, sample.height);
            self.augmenter.apply(&self.image, &parameters, row.view(v))?;
        }
        row.describe(sample.label);
        counters.bytes.fetch_add(self.bytes.len() as u64, Ordering::Relaxed);
        count(&counters.read_ns, read - start);
        count(&counters.decode_ns, decoded - read);
        count(&counters.augment_ns, decoded.elapsed());
        Ok(())
    }
}

fn count(counter: &AtomicU64, duration: Duration) {
    counter.fetch_add(duration.as_nanos() as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::NonNull;

    /// The rest of the loader needs real images; the Python tests run it on them.
    #[test]
    fn a_panic_is_the_error_of_its_row_and_the_thread_goes_on() -> Result<()> {
        let (mut labels, mut ids) = ([0i64; 2], [0i64; 2]);
        let ring = Ring::new();
        let claims = Claims::new(ring.clone());
        let thread = thread::spawn(move || {
            work(claims, |row| {
                contained(|| {
                    if row.id() == 7 {
                        std::panic::panic_any(format!("seven in step {}", row.position().step));
                    }
                    row.describe(None);
                    Ok(())
                })
            });
        });
        let long = Duration::from_secs(20);
        for (row, id) in [7u32, 8].into_iter().enumerate() {
            let (label, word) = (NonNull::from(&mut labels[row]), NonNull::from(&mut ids[row]));
            // SAFETY: one aligned word each, alive until the thread is joined and not read before.
            let memory = unsafe { Memory::new(1, Vec::new(), label, word) };
            ring.lend(Position { epoch: 0, step: row as u64 }, vec![id], memory)?;
        }
        let error = ring.take(long).err();
        assert!(error.is_some_and(|error| error.to_string().contains("seven in step 0")));
        assert!(ring.take(long)?.is_some());
        ring.stop();
        assert!(thread.join().is_ok());
        assert_eq!((ids, labels), ([0, 8], [0, -1]));
        Ok(())
    }
}
