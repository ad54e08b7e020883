//! Here: the ring of lent batches. The caller lends memory, workers claim it row by row, finished
//! batches leave in the order in which they came.
//! Not here: what is written into a row, the life of threads, Python.
//!
//! One of the few files with `unsafe`: rows of one batch are written by several threads at once, which
//! is sound because a row is claimed exactly once (one atomic counter) and no one reads a batch before
//! its last row has been finished (another).

use std::any::Any;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Fault, Result};
use crate::order::Position;

/// What keeps lent memory alive for as long as it is not dropped.
pub type Keep = Box<dyn Any + Send + Sync>;

/// Extra members of one row, as many as were asked for; `None` where the sample lacks one.
pub type Extras = Vec<Option<Vec<u8>>>;

/// Memory for one batch of `rows` samples that belongs to somebody else.
pub struct Memory {
    rows: usize,
    /// For each view: its first byte and the bytes of one row.
    views: Vec<(NonNull<u8>, usize)>,
    labels: NonNull<i64>,
    ids: NonNull<i64>,
    /// Given back with the finished batch; until then whoever may still write has a share in it.
    keep: Mutex<Option<Keep>>,
}

// SAFETY: the pointers are to plain integers that `Memory::new`'s caller promises to leave alone, and
// all access goes through `Row`, of which there is one for each row.
unsafe impl Send for Memory {}
// SAFETY: as above; shared references to `Memory` give no access to what it points to.
unsafe impl Sync for Memory {}

impl Memory {
    /// Memory of `rows` samples: for each view the first byte and the bytes of one sample, then one
    /// label and one id for each sample.
    ///
    /// # Safety
    /// From now until `keep` is dropped or comes back with the batch: `views[v]` is valid for writing
    /// `rows` times its row length, `labels` and `ids` (aligned) for `rows` words, these ranges do not
    /// overlap one another or any other lent memory, and nobody else touches them. A ring that is stopped
    /// drops `keep` when the last thread that may write has let go of its row, however late.
    pub unsafe fn new(
        rows: usize,
        views: Vec<(NonNull<u8>, usize)>,
        labels: NonNull<i64>,
        ids: NonNull<i64>,
        keep: Keep,
    ) -> Self {
        Self { rows, views, labels, ids, keep: Mutex::new(Some(keep)) }
    }

    /// Whether its views have rows of these many bytes.
    pub fn has_rows_of(&self, lengths: impl Iterator<Item = usize>) -> bool {
        self.views.iter().map(|&(_, length)| length).eq(lengths)
    }
}

/// One batch on its way: memory, what belongs into it, and how far it is.
struct Slot {
    position: Position,
    ids: Vec<u32>,
    memory: Memory,
    /// The first row that nobody has claimed; grows beyond the number of rows.
    unclaimed: AtomicUsize,
    /// Rows not finished yet.
    missing: AtomicUsize,
    /// The error of the first row (not of the first moment) that failed: the same for every schedule.
    fault: Mutex<Option<(usize, Error)>>,
    replaced: Mutex<Vec<Replaced>>,
    /// By row.
    extras: Mutex<Vec<(usize, Extras)>>,
}

/// Batches in flight, in order.
pub struct Ring {
    slots: Mutex<VecDeque<Arc<Slot>>>,
    /// A batch was lent, or the ring was stopped.
    work: Condvar,
    /// A batch was finished, or the ring was stopped.
    done: Condvar,
    stopped: AtomicBool,
}

/// A finished batch whose memory is the caller's again.
pub struct Filled {
    /// Which batch it is.
    pub position: Position,
    /// Samples in it.
    pub rows: usize,
    /// The rows that hold another sample than the order says, in order.
    pub replaced: Vec<Replaced>,
    /// For each row its extra members; empty if none were asked for.
    pub extras: Vec<Extras>,
    /// What kept its memory alive.
    pub keep: Option<Keep>,
}

/// A row that holds another sample.
#[derive(Debug)]
pub struct Replaced {
    /// Which row of the batch.
    pub row: usize,
    /// The sample that belonged here and those that were tried before the one that came, each with what
    /// is wrong with it.
    pub damaged: Vec<(u32, Error)>,
}

impl Ring {
    /// An empty ring.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            slots: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            stopped: AtomicBool::new(false),
        })
    }

    /// Puts a batch at the end: `ids` are the samples of its rows.
    pub fn lend(&self, position: Position, ids: Vec<u32>, memory: Memory) -> Result<()> {
        if memory.rows != ids.len() {
            let (rows, wanted) = (memory.rows, ids.len());
            return Err(Fault::Setting(format!("lent memory has {rows} rows, the batch {wanted}")).into());
        }
        let missing = AtomicUsize::new(ids.len());
        let unclaimed = AtomicUsize::new(0);
        let (fault, replaced, extras) = (Mutex::default(), Mutex::default(), Mutex::default());
        let slot = Slot { position, ids, memory, unclaimed, missing, fault, replaced, extras };
        let mut slots = lock(&self.slots);
        if self.stopped.load(Ordering::Relaxed) {
            return Err(closed());
        }
        slots.push_back(Arc::new(slot));
        drop(slots);
        self.work.notify_all();
        // A batch without rows (a rank's share of a short last batch) is finished already.
        self.done.notify_all();
        Ok(())
    }

    /// Waits up to `timeout` for the oldest batch and takes it out; `None` when it is not finished by
    /// then. A batch with a row that failed comes out as that row's error.
    pub fn take(&self, timeout: Duration) -> Result<Option<Filled>> {
        let deadline = Instant::now() + timeout;
        let mut slots = lock(&self.slots);
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return Err(closed());
            }
            let Some(oldest) = slots.front() else {
                return Err(Fault::Setting("no memory was lent for the next batch".into()).into());
            };
            // Acquire: the last row's `finish` releases what all workers wrote.
            if oldest.missing.load(Ordering::Acquire) == 0 {
                let finished = slots.pop_front();
                drop(slots);
                return finished.map(|slot| slot.filled()).transpose();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            slots = self.done.wait_timeout(slots, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Batches in flight, and how many of them are finished.
    pub fn occupancy(&self) -> (usize, usize) {
        let slots = lock(&self.slots);
        let finished = slots.iter().filter(|slot| slot.missing.load(Ordering::Relaxed) == 0).count();
        (slots.len(), finished)
    }

    /// Whether `stop` was called.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Lets every worker go after the row it is on, and every `take` return; batches in flight are lost.
    pub fn stop(&self) {
        // Under the lock, so that nobody who has just seen `false` goes to sleep after the wake-up.
        let mut slots = lock(&self.slots);
        self.stopped.store(true, Ordering::Relaxed);
        // Not dropped under the lock: what keeps memory alive is the caller's, and may be anything.
        let lost = std::mem::take(&mut *slots);
        drop(slots);
        self.work.notify_all();
        self.done.notify_all();
        drop(lost);
    }

    /// The oldest batch with a row to claim; waits for one. `None` once the ring is stopped.
    fn next_slot(&self) -> Option<Arc<Slot>> {
        let mut slots = lock(&self.slots);
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return None;
            }
            let open = |slot: &&Arc<Slot>| slot.unclaimed.load(Ordering::Relaxed) < slot.ids.len();
            if let Some(slot) = slots.iter().find(open) {
                return Some(slot.clone());
            }
            slots = self.work.wait(slots).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Slot {
    /// What comes of a batch whose rows are all finished.
    fn filled(&self) -> Result<Filled> {
        if let Some((_, error)) = lock(&self.fault).take() {
            return Err(error);
        }
        let mut replaced = std::mem::take(&mut *lock(&self.replaced));
        replaced.sort_unstable_by_key(|replaced| replaced.row);
        let mut extras = std::mem::take(&mut *lock(&self.extras));
        extras.sort_unstable_by_key(|&(row, _)| row);
        let extras = extras.into_iter().map(|(_, extras)| extras).collect();
        let keep = lock(&self.memory.keep).take();
        Ok(Filled { position: self.position, rows: self.ids.len(), replaced, extras, keep })
    }
}

fn closed() -> Error {
    Fault::Setting("the loader is closed".into()).into()
}

/// One worker's way to rows. The ring's lock is taken once a batch, not once a row.
pub struct Claims {
    ring: Arc<Ring>,
    slot: Option<Arc<Slot>>,
}

impl Claims {
    /// Claims on `ring`, one for each worker.
    pub fn new(ring: Arc<Ring>) -> Self {
        Self { ring, slot: None }
    }

    /// The next row in order that nobody else has; waits for one. `None` once the ring is stopped.
    pub fn claim(&mut self) -> Option<Row<'_>> {
        let (slot, index) = loop {
            if self.ring.stopped.load(Ordering::Relaxed) {
                self.slot = None;
                return None;
            }
            if let Some(slot) = self.slot.take() {
                let index = slot.unclaimed.fetch_add(1, Ordering::Relaxed);
                if index < slot.ids.len() {
                    break (slot, index);
                }
            }
            self.slot = self.ring.next_slot();
        };
        let slot = &**self.slot.insert(slot);
        Some(Row { ring: &self.ring, slot, index, outcome: None })
    }
}

/// The right to write one row of one batch, and the duty to finish it.
pub struct Row<'a> {
    ring: &'a Ring,
    slot: &'a Slot,
    index: usize,
    outcome: Option<Result<()>>,
}

impl Row<'_> {
    /// The batch it belongs to.
    pub fn position(&self) -> Position {
        self.slot.position
    }

    /// The sample that belongs here.
    pub fn id(&self) -> u32 {
        self.slot.ids.get(self.index).copied().unwrap_or_default()
    }

    /// The bytes of view `v`; empty when there is no such view.
    pub fn view(&mut self, v: usize) -> &mut [u8] {
        let Some(&(first, length)) = self.slot.memory.views.get(v) else {
            return &mut [];
        };
        // SAFETY: `index < rows` (checked by the claim), so the range lies in what `Memory::new` was
        // promised; no other `Row` has this index, and `&mut self` lends it out once at a time.
        unsafe { slice::from_raw_parts_mut(first.as_ptr().add(self.index * length), length) }
    }

    /// Says that this row holds another sample than it should, and why.
    pub fn replaced(&mut self, damaged: Vec<(u32, Error)>) {
        lock(&self.slot.replaced).push(Replaced { row: self.index, damaged });
    }

    /// Hands over the extra members of the sample that is in it; once.
    pub fn extras(&mut self, extras: Extras) {
        lock(&self.slot.extras).push((self.index, extras));
    }

    /// Writes the id of the sample that is in it and its label (-1 for none).
    pub fn describe(&mut self, id: u32, label: Option<u32>) {
        let memory = &self.slot.memory;
        // SAFETY: `index < rows`, aligned words that only this `Row` writes, as in `view`.
        unsafe {
            memory.labels.as_ptr().add(self.index).write(label.map_or(-1, i64::from));
            memory.ids.as_ptr().add(self.index).write(id.into());
        }
    }

    /// Says how it went and gives the row back.
    pub fn finish(mut self, outcome: Result<()>) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Row<'_> {
    /// In `drop`, so that a row that is lost on the way fails its batch instead of stalling it.
    fn drop(&mut self) {
        let lost = || Err(Fault::Bug("a row was never finished".into()).into());
        if let Err(error) = self.outcome.take().unwrap_or_else(lost) {
            let mut fault = lock(&self.slot.fault);
            if fault.as_ref().is_none_or(|(first, _)| self.index < *first) {
                *fault = Some((self.index, error));
            }
        }
        // Release what this row wrote, acquire what the others did, for the consumer to see it all.
        if self.slot.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            // The lock closes the gap between the consumer's look at `missing` and its sleep.
            let _slots = lock(&self.ring.slots);
            self.ring.done.notify_all();
        }
    }
}

/// A panic elsewhere leaves nothing half-done behind these locks, so poison is no reason to stop.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
