//! Here: the scans of a JPEG read from its bytes.
//! Not here: the codes of one block, what is kept besides the coefficients.

use std::ops::Range;

use super::Unusual;
use super::bits::Bits;
use super::codes::{Class, Codes};
use super::coefficients::Component;
use super::entropy::{Choices, Tools, progressive, ready};
use super::lookup::{AcLookup, DcLookup};
use super::progressive::{Band, Cuts, Reading};
use super::scans::{self, Coder};
use super::segments::{Frame, Scan};
use super::sequential;
use super::skeleton::Padding;
use super::sparse::Blocks;
use crate::ops::simd::{Simd, Vector, kernel};

/// Reads a sequential scan whose data begin at `bytes[at]`; gives where they end.
pub(super) fn sequential(
    tools: &mut Tools,
    (bytes, at): (&[u8], usize),
    (frame, scan): (&Frame, &Scan),
    planes: &mut [Blocks],
    choices: &mut Choices,
) -> Result<usize, Unusual> {
    let Tools { bits, dc, ac, .. } = tools;
    let (dc, ac) = (ready(dc, scan, Class::Dc)?, ready(ac, scan, Class::Ac)?);
    let source = Source::begin(bytes, at, bits, &mut choices.padding);
    let mut components = [0; 4];
    components.iter_mut().zip(&scan.parts).for_each(|(component, part)| *component = part.component);
    let mut coder = Sequential { source, components, dc, ac, last: [0; 4], planes };
    read_blocks(Simd::detect(), frame, scan, &mut coder)?;
    coder.source.end()
}

/// The same for a progressive scan.
pub(super) fn progressive_scan(
    tools: &mut Tools,
    (bytes, at): (&[u8], usize),
    (frame, scan): (&Frame, &Scan),
    components: &mut [Component],
    choices: &mut Choices,
) -> Result<usize, Unusual> {
    let Tools { bits, codes, .. } = tools;
    let codes = progressive(codes, frame, scan)?;
    let Choices { padding, cuts } = choices;
    let source = Source::begin(bytes, at, bits, padding);
    let mut coder =
        Progressive { source, scan, codes, state: Reading::new(Band::of(scan)), cuts, components };
    scans::walk(frame, scan, &mut coder)?;
    coder.source.end()
}

// Not for vectors: shifts by a variable count are one instruction with BMI2, and three without.
kernel! {
    fn read_blocks / read_blocks_on[V: Vector](frame: &Frame, scan: &Scan, coder: &mut Sequential<'_>) -> Result<(), Unusual> {
        scans::walk(frame, scan, coder)
    }
}

/// The data of a scan, segment by segment.
struct Source<'a> {
    bytes: &'a [u8],
    bits: &'a mut Bits,
    /// Where the segment begins.
    begin: usize,
    /// Where the marker behind it is.
    marker: usize,
    padding: &'a mut Padding,
}

impl<'a> Source<'a> {
    fn begin(bytes: &'a [u8], at: usize, bits: &'a mut Bits, padding: &'a mut Padding) -> Self {
        let marker = bits.begin(bytes, at);
        Self { bytes, bits, begin: at, marker, padding }
    }

    fn restart(&mut self, number: u8) -> Result<(), Unusual> {
        self.padding.push(self.bits.padding()?);
        let marker = self.bytes.get(self.marker..).unwrap_or_default();
        if self.bits.unread() > 0 || !marker.starts_with(&[0xff, 0xd0 + number]) {
            return Err(Unusual("a restart marker that is not where it should be"));
        }
        self.begin = self.marker + 2;
        self.marker = self.bits.begin(self.bytes, self.begin);
        Ok(())
    }

    /// Behind the last segment.
    fn end(self) -> Result<usize, Unusual> {
        self.padding.push(self.bits.padding()?);
        Ok(self.bits.end(self.begin, self.marker))
    }
}

const TOO_SHORT: Unusual = Unusual("entropy-coded data that end early");

struct Sequential<'a> {
    source: Source<'a>,
    /// Of each of the scan's parts.
    components: [usize; 4],
    dc: [&'a DcLookup; 4],
    ac: [&'a AcLookup; 4],
    last: [i32; 4],
    planes: &'a mut [Blocks],
}

impl Coder for Sequential<'_> {
    /// Behind the end there are zeros: not many rows of them are read.
    fn band(&mut self, _band: usize) -> Result<(), Unusual> {
        if self.source.bits.overrun() { Err(TOO_SHORT) } else { Ok(()) }
    }

    #[inline(always)]
    fn blocks(&mut self, slot: usize, row: usize, columns: Range<usize>) -> Result<(), Unusual> {
        let missing = Unusual("blocks that are not there");
        let plane = self.planes.get_mut(self.components[slot & 3]);
        let row = plane.and_then(|plane| plane.filling(row, columns.start)).ok_or(missing)?;
        if columns.len() > row.bitmaps.len() {
            return Err(missing);
        }
        let tables = (self.dc[slot & 3], self.ac[slot & 3]);
        let (state, data) = self.source.bits.parts();
        // In registers, not in memory.
        let (mut at, mut count, mut last) = (*state, 0, self.last[slot & 3]);
        for (bitmap, first) in row.bitmaps.iter_mut().zip(row.dc).take(columns.len()) {
            let values = row.values.get_mut(count..).and_then(|room| room.first_chunk_mut());
            (*bitmap, *first) = sequential::read((&mut at, data), tables, &mut last, values.ok_or(missing)?)?;
            count += bitmap.count_ones() as usize;
        }
        (*state, self.last[slot & 3]) = (at, last);
        *row.count += count;
        Ok(())
    }

    fn restart(&mut self, number: u8) -> Result<(), Unusual> {
        self.last = [0; 4];
        self.source.restart(number)
    }
}

struct Progressive<'a> {
    source: Source<'a>,
    scan: &'a Scan,
    codes: Option<(Class, [&'a Codes; 4])>,
    state: Reading,
    cuts: &'a mut Cuts,
    components: &'a mut [Component],
}

impl Coder for Progressive<'_> {
    fn blocks(&mut self, slot: usize, row: usize, columns: Range<usize>) -> Result<(), Unusual> {
        let (state, bits) = (&mut self.state, &mut *self.source.bits);
        for block in scans::blocks(self.components, self.scan, slot, row, columns)? {
            match self.codes {
                Some((Class::Ac, codes)) => state.ac(bits, codes[slot & 3], self.cuts, block)?,
                Some((Class::Dc, codes)) => state.dc(bits, Some(codes[slot & 3]), slot, block)?,
                None => state.dc(bits, None, slot, block)?,
            }
            if bits.overrun() {
                return Err(TOO_SHORT);
            }
        }
        Ok(())
    }

    fn restart(&mut self, number: u8) -> Result<(), Unusual> {
        self.state.restart();
        self.source.restart(number)
    }
}
