//! Here: the streams of a band to blocks of coefficients, many values at a time.
//! Not here: the grammar of the whole (`layout.rs`), what becomes of the blocks (`idct.rs`).
//!
//! First all values of the band, one after the other and without a look at where blocks begin; then each
//! block's are spread over the places that its bitmap names. Both are the vector instruction "expand". Loads are
//! of 64 bytes always: every buffer has so many behind its end, and every index into one is checked.

mod heads;
mod matching;

use std::ops::Range;

use super::layout::{
    BITMAPS, DC_WIDE, ESCAPED, LEAST_ESCAPED, LEAST_LARGE, Layout, PairedSteps, Reader, WIDE, damaged,
};
use super::order::{BEYOND_CORNER, Block, NATURAL_TO_PAIRED, ZIGZAG_TO_PAIRED};
use super::pieces::WIDE_VALUE;
use super::simd::Steps;
use crate::error::Result;
use crate::ops::simd::{Simd, kernel};

pub(super) use heads::Heads;
pub(super) use matching::same;

/// Bytes behind the end of every buffer.
const SLACK: usize = 128;

/// Rows of blocks are padded to a multiple of so many, as many as any instruction set transforms together.
pub(crate) const TOGETHER: usize = 4;

/// A value that needs 16 bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wide {
    /// Which of the band's values.
    pub(crate) at: usize,
    pub(crate) value: i16,
}

/// Where streams begin in the bytes of a band.
#[derive(Debug, Clone, Copy, Default)]
struct Streams {
    dc: usize,
    dc_wide: usize,
    bitmaps: usize,
    signs: usize,
    large: usize,
    magnitudes: usize,
    escapes: usize,
    wide: usize,
    end: usize,
}

/// How many things streams hold.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    blocks: usize,
    bitmaps: usize,
    values: usize,
    large: usize,
    escapes: usize,
    wide: usize,
    dc_wide: usize,
}

/// How far the rows of a band have been expanded.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    block: usize,
    bitmap: usize,
    value: usize,
    wide: usize,
    dc_wide: usize,
    /// The first DC value of the row before, of the same component.
    above: i16,
}

/// A band that is being expanded. Made to be reused.
#[derive(Default)]
pub(crate) struct Expander {
    bytes: Vec<u8>,
    streams: Streams,
    counts: Counts,
    magnitudes: Vec<u8>,
    values: Vec<u8>,
    wide: Vec<Wide>,
    corners: Vec<bool>,
    cursor: Cursor,
}

impl Expander {
    /// Reads the streams of a band and all of its values.
    pub(crate) fn open(&mut self, simd: Simd, layout: &Layout<'_>, band: usize) -> Result<()> {
        let mut reader = Reader(layout.band(band));
        let counts = &mut self.counts;
        counts.blocks = layout.planes.iter().map(|plane| plane.columns * usize::from(plane.v)).sum();
        for count in [
            &mut counts.bitmaps,
            &mut counts.values,
            &mut counts.large,
            &mut counts.escapes,
            &mut counts.wide,
            &mut counts.dc_wide,
        ] {
            *count = reader.number()?;
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(reader.0);
        self.streams = Streams::of(counts);
        if self.streams.end != self.bytes.len() {
            return Err(damaged("streams that do not fill their band"));
        }
        self.bytes.resize(self.streams.end + SLACK, 0);
        self.cursor = Cursor::default();
        let fits = values_of(simd, self);
        if fits { Ok(()) } else { Err(damaged("values that do not fit their streams")) }
    }

    /// The next component begins: its DC values are no continuation of the last one's.
    pub(crate) fn component(&mut self) {
        self.cursor.above = 0;
    }

    /// Expands the next row of `columns` blocks; those of `wanted` go to `blocks`, padded with zeros to a
    /// multiple of `TOGETHER`.
    pub(crate) fn row(
        &mut self,
        simd: Simd,
        columns: usize,
        wanted: Range<usize>,
        blocks: &mut Vec<Block>,
    ) -> Result<()> {
        blocks.resize(wanted.len().next_multiple_of(TOGETHER), Block::ZERO);
        blocks[wanted.len()..].fill(Block::ZERO);
        self.corners.resize(blocks.len(), true);
        self.corners[wanted.len()..].fill(true);
        let fits = row_of(simd, self, columns, wanted, blocks);
        if fits { Ok(()) } else { Err(damaged("blocks that do not fit their streams")) }
    }

    /// Of each of the last row's blocks, whether it has nothing beyond its corner (`BEYOND_CORNER`).
    pub(crate) fn corners(&self) -> &[bool] {
        &self.corners
    }

    /// Every row has been expanded: the streams must be, too.
    pub(crate) fn close(&self) -> Result<()> {
        let (Cursor { block, bitmap, value, wide, dc_wide, .. }, counts) = (self.cursor, &self.counts);
        let whole = block == counts.blocks
            && bitmap == counts.bitmaps
            && value == counts.values
            && wide == self.wide.len()
            && dc_wide == counts.dc_wide;
        if whole { Ok(()) } else { Err(damaged("streams longer than their blocks")) }
    }
}

impl Streams {
    fn of(counts: &Counts) -> Self {
        let dc = counts.blocks.div_ceil(2);
        let dc_wide = dc + counts.blocks;
        let bitmaps = dc_wide + 2 * counts.dc_wide;
        let signs = bitmaps + counts.bitmaps.div_ceil(2);
        let large = signs + counts.values.div_ceil(8);
        let magnitudes = large + counts.values.div_ceil(8);
        let escapes = magnitudes + counts.large.div_ceil(2);
        let wide = escapes + counts.escapes;
        Self { dc, dc_wide, bitmaps, signs, large, magnitudes, escapes, wide, end: wide + 2 * counts.wide }
    }
}

/// The 64 bytes from an index on, if there are so many.
#[inline(always)]
fn window(bytes: &[u8], at: usize) -> Option<&[u8; 64]> {
    bytes.get(at..)?.first_chunk()
}

kernel! {
    /// All values of a band; false if its streams contradict each other.
    fn values_of / values_in[V: Steps](band: &mut Expander) -> bool {
        magnitudes_in::<V>(band) && signed_in::<V>(band).is_some()
    }
}

/// The magnitudes of large values, escapes among them.
#[inline(always)]
fn magnitudes_in<V: Steps>(band: &mut Expander) -> bool {
    let (streams, count) = (band.streams, band.counts.large);
    let packed = &band.bytes[streams.magnitudes..streams.escapes];
    // What is behind the last is 0 and thus no escape.
    let out = &mut band.magnitudes;
    out.resize(count.next_multiple_of(64) + SLACK, 0);
    out[count..].fill(0);
    for (two, &byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(packed) {
        *two = (u16::from(byte & 15) | u16::from(byte >> 4) << 8).to_le_bytes();
    }
    out[count] = 0;
    let (bytes, mut escape) = (&band.bytes[..], streams.escapes);
    for chunk in out[..count.next_multiple_of(64)].as_chunks_mut::<64>().0 {
        let Some(escapes) = window(bytes, escape) else { return false };
        escape += V::magnitudes(chunk, escapes);
    }
    escape == streams.wide
}

/// The values themselves, of 8 bits; those of 16 apart. `None` where streams end early or late.
#[inline(always)]
fn signed_in<V: Steps>(band: &mut Expander) -> Option<()> {
    let (streams, count) = (band.streams, band.counts.values);
    let whole = count.next_multiple_of(64);
    band.values.resize(whole + SLACK, 0);
    band.wide.clear();
    // By themselves, so that nothing is looked up again for each of them.
    let (bytes, magnitudes, list) = (&band.bytes[..], &band.magnitudes[..], &mut band.wide);
    let signs = bytes.get(streams.signs..streams.signs + whole / 8)?.as_chunks().0;
    let large = bytes.get(streams.large..streams.large + whole / 8)?.as_chunks().0;
    let (mut magnitude, mut wide) = (0, streams.wide);
    let chunks = band.values[..whole].as_chunks_mut::<64>().0.iter_mut();
    for (i, (out, (&signs, &large))) in chunks.zip(signs.iter().zip(large)).enumerate() {
        let there = u64::MAX >> (64 - (count - 64 * i).min(64));
        let (signs, large) = (u64::from_le_bytes(signs), u64::from_le_bytes(large) & there);
        let mut found = V::values(signs, large, window(magnitudes, magnitude)?, out) & large;
        magnitude += large.count_ones() as usize;
        while found != 0 {
            let at = 64 * i + found.trailing_zeros() as usize;
            found &= found - 1;
            let value = i16::from_le_bytes(*bytes[..streams.end].get(wide..)?.first_chunk()?);
            wide += 2;
            list.push(Wide { at, value });
            out[at % 64] = WIDE_VALUE;
        }
    }
    (magnitude == band.counts.large && wide == streams.end).then_some(())
}

kernel! {
    /// One row of blocks; false if the streams end early.
    fn row_of / row_in[V: Steps](
        band: &mut Expander,
        columns: usize,
        wanted: Range<usize>,
        blocks: &mut [Block],
    ) -> bool {
        let (mut cursor, mut corners) = (band.cursor, std::mem::take(&mut band.corners));
        let done = row_from::<V>(band, &mut cursor, columns, wanted, blocks, &mut corners);
        (band.cursor, band.corners) = (cursor, corners);
        done.is_some()
    }
}

/// The next block's bitmap, the DC coefficient's place left free; changes the DC coefficient from the last one's.
#[inline(always)]
fn next_block(band: &Expander, streams: Streams, cursor: &mut Cursor, dc: &mut i16) -> Option<u64> {
    let bytes = &band.bytes[..];
    let code = bytes[..streams.dc].get(cursor.block / 2)? >> (4 * (cursor.block % 2)) & 15;
    let mask = BITMAPS[usize::from(code)];
    let around = bytes.get(streams.bitmaps + cursor.bitmap / 2..)?.first_chunk::<16>()?;
    let bitmap = ((u128::from_le_bytes(*around) >> (4 * (cursor.bitmap % 2))) as u64 & mask) << 1;
    cursor.bitmap += mask.count_ones() as usize / 4;
    let difference = bytes[streams.dc..streams.dc_wide].get(cursor.block)?.cast_signed();
    cursor.block += 1;
    if difference == DC_WIDE {
        let from = streams.dc_wide + 2 * cursor.dc_wide;
        let wide = bytes[..streams.bitmaps].get(from..)?.first_chunk()?;
        *dc = dc.wrapping_add(i16::from_le_bytes(*wide));
        cursor.dc_wide += 1;
    } else {
        *dc = dc.wrapping_add(i16::from(difference));
    }
    Some(bitmap)
}

#[inline(always)]
fn row_from<V: Steps>(
    band: &Expander,
    cursor: &mut Cursor,
    columns: usize,
    wanted: Range<usize>,
    blocks: &mut [Block],
    corners: &mut [bool],
) -> Option<()> {
    let streams = band.streams;
    let mut dc = cursor.above;
    // The value at which the next wide one stands; none of a band's has this index.
    let mut next_wide = band.wide.get(cursor.wide).map_or(usize::MAX, |wide| wide.at);
    for column in 0..columns {
        let bitmap = next_block(band, streams, cursor, &mut dc)?;
        if column == 0 {
            cursor.above = dc;
        }
        let value = cursor.value;
        cursor.value += bitmap.count_ones() as usize;
        if wanted.contains(&column) {
            let (block, corner) =
                (blocks.get_mut(column - wanted.start)?, corners.get_mut(column - wanted.start)?);
            *corner = bitmap & BEYOND_CORNER == 0;
            V::block(bitmap, window(&band.values, value)?, block);
            block.0[0] = dc;
            if next_wide < cursor.value {
                widen(&band.wide[cursor.wide..], bitmap, value, block);
            }
        }
        while next_wide < cursor.value {
            cursor.wide += 1;
            next_wide = band.wide.get(cursor.wide).map_or(usize::MAX, |wide| wide.at);
        }
    }
    Some(())
}

/// Writes those of `wide` that the block has over what stands in their places; its first value is `first`, and
/// none of `wide` stands before it.
#[inline(always)]
fn widen(wide: &[Wide], bitmap: u64, first: usize, block: &mut Block) {
    let (mut rest, mut at) = (bitmap, first);
    let end = first + bitmap.count_ones() as usize;
    for one in wide.iter().take_while(|one| one.at < end) {
        // The places of the values before it.
        while at < one.at {
            rest &= rest.wrapping_sub(1);
            at += 1;
        }
        block.0[usize::from(ZIGZAG_TO_PAIRED[rest.trailing_zeros() as usize & 63])] = one.value;
    }
}

/// A block in natural order.
pub(crate) fn natural(block: &Block) -> [i16; 64] {
    NATURAL_TO_PAIRED.map(|place| block.0[usize::from(place)])
}

/// The definition of `Steps::magnitudes`.
#[inline(always)]
pub(crate) fn magnitudes(chunk: &mut [u8; 64], escapes: &[u8; 64]) -> usize {
    let mut used = 0;
    for magnitude in chunk {
        *magnitude = if *magnitude != ESCAPED {
            *magnitude + LEAST_LARGE
        } else {
            used += 1;
            let escape = escapes[used - 1];
            if escape < WIDE { LEAST_ESCAPED + escape } else { u8::MAX }
        };
    }
    used
}

/// The definition of `Steps::values`.
#[inline(always)]
pub(crate) fn values(signs: u64, large: u64, magnitudes: &[u8; 64], out: &mut [u8; 64]) -> u64 {
    let (mut used, mut wide) = (0, 0);
    for (i, out) in out.iter_mut().enumerate() {
        let is_large = large >> i & 1 == 1;
        let magnitude = if is_large { magnitudes[used] } else { 1 };
        used += usize::from(is_large);
        wide |= u64::from(magnitude == u8::MAX) << i;
        *out = if signs >> i & 1 == 1 { magnitude.wrapping_neg() } else { magnitude };
    }
    wide
}

/// The definition of `Steps::block`.
#[inline(always)]
pub(crate) fn block(bitmap: u64, values: &[u8; 64], out: &mut Block) {
    *out = Block::ZERO;
    let mut rest = bitmap;
    for &value in values {
        if rest == 0 {
            break;
        }
        let place = ZIGZAG_TO_PAIRED[rest.trailing_zeros() as usize];
        out.0[usize::from(place)] = i16::from(value.cast_signed());
        rest &= rest - 1;
    }
}
