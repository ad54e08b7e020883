//! Here: JPEGs whose entropy coding is undone once, when they are packed, and done again to get them back.
//! Not here: archives, files, which members are stored so.

pub mod coefficients;

pub use coefficients::{Coefficients, Component, Transform};
