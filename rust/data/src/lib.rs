//! Shards on disk to batches of augmented views.
//!
//! ```text
//! floor 3   workers, scan, pack (the only writes)   blocks, meter, slots, loader (threads, ordered delivery)
//! floor 2   recode   decode   index   order   store   augment   floats
//! floor 1   tar     jpeg png webp            ops/ (resize, colour, blur, ...)
//! floor 0   checksum   error   limits   random
//! ```
//!
//! Pure: no Python, no torch, no CUDA. Every decision about order and randomness is a function of
//! integers. Imports go down a floor only.

pub mod augment;
pub mod blocks;
mod checksum;
pub mod decode;
pub mod error;
pub mod floats;
pub mod index;
pub mod jpeg;
pub mod limits;
pub mod loader;
pub mod meter;
mod ops;
pub mod order;
pub mod pack;
mod png;
pub mod random;
pub mod recode;
pub mod scan;
pub mod slots;
pub mod store;
pub mod tar;
#[cfg(feature = "trouble")]
pub mod trouble;
mod webp;
pub mod workers;
