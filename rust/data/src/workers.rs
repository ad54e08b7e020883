//! Here: a map over tasks on own threads, with results in task order, a bound on results in flight,
//! cancellation, and panics turned into errors.
//! Not here: what the tasks do, how many there should be.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};

/// Called from the calling thread with (done, total), also while nothing moves; an error cancels.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

/// How long the caller waits for a result before it looks whether to go on: a quarter of what a
/// person perceives as a delay after Ctrl-C.
const PATIENCE: Duration = Duration::from_millis(50);

/// The number of threads meant by a setting: 0 is one per processor that this process may use.
pub fn threads(setting: usize) -> usize {
    match setting {
        0 => std::thread::available_parallelism().map_or(1, |count| count.get()),
        count => count,
    }
}

/// Cuts 0..lengths.len() into runs of about `bytes` bytes and at most 64 items, so that small items do
/// not pay for synchronisation one by one and large ones do not pile up.
pub fn runs(lengths: impl Iterator<Item = u64>, bytes: u64) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut end, mut sum) = (0, 0, 0u64);
    for length in lengths {
        end += 1;
        sum = sum.saturating_add(length);
        if sum >= bytes || end - start == 64 {
            runs.push(start..end);
            (start, sum) = (end, 0);
        }
    }
    if end > start {
        runs.push(start..end);
    }
    runs
}

struct Shared<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
    room: Condvar,
}

struct State<T> {
    next: usize,
    /// Task number of the front of `results`.
    delivered: usize,
    /// One place for each task that may be started; a panic is an error.
    results: VecDeque<Option<std::thread::Result<T>>>,
    stop: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.room.notify_all();
    }
}

/// Runs `work(state, task)` for 0..tasks on one thread per state, and `sink(Some(result))` on this
/// thread in task order; `sink(None)` every 50 ms without a result. The first error of `sink`
/// cancels the rest and is returned; running tasks are waited for.
pub fn ordered<S: Send, T: Send>(
    tasks: usize,
    states: &mut [S],
    work: impl Fn(&mut S, usize) -> T + Sync,
    mut sink: impl FnMut(Option<T>) -> Result<()>,
) -> Result<()> {
    let window = (2 * states.len() + 2).min(tasks);
    let shared = Shared {
        state: Mutex::new(State {
            next: 0,
            delivered: 0,
            results: std::iter::repeat_with(|| None).take(window).collect(),
            stop: false,
        }),
        ready: Condvar::new(),
        room: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for state in states {
            let (shared, work) = (&shared, &work);
            let thread = std::thread::Builder::new().name("barlow-worker".into());
            let spawned = thread.spawn_scoped(scope, move || run(shared, tasks, window, state, work));
            if let Err(error) = spawned {
                shared.stop();
                return Err(error.into());
            }
        }
        let delivered = deliver(&shared, tasks, &mut sink);
        shared.stop();
        delivered
    })
}

/// A worker: takes the next task that fits into the window, until there is none.
fn run<S, T>(
    shared: &Shared<T>,
    tasks: usize,
    window: usize,
    own: &mut S,
    work: &impl Fn(&mut S, usize) -> T,
) {
    loop {
        let mut state = shared.lock();
        while !state.stop && state.next < tasks && state.next >= state.delivered + window {
            state = shared.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stop || state.next >= tasks {
            return;
        }
        let task = state.next;
        state.next += 1;
        drop(state);
        let result = catch_unwind(AssertUnwindSafe(|| work(own, task)));
        let mut state = shared.lock();
        let place = task - state.delivered;
        if let Some(slot) = state.results.get_mut(place) {
            *slot = Some(result);
        }
        if place == 0 {
            shared.ready.notify_one();
        }
    }
}

fn deliver<T>(
    shared: &Shared<T>,
    tasks: usize,
    sink: &mut impl FnMut(Option<T>) -> Result<()>,
) -> Result<()> {
    for _ in 0..tasks {
        let mut state = shared.lock();
        let result = loop {
            if let Some(result) = state.results.front_mut().and_then(Option::take) {
                break result;
            }
            let (woken, waited) =
                shared.ready.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if waited.timed_out() {
                drop(state);
                sink(None)?;
                state = shared.lock();
            }
        };
        state.results.rotate_left(1);
        state.delivered += 1;
        drop(state);
        shared.room.notify_one();
        sink(Some(result.map_err(|panic| Error::from_panic(&*panic))?))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_come_in_order_and_few_are_in_flight() {
        let in_flight = AtomicUsize::new(0);
        let most = AtomicUsize::new(0);
        let mut states = [0usize; 4];
        let mut seen = Vec::new();
        let work = |count: &mut usize, task: usize| {
            *count += 1;
            most.fetch_max(in_flight.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            if task.is_multiple_of(7) {
                std::thread::sleep(Duration::from_millis(2));
            }
            task
        };
        ordered(300, &mut states, work, |result| {
            if let Some(task) = result {
                in_flight.fetch_sub(1, Ordering::SeqCst);
                seen.push(task);
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, (0..300).collect::<Vec<_>>());
        assert_eq!(states.iter().sum::<usize>(), 300);
        // The window, and one result that was taken but not yet counted down.
        assert!(most.load(Ordering::SeqCst) <= 2 * 4 + 2 + 1, "{most:?}");
    }

    #[test]
    fn an_error_of_the_sink_stops_the_rest() {
        let started = AtomicUsize::new(0);
        let mut delivered = 0;
        let error = ordered(
            1_000_000,
            &mut [(), ()],
            |(), _| started.fetch_add(1, Ordering::SeqCst),
            |_| {
                delivered += 1;
                if delivered == 5 { Err(Fault::Cancelled.into()) } else { Ok(()) }
            },
        )
        .unwrap_err();
        assert!(matches!(error.fault(), Fault::Cancelled));
        assert!(started.load(Ordering::SeqCst) < 50);
    }

    #[test]
    fn a_panic_is_an_error_and_the_process_lives() {
        let work = |(): &mut (), task: usize| if task == 3 { panic!("task {task}") } else { task };
        let error = ordered(10, &mut [(), ()], work, |_| Ok(())).unwrap_err();
        assert!(matches!(error.fault(), Fault::Bug(text) if text == "task 3"), "{error}");
    }

    #[test]
    fn a_stalled_task_does_not_keep_the_caller_from_cancelling() {
        let mut waits = 0;
        let work = |(): &mut (), _| std::thread::sleep(Duration::from_millis(400));
        let error = ordered(1, &mut [()], work, |result| {
            assert!(result.is_none());
            waits += 1;
            if waits == 2 { Err(Fault::Cancelled.into()) } else { Ok(()) }
        });
        assert!(error.is_err());
    }

    #[test]
    fn no_tasks_are_no_work() {
        ordered(0, &mut [()], |(), _| (), |_| Err(Fault::Cancelled.into())).unwrap();
    }

    #[test]
    fn runs_are_bounded_by_bytes_and_by_count() {
        assert_eq!(runs([10, 10, 10, 100, 1].into_iter(), 25), [0..3, 3..4, 4..5]);
        assert_eq!(runs(std::iter::repeat_n(0, 130), 25), [0..64, 64..128, 128..130]);
        assert_eq!(runs([].into_iter(), 25), []);
    }
}
