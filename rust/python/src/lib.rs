//! The Python binding: converts types, releases the GIL, checks signals, maps errors.
//! No logic and no loops over samples.

mod errors;
mod pixels;

use pyo3::prelude::*;

/// The native module behind `barlow.data`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::errors::DataError;
    #[pymodule_export]
    use crate::pixels::{apply, check_view, decode_image, draw, peek};
}
