//! The Python binding: converts types, releases the GIL, checks signals, maps errors.
//! No logic and no loops over samples.

mod dataset;
mod errors;
mod loader;
mod memory;
mod pixels;
mod progress;

use pyo3::prelude::*;

/// The native module behind `barlow.data`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::dataset::{Index, Order, index_path, members, pack, unpack};
    #[pymodule_export]
    use crate::errors::DataError;
    #[cfg(feature = "trouble")]
    #[pymodule_export]
    use crate::loader::plan_trouble;
    #[pymodule_export]
    use crate::loader::{Loader, Meter, blur_kernels};
    #[pymodule_export]
    use crate::memory::Pool;
    #[pymodule_export]
    use crate::pixels::{apply, check_view, decode_image, draw, peek, recode, restore, simd, to_floats};

    /// Format version of the order: another version gives other batches.
    #[pymodule_export]
    const ORDER_VERSION: u32 = barlow_data::order::VERSION;

    /// Format version of views: another version gives other pixels.
    #[pymodule_export]
    const VIEWS_VERSION: u32 = barlow_data::augment::VERSION;
}
