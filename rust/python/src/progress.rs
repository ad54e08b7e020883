//! Here: long work without the GIL, its progress told to Python, and what the callback or a signal raises as its end.
//! Not here: the work.

use std::time::{Duration, Instant};

use barlow_data::error::{Error, Fault};
use pyo3::prelude::*;

use crate::errors::to_py;

/// How often Python hears of progress and signals are looked for.
const INTERVAL: Duration = Duration::from_millis(100);

/// Carries progress to Python, and an exception or Ctrl-C back as a cancellation.
struct Reporter {
    callback: Option<Py<PyAny>>,
    last: Option<Instant>,
    raised: Option<PyErr>,
}

impl Reporter {
    fn tell(&mut self, done: u64, total: u64) -> Result<(), Error> {
        let finished = done == total && total > 0;
        if !finished && self.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return Ok(());
        }
        self.last = Some(Instant::now());
        let told = Python::attach(|py| -> PyResult<()> {
            py.check_signals()?;
            match &self.callback {
                // A total of 0: still listing, nothing to show yet.
                Some(callback) if total > 0 => callback.call1(py, (done, total)).map(|_| ()),
                _ => Ok(()),
            }
        });
        told.map_err(|exception| {
            self.raised = Some(exception);
            Fault::Cancelled.into()
        })
    }
}

/// Runs long work without the GIL; what the callback raised comes out as it was.
pub(crate) fn detached<T: Send>(
    py: Python<'_>,
    callback: Option<Py<PyAny>>,
    work: impl FnOnce(&mut dyn FnMut(u64, u64) -> Result<(), Error>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let mut reporter = Reporter { callback, last: None, raised: None };
    let result = py.detach(|| work(&mut |done, total| reporter.tell(done, total)));
    result.map_err(|error| reporter.raised.take().unwrap_or_else(|| to_py(py, &error)))
}
