//! Here: the work of one thread: a sample is read, decoded once and cut into views, or another one stands
//! in for it; panics become errors.
//! Not here: which rows, when threads start and end, waiting.

use std::mem;
use std::sync::Arc;

use super::{Damage, HandOver, Shared};
use crate::augment::{Augmenter, Parameters, View, part_of};
use crate::decode::{self, Decoder, Image};
use crate::error::{Error, Fault, Result, contained};
use crate::meter::{Activity, Track};
use crate::slots::{Claims, Row};

/// How many others are tried in place of a damaged sample. With one sample in ten damaged, far beyond
/// what may be replaced, all of them are damaged once in 10^10 times.
const TRIES: usize = 10;

/// The life of a thread: rows until the ring is stopped. A panic is the error of its row.
pub(super) fn work(mut claims: Claims, mut fill: impl FnMut(&mut Row<'_>) -> Result<()>) {
    while let Some(mut row) = claims.claim() {
        let outcome = contained(|| fill(&mut row));
        row.finish(outcome);
    }
}

/// One thread's part of the loader.
pub(super) struct Worker {
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
    views: Vec<Parameters>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, number: usize) -> Self {
        let worker = Self { shared, number, tools: None };
        worker.enter(Activity::Idle, 0);
        worker
    }

    /// A thread that was left behind by `close` says nothing more: its track may be another's by now.
    fn enter(&self, activity: Activity, id: u32) {
        if let Some(track) = self.shared.meter.worker(self.number).filter(|_| !self.is_stopped()) {
            track.enter(activity, id);
        }
        #[cfg(feature = "trouble")]
        crate::trouble::meet(activity, id);
    }

    fn count(&self, activity: Activity, bytes: usize) {
        if let Some(track) = self.shared.meter.worker(self.number) {
            Track::count_bytes(track, activity, bytes);
        }
    }

    fn is_stopped(&self) -> bool {
        self.shared.ring.is_stopped()
    }

    /// Writes a row: its sample, or the first whole one of those that may stand in for it.
    pub(super) fn fill(&mut self, row: &mut Row<'_>) -> Result<()> {
        let outcome = match (self.attempt(row, row.id()), self.shared.damage) {
            (Err(error), Damage::Replace { .. }) if error.fault().is_damage() => self.replace(row, error),
            (outcome, _) => outcome,
        };
        self.enter(Activity::Idle, 0);
        outcome
    }

    fn replace(&mut self, row: &mut Row<'_>, error: Error) -> Result<()> {
        let mut damaged = vec![(row.id(), error)];
        for id in self.shared.order.stand_ins(row.position().epoch, row.id()).take(TRIES) {
            match self.attempt(row, id) {
                Ok(()) => {
                    row.replaced(damaged);
                    return Ok(());
                }
                Err(error) if error.fault().is_damage() => damaged.push((id, error)),
                Err(error) => return Err(error),
            }
        }
        let tries = damaged.len() - 1;
        let (_, error) = damaged.swap_remove(0);
        Err(error.map(|fault| Fault::Irreplaceable { fault: Box::new(fault), tries }))
    }

    /// Writes sample `id` into a row. What is left there after an error is to be overwritten or not shown.
    fn attempt(&mut self, row: &mut Row<'_>, id: u32) -> Result<()> {
        let outcome = contained(|| {
            let mut tools = match self.tools.take() {
                Some(tools) => tools,
                None => Tools::new()?,
            };
            let outcome = tools.produce(self, row, id);
            self.tools = Some(tools);
            outcome
        });
        outcome.map_err(|error| self.shared.locate(id, error))
    }
}

impl Tools {
    fn new() -> Result<Self> {
        Ok(Self {
            bytes: Vec::new(),
            image: Image::default(),
            decoder: Decoder::new()?,
            augmenter: Augmenter::new(),
            views: Vec::new(),
        })
    }

    /// Reads, decodes once what the views need, cuts every view; or as far as it is this loader's part. The
    /// draws are those of the row's own sample, its size in the index is enough for them.
    fn produce(&mut self, worker: &Worker, row: &mut Row<'_>, id: u32) -> Result<()> {
        let shared = &*worker.shared;
        let sample = shared.index.sample(id)?;
        worker.enter(Activity::Read, id);
        match shared.hand_over {
            // Who decodes elsewhere knows nothing of recoded images.
            HandOver::Encoded => shared.store.read_original(id, &mut self.bytes)?,
            _ => shared.store.read(id, &mut self.bytes)?,
        }
        worker.count(Activity::Read, self.bytes.len());
        let mut extras = Vec::new();
        if !shared.extras.is_empty() {
            extras = shared.store.read_extras(id, &shared.extras)?;
            worker.count(Activity::Read, extras.iter().flatten().map(Vec::len).sum());
        }
        if worker.is_stopped() {
            // After a read that hung, nobody may be there any more to whom the rest is of use.
            return Err(Fault::Cancelled.into());
        }
        worker.enter(Activity::Decode, id);
        let size = (sample.width, sample.height);
        let (drawn_for, epoch, seed) = (row.id(), row.position().epoch, shared.order.seed);
        let draw = |(view, v): (&View, u16)| view.draw(seed, epoch, drawn_for, v, size.0, size.1);
        self.views.clear();
        self.views.extend(shared.views.iter().zip(0..).map(draw));
        // Who decodes it elsewhere cannot replace it: what must not fail there is proven here.
        let elsewhere = shared.hand_over == HandOver::Encoded;
        if elsewhere && (sample.proven || shared.damage == Damage::Raise) {
            let header = decode::peek(&self.bytes)?;
            same_size((header.width, header.height), size)?;
        } else {
            // What nobody has decoded in full yet is decoded in full, so that damage below the views is found.
            let part = part_of(&self.views, size, shared.shrink_on_load, sample.proven);
            // The store has compared the checksum of all bytes.
            match sample.proven {
                true => self.decoder.decode_proven_part(&self.bytes, part, &mut self.image)?,
                false => self.decoder.decode_part(&self.bytes, part, &mut self.image)?,
            }
            worker.count(Activity::Decode, self.image.rows() * self.image.columns() * 3);
            same_size((self.image.width, self.image.height), size)?;
        }
        if elsewhere {
            extras.insert(0, Some(mem::take(&mut self.bytes)));
        } else {
            worker.enter(Activity::Augment, id);
            self.cut(worker, row)?;
        }
        row.describe(id, sample.label);
        if !extras.is_empty() {
            row.extras(extras);
        }
        self.describe(shared, row)
    }

    /// The pixels of each view, as far as they are made here.
    fn cut(&mut self, worker: &Worker, row: &mut Row<'_>) -> Result<()> {
        for (v, parameters) in self.views.iter().enumerate() {
            let target = row.view(v);
            if worker.shared.hand_over == HandOver::Crops {
                let square = Parameters { cut: parameters.cut, operations: Vec::new() };
                self.augmenter.apply(&self.image, &square, target)?;
            } else {
                self.augmenter.apply(&self.image, parameters, target)?;
            }
            worker.count(Activity::Augment, target.len());
        }
        Ok(())
    }

    /// The parameters of each view, where somebody else needs them.
    fn describe(&self, shared: &Shared, row: &mut Row<'_>) -> Result<()> {
        let views = shared.views.len();
        let first = match shared.hand_over {
            HandOver::Views => return Ok(()),
            HandOver::Crops => views,
            HandOver::Encoded => 0,
        };
        for (v, (view, parameters)) in shared.views.iter().zip(&self.views).enumerate() {
            let words = parameters.cut.words().map(i32::to_ne_bytes);
            write(words.as_flattened(), row.view(first + v))?;
            let steps = view.steps(parameters);
            let words: Vec<_> = steps.as_flattened().iter().map(|word| word.to_ne_bytes()).collect();
            write(words.as_flattened(), row.view(first + views + v))?;
        }
        Ok(())
    }
}

fn same_size(found: (u32, u32), in_index: (u32, u32)) -> Result<()> {
    if found == in_index {
        return Ok(());
    }
    Err(Fault::IndexDamaged("the image has another size").into())
}

/// Into memory of the same length; `Loader::lend` has checked it.
fn write(bytes: &[u8], target: &mut [u8]) -> Result<()> {
    if bytes.len() != target.len() {
        return Err(Fault::Bug("a row of parameters has another length".into()).into());
    }
    target.copy_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Position;
    use crate::slots::{Memory, Ring};
    use std::ptr::NonNull;
    use std::thread;
    use std::time::Duration;

    /// The rest of the loader needs real images; the Python tests run it on them.
    #[test]
    fn a_panic_is_the_error_of_its_row_and_the_thread_goes_on() -> Result<()> {
        let (mut labels, mut ids) = ([0i64; 2], [0i64; 2]);
        let ring = Ring::new();
        let claims = Claims::new(ring.clone());
        let thread = thread::spawn(move || {
            work(claims, |row| {
                if row.id() == 7 {
                    std::panic::panic_any(format!("seven in step {}", row.position().step));
                }
                row.describe(row.id(), None);
                Ok(())
            });
        });
        let long = Duration::from_secs(20);
        for (row, id) in [7u32, 8].into_iter().enumerate() {
            let (label, word) = (NonNull::from(&mut labels[row]), NonNull::from(&mut ids[row]));
            // SAFETY: one aligned word each, alive until the thread is joined and not read before.
            let memory = unsafe { Memory::new(1, Vec::new(), label, word, Box::new(())) };
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
