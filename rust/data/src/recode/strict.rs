//! Here: the proof that a file comes back, without its Huffman codes being written.
//! Not here: reading and writing them.
//!
//! Of the data of a sequential scan, reading takes nothing into account but codes, and if it was *strict* each of
//! them is the one that writing chooses for the same coefficients:
//!
//! - no table has two codes for a symbol, or a symbol that means what another one means (`Lookup::one_way`);
//! - the size of a value follows from the value, and what has been read as a value of so many bits has them;
//! - zeros are coded by sixteens and a value, the end of a block behind the last value: a run of more is 16 zeros and
//!   the rest, by the count of places; none are coded behind the last value (`Taken::behind`), and where the last
//!   place is not zero no end;
//! - first coefficients are differences of numbers of 16 bits, from 0 behind each restart, in the same order of blocks;
//! - a zero stands behind each 0xFF and nowhere else, or a marker would have begun: restarts are where they are due,
//!   with no byte between, and the last byte of the last segment has been read;
//! - what fills up the last byte of each segment is compared with what the skeleton says of it ([`Scan::data`]).
//!
//! So the data are what writing makes of the coefficients, and what is left to be seen is whether the member has just
//! these ([`same`](super::expand::same)): the whole of its layout is expanded for that as it is to write, and judged by libjpeg's
//! arithmetic. All else of the file is made of the member as ever, and compared. Whatever is not strict is written.

use std::ops::Range;

use super::segments;
use super::skeleton::Padding;

/// A sequential scan that has been read strictly.
pub(super) struct Scan {
    frame: segments::Frame,
    scan: segments::Scan,
    /// Where its data are in the file.
    data: Range<usize>,
    /// How many bits fill up each segment, and these.
    padding: Vec<(u32, u8)>,
}

impl Scan {
    pub(super) fn new(
        (frame, scan): (&segments::Frame, &segments::Scan),
        data: Range<usize>,
        padding: Vec<(u32, u8)>,
    ) -> Self {
        Self { frame: frame.clone(), scan: scan.clone(), data, padding }
    }

    /// Where its data are, if they would be written with the same header, tables and padding.
    pub(super) fn data(
        &self,
        (frame, scan): (&segments::Frame, &segments::Scan),
        padding: &mut Padding,
    ) -> Option<Range<usize>> {
        let padded = self.padding.iter().all(|&(count, value)| padding.next(count) == Ok(value));
        let same = padded && self.frame == *frame && self.scan == *scan;
        same.then(|| self.data.clone())
    }
}

#[cfg(test)]
mod tests;
