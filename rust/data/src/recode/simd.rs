//! Here: the steps of expansion and transformation for which compilers do not find the right instructions.
//! Not here: what they are put together to (`expand.rs`, `idct.rs`, `colour.rs`).
//!
//! `Portable` defines every step; all instruction sets give equal results.

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod colours;

use super::order::Block;
use super::pieces::Piece;
use super::{compress, expand};
use crate::ops::simd::Portable;

/// Steps of one instruction set; called inside `kernel!` only, where the CPU has it.
///
/// `Words` are 4 words of 32 bits, or 8 of 16, for each of `BLOCKS` blocks; no step mixes those of two.
pub(crate) trait Steps {
    /// Blocks that are transformed together.
    const BLOCKS: usize;

    /// The words in a vector.
    type Words: Copy;

    /// Turns magnitudes of 4 bits into those of 8: from `LEAST_LARGE` on, those that are `ESCAPED` by the next
    /// of `escapes`, 255 where that says `WIDE`. Returns how many escapes were taken.
    fn magnitudes(chunk: &mut [u8; 64], escapes: &[u8; 64]) -> usize;

    /// Values of 8 bits: those whose bit in `large` is set have the next magnitude, the others 1. Returns which
    /// have 255.
    fn values(signs: u64, large: u64, magnitudes: &[u8; 64], out: &mut [u8; 64]) -> u64;

    /// Spreads values over the places of a bitmap in zigzag order, and brings them into paired order.
    fn block(bitmap: u64, values: &[u8; 64], out: &mut Block);

    /// The sum of the magnitudes of values, each times the step at its place of a bitmap in zigzag order; `None` if
    /// that is not worth it here. No value is -128.
    #[inline(always)]
    fn weigh(_bitmap: u64, _values: &[u8; 64], _steps: &[u8; 64]) -> Option<u32> {
        None
    }

    /// Whether eight blocks have these bitmaps: of each its first 4 bits are so many of 4 bits from the start of `around`
    /// as a byte of `begins` and `odd` say, which is 0 or 1, and a byte of `counts` says how many there are; the lowest
    /// bit of a bitmap is not among them. `None` if that is not worth it here.
    #[inline(always)]
    fn same_bitmaps(
        _around: &[u8; 80],
        _begins: u64,
        _counts: u64,
        _odd: u64,
        _bitmaps: &[u64; 8],
    ) -> Option<bool> {
        None
    }

    /// Bytes of entropy-coded data without the zeros that stand behind each 0xFF, `behind` telling whether one is just
    /// before them: how many these are, and whether the last byte is one. `None` if something else than a zero stands
    /// behind one, or if that is not worth it here. What is written behind them means nothing.
    #[inline(always)]
    fn unstuff(_bytes: &[u8; 64], _behind: bool, _out: &mut [u8; 64]) -> Option<(usize, bool)> {
        None
    }

    /// The other way: the values of a block in natural order that are not zero, in zigzag order and without the
    /// first, and a bitmap of their places. What stands behind them means nothing.
    #[inline(always)]
    fn scan(block: &[i16; 64], values: &mut [i16; 64]) -> u64 {
        compress::scan(block, values)
    }

    /// Which values are negative, which larger than 1, and which larger than 127. Of the large ones the magnitudes, less
    /// `LEAST_LARGE`, or 253 for all from 255 on; what stands behind them means nothing.
    #[inline(always)]
    fn split(values: &[i16; 64], magnitudes: &mut [u8; 64]) -> [u64; 3] {
        compress::split(values, magnitudes)
    }

    /// Turns those magnitudes into 4 bits and escapes, and returns how many escapes there are.
    #[inline(always)]
    fn escape(magnitudes: &mut [u8; 64], escapes: &mut [u8; 64]) -> usize {
        compress::escape(magnitudes, escapes)
    }

    /// The pieces of a block's values, from the table of small ones. False if it lacks one of them, or if that is not
    /// worth it here: then what was written means nothing.
    #[inline(always)]
    fn pieces(_bitmap: u64, _values: &[u8; 64], _small: &[[Piece; 256]; 16], _out: &mut [Piece; 64]) -> bool {
        false
    }

    /// Puts pieces together by fours: their bits, the last one the lowest, and how many these are. `None` if one of
    /// them is none, if some have more than `MOST_JOINED` bits, or if that is not worth it here.
    #[inline(always)]
    fn join_pieces(_pieces: &[Piece; 16]) -> Option<[(u64, u64); 4]> {
        None
    }

    /// Four chunks of each block, from its half 0 or 1.
    fn load(blocks: &[Block], half: usize) -> [Self::Words; 4];

    /// The same eight 16-bit words for each block.
    fn repeat(words: &[i16; 8]) -> Self::Words;

    /// A pair of 16-bit words, low and high, everywhere.
    fn pair(low: i16, high: i16) -> Self::Words;

    /// A 32-bit word everywhere.
    fn word(value: i32) -> Self::Words;

    /// The same words, which stay where they are: compilers else make constants anew wherever they are used, although
    /// registers are short.
    #[inline(always)]
    fn kept(words: Self::Words) -> Self::Words {
        words
    }

    /// Products of 16-bit words, their lower halves.
    fn multiply(one: Self::Words, other: Self::Words) -> Self::Words;

    /// Sums of the two products of pairs, in 32 bits, and of what was there.
    fn dot(sum: Self::Words, one: Self::Words, other: Self::Words) -> Self::Words;

    /// Of 32-bit words.
    fn add(one: Self::Words, other: Self::Words) -> Self::Words;

    /// Of 32-bit words.
    fn subtract(one: Self::Words, other: Self::Words) -> Self::Words;

    /// 32-bit words shifted right, rounding down.
    fn shift<const BITS: u32>(words: Self::Words) -> Self::Words;

    /// Pairs of the 16 bits from bit `BITS` on of each word of `low` and of `high`.
    fn join<const BITS: u32>(low: Self::Words, high: Self::Words) -> Self::Words;

    /// The first three words of `left` and the third of `right`, of each block.
    fn corner(left: Self::Words, right: Self::Words) -> Self::Words;

    /// The 4 x 4 transposition of 32-bit words, of each block.
    fn transpose(rows: [Self::Words; 4]) -> [Self::Words; 4];

    /// Four rows of 8 samples of each block, from their eight columns: without `BITS` fractional bits, 16 at least, and
    /// clipped to 0..255. Written from the start of `out` on, `pitch` apart, the blocks side by side.
    fn store<const BITS: u32>(columns: [Self::Words; 8], out: &mut [u8], pitch: usize);
}

/// The transposition of a 4 x 4 matrix of bytes.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const ACROSS: [u8; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

/// Of a byte of a bitmap, which of the bytes that it spreads goes to each place; 128 for none.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const fn places_of(mask: u8) -> [u8; 8] {
    let mut places = [128; 8];
    let mut bit = 0;
    while bit < 8 {
        if mask >> bit & 1 == 1 {
            places[bit] = (mask & ((1 << bit) - 1)).count_ones() as u8;
        }
        bit += 1;
    }
    places
}

impl Steps for Portable {
    const BLOCKS: usize = 1;
    type Words = [i32; 4];

    #[inline(always)]
    fn magnitudes(chunk: &mut [u8; 64], escapes: &[u8; 64]) -> usize {
        expand::magnitudes(chunk, escapes)
    }

    #[inline(always)]
    fn values(signs: u64, large: u64, magnitudes: &[u8; 64], out: &mut [u8; 64]) -> u64 {
        expand::values(signs, large, magnitudes, out)
    }

    #[inline(always)]
    fn block(bitmap: u64, values: &[u8; 64], out: &mut Block) {
        expand::block(bitmap, values, out);
    }

    #[inline(always)]
    fn load(blocks: &[Block], half: usize) -> [Self::Words; 4] {
        let mut words = [[0; 4]; 4];
        let values = &blocks[0].0[32 * half..][..32];
        for (word, pair) in words.as_flattened_mut().iter_mut().zip(values.as_chunks::<2>().0) {
            *word = joined(pair[0], pair[1]);
        }
        words
    }

    #[inline(always)]
    fn repeat(words: &[i16; 8]) -> Self::Words {
        [0, 2, 4, 6].map(|i| joined(words[i], words[i + 1]))
    }

    #[inline(always)]
    fn pair(low: i16, high: i16) -> Self::Words {
        [joined(low, high); 4]
    }

    #[inline(always)]
    fn word(value: i32) -> Self::Words {
        [value; 4]
    }

    #[inline(always)]
    fn multiply(one: Self::Words, other: Self::Words) -> Self::Words {
        let product = |a: i16, b: i16| a.wrapping_mul(b);
        each(one, other, |a, b| joined(product(low(a), low(b)), product(high(a), high(b))))
    }

    #[inline(always)]
    fn dot(sum: Self::Words, one: Self::Words, other: Self::Words) -> Self::Words {
        let product = |a: i16, b: i16| i32::from(a) * i32::from(b);
        let dots = each(one, other, |a, b| product(low(a), low(b)).wrapping_add(product(high(a), high(b))));
        each(sum, dots, i32::wrapping_add)
    }

    #[inline(always)]
    fn add(one: Self::Words, other: Self::Words) -> Self::Words {
        each(one, other, i32::wrapping_add)
    }

    #[inline(always)]
    fn subtract(one: Self::Words, other: Self::Words) -> Self::Words {
        each(one, other, i32::wrapping_sub)
    }

    #[inline(always)]
    fn shift<const BITS: u32>(words: Self::Words) -> Self::Words {
        words.map(|word| word >> BITS)
    }

    #[inline(always)]
    fn join<const BITS: u32>(low: Self::Words, high: Self::Words) -> Self::Words {
        each(low, high, |a, b| joined((a >> BITS) as i16, (b >> BITS) as i16))
    }

    #[inline(always)]
    fn corner(left: Self::Words, right: Self::Words) -> Self::Words {
        [left[0], left[1], left[2], right[2]]
    }

    #[inline(always)]
    fn transpose(rows: [Self::Words; 4]) -> [Self::Words; 4] {
        [0, 1, 2, 3].map(|i| rows.map(|row| row[i]))
    }

    #[inline(always)]
    fn store<const BITS: u32>(columns: [Self::Words; 8], out: &mut [u8], pitch: usize) {
        for row in 0..4 {
            let samples = columns.map(|column| (column[row] >> BITS).clamp(0, 255) as u8);
            out[row * pitch..][..8].copy_from_slice(&samples);
        }
    }
}

fn low(word: i32) -> i16 {
    word as i16
}

fn high(word: i32) -> i16 {
    (word >> 16) as i16
}

fn joined(low: i16, high: i16) -> i32 {
    i32::from(low as u16 as i16) & 0xffff | i32::from(high) << 16
}

#[inline(always)]
fn each(one: [i32; 4], other: [i32; 4], step: impl Fn(i32, i32) -> i32) -> [i32; 4] {
    [0, 1, 2, 3].map(|i| step(one[i], other[i]))
}

#[cfg(test)]
mod tests;
