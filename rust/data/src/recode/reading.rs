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

/// What there is to know of the data of a sequential scan.
pub(super) struct Data {
    /// Where they end.
    pub(super) end: usize,
    /// The padding of each segment.
    pub(super) padding: Vec<(u32, u8)>,
    /// Whether they are what [`writing`](super::writing) makes of the coefficients: it has no choice, and nothing
    /// was passed over. See `strict.rs`.
    pub(super) strict: bool,
}

/// Reads a sequential scan whose data begin at `bytes[at]`.
pub(super) fn sequential(
    tools: &mut Tools,
    (bytes, at): (&[u8], usize),
    (frame, scan): (&Frame, &Scan),
    planes: &mut [Blocks],
    choices: &mut Choices,
) -> Result<Data, Unusual> {
    let Tools { bits, dc, ac, .. } = tools;
    let (dc, ac) = (ready(dc, scan, Class::Dc)?, ready(ac, scan, Class::Ac)?);
    let source = Source::begin(bytes, at, bits, &mut choices.padding);
    let mut components = [0; 4];
    components.iter_mut().zip(&scan.parts).for_each(|(component, part)| *component = part.component);
    let one_way = dc.iter().all(|table| table.one_way) && ac.iter().all(|table| table.one_way);
    let mut coder = Sequential { source, components, dc, ac, last: [0; 4], planes, behind: 0 };
    read_blocks(Simd::detect(), frame, scan, &mut coder)?;
    let strict = one_way && coder.behind == 0;
    let mut data = coder.source.end()?;
    data.strict &= strict;
    Ok(data)
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
    Ok(coder.source.end()?.end)
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
    /// That of each segment so far.
    paddings: Vec<(u32, u8)>,
}

impl<'a> Source<'a> {
    fn begin(bytes: &'a [u8], at: usize, bits: &'a mut Bits, padding: &'a mut Padding) -> Self {
        let marker = bits.begin(bytes, at);
        Self { bytes, bits, begin: at, marker, padding, paddings: Vec::new() }
    }

    fn pad(&mut self) -> Result<(), Unusual> {
        let padding = self.bits.padding()?;
        self.padding.push(padding);
        self.paddings.push(padding);
        Ok(())
    }

    fn restart(&mut self, number: u8) -> Result<(), Unusual> {
        self.pad()?;
        let marker = self.bytes.get(self.marker..).unwrap_or_default();
        if self.bits.unread() > 0 || !marker.starts_with(&[0xff, 0xd0 + number]) {
            return Err(Unusual("a restart marker that is not where it should be"));
        }
        self.begin = self.marker + 2;
        self.marker = self.bits.begin(self.bytes, self.begin);
        Ok(())
    }

    /// Behind the last segment; strict if all of it has been read.
    fn end(mut self) -> Result<Data, Unusual> {
        self.pad()?;
        let strict = self.bits.unread() == 0;
        Ok(Data { end: self.bits.end(self.begin, self.marker), padding: self.paddings, strict })
    }
}

/// The next first coefficient.
#[inline(always)]
fn added(last: &mut i32, difference: i16) -> Result<i16, Unusual> {
    *last += i32::from(difference);
    i16::try_from(*last).map_err(|_| Unusual("a coefficient of more than 16 bits"))
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
    /// Of all blocks, any bit of what they had behind their last value.
    behind: u32,
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
        let (dc, ac) = (self.dc[slot & 3], self.ac[slot & 3]);
        let (state, data) = self.source.bits.parts();
        // In registers, not in memory.
        let (mut at, mut count, mut last, mut behind) = (*state, 0, self.last[slot & 3], 0);
        for (bitmap, first) in row.bitmaps.iter_mut().zip(row.dc).take(columns.len()) {
            *first = added(&mut last, sequential::first((&mut at, data), dc)?)?;
            let values = row.values.get_mut(count..).and_then(|room| room.first_chunk_mut());
            let taken = sequential::rest((&mut at, data), ac, values.ok_or(missing)?)?;
            *bitmap = taken.bitmap;
            behind |= taken.behind;
            count += bitmap.count_ones() as usize;
        }
        (*state, self.last[slot & 3]) = (at, last);
        *row.count += count;
        self.behind |= behind;
        Ok(())
    }

    /// One block after the other, whichever its row: how many a loop over the blocks of one row has is nothing that
    /// a processor foresees, with so much between them that nobody can.
    #[inline(always)]
    fn units(&mut self, band: usize, units: Range<usize>, factors: &[(usize, usize)]) -> Result<(), Unusual> {
        let missing = Unusual("blocks that are not there");
        let (mut rows, mut order) = (Vec::with_capacity(MOST_BLOCKS), Vec::with_capacity(MOST_BLOCKS));
        for (slot, &(h, v)) in factors.iter().enumerate() {
            let component = self.components[slot & 3];
            for row in band * v..band * v + v {
                let begins = self
                    .planes
                    .get(component)
                    .and_then(|plane| plane.begins(row, units.start * h, units.len() * h));
                let (block, value) = begins.ok_or(missing)?;
                order.extend(std::iter::repeat_n((rows.len(), self.dc[slot & 3], self.ac[slot & 3]), h));
                rows.push(Growing { slot, component, row, block, value });
            }
        }
        let (state, data) = self.source.bits.parts();
        // In registers, not in memory.
        let (mut at, mut behind, mut next) = (*state, 0, 0);
        for _ in 0..units.len() * order.len() {
            let (number, dc, ac) = order[next];
            next += 1;
            next = if next == order.len() { 0 } else { next };
            // This first: when it was not foreseen that the last block ended there, all waits for the next code.
            let difference = sequential::first((&mut at, data), dc)?;
            let row = rows.get_mut(number).ok_or(missing)?;
            let block =
                self.planes.get_mut(row.component).and_then(|plane| plane.block(row.block, row.value));
            let (bitmap, first, values) = block.ok_or(missing)?;
            *first = added(&mut self.last[row.slot & 3], difference)?;
            let taken = sequential::rest((&mut at, data), ac, values)?;
            *bitmap = taken.bitmap;
            behind |= taken.behind;
            row.block += 1;
            row.value += taken.bitmap.count_ones() as usize;
        }
        *state = at;
        for row in rows {
            if let Some(plane) = self.planes.get_mut(row.component) {
                plane.ends(row.row, row.value);
            }
        }
        self.behind |= behind;
        Ok(())
    }

    fn restart(&mut self, number: u8) -> Result<(), Unusual> {
        self.last = [0; 4];
        self.source.restart(number)
    }
}

/// Most blocks of a coding unit.
const MOST_BLOCKS: usize = 10;

/// A row of blocks that is being filled.
struct Growing {
    slot: usize,
    component: usize,
    row: usize,
    /// The places of its next block and of that block's values.
    block: usize,
    value: usize,
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
