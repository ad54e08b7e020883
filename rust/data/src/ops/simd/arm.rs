//! Here: the steps of `Vector` in NEON intrinsics.
//! Not here: their definition (`Portable`), the question what the CPU has (`Simd`).
//!
//! No closures here, nor iterator adaptors that take one: they would be compiled without the instructions.
//!
//! Every block of intrinsics rests on one promise: `Vector` is called inside `kernel!` only, in functions
//! compiled for, and run on, CPUs with these instructions.

use std::arch::aarch64::*;

use super::{LANES, Line, Packed, Quads, Vector, WEIGHT_BITS};

/// NEON as every 64-bit ARM CPU has it: weights as they are, in 32 bits. Products of bytes (dot products,
/// as `Avx512` takes them) would need `usdot`, which Rust does not offer yet.
pub(crate) struct Neon;

/// Where sample `i` of four quads goes: to the lowest byte of each of four words. A look-up beyond the end
/// gives 0.
const SAMPLES: [[u8; 16]; 4] = {
    let mut places = [[u8::MAX; 16]; 4];
    let mut i = 0;
    while i < 16 {
        places[i % 4][i / 4 * 4] = i as u8;
        i += 1;
    }
    places
};

/// Where the bytes of a channel are found in 16 bytes of each of four rows: four pixels of a row, then those
/// of the next.
const CHANNELS: [[u8; 16]; 3] = {
    let mut places = [[0; 16]; 3];
    let mut i = 0;
    while i < 48 {
        let (channel, row, pixel) = (i / 16, i / 4 % 4, i % 4);
        places[channel][4 * row + pixel] = (16 * row + 3 * pixel + channel) as u8;
        i += 1;
    }
    places
};

/// The transposition of a 4 x 4 matrix of bytes.
const ACROSS: [u8; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

/// Sixteen bytes from memory.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn bytes(from: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the bytes are a whole reference's.
    unsafe { vld1q_u8(from.as_ptr()) }
}

/// Adds to each lane's sum its four samples times their weights.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn weighted(sums: int32x4_t, quads: uint8x16_t, weights: int32x4_t) -> int32x4_t {
    // SAFETY: as promised.
    unsafe {
        let first = vreinterpretq_s32_u8(vqtbl1q_u8(quads, bytes(&SAMPLES[0])));
        let second = vreinterpretq_s32_u8(vqtbl1q_u8(quads, bytes(&SAMPLES[1])));
        let third = vreinterpretq_s32_u8(vqtbl1q_u8(quads, bytes(&SAMPLES[2])));
        let fourth = vreinterpretq_s32_u8(vqtbl1q_u8(quads, bytes(&SAMPLES[3])));
        let sums = vmlaq_laneq_s32::<0>(sums, first, weights);
        let sums = vmlaq_laneq_s32::<1>(sums, second, weights);
        let sums = vmlaq_laneq_s32::<2>(sums, third, weights);
        vmlaq_laneq_s32::<3>(sums, fourth, weights)
    }
}

/// Sixteen words as levels.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn clipped([a, b, c, d]: [int32x4_t; 4]) -> uint8x16_t {
    // SAFETY: as promised.
    unsafe {
        let low = vcombine_u16(vqmovun_s32(a), vqmovun_s32(b));
        let high = vcombine_u16(vqmovun_s32(c), vqmovun_s32(d));
        vcombine_u8(vqmovn_u16(low), vqmovn_u16(high))
    }
}

impl Vector for Neon {
    /// Four lanes each.
    type Sums = [int32x4_t; 4];
    /// Eight values each.
    type Levels = [uint16x8_t; 4];
    type Whole = [int32x4_t; 4];

    const TOGETHER: usize = 4;

    #[inline(always)]
    fn pack(weights: &[[i32; 8]; 4]) -> [Packed; 8] {
        let mut packed = [Packed::default(); 8];
        let [a, b, c, d] = weights;
        // SAFETY: the CPU has NEON (see above); `packed` is the 32 words that are stored, each array the eight
        // that are loaded.
        unsafe {
            for half in 0..2 {
                let at = 4 * half;
                let words = int32x4x4_t(
                    vld1q_s32(a[at..].as_ptr()),
                    vld1q_s32(b[at..].as_ptr()),
                    vld1q_s32(c[at..].as_ptr()),
                    vld1q_s32(d[at..].as_ptr()),
                );
                vst4q_s32(packed[at..].as_mut_ptr().cast(), words);
            }
        }
        packed
    }

    #[inline(always)]
    fn zero() -> Self::Sums {
        // SAFETY: the CPU has NEON (see above).
        unsafe { [vdupq_n_s32(0); 4] }
    }

    #[inline(always)]
    fn dot(sums: &mut Self::Sums, quads: &Quads, weights: &Packed) {
        // SAFETY: the CPU has NEON (see above); `Packed` is the four words that are loaded, `Quads` four
        // times 16 bytes.
        unsafe {
            let weights = vreinterpretq_s32_u32(vld1q_u32(weights.as_ptr()));
            let [a, b, c, d] = sums;
            let quads = quads.0.as_ptr();
            *a = weighted(*a, vld1q_u8(quads), weights);
            *b = weighted(*b, vld1q_u8(quads.add(16)), weights);
            *c = weighted(*c, vld1q_u8(quads.add(32)), weights);
            *d = weighted(*d, vld1q_u8(quads.add(48)), weights);
        }
    }

    #[inline(always)]
    fn whole(mut sums: Self::Sums) -> Self::Whole {
        // SAFETY: the CPU has NEON (see above).
        unsafe {
            let round = vdupq_n_s32(1 << (WEIGHT_BITS - 1));
            for sum in &mut sums {
                *sum = vshrq_n_s32::<{ WEIGHT_BITS as i32 }>(vaddq_s32(*sum, round));
            }
        }
        sums
    }

    #[inline(always)]
    fn in_order(four: [Self::Whole; 4]) -> [[u8; LANES]; 4] {
        let mut out = [[0; LANES]; 4];
        for (out, levels) in out.iter_mut().zip(four) {
            // SAFETY: the CPU has NEON (see above); `out` is the 16 bytes that are stored.
            unsafe { vst1q_u8(out.as_mut_ptr(), clipped(levels)) };
        }
        out
    }

    /// A store that interleaves four vectors' words is the transposition.
    #[inline(always)]
    fn by_lanes([a, b, c, d]: [Self::Whole; 4]) -> [[u8; LANES]; 4] {
        let mut out = [[0; LANES]; 4];
        // SAFETY: the CPU has NEON (see above); `out` is the 64 bytes that are stored, and such stores need
        // not be aligned.
        unsafe {
            let (a, b) = (vreinterpretq_u32_u8(clipped(a)), vreinterpretq_u32_u8(clipped(b)));
            let (c, d) = (vreinterpretq_u32_u8(clipped(c)), vreinterpretq_u32_u8(clipped(d)));
            vst4q_u32(out.as_mut_ptr().cast(), uint32x4x4_t(a, b, c, d));
        }
        out
    }

    #[inline(always)]
    fn gather(rows: &[u8], stride: usize) -> [Quads; 3] {
        let rows = &rows[..15 * stride + 16];
        let mut out = [Quads::ZERO; 3];
        // SAFETY: the CPU has NEON (see above); each load is of the 16 bytes from a row's first on, of 16 rows,
        // which are there, each store to 16 bytes of a `Quads`.
        unsafe {
            for i in 0..4 {
                let at = rows.as_ptr().add(4 * i * stride);
                let (a, b) = (vld1q_u8(at), vld1q_u8(at.add(stride)));
                let (c, d) = (vld1q_u8(at.add(2 * stride)), vld1q_u8(at.add(3 * stride)));
                let rows = uint8x16x4_t(a, b, c, d);
                for (quads, places) in out.iter_mut().zip(&CHANNELS) {
                    let four = &mut quads.0.as_chunks_mut::<16>().0[i];
                    vst1q_u8(four.as_mut_ptr(), vqtbl4q_u8(rows, bytes(places)));
                }
            }
        }
        out
    }

    #[inline(always)]
    fn across(matrices: &[[u8; 16]; 4]) -> [[u8; 16]; 4] {
        let mut out = *matrices;
        for matrix in &mut out {
            // SAFETY: the CPU has NEON (see above); the store is to all of the array.
            unsafe { vst1q_u8(matrix.as_mut_ptr(), vqtbl1q_u8(bytes(matrix), bytes(&ACROSS))) };
        }
        out
    }

    #[inline(always)]
    fn load(line: &Line) -> Self::Levels {
        let at = line.as_ptr();
        // SAFETY: the CPU has NEON (see above); a `Line` is 32 values.
        unsafe { [vld1q_u16(at), vld1q_u16(at.add(8)), vld1q_u16(at.add(16)), vld1q_u16(at.add(24))] }
    }

    #[inline(always)]
    fn add(mut one: Self::Levels, other: Self::Levels) -> Self::Levels {
        for (one, other) in one.iter_mut().zip(other) {
            // SAFETY: the CPU has NEON (see above).
            *one = unsafe { vaddq_u16(*one, other) };
        }
        one
    }

    #[inline(always)]
    fn subtract(mut one: Self::Levels, other: Self::Levels) -> Self::Levels {
        for (one, other) in one.iter_mut().zip(other) {
            // SAFETY: the CPU has NEON (see above).
            *one = unsafe { vsubq_u16(*one, other) };
        }
        one
    }

    #[inline(always)]
    fn scale(mut levels: Self::Levels, factor: i16) -> Self::Levels {
        for levels in &mut levels {
            // SAFETY: the CPU has NEON (see above).
            *levels =
                unsafe { vreinterpretq_u16_s16(vqrdmulhq_n_s16(vreinterpretq_s16_u16(*levels), factor)) };
        }
        levels
    }

    #[inline(always)]
    fn correct(mut levels: Self::Levels, keys: Self::Levels, key: i16, by: i16) -> Self::Levels {
        // SAFETY: the CPU has NEON (see above).
        unsafe {
            let (key, by) = (vdupq_n_u16(key.cast_unsigned()), vdupq_n_u16(by.cast_unsigned()));
            for (levels, keys) in levels.iter_mut().zip(keys) {
                *levels = vaddq_u16(*levels, vandq_u16(vceqq_u16(keys, key), by));
            }
        }
        levels
    }

    #[inline(always)]
    fn widen(from: &[u8; 32]) -> Self::Levels {
        let [low, high] = [&from[..16], &from[16..]];
        // SAFETY: the CPU has NEON (see above); each half is the 16 bytes that are loaded.
        unsafe {
            let (low, high) = (vld1q_u8(low.as_ptr()), vld1q_u8(high.as_ptr()));
            [vmovl_u8(vget_low_u8(low)), vmovl_high_u8(low), vmovl_u8(vget_low_u8(high)), vmovl_high_u8(high)]
        }
    }

    #[inline(always)]
    fn bytes([a, b, c, d]: Self::Levels) -> [u8; 32] {
        let mut out = [0; 32];
        // SAFETY: the CPU has NEON (see above); both stores are to a half of `out`.
        unsafe {
            vst1q_u8(out.as_mut_ptr(), vcombine_u8(vmovn_u16(a), vmovn_u16(b)));
            vst1q_u8(out[16..].as_mut_ptr(), vcombine_u8(vmovn_u16(c), vmovn_u16(d)));
        }
        out
    }

    #[inline(always)]
    fn weigh(mut sums: Self::Levels, ends: Self::Levels, full: u32, end: u32) -> Self::Levels {
        // SAFETY: the CPU has NEON (see above).
        unsafe {
            let weights = vset_lane_u32::<1>(end, vdup_n_u32(full));
            let round = vdupq_n_u32(1 << 23);
            for (sums, ends) in sums.iter_mut().zip(ends) {
                let low = vmlaq_lane_u32::<0>(round, vmovl_u16(vget_low_u16(*sums)), weights);
                let low = vmlaq_lane_u32::<1>(low, vmovl_u16(vget_low_u16(ends)), weights);
                let high = vmlaq_lane_u32::<0>(round, vmovl_high_u16(*sums), weights);
                let high = vmlaq_lane_u32::<1>(high, vmovl_high_u16(ends), weights);
                // The upper halves of the words.
                let upper = vuzp2q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high));
                *sums = vshrq_n_u16::<8>(upper);
            }
        }
        sums
    }

    #[inline(always)]
    fn store(levels: Self::Levels, line: &mut Line) {
        for (levels, values) in levels.into_iter().zip(line.as_chunks_mut::<8>().0) {
            // SAFETY: the CPU has NEON (see above); `values` are the eight that are stored.
            unsafe { vst1q_u16(values.as_mut_ptr(), levels) };
        }
    }

    #[inline(always)]
    fn upper(mut levels: Self::Levels, factor: i16) -> Self::Levels {
        for levels in &mut levels {
            // SAFETY: the CPU has NEON (see above).
            *levels = unsafe {
                // Without the lower 15 bits, then without one more.
                let doubled = vqdmulhq_n_s16(vreinterpretq_s16_u16(*levels), factor);
                vreinterpretq_u16_s16(vshrq_n_s16::<1>(doubled))
            };
        }
        levels
    }

    #[inline(always)]
    fn products(mut one: Self::Levels, other: Self::Levels, [first, second]: [i16; 2]) -> Self::Levels {
        for (one, other) in one.iter_mut().zip(other) {
            // SAFETY: the CPU has NEON (see above).
            unsafe {
                let (left, right) = (vreinterpretq_s16_u16(*one), vreinterpretq_s16_u16(other));
                let low = vmull_n_s16(vget_low_s16(left), first);
                let low = vmlal_n_s16(low, vget_low_s16(right), second);
                let high = vmlal_high_n_s16(vmull_high_n_s16(left, first), right, second);
                *one = vreinterpretq_u16_s16(vrshrn_high_n_s32::<16>(vrshrn_n_s32::<16>(low), high));
            }
        }
        one
    }

    #[inline(always)]
    fn luma(mut red: Self::Levels, green: Self::Levels, blue: Self::Levels) -> Self::Levels {
        // SAFETY: the CPU has NEON (see above); the array is the four values that are loaded.
        unsafe {
            let factors = vld1_u16([19_595, 38_470, 7471, 0].as_ptr());
            let round = vdupq_n_u32(0x8000);
            for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
                let low = vmlal_lane_u16::<0>(round, vget_low_u16(*red), factors);
                let low = vmlal_lane_u16::<1>(low, vget_low_u16(green), factors);
                let low = vmlal_lane_u16::<2>(low, vget_low_u16(blue), factors);
                let high = vmlal_high_lane_u16::<0>(round, *red, factors);
                let high = vmlal_high_lane_u16::<1>(high, green, factors);
                let high = vmlal_high_lane_u16::<2>(high, blue, factors);
                *red = vuzp2q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high));
            }
        }
        red
    }

    #[inline(always)]
    fn split(bytes: &[u8; 64]) -> [Self::Levels; 2] {
        let halves = bytes.as_chunks().0;
        [Self::widen(&halves[0]), Self::widen(&halves[1])]
    }

    #[inline(always)]
    fn merge(levels: [Self::Levels; 2]) -> [u8; 64] {
        let mut out = [0; 64];
        let pairs = levels.as_flattened().as_chunks::<2>().0;
        for (out, [low, high]) in out.as_chunks_mut::<16>().0.iter_mut().zip(pairs) {
            // SAFETY: the CPU has NEON (see above); the store is to 16 bytes.
            unsafe {
                let (low, high) = (vreinterpretq_s16_u16(*low), vreinterpretq_s16_u16(*high));
                vst1q_u8(out.as_mut_ptr(), vcombine_u8(vqmovun_s16(low), vqmovun_s16(high)));
            }
        }
        out
    }

    /// Four look-ups in a quarter of the table each; beyond its end, the first gives 0 and the others leave
    /// what was found before.
    #[inline(always)]
    fn map(levels: &mut [u8], table: &[u8; 256]) -> bool {
        let (blocks, rest) = levels.as_chunks_mut::<16>();
        let at = table.as_ptr();
        // SAFETY: the CPU has NEON (see above); the table is four times 64 bytes, a block is 16.
        unsafe {
            let (a, b) = (vld1q_u8_x4(at), vld1q_u8_x4(at.add(64)));
            let (c, d) = (vld1q_u8_x4(at.add(128)), vld1q_u8_x4(at.add(192)));
            let quarter = vdupq_n_u8(64);
            for block in blocks {
                let level = bytes(block);
                let found = vqtbl4q_u8(a, level);
                let level = vsubq_u8(level, quarter);
                let found = vqtbx4q_u8(found, b, level);
                let level = vsubq_u8(level, quarter);
                let found = vqtbx4q_u8(found, c, level);
                let level = vsubq_u8(level, quarter);
                vst1q_u8(block.as_mut_ptr(), vqtbx4q_u8(found, d, level));
            }
        }
        rest.iter_mut().for_each(|level| *level = table[usize::from(*level)]);
        true
    }
}
