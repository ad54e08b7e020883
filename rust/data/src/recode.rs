//! Here: JPEGs whose entropy coding is undone once, when they are packed, and done again to get them back.
//! Not here: archives, files, which members are stored so.

pub mod coefficients;
mod colour;
mod compress;
mod expand;
mod idct;
pub mod layout;
mod order;
mod pixels;
#[cfg(test)]
mod samples;
mod simd;
mod upsample;

pub use coefficients::{Coefficients, Component, Transform};
pub use layout::Layout;
pub use pixels::Scratch;
