//! Here: one stream of batches: its threads, ordered delivery, cancellation, the bound on replacements.
//! Not here: the work of a thread (`loader/worker.rs`), the order itself, the memory of batches
//! (`slots.rs`), what is counted and how (`meter.rs`), Python.

mod worker;

use std::mem;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::augment::{CUT_WORDS, STEP_WORDS, View};
use crate::error::{Error, Fault, Result, contained};
use crate::index::Index;
use crate::meter::{Activity, Meter};
use crate::order::{Order, Position};
use crate::slots::{Claims, Filled, Memory, Replaced, Ring, lock};
use crate::store::Store;
use worker::{Worker, work};

/// How long a loader that goes out of scope waits for its threads.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it looks whether they are gone: much less than the decoding of an image.
const POLL: Duration = Duration::from_micros(200);

/// What a stream of batches is.
pub struct Settings {
    /// The samples.
    pub index: Arc<Index>,
    /// The views cut from each of them.
    pub views: Vec<View>,
    /// Which samples make up which batch; its seed is also that of the views' parameters.
    pub order: Order,
    /// The first batch.
    pub start: Position,
    /// The stream ends before this epoch; `None`: never.
    pub end_epoch: Option<u32>,
    /// How far views are made here.
    pub hand_over: HandOver,
    /// Images over a megapixel are decoded at 1/2, 1/4 or 1/8 where all views leave enough pixels.
    pub shrink_on_load: bool,
    /// Extensions of the extra members that are wanted with each sample.
    pub extras: Vec<Vec<u8>>,
    /// What becomes of damaged samples.
    pub damage: Damage,
    /// Counts the work of the stream, and has one track for each worker thread.
    pub meter: Arc<Meter>,
}

/// What a row holds: how much of the work is left to somebody else. Parameters are drawn here always, and
/// what is left comes with them: after the pixels for each view its cut ([`crate::augment::Cut::words`],
/// `i32`), then for each view its steps ([`View::steps`], `f32`), both in this machine's byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOver {
    /// Finished views, planar RGB, and nothing else.
    Views,
    /// Each view's square before any operation, planar RGB; then cuts and steps.
    Crops,
    /// Cuts and steps only; the encoded bytes of each row come as its first extra. With [`Damage::Replace`]
    /// images that nobody has decoded in full yet are decoded to see whether they can be.
    Encoded,
}

/// What becomes of a damaged sample ([`Fault::is_damage`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// It is the error of its batch.
    Raise,
    /// Another one stands in for it ([`Order::stand_ins`]), cut and changed by the draws of the damaged
    /// one, so that it is no copy of its own appearance in the same epoch.
    Replace {
        /// Samples of this stream that may be replaced in an epoch; one more is an error.
        at_most: u64,
        /// How many have been already in the epoch that the stream starts in.
        before: u64,
    },
}

/// A stream of batches, from a position on. Threads start with the first memory that is lent.
///
/// Memory: the caller decides by `lend` how many batches are in flight. Each thread keeps one sample's
/// encoded bytes, its pixels and the scratch of one `Augmenter`; nothing else grows with the data set.
pub struct Loader {
    shared: Arc<Shared>,
    end_epoch: Option<u32>,
    /// The batch that memory is wanted for, with its samples; `None` at the end of the stream.
    next: Mutex<Option<(Position, Vec<u32>)>>,
    /// The epoch of the last batch that was taken, and how many samples of it were replaced.
    replaced: Mutex<(u32, u64)>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The process whose threads they are; 0 before they start.
    owner: AtomicU32,
}

/// What all threads of a loader see.
struct Shared {
    ring: Arc<Ring>,
    index: Arc<Index>,
    store: Store,
    views: Vec<View>,
    order: Order,
    hand_over: HandOver,
    shrink_on_load: bool,
    damage: Damage,
    /// By their numbers in the index.
    extras: Vec<u32>,
    meter: Arc<Meter>,
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

/// What a worker thread is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doing {
    /// Its name is `barlow-{number}`.
    pub number: usize,
    /// The stage.
    pub activity: Activity,
    /// The sample, if it is not idle.
    pub id: u32,
    /// For how long.
    pub since: Duration,
}

impl Loader {
    /// Checks the settings; starts nothing.
    pub fn new(settings: Settings) -> Result<Self> {
        let Settings { index, views, order, start, end_epoch, .. } = settings;
        let Settings { hand_over, shrink_on_load, extras, damage, meter, .. } = settings;
        let extras = index.kinds_of(&extras)?;
        views.iter().try_for_each(View::validate)?;
        let steps = order.steps_per_epoch();
        if start.step >= steps {
            let step = start.step;
            return Err(Fault::Setting(format!("step {step} is not in an epoch of {steps} steps")).into());
        }
        let before = match damage {
            Damage::Raise => 0,
            Damage::Replace { before, .. } => before,
        };
        let store = Store::new(index.clone());
        let ring = Ring::new();
        let shared =
            Shared { ring, index, store, views, order, hand_over, shrink_on_load, damage, extras, meter };
        let loader = Self {
            shared: Arc::new(shared),
            end_epoch,
            next: Mutex::default(),
            replaced: Mutex::new((start.epoch, before)),
            threads: Mutex::default(),
            owner: AtomicU32::new(0),
        };
        *lock(&loader.next) = loader.batch_from(start);
        Ok(loader)
    }

    /// The batch at `position`, which may be one step behind the end of its epoch.
    fn batch_from(&self, mut position: Position) -> Option<(Position, Vec<u32>)> {
        let order = &self.shared.order;
        if position.step >= order.steps_per_epoch() {
            position = Position { epoch: position.epoch.checked_add(1)?, step: 0 };
        }
        let ended = self.end_epoch.is_some_and(|end| position.epoch >= end);
        (!ended).then(|| (position, order.batch(position)))
    }

    /// The batch that memory is wanted for next, without anybody waiting: its position and number of
    /// rows. `None` when the stream has no further batch.
    pub fn wanted(&self) -> Option<(Position, usize)> {
        lock(&self.next).as_ref().map(|(position, ids)| (*position, ids.len()))
    }

    /// Bytes of one row of each array that memory is wanted for, in the order of [`HandOver`].
    pub fn row_bytes(&self) -> impl Iterator<Item = usize> + '_ {
        let Shared { views, hand_over, .. } = &*self.shared;
        let pixels = views.iter().map(|view| 3 * (view.size() as usize).pow(2));
        let cuts = views.iter().map(|_| CUT_WORDS * size_of::<i32>());
        let steps = views.iter().map(|view| view.columns() * STEP_WORDS * size_of::<f32>());
        let of = |wanted: bool| if wanted { views.len() } else { 0 };
        let (pictures, numbers) = (of(*hand_over != HandOver::Encoded), of(*hand_over != HandOver::Views));
        pixels.take(pictures).chain(cuts.take(numbers)).chain(steps.take(numbers))
    }

    /// Lends memory for the batch that is `wanted`, with rows of `row_bytes` bytes. The contract of the memory is `Memory::new`'s. A panic is an error: the thread that
    /// lends and takes is the caller's.
    pub fn lend(&self, memory: Memory) -> Result<()> {
        contained(|| self.lend_next(memory))
    }

    fn lend_next(&self, memory: Memory) -> Result<()> {
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
        for number in 0..self.shared.meter.threads() {
            let claims = Claims::new(self.shared.ring.clone());
            let mut worker = Worker::new(self.shared.clone(), number);
            let builder = thread::Builder::new().name(format!("barlow-{number}"));
            threads.push(builder.spawn(move || work(claims, |row| worker.fill(row)))?);
        }
        Ok(())
    }

    /// Waits up to `timeout` for the oldest batch in flight and gives its memory back; `None` when it is
    /// not finished by then. A sample that failed is the error of its whole batch, in its order; a panic is one.
    pub fn take(&self, timeout: Duration) -> Result<Option<Filled>> {
        contained(|| self.take_oldest(timeout))
    }

    fn take_oldest(&self, timeout: Duration) -> Result<Option<Filled>> {
        let meter = &self.shared.meter;
        meter.consumer().enter(Activity::Wait, 0);
        let taken = self.shared.ring.take(timeout);
        meter.consumer().enter(Activity::Deliver, 0);
        let taken = taken?;
        if let Some(filled) = &taken {
            #[cfg(feature = "trouble")]
            crate::trouble::meet(Activity::Deliver, filled.position.step as u32);
            self.count_replaced(filled)?;
            meter.count_images(filled.rows, filled.replaced.len());
        }
        Ok(taken)
    }

    /// An error if there are more than may be. Counted in the order of delivery, so that it comes with the
    /// same batch for any number of threads.
    fn count_replaced(&self, filled: &Filled) -> Result<()> {
        let Damage::Replace { at_most, .. } = self.shared.damage else {
            return Ok(());
        };
        let mut replaced = lock(&self.replaced);
        let before = if replaced.0 == filled.position.epoch { replaced.1 } else { 0 };
        *replaced = (filled.position.epoch, before + filled.replaced.len() as u64);
        if replaced.1 <= at_most {
            return Ok(());
        }
        let what = "number of damaged samples replaced in one epoch (max_replaced)";
        let error = Error::from(Fault::Limit { what, found: replaced.1, limit: at_most });
        let first_too_many = filled.replaced.get(at_most.saturating_sub(before) as usize);
        Err(match first_too_many.and_then(|replaced: &Replaced| replaced.damaged.first()) {
            Some(&(id, _)) => self.shared.locate(id, error),
            None => error,
        })
    }

    /// Batches in flight, and how many of them are finished.
    pub fn occupancy(&self) -> (usize, usize) {
        self.shared.ring.occupancy()
    }

    /// What each worker thread is at.
    pub fn doing(&self) -> Vec<Doing> {
        let doing = self.shared.meter.doing().into_iter().enumerate();
        doing.map(|(number, (activity, id, since))| Doing { number, activity, id, since }).collect()
    }

    /// True in a child that was forked off after the threads had started: they are not here, and locks
    /// may be held by them for ever. Nothing but `close` and `drop` may be called then.
    pub fn is_forked(&self) -> bool {
        let owner = self.owner.load(Ordering::Relaxed);
        owner != 0 && owner != process::id()
    }

    /// Ends the threads, each after the sample it is on, and waits for them, but not longer than
    /// `patience`: a read that hangs in the kernel cannot be called off. Returns how many threads are left
    /// behind; they end with their read, and until then keep the memory alive that they were lent.
    pub fn close(&self, patience: Duration) -> usize {
        if self.is_forked() {
            match self.threads.try_lock() {
                Ok(mut threads) => mem::forget(mem::take(&mut *threads)),
                Err(TryLockError::Poisoned(threads)) => mem::forget(mem::take(&mut *threads.into_inner())),
                Err(TryLockError::WouldBlock) => {}
            }
            return 0;
        }
        self.shared.ring.stop();
        let deadline = Instant::now() + patience;
        // Under the lock: whoever returns from `close` knows that the threads are gone.
        let mut threads = lock(&self.threads);
        while threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        let mut left = 0;
        for thread in threads.drain(..) {
            if thread.is_finished() {
                // It cannot have panicked: `work` contains panics.
                let _ = thread.join();
            } else {
                left += 1;
            }
        }
        self.shared.meter.stop();
        left
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.close(PATIENCE);
    }
}
