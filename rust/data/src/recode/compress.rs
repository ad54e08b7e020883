//! Here: blocks of coefficients to the streams of a band, many values at a time: what `expand.rs` undoes.
//! Not here: the grammar of the whole (`layout.rs`).
//!
//! Values are split where they are, a row of blocks after the other; what is told of each ends at any bit. Stores are
//! of 64 entries always, into buffers with room for so many more.

use super::layout::{DC_WIDE, ESCAPED, LEAST_LARGE, WIDE, number};
use super::order::ZIGZAG;
use super::simd::Steps;
use super::sparse::{Blocks, Row};
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
    signs: Vec<u8>,
    large: Vec<u8>,
    magnitudes: Vec<u8>,
    escapes: Vec<u8>,
    wide: Vec<u8>,
    /// How many values there are so far, how many of these are large, and of those escapes.
    count: usize,
    num_large: usize,
    num_escapes: usize,
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
        // The last write is of 9 bytes.
        self.bytes.resize(self.count / 8 + 8 * bitmaps.len() + 16, 0);
        // What waits for its other half is 4 bits, or nothing.
        let (mut at, mut waiting) = (self.count / 8, self.count as u32 % 8);
        let mut rest = u64::from(self.bytes[at]) & ((1 << waiting) - 1);
        codes.extend(bitmaps.iter().map(|&bitmap| {
            let bitmap = bitmap >> 1;
            let nibbles = (64 - bitmap.leading_zeros()).div_ceil(4);
            let nibbles = if nibbles < 15 { nibbles } else { 16 };
            if let Some(room) = self.bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<9>) {
                room[..8].copy_from_slice(&(bitmap << waiting | rest).to_le_bytes());
                room[8] = (bitmap >> 1 >> (63 - waiting)) as u8;
            }
            // The last 4 bits of these, not of all that wait: nothing but the place depends on the block before.
            let last = bitmap >> ((4 * nibbles).wrapping_sub(4) & 63);
            rest = if nibbles == 0 { rest } else { last };
            waiting += 4 * nibbles;
            at += (waiting / 8) as usize;
            waiting %= 8;
            rest = if waiting == 0 { 0 } else { rest };
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
                band.split::<V>(&row);
                band.bitmaps.extend(row.bitmaps, &mut band.codes);
            }
        }
        band.bitmaps.finish();
        band.escape::<V>();
        band.write(out);
    }
}

impl Compressor {
    fn begin(&mut self) {
        self.bitmaps.clear();
        (self.count, self.num_large) = (0, 0);
        for stream in [&mut self.codes, &mut self.dc, &mut self.dc_wide, &mut self.wide] {
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
        // What is too large either way has become -128. Whether any has is asked of many at a time.
        let is_wide = |&small: &u8| small == DC_WIDE.cast_unsigned();
        if !self.dc[begin..].iter().fold(false, |any, small| any | is_wide(small)) {
            return;
        }
        for (at, small) in self.dc[begin..].iter().enumerate() {
            if is_wide(small) {
                let before = if at == 0 { above } else { values[at - 1] };
                self.dc_wide.extend(difference((before, values[at])).to_le_bytes());
            }
        }
    }

    /// What is told of a row's values, which are read where they are.
    #[inline(always)]
    fn split<V: Steps>(&mut self, row: &Row<'_>) {
        let end = self.count + row.values.len();
        for (stream, room) in [
            (&mut self.signs, end / 8 + MORE_FLAGS),
            (&mut self.large, end / 8 + MORE_FLAGS),
            // All may be large, and all escapes; each chunk is written whole.
            (&mut self.magnitudes, end + 2 * CHUNK),
            (&mut self.escapes, end + 2 * CHUNK),
        ] {
            // Never shorter: what is behind the end means nothing.
            if stream.len() < room {
                stream.resize(2 * room, 0);
            }
        }
        let (mut count, mut found) = (self.count, self.num_large);
        for values in row.padded {
            let Some(magnitudes) = self.magnitudes[found..].first_chunk_mut() else { return };
            let there = u64::MAX >> (CHUNK - (end - count).min(CHUNK));
            let [negative, large, mut wide] = V::split(values, magnitudes).map(|flags| flags & there);
            append(&mut self.signs, count, negative);
            append(&mut self.large, count, large);
            found += large.count_ones() as usize;
            while wide != 0 {
                self.wide.extend(values[wide.trailing_zeros() as usize & 63].to_le_bytes());
                wide &= wide - 1;
            }
            count += CHUNK;
        }
        (self.count, self.num_large) = (end, found);
    }

    /// What is told of the magnitudes of large values.
    #[inline(always)]
    fn escape<V: Steps>(&mut self) {
        let end = self.num_large.next_multiple_of(CHUNK);
        if let Some(behind) = self.magnitudes.get_mut(self.num_large..end) {
            behind.fill(0);
        }
        self.num_escapes = 0;
        for magnitudes in self.magnitudes[..end].as_chunks_mut::<CHUNK>().0 {
            let Some(escapes) = self.escapes[self.num_escapes..].first_chunk_mut() else { return };
            self.num_escapes += V::escape(magnitudes, escapes);
        }
    }

    #[inline(always)]
    fn write(&self, out: &mut Vec<u8>) {
        let (count, large) = (self.count, self.num_large);
        number(self.bitmaps.count / 4, out);
        number(count, out);
        number(large, out);
        number(self.num_escapes, out);
        number(self.wide.len() / 2, out);
        number(self.dc_wide.len() / 2, out);
        nibbles(&self.codes, out);
        out.extend_from_slice(&self.dc);
        out.extend_from_slice(&self.dc_wide);
        out.extend_from_slice(&self.bitmaps.bytes);
        out.extend_from_slice(&self.signs[..count.div_ceil(8)]);
        out.extend_from_slice(&self.large[..count.div_ceil(8)]);
        nibbles(&self.magnitudes[..large], out);
        out.extend_from_slice(&self.escapes[..self.num_escapes]);
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

/// Room behind flags for a store of so many bytes.
const MORE_FLAGS: usize = 24;

/// Puts flags, the lowest first, behind `count` others.
#[inline(always)]
fn append(stream: &mut [u8], count: usize, flags: u64) {
    let Some(room) = stream.get_mut(count / 8..).and_then(<[u8]>::first_chunk_mut::<16>) else { return };
    let before = room[0] & ((1 << (count % 8)) - 1);
    *room = (u128::from(flags) << (count % 8) | u128::from(before)).to_le_bytes();
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
