//! Here: one native stream of batches for `barlow.data.Loader`: lent arrays in, filled arrays out,
//! waiting without the GIL and with signals; what is counted meanwhile.
//! Not here: how many batches are in flight and what a pass is (Python), any work (`barlow-data`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use barlow_data::augment;
use barlow_data::loader::{self, Damage, HandOver, Settings};
use barlow_data::meter::{self, STAGES};
use barlow_data::order::Position;
use barlow_data::slots::{Extras, Memory, Replaced};
use barlow_data::workers;
use numpy::{
    Element, PyArray, PyArray1, PyArray2, PyArrayDyn, PyArrayMethods, PyReadonlyArray1, PyUntypedArray,
    PyUntypedArrayMethods, ndarray,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::dataset::{Index, Order};
use crate::errors::to_py;
use crate::pixels::view_from_py;

/// How long a wait lasts before Python may see a signal: with the end of the threads, a tenth of a second at
/// most passes between Ctrl-C and its exception.
const SLICE: Duration = Duration::from_millis(20);

/// A thread's number, activity, sample and seconds.
type Doing = (usize, &'static str, u32, f64);

/// How many rows were replaced, the damaged samples met with their errors, for each kind of extra member
/// that was asked for those of all rows, and the encoded images of all rows where they are handed over.
type Taken<'py> = (usize, Vec<(u32, Bound<'py, PyAny>)>, Vec<Column<'py>>, Vec<Bound<'py, PyArray1<u8>>>);

/// One kind of extra member, by row.
type Column<'py> = Vec<Option<Bound<'py, PyBytes>>>;

/// What the threads of a loader have done, from stream to stream.
#[pyclass(frozen, module = "barlow._native")]
pub(crate) struct Meter {
    inner: Arc<meter::Meter>,
}

#[pymethods]
impl Meter {
    /// For so many worker threads; 0 is one for each core that this process may run on.
    #[new]
    fn new(threads: usize) -> Self {
        Self { inner: Arc::new(meter::Meter::new(workers::threads(threads))) }
    }

    /// The consumer asks for a batch.
    fn ask(&self) {
        self.inner.ask();
    }

    /// The consumer has its batch.
    fn answer(&self) {
        self.inner.answer();
    }

    /// Totals, and for each stage a dictionary: see `barlow.data.Stats`.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.inner.stats();
        let dict = PyDict::new(py);
        dict.set_item("images", stats.images)?;
        dict.set_item("replaced", stats.replaced)?;
        dict.set_item("threads", stats.threads)?;
        dict.set_item("threads_s", stats.threads_s)?;
        dict.set_item("idle_s", stats.idle_s)?;
        dict.set_item("consumer_s", stats.consumer_s)?;
        dict.set_item("waited_s", stats.waited_s)?;
        for (activity, stage) in STAGES.iter().zip(&stats.stages) {
            let of_stage = PyDict::new(py);
            of_stage.set_item("busy_s", stage.busy_s)?;
            of_stage.set_item("count", stage.count)?;
            of_stage.set_item("bytes", stage.bytes)?;
            of_stage.set_item("p50_s", stage.p50_s)?;
            of_stage.set_item("p99_s", stage.p99_s)?;
            dict.set_item(activity.name(), of_stage)?;
        }
        Ok(dict)
    }
}

/// A stream of batches from a position on, written into memory that Python lends.
#[pyclass(frozen, module = "barlow._native")]
pub(crate) struct Loader {
    inner: loader::Loader,
    num_members: usize,
    encoded: bool,
}

#[pymethods]
impl Loader {
    /// `replace`: None, or how many samples may be replaced in an epoch and how many of the first one's
    /// have been already. `members`: extensions of the extra members that `take` returns. `hand_over`: "views",
    /// "crops" or "encoded".
    #[new]
    #[pyo3(signature = (index, views, order, meter, *, epoch, step, end_epoch, shrink_on_load, replace,
                        members = Vec::new(), hand_over = "views"))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of one private caller")]
    fn new(
        py: Python<'_>,
        index: &Index,
        views: Vec<Bound<'_, PyAny>>,
        order: &Order,
        meter: &Meter,
        epoch: u32,
        step: u64,
        end_epoch: Option<u32>,
        shrink_on_load: bool,
        replace: Option<(u64, u64)>,
        members: Vec<OsString>,
        hand_over: &str,
    ) -> PyResult<Self> {
        let hand_over = match hand_over {
            "views" => HandOver::Views,
            "crops" => HandOver::Crops,
            "encoded" => HandOver::Encoded,
            other => return Err(PyValueError::new_err(format!("hand_over cannot be {other:?}"))),
        };
        let settings = Settings {
            index: index.inner.clone(),
            views: views.iter().map(view_from_py).collect::<PyResult<_>>()?,
            order: order.inner.clone(),
            start: Position { epoch, step },
            end_epoch,
            hand_over,
            shrink_on_load,
            extras: members.into_iter().map(OsString::into_vec).collect(),
            damage: replace.map_or(Damage::Raise, |(at_most, before)| Damage::Replace { at_most, before }),
            meter: meter.inner.clone(),
        };
        let num_members = settings.extras.len();
        let inner = py.detach(|| loader::Loader::new(settings)).map_err(|error| to_py(py, &error))?;
        Ok(Self { inner, num_members, encoded: hand_over == HandOver::Encoded })
    }

    /// True in a process that was forked off from the one with the threads: only `close` may be called.
    #[getter]
    fn forked(&self) -> bool {
        self.inner.is_forked()
    }

    /// (epoch, step, rows) of the batch that memory is wanted for; None at the end of the stream.
    fn wanted(&self) -> Option<(u32, u64, usize)> {
        let (position, rows) = self.inner.wanted()?;
        Some((position.epoch, position.step, rows))
    }

    /// Bytes of one row of each array that `lend` takes: for each view its pixels (not if encoded bytes are
    /// handed over), then, where operations are left to the caller, each view's cut (int32 [8]) and each view's
    /// steps (float32 [columns, 2]).
    fn row_bytes(&self) -> Vec<usize> {
        self.inner.row_bytes().collect()
    }

    /// Lends arrays for the batch that is wanted: uint8 of `rows` rows, one for each entry of `row_bytes`, then
    /// int64 [rows] labels and ids; C-contiguous, writeable, not overlapping. Nobody else may touch them until
    /// `take` has returned this batch.
    fn lend<'py>(
        &self,
        py: Python<'py>,
        views: Vec<Bound<'py, PyArrayDyn<u8>>>,
        labels: Bound<'py, PyArray1<i64>>,
        ids: Bound<'py, PyArray1<i64>>,
    ) -> PyResult<()> {
        let rows = labels.len();
        let labels_start = start(&labels, rows)?;
        let ids_start = start(&ids, rows)?;
        let starts = views
            .iter()
            .map(|view| Ok((start(view, rows)?, view.shape().iter().skip(1).product::<usize>())))
            .collect::<PyResult<Vec<_>>>()?;
        let mut held: Vec<Py<PyUntypedArray>> =
            views.iter().map(|view| view.as_untyped().clone().unbind()).collect();
        held.extend([labels.as_untyped().clone().unbind(), ids.as_untyped().clone().unbind()]);
        // SAFETY: each array is contiguous, writeable and has `rows` rows (checked by `start`), and the
        // references in `held` keep its memory; where they are dropped without the GIL, PyO3 puts that off
        // until somebody has it. That nobody else touches the memory meanwhile is the caller's part:
        // `barlow.data.Loader` lends arrays that it shows nobody.
        let memory = unsafe { Memory::new(rows, starts, labels_start, ids_start, Box::new(held)) };
        // Drawing a large batch's ids takes a millisecond.
        py.detach(|| self.inner.lend(memory)).map_err(|error| to_py(py, &error))
    }

    /// Waits up to `timeout_s` for the oldest lent batch; its arrays are the caller's again. None: it isn't
    /// finished. Otherwise the number of replaced rows, (id, error) of all damaged samples met, and for each of
    /// `members` the bytes of all rows, None where a sample lacks it.
    fn take<'py>(&self, py: Python<'py>, timeout_s: f64) -> PyResult<Option<Taken<'py>>> {
        let timeout = Duration::try_from_secs_f64(timeout_s)
            .map_err(|_| PyValueError::new_err("timeout_s must be a number of seconds"))?;
        let begin = Instant::now();
        loop {
            let left = timeout.saturating_sub(begin.elapsed());
            match py.detach(|| self.inner.take(left.min(SLICE))) {
                Ok(None) => {
                    py.check_signals()?;
                    if begin.elapsed() >= timeout {
                        return Ok(None);
                    }
                }
                Ok(Some(mut filled)) => {
                    let mut encoded = Vec::new();
                    if self.encoded {
                        let first = |row: &mut Extras| (!row.is_empty()).then(|| row.remove(0)).flatten();
                        let images = filled.extras.iter_mut().map(first);
                        encoded =
                            images.map(|image| PyArray1::from_vec(py, image.unwrap_or_default())).collect();
                    }
                    let damaged = filled.replaced.iter().flat_map(|Replaced { damaged, .. }| damaged);
                    let listed =
                        damaged.map(|(id, error)| (*id, to_py(py, error).into_value(py).into_bound(py)));
                    let listed = listed.map(|(id, error)| (id, error.into_any())).collect();
                    let members = columns(py, self.num_members, &filled.extras);
                    return Ok(Some((filled.replaced.len(), listed, members, encoded)));
                }
                Err(error) => return Err(to_py(py, &error)),
            }
        }
    }

    /// What each worker thread is at: number, activity, sample, seconds.
    fn doing(&self) -> Vec<Doing> {
        let doing = self.inner.doing().into_iter();
        doing.map(|d| (d.number, d.activity.name(), d.id, d.since.as_secs_f64())).collect()
    }

    /// Batches in flight, and how many of them are finished.
    fn occupancy(&self) -> (usize, usize) {
        self.inner.occupancy()
    }

    /// Ends the threads; returns how many of them are still at a read after `patience_s`.
    fn close(&self, py: Python<'_>, patience_s: f64) -> PyResult<usize> {
        let patience = Duration::try_from_secs_f64(patience_s)
            .map_err(|_| PyValueError::new_err("patience_s must be a number of seconds"))?;
        Ok(py.detach(|| self.inner.close(patience)))
    }
}

/// The weights of one pass of the blur (three along rows, three along columns) for each sigma in pixels:
/// float32 [N, width], centred; sigma 0 leaves everything as it is.
#[pyfunction]
pub(crate) fn blur_kernels<'py>(
    py: Python<'py>,
    sigmas: PyReadonlyArray1<'py, f32>,
    width: usize,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let kernels = PyArray2::zeros(py, [sigmas.len(), width], false);
    for (&sigma, mut row) in sigmas.as_array().iter().zip(kernels.readwrite().as_array_mut().rows_mut()) {
        let fits = row.as_slice_mut().is_some_and(|row| augment::blur_kernel(f64::from(sigma), row));
        if !fits {
            return Err(PyValueError::new_err(format!(
                "a blur of {sigma} pixels does not fit {width} weights"
            )));
        }
    }
    Ok(kernels)
}

/// For tests: `stage` panics, or is `delay_s` slower, with `sample` (deliver: with that step) or with every one;
/// `stage=None` ends it. A release does not have this.
#[cfg(feature = "trouble")]
#[pyfunction]
#[pyo3(signature = (stage, sample = None, delay_s = None))]
pub(crate) fn plan_trouble(stage: Option<&str>, sample: Option<u32>, delay_s: Option<f64>) -> PyResult<()> {
    use barlow_data::trouble::{Trouble, plan};
    let unknown = || PyValueError::new_err("no such stage, or no time");
    let delay = delay_s.map(Duration::try_from_secs_f64).transpose().map_err(|_| unknown())?;
    let activity = |name| STAGES.into_iter().find(|stage| stage.name() == name).ok_or_else(unknown);
    let activity = stage.map(activity).transpose()?;
    plan(activity.map(|activity| Trouble { activity, id: sample, delay }));
    Ok(())
}

/// Rows to columns; also of a batch without rows.
fn columns<'py>(py: Python<'py>, count: usize, rows: &[Extras]) -> Vec<Column<'py>> {
    let bytes = |row: &Extras, column: usize| {
        row.get(column).and_then(Option::as_deref).map(|bytes| PyBytes::new(py, bytes))
    };
    (0..count).map(|column| rows.iter().map(|row| bytes(row, column)).collect()).collect()
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
