//! Here: blocks of coefficients to the streams of a band, many values at a time: what `expand.rs` undoes.
//! Not here: the grammar of the whole (`layout.rs`).
//!
//! As there, in two steps: the values of all blocks, one after the other, then what is told of each. Stores are of
//! 64 entries always, into buffers with room for so many more.

use super::coefficients::Component;
use super::layout::{DC_WIDE, ESCAPED, LEAST_LARGE, WIDE, number};
use super::order::ZIGZAG;
use super::simd::Steps;
use crate::ops::simd::{Simd, kernel};

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
    rest: u128,
    count: usize,
}

impl Bits {
    /// Of `bits` there are none from `count` on, which is 64 at most.
    #[inline(always)]
    fn push(&mut self, bits: u64, count: usize) {
        let waiting = self.count % 64;
        self.rest |= u128::from(bits) << waiting;
        if waiting + count >= 64 {
            self.bytes.extend_from_slice(&(self.rest as u64).to_le_bytes());
            self.rest >>= 64;
        }
        self.count += count;
    }

    /// The last ones.
    fn finish(&mut self) {
        self.bytes.extend_from_slice(&(self.rest as u64).to_le_bytes()[..(self.count % 64).div_ceil(8)]);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        (self.rest, self.count) = (0, 0);
    }
}

impl Compressor {
    /// Appends a band of an image's components to `out`.
    pub(crate) fn band(&mut self, simd: Simd, components: &[Component], band: usize, out: &mut Vec<u8>) {
        self.bitmaps.clear();
        for stream in [&mut self.codes, &mut self.dc, &mut self.dc_wide] {
            stream.clear();
        }
        let mut count = 0;
        for component in components {
            let (v, columns) = (usize::from(component.v), component.columns as usize);
            let mut above = 0;
            for row in band * v..(band + 1) * v {
                let blocks = &component.blocks[row * columns..][..columns];
                self.differences(blocks, above);
                above = blocks.first().map_or(0, |block| block[0]);
                self.values.resize(count + columns * CHUNK, 0);
                count = scan_row(simd, self, blocks, count);
            }
        }
        self.bitmaps.finish();
        self.values.resize(count.next_multiple_of(CHUNK), 0);
        self.values[count..].fill(0);
        let large = split_values(simd, self, count);
        self.write(count, large, out);
    }

    /// DC values: the first differs from `above`, the others from their left.
    fn differences(&mut self, blocks: &[[i16; 64]], above: i16) {
        let mut before = above;
        for block in blocks {
            let difference = block[0].wrapping_sub(before);
            before = block[0];
            match i8::try_from(difference) {
                Ok(small) if small != DC_WIDE => self.dc.push(small.cast_unsigned()),
                _ => {
                    self.dc.push(DC_WIDE.cast_unsigned());
                    self.dc_wide.extend_from_slice(&difference.to_le_bytes());
                }
            }
        }
    }

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
fn nibbles(values: &[u8], out: &mut Vec<u8>) {
    let (pairs, last) = values.as_chunks::<2>();
    out.extend(pairs.iter().map(|[low, high]| low | high << 4));
    out.extend_from_slice(last);
}

kernel! {
    /// Appends the values of a row of blocks to the first `count`, and returns how many there are then.
    fn scan_row / scan_row_in[V: Steps](band: &mut Compressor, blocks: &[[i16; 64]], count: usize) -> usize {
        let mut count = count;
        for block in blocks {
            let Some(values) = band.values[count..].first_chunk_mut() else { return count };
            let bitmap = V::scan(block, values) >> 1;
            count += bitmap.count_ones() as usize;
            let nibbles = (64 - bitmap.leading_zeros()).div_ceil(4) as usize;
            let (code, nibbles) = if nibbles < 15 { (nibbles, nibbles) } else { (15, 16) };
            band.codes.push(code as u8);
            band.bitmaps.push(bitmap, 4 * nibbles);
        }
        count
    }
}

kernel! {
    /// What is told of the first `count` values. Returns how many are large.
    fn split_values / split_values_in[V: Steps](band: &mut Compressor, count: usize) -> usize {
        for stream in [&mut band.signs, &mut band.large, &mut band.escapes, &mut band.wide] {
            stream.clear();
        }
        band.magnitudes.resize(count + 2 * CHUNK, 0);
        let mut found = 0;
        for values in band.values[..count.next_multiple_of(CHUNK)].as_chunks::<CHUNK>().0 {
            let Some(magnitudes) = band.magnitudes[found..].first_chunk_mut() else { return found };
            let [signs, large] = V::split(values, magnitudes);
            found += large.count_ones() as usize;
            band.signs.extend_from_slice(&signs.to_le_bytes());
            band.large.extend_from_slice(&large.to_le_bytes());
        }
        band.magnitudes[found..].fill(0);
        let mut wide = 0;
        for magnitudes in band.magnitudes[..found.next_multiple_of(CHUNK)].as_chunks_mut::<CHUNK>().0 {
            let mut escapes = [0; CHUNK];
            let count = V::escape(magnitudes, &mut escapes);
            wide += escapes[..count].iter().filter(|&&escape| escape == WIDE).count();
            band.escapes.extend_from_slice(&escapes[..count]);
        }
        if wide > 0 {
            let is_wide = |value: &&i16| value.unsigned_abs() > 127;
            let values = band.values[..count].iter().filter(is_wide);
            band.wide.extend(values.flat_map(|value| value.to_le_bytes()));
        }
        found
    }
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
pub(crate) fn split(values: &[i16; 64], magnitudes: &mut [u8; 64]) -> [u64; 2] {
    let (mut signs, mut large, mut count) = (0, 0, 0);
    for (i, &value) in values.iter().enumerate() {
        let magnitude = value.unsigned_abs().min(255) as u8;
        let is_large = magnitude >= LEAST_LARGE;
        // Written whether it counts or not: quicker than to ask. There are at most `i` before.
        magnitudes[count & 63] = magnitude.wrapping_sub(LEAST_LARGE);
        count += usize::from(is_large);
        signs |= u64::from(value < 0) << i;
        large |= u64::from(is_large) << i;
    }
    [signs, large]
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
