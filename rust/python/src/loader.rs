//! Here: one native stream of batches for `barlow.data.Loader`: lent arrays in, filled arrays out,
//! waiting without the GIL and with signals.
//! Not here: how many batches are in flight and what a pass is (Python), any work (`barlow-data`).

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use barlow_data::loader::{self, Settings};
use barlow_data::order::Position;
use barlow_data::slots::Memory;
use numpy::{
    Element, PyArray, PyArray1, PyArray4, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods, ndarray,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::dataset::{Index, Order};
use crate::errors::to_py;
use crate::pixels::view_from_py;

/// How long a wait lasts before Python may see a signal: Ctrl-C answers within a quarter of a second.
const SLICE: Duration = Duration::from_millis(50);

/// A stream of batches from a position on, written into memory that Python lends.
#[pyclass(frozen, module = "barlow._native")]
pub(crate) struct Loader {
    inner: loader::Loader,
    /// What keeps the lent memory alive, oldest first; locked only with the GIL held and for moments
    /// in which nothing can let go of it.
    lent: Mutex<VecDeque<Vec<Py<PyUntypedArray>>>>,
}

#[pymethods]
impl Loader {
    #[new]
    #[pyo3(signature = (index, views, order, *, threads, epoch, step, end_epoch))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of one private caller")]
    fn new(
        py: Python<'_>,
        index: &Index,
        views: Vec<Bound<'_, PyAny>>,
        order: &Order,
        threads: usize,
        epoch: u32,
        step: u64,
        end_epoch: Option<u32>,
    ) -> PyResult<Self> {
        let settings = Settings {
            index: index.inner.clone(),
            views: views.iter().map(view_from_py).collect::<PyResult<_>>()?,
            order: order.inner.clone(),
            threads,
            start: Position { epoch, step },
            end_epoch,
        };
        let inner = py.detach(|| loader::Loader::new(settings)).map_err(|error| to_py(py, &error))?;
        Ok(Self { inner, lent: Mutex::default() })
    }

    /// True in a process that was forked off from the one with the threads: only `close` may be called.
    #[getter]
    fn forked(&self) -> bool {
        self.inner.is_forked()
    }

    /// (epoch, step, rows) of the batch that memory is wanted for; None at the end of the stream.
    fn wanted(&self) -> Option<(u32, u64, usize)> {
        let wanted = self.inner.wanted()?;
        Some((wanted.position.epoch, wanted.position.step, wanted.rows))
    }

    /// Lends arrays for the batch that is wanted: for each view uint8 [rows, 3, size, size], then int64
    /// [rows] labels and ids; C-contiguous, writeable, not overlapping. Nobody else may touch them until
    /// `take` has returned this batch or `close` has returned.
    fn lend<'py>(
        &self,
        py: Python<'py>,
        views: Vec<Bound<'py, PyArray4<u8>>>,
        labels: Bound<'py, PyArray1<i64>>,
        ids: Bound<'py, PyArray1<i64>>,
    ) -> PyResult<()> {
        let rows = labels.len();
        let labels_start = start(&labels, rows)?;
        let ids_start = start(&ids, rows)?;
        let starts: PyResult<Vec<_>> = views
            .iter()
            .map(|view| Ok((start(view, rows)?, view.shape().iter().skip(1).product::<usize>())))
            .collect();
        // SAFETY: each array is contiguous, writeable and has `rows` rows (checked by `start`), and the
        // references kept in `lent` hold its memory until `take` or `close`. That nobody else touches it
        // meanwhile is the caller's part: `barlow.data.Loader` lends fresh arrays that it shows nobody.
        let memory = unsafe { Memory::new(rows, starts?, labels_start, ids_start) };
        let mut held: Vec<_> = views.iter().map(|view| view.as_untyped().clone().unbind()).collect();
        held.extend([labels.as_untyped().clone().unbind(), ids.as_untyped().clone().unbind()]);
        self.lent.lock().unwrap_or_else(PoisonError::into_inner).push_back(held);
        // Drawing a large batch's ids takes a millisecond.
        py.detach(|| self.inner.lend(memory)).map_err(|error| to_py(py, &error))
    }

    /// Waits for the oldest lent batch; its arrays are the caller's again.
    fn take(&self, py: Python<'_>) -> PyResult<()> {
        loop {
            match py.detach(|| self.inner.take(SLICE)) {
                Ok(None) => py.check_signals()?,
                taken => {
                    let held = self.lent.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    drop(held);
                    return taken.map(|_| ()).map_err(|error| to_py(py, &error));
                }
            }
        }
    }

    /// Ends the threads and gives all memory back.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.inner.close());
        let held = std::mem::take(&mut *self.lent.lock().unwrap_or_else(PoisonError::into_inner));
        drop(held);
    }

    /// What the stream has done: see `barlow.data.Loader.stats`.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.inner.stats();
        let dict = PyDict::new(py);
        dict.set_item("images", stats.images)?;
        dict.set_item("bytes", stats.bytes)?;
        dict.set_item("read_s", stats.read_s)?;
        dict.set_item("decode_s", stats.decode_s)?;
        dict.set_item("augment_s", stats.augment_s)?;
        dict.set_item("waited_s", stats.waited_s)?;
        dict.set_item("threads", stats.threads)?;
        dict.set_item("lent", stats.lent)?;
        dict.set_item("finished", stats.finished)?;
        Ok(dict)
    }
}

/// The first element of an array that may be lent.
fn start<T: Element, D: ndarray::Dimension>(
    array: &Bound<'_, PyArray<T, D>>,
    rows: usize,
) -> PyResult<NonNull<T>> {
    if !array.is_c_contiguous() || array.shape().first() != Some(&rows) {
        return Err(PyValueError::new_err(format!("lent arrays must be C-contiguous with {rows} rows")));
    }
    // Refused for a read-only array; the borrow itself need not last, see `lend`.
    drop(array.try_readwrite()?);
    NonNull::new(array.data()).ok_or_else(|| PyValueError::new_err("lent array without memory"))
}
