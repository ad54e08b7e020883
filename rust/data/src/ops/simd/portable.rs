//! Here: the steps of `Vector` in plain Rust: their definition, and what compilers make of it.
//! Not here: intrinsics.

use super::{LANES, Line, Packed, Quads, Vector, WEIGHT_BITS};
use crate::ops::colour::luma;

/// The 4 x 4 transposition of 32-bit words.
#[inline(always)]
fn words_across(rows: &[[u8; LANES]; 4]) -> [[u8; LANES]; 4] {
    let mut out = [[0; LANES]; 4];
    for (i, out) in out.iter_mut().enumerate() {
        for (row, word) in rows.iter().zip(out.as_chunks_mut::<4>().0) {
            word.copy_from_slice(&row[4 * i..4 * i + 4]);
        }
    }
    out
}

/// Plain Rust: the definition of every step, and what compilers make of it.
pub(crate) struct Portable;

impl Vector for Portable {
    type Sums = [i32; LANES];
    type Levels = Line;
    type Whole = [i32; LANES];

    const TOGETHER: usize = 2;

    #[inline(always)]
    fn pack(weights: &[[i32; 8]; 4]) -> [Packed; 8] {
        std::array::from_fn(|lane| weights.map(|weights| weights[lane].cast_unsigned()))
    }

    #[inline(always)]
    fn zero() -> Self::Sums {
        [0; LANES]
    }

    #[inline(always)]
    fn dot(sums: &mut Self::Sums, quads: &Quads, weights: &Packed) {
        let weights = weights.map(u32::cast_signed);
        for (sum, quad) in sums.iter_mut().zip(quads.0.as_chunks::<4>().0) {
            for (&sample, weight) in quad.iter().zip(weights) {
                *sum = sum.wrapping_add(i32::from(sample) * weight);
            }
        }
    }

    #[inline(always)]
    fn whole(sums: Self::Sums) -> Self::Whole {
        sums.map(|sum| sum.wrapping_add(1 << (WEIGHT_BITS - 1)) >> WEIGHT_BITS)
    }

    #[inline(always)]
    fn in_order(four: [Self::Whole; 4]) -> [[u8; LANES]; 4] {
        four.map(|levels| levels.map(|level| level.clamp(0, 255) as u8))
    }

    #[inline(always)]
    fn by_lanes(four: [Self::Whole; 4]) -> [[u8; LANES]; 4] {
        words_across(&Self::in_order(four))
    }

    #[inline(always)]
    fn gather(rows: &[u8], stride: usize) -> [Quads; 3] {
        let mut channels = [Quads([0; 4 * LANES]); 3];
        for lane in 0..LANES {
            let row = &rows[lane * stride..][..16];
            for (pixel, values) in row.as_chunks::<3>().0.iter().take(4).enumerate() {
                for (channel, &value) in channels.iter_mut().zip(values) {
                    channel.0[4 * lane + pixel] = value;
                }
            }
        }
        channels
    }

    #[inline(always)]
    fn across(matrices: &[[u8; 16]; 4]) -> [[u8; 16]; 4] {
        matrices.map(|matrix| std::array::from_fn(|i| matrix[i % 4 * 4 + i / 4]))
    }

    #[inline(always)]
    fn load(line: &Line) -> Line {
        *line
    }

    #[inline(always)]
    fn add(mut one: Line, other: Line) -> Line {
        one.iter_mut().zip(other).for_each(|(one, other)| *one = one.wrapping_add(other));
        one
    }

    #[inline(always)]
    fn subtract(mut one: Line, other: Line) -> Line {
        one.iter_mut().zip(other).for_each(|(one, other)| *one = one.wrapping_sub(other));
        one
    }

    #[inline(always)]
    fn scale(levels: Line, factor: i16) -> Line {
        let product = |level: u16| i32::from(level.cast_signed()) * i32::from(factor);
        levels.map(|level| ((product(level) + (1 << 14)) >> 15) as u16)
    }

    #[inline(always)]
    fn correct(mut levels: Line, keys: Line, key: i16, by: i16) -> Line {
        for (level, found) in levels.iter_mut().zip(keys) {
            let by = if found == key.cast_unsigned() { by.cast_unsigned() } else { 0 };
            *level = level.wrapping_add(by);
        }
        levels
    }

    #[inline(always)]
    fn widen(bytes: &[u8; 32]) -> Line {
        bytes.map(u16::from)
    }

    #[inline(always)]
    fn bytes(levels: Line) -> [u8; 32] {
        levels.map(|level| level as u8)
    }

    #[inline(always)]
    fn weigh(sums: Line, ends: Line, full: u32, end: u32) -> Line {
        let mut out = [0; 32];
        for ((out, sum), ends) in out.iter_mut().zip(sums).zip(ends) {
            let weighted = u32::from(sum).wrapping_mul(full).wrapping_add(u32::from(ends).wrapping_mul(end));
            *out = (weighted.wrapping_add(1 << 23) >> 24) as u16;
        }
        out
    }

    #[inline(always)]
    fn store(levels: Line, line: &mut Line) {
        *line = levels;
    }

    #[inline(always)]
    fn upper(levels: Line, factor: i16) -> Line {
        levels.map(|level| ((i32::from(level.cast_signed()) * i32::from(factor)) >> 16) as u16)
    }

    #[inline(always)]
    fn products(mut one: Line, other: Line, [first, second]: [i16; 2]) -> Line {
        for (one, other) in one.iter_mut().zip(other) {
            let product = |level: u16, factor: i16| i32::from(level.cast_signed()) * i32::from(factor);
            *one = ((product(*one, first) + product(other, second) + (1 << 15)) >> 16) as u16;
        }
        one
    }

    #[inline(always)]
    fn luma(mut red: Line, green: Line, blue: Line) -> Line {
        for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
            *red = u16::from(luma(*red as u8, green as u8, blue as u8));
        }
        red
    }

    #[inline(always)]
    fn split(bytes: &[u8; 64]) -> [Line; 2] {
        [0, 32].map(|start: usize| std::array::from_fn(|i| u16::from(bytes[start + i])))
    }

    #[inline(always)]
    fn merge(levels: [Line; 2]) -> [u8; 64] {
        std::array::from_fn(|i| levels[i / 32][i % 32].cast_signed().clamp(0, 255) as u8)
    }

    #[inline(always)]
    fn map(_bytes: &mut [u8], _table: &[u8; 256]) -> bool {
        false
    }
}
