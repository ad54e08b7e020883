//! Here: blocks of coefficients to the streams of a band, many values at a time: what `expand.rs` undoes.
//! Not here: the grammar of the whole (`layout.rs`).
//!
//! As there, in two steps: the values of all blocks, one after the other, then what is told of each. Stores are of
//! 64 entries always, into buffers with room for so many more.

use super::layout::{DC_WIDE, ESCAPED, LEAST_LARGE, WIDE, number};
use super::order::ZIGZAG;
use super::simd::Steps;
use super::sparse::Blocks;
use crate::ops::simd::kernel;

/// Entries that are worked on together.
const CHUNK: usize = 64;

/// The streams of a band in the making. Made to be reused.
#[derive(Default)]
pub(crate) struct Compressor {
    codes: Vec<u8>,
    dc: Vec<u8>,
    dc_wide: Vec<u8>,
    bitmaps: Bits,
    values: Vec<i16>,
    signs: Vec<u8>,
    large: Vec<u8>,
    magnitudes: Vec<u8>,
    escapes: Vec<u8>,
    wide: Vec<u8>,
}

/// Bits that are appended a few at a time, the lowest first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    count: usize,
}

impl Bits {
    fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// Bitmaps without their lowest bit, up to their highest set bit, in whole 4 bits; of each how many of these
    /// there are: 15 stands for 16, which 15 are counted as.
    #[inline(always)]
    fn extend(&mut self, bitmaps: &[u64], codes: &mut Vec<u8>) {
        // The last write is of 16 bytes.
        self.bytes.resize(self.count / 8 + 8 * bitmaps.len() + 16, 0);
        let (mut at, mut waiting) = (self.count / 8, self.count as u32 % 8);
        let mut rest = u128::from(self.bytes[at]) & ((1 << waiting) - 1);
        codes.extend(bitmaps.iter().map(|&bitmap| {
            let bitmap = bitmap >> 1;
            let nibbles = (64 - bitmap.leading_zeros()).div_ceil(4);
            let nibbles = if nibbles < 15 { nibbles } else { 16 };
            rest |= u128::from(bitmap) << waiting;
            if let Some(room) = self.bytes.get_mut(at..at + 16) {
                room.copy_from_slice(&rest.to_le_bytes());
            }
            waiting += 4 * nibbles;
            at += (waiting / 8) as usize;
            rest >>= waiting & !7;
            waiting %= 8;
            nibbles.min(15) as u8
        }));
        self.count = 8 * at + waiting as usize;
    }

    /// All whole bytes, and the last one with zeros.
    fn finish(&mut self) {
        self.bytes.truncate(self.count.div_ceil(8));
    }
}

kernel! {
    /// Appends a band of an image's components to `out`.
    pub(crate) fn compress / compress_in[V: Steps](band: &mut Compressor, planes: &[Blocks], number: usize, out: &mut Vec<u8>) -> () {
        band.begin();
        for blocks in planes {
            let v = usize::from(blocks.plane.v);
            let mut above = 0;
            for row in number * v..(number + 1) * v {
                let row = blocks.row(row);
                band.differences(row.dc, above);
                above = row.dc.first().copied().unwrap_or_default();
                band.values.extend_from_slice(row.values);
                band.bitmaps.extend(row.bitmaps, &mut band.codes);
            }
        }
        band.bitmaps.finish();
        let count = band.values.len();
        band.values.resize(count.next_multiple_of(CHUNK), 0);
        let large = split_in::<V>(band, count);
        band.write(count, large, out);
    }
}

impl Compressor {
    fn begin(&mut self) {
        self.bitmaps.clear();
        self.values.clear();
        for stream in [&mut self.codes, &mut self.dc, &mut self.dc_wide] {
            stream.clear();
        }
    }

    /// DC values: the first differs from `above`, the others from their left.
    #[inline(always)]
    fn differences(&mut self, values: &[i16], above: i16) {
        let Some(&first) = values.first() else { return };
        let begin = self.dc.len();
        let difference = |(before, value): (i16, i16)| value.wrapping_sub(before);
        let small = |difference: i16| difference.clamp(DC_WIDE.into(), i16::from(i8::MAX) + 1) as i8;
        let pairs = || values.iter().zip(&values[1..]).map(|(&before, &value)| (before, value));
        self.dc.push(small(difference((above, first))).cast_unsigned());
        self.dc.extend(pairs().map(|pair| small(difference(pair)).cast_unsigned()));
        // What is too large either way has become -128.
        for (at, &small) in self.dc[begin..].iter().enumerate() {
            if small == DC_WIDE.cast_unsigned() {
                let before = if at == 0 { above } else { values[at - 1] };
                self.dc_wide.extend(difference((before, values[at])).to_le_bytes());
            }
        }
    }

    #[inline(always)]
    fn write(&self, count: usize, large: usize, out: &mut Vec<u8>) {
        number(self.bitmaps.count / 4, out);
        number(count, out);
        number(large, out);
        number(self.escapes.len(), out);
        number(self.wide.len() / 2, out);
        number(self.dc_wide.len() / 2, out);
        nibbles(&self.codes, out);
        out.extend_from_slice(&self.dc);
        out.extend_from_slice(&self.dc_wide);
        out.extend_from_slice(&self.bitmaps.bytes);
        out.extend_from_slice(&self.signs[..count.div_ceil(8)]);
        out.extend_from_slice(&self.large[..count.div_ceil(8)]);
        nibbles(&self.magnitudes[..large], out);
        out.extend_from_slice(&self.escapes);
        out.extend_from_slice(&self.wide);
    }
}

/// Two in each byte, the first in its lower half.
#[inline(always)]
fn nibbles(values: &[u8], out: &mut Vec<u8>) {
    let (pairs, last) = values.as_chunks::<2>();
    out.extend(pairs.iter().map(|[low, high]| low | high << 4));
    out.extend_from_slice(last);
}

/// What is told of the first `count` values. Returns how many are large.
#[inline(always)]
fn split_in<V: Steps>(band: &mut Compressor, count: usize) -> usize {
    let whole = count.next_multiple_of(CHUNK);
    band.wide.clear();
    band.signs.resize(whole / 8, 0);
    band.large.resize(whole / 8, 0);
    // All may be large, and all escapes; each chunk is written whole.
    band.magnitudes.resize(whole + CHUNK, 0);
    band.escapes.resize(whole + CHUNK, 0);
    let mut found = 0;
    let streams = band.signs.as_chunks_mut().0.iter_mut().zip(band.large.as_chunks_mut().0);
    for (values, (signs, large)) in band.values[..whole].as_chunks::<CHUNK>().0.iter().zip(streams) {
        let Some(magnitudes) = band.magnitudes[found..].first_chunk_mut() else { return found };
        let [negative, is_large, mut is_wide] = V::split(values, magnitudes);
        found += is_large.count_ones() as usize;
        [*signs, *large] = [negative, is_large].map(u64::to_le_bytes);
        while is_wide != 0 {
            band.wide.extend(values[is_wide.trailing_zeros() as usize & 63].to_le_bytes());
            is_wide &= is_wide - 1;
        }
    }
    let end = found.next_multiple_of(CHUNK);
    band.magnitudes[found..end].fill(0);
    let mut escaped = 0;
    for magnitudes in band.magnitudes[..end].as_chunks_mut::<CHUNK>().0 {
        let Some(escapes) = band.escapes[escaped..].first_chunk_mut() else { return found };
        escaped += V::escape(magnitudes, escapes);
    }
    band.escapes.truncate(escaped);
    found
}
/// The definition of `Steps::scan`.
#[inline(always)]
pub(crate) fn scan(block: &[i16; 64], values: &mut [i16; 64]) -> u64 {
    let (mut bitmap, mut count) = (0, 0);
    for (place, &natural) in ZIGZAG.iter().enumerate().skip(1) {
        let value = block[usize::from(natural)];
        // Written whether it counts or not: quicker than to ask.
        values[count & 63] = value;
        count += usize::from(value != 0);
        bitmap |= u64::from(value != 0) << place;
    }
    bitmap
}

/// The definition of `Steps::split`.
#[inline(always)]
pub(crate) fn split(values: &[i16; 64], magnitudes: &mut [u8; 64]) -> [u64; 3] {
    let (mut signs, mut large, mut wide, mut count) = (0, 0, 0, 0);
    for (i, &value) in values.iter().enumerate() {
        let magnitude = value.unsigned_abs().min(255) as u8;
        let is_large = magnitude >= LEAST_LARGE;
        // Written whether it counts or not: quicker than to ask. There are at most `i` before.
        magnitudes[count & 63] = magnitude.wrapping_sub(LEAST_LARGE);
        count += usize::from(is_large);
        signs |= u64::from(value < 0) << i;
        large |= u64::from(is_large) << i;
        wide |= u64::from(magnitude > 127) << i;
    }
    [signs, large, wide]
}

/// The definition of `Steps::escape`.
#[inline(always)]
pub(crate) fn escape(magnitudes: &mut [u8; 64], escapes: &mut [u8; 64]) -> usize {
    let mut count = 0;
    for magnitude in magnitudes {
        let escaped = *magnitude >= ESCAPED;
        escapes[count & 63] = magnitude.wrapping_sub(ESCAPED).min(WIDE);
        count += usize::from(escaped);
        *magnitude = (*magnitude).min(ESCAPED);
    }
    count
}
