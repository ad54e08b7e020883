//! Here: arrays whose memory is used again once nobody can see it any more.
//! Not here: what is written into them, which arrays make up a batch.

use barlow_data::blocks::{Block, Shelf};
use numpy::ndarray::ArrayViewMut4;
use numpy::{PyArray, PyArray4};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Makes arrays. Each holds a lease on its memory as its base, and so does whatever is made from it: a
/// slice, a tensor, a tensor's storage, a capsule. The lease ends when the last of them is gone, which is
/// the moment that the interpreter frees it, not an earlier one at which a finalizer may run: it has no
/// `__del__`, no weak references, and the garbage collector does not know it.
#[pyclass(frozen, module = "barlow._native")]
pub(crate) struct Pool {
    shelf: Shelf,
}

/// Nothing but a reason for memory to stay.
#[pyclass(frozen, module = "barlow._native")]
struct Lease {
    /// Given back to its shelf when this is dropped. Nobody reads it: numpy has its address.
    _block: Block,
}

#[pymethods]
impl Pool {
    /// Keeps at most `keep` unused arrays.
    #[new]
    fn new(keep: usize) -> Self {
        Self { shelf: Shelf::new(keep) }
    }

    /// An array of uint8 that nobody else sees. What is in it is not defined.
    fn take<'py>(
        &self,
        py: Python<'py>,
        shape: (usize, usize, usize, usize),
    ) -> PyResult<Bound<'py, PyArray4<u8>>> {
        let (n, channels, height, width) = shape;
        let length = [n, channels, height, width].iter().try_fold(1usize, |product, &side| {
            product.checked_mul(side).filter(|&bytes| isize::try_from(bytes).is_ok())
        });
        let length = length.ok_or_else(|| PyValueError::new_err("array too large"))?;
        let mut block = self.shelf.take(length);
        let start = block.bytes().as_mut_ptr();
        let lease = Bound::new(py, Lease { _block: block })?;
        // SAFETY: `length` bytes from `start` on are the block's, which the lease owns and lets nobody
        // else touch. A vector's memory stays where it is when the vector is moved.
        let view = unsafe { ArrayViewMut4::from_shape_ptr(shape, start) };
        // SAFETY: the array holds the lease, and with it the memory, as its base.
        Ok(unsafe { PyArray::borrow_from_array(&view, lease.into_any()) })
    }
}
