//! Here: the steps of `Steps` in NEON intrinsics.
//! Not here: their definition (`Portable`), the question what the CPU has (`Simd`).
//!
//! No closures here, nor iterator adaptors that take one: they would be compiled without the instructions.
//!
//! Every block of intrinsics rests on one promise: `Steps` is called inside `kernel!` only, in functions
//! compiled for, and run on, CPUs with these instructions.

use std::arch::aarch64::*;

use super::{ACROSS, Steps, places_of};
use crate::ops::simd::Neon;
use crate::recode::layout::{ESCAPED, LEAST_ESCAPED, LEAST_LARGE, WIDE};
use crate::recode::order::{Block, PAIRED_TO_ZIGZAG};

/// One bit of each byte of two groups of eight.
const BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];

/// Of each byte of a bitmap, which of the bytes that it spreads goes to each place.
static PLACES: [[u8; 8]; 256] = {
    let mut places = [[0; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        places[mask] = places_of(mask as u8);
        mask += 1;
    }
    places
};

/// As many of the first bytes of `from` as bits of `mask` are set, each moved to its bit's place: 16 at a time.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn expand(mask: u64, from: &[u8; 64]) -> [uint8x16_t; 4] {
    // SAFETY: as promised; each load is of the 8 bytes of a slice or a line.
    unsafe {
        let mut out = [vdupq_n_u8(0); 4];
        let mut used = 0;
        for (i, out) in out.iter_mut().enumerate() {
            let mut halves = [vdup_n_u8(0); 2];
            for (j, half) in halves.iter_mut().enumerate() {
                let mask = (mask >> (16 * i + 8 * j)) as u8;
                let eight: &[u8] = &from[used..used + 8];
                // A look-up beyond the eight gives 0.
                *half = vtbl1_u8(vld1_u8(eight.as_ptr()), vld1_u8(PLACES[usize::from(mask)].as_ptr()));
                used += mask.count_ones() as usize;
            }
            *out = vcombine_u8(halves[0], halves[1]);
        }
        out
    }
}

/// A bit for each of 64 bytes that are all ones or 0.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn bits_of(masks: [uint8x16_t; 4]) -> u64 {
    // SAFETY: as promised.
    unsafe {
        let bit = vld1q_u8(BITS.as_ptr());
        // Sums of neighbours, three times: each byte has the bits of eight.
        let low = vpaddq_u8(vandq_u8(masks[0], bit), vandq_u8(masks[1], bit));
        let high = vpaddq_u8(vandq_u8(masks[2], bit), vandq_u8(masks[3], bit));
        let sums = vpaddq_u8(low, high);
        vgetq_lane_u64::<0>(vreinterpretq_u64_u8(vpaddq_u8(sums, sums)))
    }
}

impl Steps for Neon {
    const BLOCKS: usize = 1;
    type Words = int32x4_t;

    #[inline(always)]
    fn magnitudes(chunk: &mut [u8; 64], escapes: &[u8; 64]) -> usize {
        // SAFETY: the CPU has NEON (see above); loads and stores are of the chunk's quarters.
        unsafe {
            let mut four = [vdupq_n_u8(0); 4];
            let mut masks = four;
            for i in 0..4 {
                four[i] = vld1q_u8(chunk.as_ptr().add(16 * i));
                masks[i] = vceqq_u8(four[i], vdupq_n_u8(ESCAPED));
            }
            let mask = bits_of(masks);
            let extra = expand(mask, escapes);
            const { assert!(LEAST_LARGE + ESCAPED == LEAST_ESCAPED) };
            for i in 0..4 {
                // Where there is no escape, 0 is expanded, which is not wide.
                let wide = vcgeq_u8(extra[i], vdupq_n_u8(WIDE));
                let value = vaddq_u8(vaddq_u8(four[i], vdupq_n_u8(LEAST_LARGE)), extra[i]);
                vst1q_u8(chunk.as_mut_ptr().add(16 * i), vorrq_u8(value, wide));
            }
            mask.count_ones() as usize
        }
    }

    #[inline(always)]
    fn values(negative: u64, large: u64, magnitudes: &[u8; 64], out: &mut [u8; 64]) -> u64 {
        // SAFETY: the CPU has NEON (see above); stores are to the quarters of `out`.
        unsafe {
            let found = expand(large, magnitudes);
            let mut wide = found;
            let bit = vld1q_u8(BITS.as_ptr());
            for i in 0..4 {
                // A large value is 2 at least: where there is none, 0 becomes 1.
                let magnitude = vmaxq_u8(found[i], vdupq_n_u8(1));
                wide[i] = vceqq_u8(magnitude, vdupq_n_u8(u8::MAX));
                let (low, high) = ((negative >> (16 * i)) as u8, (negative >> (16 * i + 8)) as u8);
                let sign = vtstq_u8(vcombine_u8(vdup_n_u8(low), vdup_n_u8(high)), bit);
                // -x is the complement of x - 1.
                vst1q_u8(out.as_mut_ptr().add(16 * i), veorq_u8(vaddq_u8(magnitude, sign), sign));
            }
            bits_of(wide)
        }
    }

    #[inline(always)]
    fn block(bitmap: u64, values: &[u8; 64], out: &mut Block) {
        // SAFETY: the CPU has NEON (see above); a block has room for eight stores of 8 values.
        unsafe {
            let [a, b, c, d] = expand(bitmap, values);
            let zigzag = uint8x16x4_t(a, b, c, d);
            for i in 0..4 {
                let places = vld1q_u8(PAIRED_TO_ZIGZAG.as_ptr().add(16 * i));
                let paired = vreinterpretq_s8_u8(vqtbl4q_u8(zigzag, places));
                let at = out.0.as_mut_ptr().add(16 * i);
                vst1q_s16(at, vmovl_s8(vget_low_s8(paired)));
                vst1q_s16(at.add(8), vmovl_high_s8(paired));
            }
        }
    }

    #[inline(always)]
    fn load(blocks: &[Block], half: usize) -> [Self::Words; 4] {
        let values = &blocks[0].0[32 * half..][..32];
        // SAFETY: the CPU has NEON (see above); each load is of 8 of the 32 values.
        unsafe {
            let mut chunks = [vdupq_n_s32(0); 4];
            for (i, chunk) in chunks.iter_mut().enumerate() {
                *chunk = vreinterpretq_s32_s16(vld1q_s16(values.as_ptr().add(8 * i)));
            }
            chunks
        }
    }

    #[inline(always)]
    fn repeat(words: &[i16; 8]) -> Self::Words {
        // SAFETY: the CPU has NEON (see above); the words are a whole reference's.
        unsafe { vreinterpretq_s32_s16(vld1q_s16(words.as_ptr())) }
    }

    #[inline(always)]
    fn pair(low: i16, high: i16) -> Self::Words {
        Self::word(i32::from(high) << 16 | i32::from(low) & 0xffff)
    }

    #[inline(always)]
    fn word(value: i32) -> Self::Words {
        // SAFETY: the CPU has NEON (see above).
        unsafe { vdupq_n_s32(value) }
    }

    #[inline(always)]
    fn multiply(one: Self::Words, other: Self::Words) -> Self::Words {
        // SAFETY: the CPU has NEON (see above).
        unsafe { vreinterpretq_s32_s16(vmulq_s16(vreinterpretq_s16_s32(one), vreinterpretq_s16_s32(other))) }
    }

    #[inline(always)]
    fn dot(sum: Self::Words, one: Self::Words, other: Self::Words) -> Self::Words {
        // SAFETY: the CPU has NEON (see above).
        unsafe {
            let (one, other) = (vreinterpretq_s16_s32(one), vreinterpretq_s16_s32(other));
            let low = vmull_s16(vget_low_s16(one), vget_low_s16(other));
            vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(one, other)))
        }
    }

    #[inline(always)]
    fn add(one: Self::Words, other: Self::Words) -> Self::Words {
        // SAFETY: the CPU has NEON (see above).
        unsafe { vaddq_s32(one, other) }
    }

    #[inline(always)]
    fn subtract(one: Self::Words, other: Self::Words) -> Self::Words {
        // SAFETY: the CPU has NEON (see above).
        unsafe { vsubq_s32(one, other) }
    }

    #[inline(always)]
    fn shift<const BITS: u32>(words: Self::Words) -> Self::Words {
        // SAFETY: the CPU has NEON (see above).
        unsafe { vshlq_s32(words, vdupq_n_s32(-(BITS as i32))) }
    }

    #[inline(always)]
    fn join<const BITS: u32>(low: Self::Words, high: Self::Words) -> Self::Words {
        // SAFETY: the CPU has NEON (see above).
        unsafe {
            let low = vreinterpretq_s16_s32(Self::shift::<BITS>(low));
            let high = vreinterpretq_s16_s32(Self::shift::<BITS>(high));
            vreinterpretq_s32_s16(vtrn1q_s16(low, high))
        }
    }

    #[inline(always)]
    fn corner(left: Self::Words, right: Self::Words) -> Self::Words {
        // SAFETY: the CPU has NEON (see above).
        unsafe { vcopyq_laneq_s32::<3, 2>(left, right) }
    }

    #[inline(always)]
    fn transpose([a, b, c, d]: [Self::Words; 4]) -> [Self::Words; 4] {
        // SAFETY: the CPU has NEON (see above).
        unsafe {
            let (ab, cd) = (vzip1q_s32(a, b), vzip1q_s32(c, d));
            let (ef, gh) = (vzip2q_s32(a, b), vzip2q_s32(c, d));
            let (ab, cd) = (vreinterpretq_s64_s32(ab), vreinterpretq_s64_s32(cd));
            let (ef, gh) = (vreinterpretq_s64_s32(ef), vreinterpretq_s64_s32(gh));
            [
                vreinterpretq_s32_s64(vzip1q_s64(ab, cd)),
                vreinterpretq_s32_s64(vzip2q_s64(ab, cd)),
                vreinterpretq_s32_s64(vzip1q_s64(ef, gh)),
                vreinterpretq_s32_s64(vzip2q_s64(ef, gh)),
            ]
        }
    }

    #[inline(always)]
    fn store<const BITS: u32>(mut columns: [Self::Words; 8], out: &mut [u8], pitch: usize) {
        for column in &mut columns {
            *column = Self::shift::<BITS>(*column);
        }
        let [a, b, c, d, e, f, g, h] = columns;
        // SAFETY: the CPU has NEON (see above); each store is to 8 bytes of a slice of so many.
        unsafe {
            let (ab, cd) = (vqmovn_high_s32(vqmovn_s32(a), b), vqmovn_high_s32(vqmovn_s32(c), d));
            let (ef, gh) = (vqmovn_high_s32(vqmovn_s32(e), f), vqmovn_high_s32(vqmovn_s32(g), h));
            let across = vld1q_u8(ACROSS.as_ptr());
            let left = vqmovun_high_s16(vqmovun_s16(ab), cd);
            let right = vqmovun_high_s16(vqmovun_s16(ef), gh);
            let left = vreinterpretq_u32_u8(vqtbl1q_u8(left, across));
            let right = vreinterpretq_u32_u8(vqtbl1q_u8(right, across));
            let pairs = [vzip1q_u32(left, right), vzip2q_u32(left, right)];
            for (i, pair) in pairs.into_iter().enumerate() {
                let pair = vreinterpretq_u8_u32(pair);
                let row = &mut out[2 * i * pitch..][..8];
                vst1_u8(row.as_mut_ptr(), vget_low_u8(pair));
                let row = &mut out[(2 * i + 1) * pitch..][..8];
                vst1_u8(row.as_mut_ptr(), vget_high_u8(pair));
            }
        }
    }
}
