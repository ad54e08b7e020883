//! Here: trouble on request, for tests: a stage of the loader that panics or takes its time.
//! Not here: anything that a release has: the feature `trouble` does not compile there.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::meter::Activity;
use crate::slots::lock;

#[cfg(not(debug_assertions))]
compile_error!("the feature `trouble` is for tests: it must not be in a release");

/// What happens where.
#[derive(Debug, Clone, Copy)]
pub struct Trouble {
    /// In this stage,
    pub activity: Activity,
    /// with this sample (in delivery: with the batch of this step); `None`: with every one.
    pub id: Option<u32>,
    /// it takes so much longer; `None`: it panics.
    pub delay: Option<Duration>,
}

/// For all loaders of the process.
static PLANNED: Mutex<Option<Trouble>> = Mutex::new(None);

/// Takes the place of what was planned before; `None` ends it.
pub fn plan(trouble: Option<Trouble>) {
    *lock(&PLANNED) = trouble;
}

/// Called by each stage when it begins with something.
#[expect(clippy::panic, reason = "that is what it is for")]
pub(crate) fn meet(activity: Activity, id: u32) {
    let planned = *lock(&PLANNED);
    let Some(trouble) = planned.filter(|t| t.activity == activity && t.id.is_none_or(|own| own == id)) else {
        return;
    };
    match trouble.delay {
        Some(delay) => thread::sleep(delay),
        None => panic!("{} of {id} was to panic", activity.name()),
    }
}
