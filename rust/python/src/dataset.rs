//! Here: the data set to Python: index, scan, pack, unpack, order, the members of an archive.
//! Not here: decisions; a path, an integer or a callback goes in, plain values come out.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use barlow_data::decode::Format;
use barlow_data::error::Error;
use barlow_data::index;
use barlow_data::order::{self, Position};
use barlow_data::pack::{self as packing, OnError, Options, Reject, Report};
use barlow_data::recode::Proof;
use barlow_data::scan;
use barlow_data::store::Store;
use barlow_data::tar;
use numpy::{AllowTypeChange, PyArray1, PyArrayLike1};
use pyo3::exceptions::{PyIndexError, PyKeyError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::errors::{one_of, to_py};
use crate::progress::detached;

/// The samples of a data set: where each is, its label, size and checksum. Immutable.
#[pyclass(frozen, module = "barlow._native")]
pub(crate) struct Index {
    pub(crate) inner: Arc<index::Index>,
    source: PathBuf,
    num_ignored: u64,
    store: OnceLock<Store>,
}

impl Index {
    fn new(index: index::Index, source: PathBuf, num_ignored: u64) -> Self {
        Self { inner: Arc::new(index), source, num_ignored, store: OnceLock::new() }
    }

    fn store(&self) -> &Store {
        self.store.get_or_init(|| Store::new(Arc::clone(&self.inner)))
    }

    fn id(&self, i: i64) -> PyResult<u32> {
        let known = u32::try_from(i).ok().filter(|&id| (id as usize) < self.inner.len());
        known.ok_or_else(|| PyIndexError::new_err(format!("no sample {i}: there are {}", self.inner.len())))
    }
}

#[pymethods]
impl Index {
    /// Opens an index file, the barlow.index of a folder, or the NAME.tar.index beside a tar.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let index = py.detach(|| index::Index::open(&path)).map_err(|error| to_py(py, &error))?;
        Ok(Self::new(index, path, 0))
    }

    /// Indexes a source in place, in memory: a tar of class folders, a folder of tars, a folder of class
    /// folders, or a flat folder. `progress(done, total)` counts images; `members`: with extra members.
    #[staticmethod]
    #[pyo3(signature = (path, threads = 0, progress = None, *, members = true))]
    fn scan(
        py: Python<'_>,
        path: PathBuf,
        threads: usize,
        progress: Option<Py<PyAny>>,
        members: bool,
    ) -> PyResult<Self> {
        let scanned = detached(py, progress, |tell| scan::scan(&path, threads, members, tell))?;
        Ok(Self::new(scanned.index, path, scanned.ignored))
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    /// int64 `[N]`; -1: no label.
    #[getter]
    fn labels<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let label = |id| Ok(self.inner.sample(id)?.label.map_or(-1, i64::from));
        let labels =
            py.detach(|| (0..self.inner.len() as u32).map(label).collect::<Result<Vec<i64>, Error>>());
        Ok(PyArray1::from_vec(py, labels.map_err(|error| to_py(py, &error))?))
    }

    /// In label order.
    #[getter]
    fn class_names(&self) -> Vec<String> {
        self.inner.class_names()
    }

    /// What was opened or scanned.
    #[getter]
    fn source(&self) -> &Path {
        &self.source
    }

    /// The folder that shard paths are relative to.
    #[getter]
    fn root(&self) -> &Path {
        self.inner.root()
    }

    /// Number of shards.
    #[getter]
    fn num_shards(&self) -> usize {
        self.inner.num_shards()
    }

    /// Paths of all shards, in the order of the index.
    fn shards(&self) -> Vec<PathBuf> {
        (0..self.inner.num_shards() as u32).map(|shard| self.inner.shard_path(shard)).collect()
    }

    /// Files that a scan left out because they are no images and belong to none, and links in archives; 0 for an
    /// opened index.
    #[getter]
    fn num_ignored(&self) -> u64 {
        self.num_ignored
    }

    /// Member name of a sample; undecodable bytes as surrogates, as the os module has them.
    fn name(&self, i: i64) -> PyResult<&OsStr> {
        Ok(OsStr::from_bytes(self.inner.name(self.id(i)?)))
    }

    /// (height, width) in pixels.
    fn shape(&self, py: Python<'_>, i: i64) -> PyResult<(u32, u32)> {
        let sample = self.inner.sample(self.id(i)?).map_err(|error| to_py(py, &error))?;
        Ok((sample.height, sample.width))
    }

    /// Path of the shard of a sample.
    fn shard(&self, py: Python<'_>, i: i64) -> PyResult<PathBuf> {
        let sample = self.inner.sample(self.id(i)?).map_err(|error| to_py(py, &error))?;
        Ok(self.inner.shard_path(sample.shard))
    }

    /// The encoded bytes of a sample, checksum verified; of a recoded image with `original` those of its file.
    #[pyo3(signature = (i, *, original = false))]
    fn read<'py>(&self, py: Python<'py>, i: i64, original: bool) -> PyResult<Bound<'py, PyBytes>> {
        let (id, mut bytes) = (self.id(i)?, Vec::new());
        let read = if original { Store::read_original } else { Store::read };
        py.detach(|| read(self.store(), id, &mut bytes)).map_err(|error| to_py(py, &error))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// int64 `[count]`: the samples that are recoded images.
    fn recoded<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let is_recoded =
            |&id: &i64| self.inner.sample(id as u32).is_ok_and(|sample| sample.format == Format::Recoded);
        let ids = py.detach(|| (0..self.inner.len() as i64).filter(is_recoded).collect());
        Ok(PyArray1::from_vec(py, ids))
    }

    /// Extensions of all extra members of the data set, in byte order.
    #[getter]
    fn member_names(&self) -> Vec<OsString> {
        self.inner.kinds().map(|kind| OsString::from_vec(kind.to_vec())).collect()
    }

    /// Extensions of the extra members of a sample, in byte order.
    fn members(&self, py: Python<'_>, i: i64) -> PyResult<Vec<OsString>> {
        let extras = self.inner.extras(self.id(i)?).map_err(|error| to_py(py, &error))?;
        let name = |kind| self.inner.kind_name(kind).to_vec();
        Ok(extras.iter().map(|extra| OsString::from_vec(name(extra.kind))).collect())
    }

    /// ValueError for a name that no sample has.
    fn check_members(&self, py: Python<'_>, names: Vec<OsString>) -> PyResult<()> {
        let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        self.inner.kinds_of(&names).map(|_| ()).map_err(|error| to_py(py, &error))
    }

    /// The bytes of an extra member, checksum verified; KeyError if the sample lacks it.
    fn read_member<'py>(&self, py: Python<'py>, i: i64, name: OsString) -> PyResult<Bound<'py, PyBytes>> {
        let id = self.id(i)?;
        let read = py.detach(|| match self.inner.kind(name.as_bytes()) {
            Some(kind) => self.store().read_extras(id, &[kind]),
            None => Ok(Vec::new()),
        });
        match read.map_err(|error| to_py(py, &error))?.first() {
            Some(Some(bytes)) => Ok(PyBytes::new(py, bytes)),
            _ => Err(PyKeyError::new_err(name)),
        }
    }

    /// Identifies the data, wherever they lie: 64 hexadecimal digits.
    fn digest(&self) -> String {
        self.inner.digest().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The samples with these ids (a sequence or an array of integers), in this order, with all classes.
    fn subset(&self, py: Python<'_>, ids: PyArrayLike1<'_, i64, AllowTypeChange>) -> PyResult<Self> {
        let ids = ids.as_array().iter().map(|&id| self.id(id)).collect::<PyResult<Vec<u32>>>()?;
        let subset = py.detach(|| self.inner.subset(&ids)).map_err(|error| to_py(py, &error))?;
        Ok(Self::new(subset, self.source.clone(), 0))
    }

    /// Writes the index to a file, or into a folder as barlow.index; returns the path of the file.
    fn write(&self, py: Python<'_>, path: PathBuf) -> PyResult<PathBuf> {
        py.detach(|| packing::write_index(&self.inner, &path)).map_err(|error| to_py(py, &error))
    }
}

/// Where the index of a source belongs: FOLDER/barlow.index, NAME.tar.index, or the index file itself.
#[pyfunction]
pub(crate) fn index_path(source: PathBuf) -> PathBuf {
    index::index_path(&source)
}

/// The regular members of a tar: (name, data offset, length).
#[pyfunction]
pub(crate) fn members(py: Python<'_>, path: PathBuf) -> PyResult<Vec<(Bound<'_, PyBytes>, u64, u64)>> {
    let list = || -> Result<Vec<tar::Member>, Error> {
        let file = File::open(&path)?;
        tar::members(file.metadata()?.len(), |offset, buffer| Ok(file.read_exact_at(buffer, offset)?))
            .collect()
    };
    let members = py.detach(list).map_err(|error| to_py(py, &error.in_shard(path.display())))?;
    Ok(members.into_iter().map(|m| (PyBytes::new(py, &m.name), m.offset, m.length)).collect())
}

/// Packs a source into shards and an index.
#[pyfunction]
#[pyo3(signature = (source, out, *, shard_bytes = 256 << 20, min_shards = 1, held_out = 0.0, on_error = "raise",
    members = true, decode = true, recode = false, prove = "strict", overwrite = false, threads = 0, progress = None))]
#[allow(clippy::too_many_arguments)] // They are keywords in Python.
pub(crate) fn pack<'py>(
    py: Python<'py>,
    source: PathBuf,
    out: PathBuf,
    shard_bytes: u64,
    min_shards: u64,
    held_out: f64,
    on_error: &str,
    members: bool,
    decode: bool,
    recode: bool,
    prove: &str,
    overwrite: bool,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let on_error = policy(on_error)?;
    let prove = one_of("prove", prove, [("rewrite", Proof::Rewritten), ("strict", Proof::Strict)])?;
    let options = Options {
        shard_bytes,
        min_shards,
        held_out,
        on_error,
        with_extras: members,
        decode,
        recode,
        prove,
        overwrite,
        threads,
    };
    let report = detached(py, progress, |tell| packing::pack(&source, &out, &options, tell))?;
    report_dict(py, &report)
}

fn policy(on_error: &str) -> PyResult<OnError> {
    one_of("on_error", on_error, [("raise", OnError::Raise), ("skip", OnError::Skip)])
}

/// Where each is, and why it was left out.
fn skipped<'py>(py: Python<'py>, rejects: &[Reject]) -> PyResult<Vec<Bound<'py, PyDict>>> {
    let mut skipped = Vec::new();
    for reject in rejects {
        let entry = PyDict::new(py);
        entry.set_item("shard", &reject.place.shard)?;
        entry.set_item("member", &reject.place.member)?;
        entry.set_item("offset", reject.place.offset)?;
        entry.set_item("reason", &reject.reason)?;
        skipped.push(entry);
    }
    Ok(skipped)
}

fn report_dict<'py>(py: Python<'py>, report: &Report) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("images", report.images)?;
    dict.set_item("held_out_images", report.held_out_images)?;
    dict.set_item("extra_members", report.extra_members)?;
    dict.set_item("shards", report.shards)?;
    dict.set_item("bytes", report.bytes)?;
    dict.set_item("classes", report.classes)?;
    dict.set_item("ignored", report.ignored)?;
    dict.set_item("classes_without_training", report.classes_without_training)?;
    dict.set_item("recoded", report.recoded.images)?;
    dict.set_item("recoded_from_bytes", report.recoded.from_bytes)?;
    dict.set_item("recoded_to_bytes", report.recoded.to_bytes)?;
    dict.set_item("not_recoded", report.recoded.kept.clone())?;
    dict.set_item("skipped", skipped(py, &report.rejects)?)?;
    dict.set_item("seconds", report.seconds)?;
    Ok(dict)
}

/// Writes the members of shards to files, byte for byte; `progress` counts bytes.
#[pyfunction]
#[pyo3(signature = (source, out, *, on_error = "raise", progress = None))]
pub(crate) fn unpack<'py>(
    py: Python<'py>,
    source: PathBuf,
    out: PathBuf,
    on_error: &str,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let on_error = policy(on_error)?;
    let unpacked = detached(py, progress, |tell| packing::unpack(&source, &out, on_error, tell))?;
    let dict = PyDict::new(py);
    dict.set_item("files", unpacked.files)?;
    dict.set_item("restored", unpacked.restored)?;
    dict.set_item("bytes", unpacked.bytes)?;
    dict.set_item("skipped", skipped(py, &unpacked.rejects)?)?;
    dict.set_item("seconds", unpacked.seconds)?;
    Ok(dict)
}

/// Which samples make which batch, for one rank.
#[pyclass(frozen, module = "barlow._native")]
pub(crate) struct Order {
    pub(crate) inner: order::Order,
}

#[pymethods]
impl Order {
    #[new]
    #[pyo3(signature = (num_samples, batch_size, *, seed = 0, rank = 0, world_size = 1, shuffle = true, drop_last = true))]
    #[allow(clippy::too_many_arguments)] // They are keywords in Python.
    fn new(
        py: Python<'_>,
        num_samples: u64,
        batch_size: u64,
        seed: u64,
        rank: u32,
        world_size: u32,
        shuffle: bool,
        drop_last: bool,
    ) -> PyResult<Self> {
        let order = order::Order::new(seed, num_samples, batch_size, (rank, world_size), shuffle, drop_last);
        Ok(Self { inner: order.map_err(|error| to_py(py, &error))? })
    }

    /// Batches in an epoch.
    #[getter]
    fn steps_per_epoch(&self) -> u64 {
        self.inner.steps_per_epoch()
    }

    /// uint32 ids of this rank's part of a global batch; empty behind the end of the epoch.
    fn batch<'py>(&self, py: Python<'py>, epoch: u32, step: u64) -> Bound<'py, PyArray1<u32>> {
        PyArray1::from_vec(py, py.detach(|| self.inner.batch(Position { epoch, step })))
    }

    /// Identifies the sequence of global batches: 16 hexadecimal digits.
    fn digest(&self) -> String {
        format!("{:016x}", self.inner.digest())
    }
}
