//! The Python binding: converts types, releases the GIL, checks signals, maps errors.
//! No logic and no loops over samples.

mod errors;

use pyo3::prelude::*;

/// The native module behind `barlow.data`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::errors::DataError;
}
