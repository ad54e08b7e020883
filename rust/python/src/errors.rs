//! Here: the crate's error as Python exceptions, and what a keyword's word stands for. Not here: any decision about what to do with one.

use barlow_data::error::{Error, Fault};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

pyo3::create_exception!(
    _native,
    DataError,
    PyValueError,
    "Bad input with its address: `kind` (str), `shard`, `member` (str or None), `offset` (int or None)."
);

/// A wrong setting is a `ValueError`, a bug of ours a `RuntimeError`, everything else a `DataError`.
pub(crate) fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    let text = error.to_string();
    match error.fault() {
        Fault::Setting(_) => PyValueError::new_err(text),
        Fault::Bug(_) => PyRuntimeError::new_err(text),
        fault => {
            let exception = DataError::new_err(text);
            let value = exception.value(py);
            let place = error.place();
            let set = value
                .setattr("kind", fault.kind())
                .and_then(|()| value.setattr("shard", place.shard.as_deref()))
                .and_then(|()| value.setattr("member", place.member.as_deref()))
                .and_then(|()| value.setattr("offset", place.offset));
            set.err().unwrap_or(exception)
        }
    }
}

/// What a keyword's word stands for.
pub(crate) fn one_of<T>(keyword: &str, word: &str, [one, other]: [(&str, T); 2]) -> PyResult<T> {
    match word {
        word if word == one.0 => Ok(one.1),
        word if word == other.0 => Ok(other.1),
        _ => Err(PyValueError::new_err(format!("{keyword} is {word:?}, not {:?} or {:?}", one.0, other.0))),
    }
}
