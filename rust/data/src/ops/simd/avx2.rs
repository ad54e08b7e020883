//! Here: the steps of `Vector` in AVX2 intrinsics, and what AVX-512 has in common with them.
//! Not here: their definition (`Portable`), the question what the CPU has (`Simd`).
//!
//! No closures here, nor iterator adaptors that take one: they would be compiled without the instructions.
//!
//! Every block of intrinsics rests on one promise: `Vector` is called inside `kernel!` only, in functions
//! compiled for, and run on, CPUs with these instructions.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{LANES, Line, Packed, Portable, Quads, Vector, WEIGHT_BITS};

/// Where the four pixels of 12 interleaved bytes go: reds, greens, blues, nothing.
pub(super) const BY_CHANNEL: [u8; 16] = [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, 128, 128, 128, 128];

/// The transposition of a 4 x 4 matrix of bytes.
pub(super) const ACROSS: [u8; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

/// Factors of red and green, of blue and 2, by which luma is green and the upper half of their sum: those of red,
/// of green less 1, of blue, and half of the rounding.
pub(super) const LUMA: [i32; 2] = [(38_470 - 65_536) << 16 | 19_595, 16_384 << 16 | 7471];

/// Bits of a weight's lower part where it is split in two.
pub(super) const HALF_BITS: u32 = 12;

/// AVX2: samples widened to 16 bits, weights in two parts of 12 bits.
pub(crate) struct Avx2;

/// `value` = high * 2^12 + low with 0 <= low < 2^12; both fit 16 bits for any value below 2^27.
#[inline(always)]
pub(super) fn halves(value: i32) -> (u32, u32) {
    ((value >> HALF_BITS) as u16 as u32, (value & ((1 << HALF_BITS) - 1)) as u32)
}

/// Sixteen bytes of a row.
///
/// # Safety
/// Nothing to promise: every x86-64 CPU has SSE2. Unsafe only as the intrinsic is.
#[inline(always)]
pub(super) unsafe fn load(row: &[u8; 16]) -> __m128i {
    // SAFETY: the bytes are a whole reference's.
    unsafe { _mm_loadu_si128(row.as_ptr().cast()) }
}

/// The 4 x 4 transposition of 32-bit words in each 128-bit part of four vectors; the last row is dropped.
macro_rules! transpose_words {
    ($rows:expr, $low:ident, $high:ident, $low64:ident, $high64:ident) => {{
        let [a, b, c, d] = $rows;
        let (ab, cd) = ($low(a, b), $low(c, d));
        [$low64(ab, cd), $high64(ab, cd), $low64($high(a, b), $high(c, d))]
    }};
}
pub(super) use transpose_words;

/// The fours of words of eight lanes from their first, second, third and fourth words.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn fours_apart(words: [__m256i; 4]) -> [Packed; 8] {
    // SAFETY: as promised; both sides of the transmutation are 128 plain bytes.
    unsafe {
        let [a, b, c, d] = words;
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ef, gh) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        // Lanes 0 and 4, 1 and 5, 2 and 6, 3 and 7.
        let (first, second) = (_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
        let (third, fourth) = (_mm256_unpacklo_epi64(ef, gh), _mm256_unpackhi_epi64(ef, gh));
        transmute::<[__m256i; 4], [Packed; 8]>([
            _mm256_permute2x128_si256::<0x20>(first, second),
            _mm256_permute2x128_si256::<0x20>(third, fourth),
            _mm256_permute2x128_si256::<0x31>(first, second),
            _mm256_permute2x128_si256::<0x31>(third, fourth),
        ])
    }
}

impl Vector for Avx2 {
    /// Sums of the high and of the low parts of weights, for lanes 0 to 7 and 8 to 15.
    type Sums = [[__m256i; 2]; 2];
    type Levels = [__m256i; 2];
    type Whole = [__m256i; 2];

    const TOGETHER: usize = 2;

    /// Even samples' high and low parts, odd samples' high and low parts.
    #[inline(always)]
    fn pack(weights: &[[i32; 8]; 4]) -> [Packed; 8] {
        // SAFETY: the CPU has AVX2 (see above); each load is of a whole array.
        unsafe {
            let mut parts = [_mm256_setzero_si256(); 4];
            for i in 0..2 {
                let first = _mm256_loadu_si256(weights[i].as_ptr().cast());
                let second = _mm256_loadu_si256(weights[i + 2].as_ptr().cast());
                let highs = [
                    _mm256_srai_epi32::<{ HALF_BITS as i32 }>(first),
                    _mm256_srai_epi32::<{ HALF_BITS as i32 }>(second),
                ];
                let mask = _mm256_set1_epi32((1 << HALF_BITS) - 1);
                let lows = [_mm256_and_si256(first, mask), _mm256_and_si256(second, mask)];
                // Of every word the lower half of the first and that of the second.
                parts[2 * i] = _mm256_blend_epi16::<0xaa>(highs[0], _mm256_slli_epi32::<16>(highs[1]));
                parts[2 * i + 1] = _mm256_blend_epi16::<0xaa>(lows[0], _mm256_slli_epi32::<16>(lows[1]));
            }
            fours_apart(parts)
        }
    }

    #[inline(always)]
    fn zero() -> Self::Sums {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe { [[_mm256_setzero_si256(); 2]; 2] }
    }

    #[inline(always)]
    fn dot(sums: &mut Self::Sums, quads: &Quads, weights: &Packed) {
        // SAFETY: the CPU has AVX2 (see above); `Quads` holds the 64 aligned bytes that are loaded.
        unsafe {
            let even_high = _mm256_set1_epi32(weights[0].cast_signed());
            let even_low = _mm256_set1_epi32(weights[1].cast_signed());
            let odd_high = _mm256_set1_epi32(weights[2].cast_signed());
            let odd_low = _mm256_set1_epi32(weights[3].cast_signed());
            for (i, [high, low]) in sums.iter_mut().enumerate() {
                let samples = _mm256_load_si256(quads.0.as_ptr().cast::<__m256i>().add(i));
                let even = _mm256_and_si256(samples, _mm256_set1_epi16(255));
                let odd = _mm256_srli_epi16::<8>(samples);
                let sum =
                    _mm256_add_epi32(_mm256_madd_epi16(even, even_high), _mm256_madd_epi16(odd, odd_high));
                *high = _mm256_add_epi32(*high, sum);
                let sum =
                    _mm256_add_epi32(_mm256_madd_epi16(even, even_low), _mm256_madd_epi16(odd, odd_low));
                *low = _mm256_add_epi32(*low, sum);
            }
        }
    }

    #[inline(always)]
    fn whole(sums: Self::Sums) -> Self::Whole {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe {
            let round = _mm256_set1_epi32(1 << (WEIGHT_BITS - 1));
            let mut halves = [_mm256_setzero_si256(); 2];
            for (half, [high, low]) in halves.iter_mut().zip(sums) {
                let high = _mm256_slli_epi32::<{ HALF_BITS as i32 }>(high);
                let sum = _mm256_add_epi32(_mm256_add_epi32(high, low), round);
                *half = _mm256_srai_epi32::<{ WEIGHT_BITS as i32 }>(sum);
            }
            halves
        }
    }

    #[inline(always)]
    fn in_order(four: [Self::Whole; 4]) -> [[u8; LANES]; 4] {
        let mut out = [[0; LANES]; 4];
        // SAFETY: the CPU has AVX2 (see above); each store is to all of an array.
        unsafe {
            for (out, [low, high]) in out.iter_mut().zip(four) {
                // Packing works within halves: lanes 0-3, 8-11 | 4-7, 12-15.
                let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
                let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_packus_epi16(low, high));
            }
        }
        out
    }

    #[inline(always)]
    fn by_lanes([a, b, c, d]: [Self::Whole; 4]) -> [[u8; LANES]; 4] {
        // SAFETY: the CPU has AVX2 (see above); both sides of the transmutation are 64 plain bytes.
        unsafe {
            // Packing works within halves: just the order that is wanted.
            transmute([
                _mm256_packus_epi16(_mm256_packs_epi32(a[0], b[0]), _mm256_packs_epi32(c[0], d[0])),
                _mm256_packus_epi16(_mm256_packs_epi32(a[1], b[1]), _mm256_packs_epi32(c[1], d[1])),
            ])
        }
    }

    #[inline(always)]
    fn gather(rows: &[u8], stride: usize) -> [Quads; 3] {
        let rows = &rows[..15 * stride + 16];
        let mut out = [Quads([0; 4 * LANES]); 3];
        // SAFETY: the CPU has AVX2 (see above); each load is of the 16 bytes from a row's first on, of 16 rows,
        // which are there, each store of 32 of the 64 aligned bytes of a `Quads`.
        unsafe {
            let by_channel = _mm256_broadcastsi128_si256(load(&BY_CHANNEL));
            for half in 0..2 {
                let mut vectors = [_mm256_setzero_si256(); 4];
                for (j, vector) in vectors.iter_mut().enumerate() {
                    let at = rows.as_ptr().add((8 * half + j) * stride);
                    let (low, high) =
                        (_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(4 * stride).cast()));
                    *vector = _mm256_shuffle_epi8(_mm256_set_m128i(high, low), by_channel);
                }
                let words = transpose_words!(
                    vectors,
                    _mm256_unpacklo_epi32,
                    _mm256_unpackhi_epi32,
                    _mm256_unpacklo_epi64,
                    _mm256_unpackhi_epi64
                );
                for (quads, words) in out.iter_mut().zip(words) {
                    _mm256_store_si256(quads.0.as_mut_ptr().cast::<__m256i>().add(half), words);
                }
            }
        }
        out
    }

    #[inline(always)]
    fn across(matrices: &[[u8; 16]; 4]) -> [[u8; 16]; 4] {
        let mut out = *matrices;
        // SAFETY: the CPU has AVX2 (see above); each load and store is of a whole array.
        unsafe {
            for matrix in &mut out {
                let across = _mm_shuffle_epi8(load(matrix), load(&ACROSS));
                _mm_storeu_si128(matrix.as_mut_ptr().cast(), across);
            }
        }
        out
    }

    #[inline(always)]
    fn load(line: &Line) -> Self::Levels {
        let at: *const __m256i = line.as_ptr().cast();
        // SAFETY: the CPU has AVX2 (see above); a `Line` is 64 bytes.
        unsafe { [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))] }
    }

    #[inline(always)]
    fn add(one: Self::Levels, other: Self::Levels) -> Self::Levels {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe { [_mm256_add_epi16(one[0], other[0]), _mm256_add_epi16(one[1], other[1])] }
    }

    #[inline(always)]
    fn subtract(one: Self::Levels, other: Self::Levels) -> Self::Levels {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe { [_mm256_sub_epi16(one[0], other[0]), _mm256_sub_epi16(one[1], other[1])] }
    }

    #[inline(always)]
    fn scale([low, high]: Self::Levels, factor: i16) -> Self::Levels {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe {
            let factor = _mm256_set1_epi16(factor);
            [_mm256_mulhrs_epi16(low, factor), _mm256_mulhrs_epi16(high, factor)]
        }
    }

    #[inline(always)]
    fn correct(mut levels: Self::Levels, keys: Self::Levels, key: i16, by: i16) -> Self::Levels {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe {
            let (key, by) = (_mm256_set1_epi16(key), _mm256_set1_epi16(by));
            for (levels, keys) in levels.iter_mut().zip(keys) {
                let there = _mm256_cmpeq_epi16(keys, key);
                *levels = _mm256_add_epi16(*levels, _mm256_and_si256(there, by));
            }
        }
        levels
    }

    #[inline(always)]
    fn widen(bytes: &[u8; 32]) -> Self::Levels {
        let at: *const __m128i = bytes.as_ptr().cast();
        // SAFETY: the CPU has AVX2 (see above); both loads are of a half of the bytes.
        unsafe {
            [_mm256_cvtepu8_epi16(_mm_loadu_si128(at)), _mm256_cvtepu8_epi16(_mm_loadu_si128(at.add(1)))]
        }
    }

    #[inline(always)]
    fn bytes([low, high]: Self::Levels) -> [u8; 32] {
        // SAFETY: the CPU has AVX2 (see above); both sides of the transmutation are 32 plain bytes.
        unsafe {
            // Packing works within halves.
            transmute(_mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(low, high)))
        }
    }

    #[inline(always)]
    fn store(levels: Self::Levels, line: &mut Line) {
        let at: *mut __m256i = line.as_mut_ptr().cast();
        // SAFETY: the CPU has AVX2 (see above); a `Line` is 64 bytes.
        unsafe {
            _mm256_storeu_si256(at, levels[0]);
            _mm256_storeu_si256(at.add(1), levels[1]);
        }
    }

    #[inline(always)]
    fn weigh(sums: Self::Levels, ends: Self::Levels, full: u32, end: u32) -> Self::Levels {
        let ((full_high, full_low), (end_high, end_low)) =
            (halves(full.cast_signed()), halves(end.cast_signed()));
        // SAFETY: the CPU has AVX2 (see above).
        unsafe {
            let high = _mm256_set1_epi32((full_high | end_high << 16) as i32);
            let low = _mm256_set1_epi32((full_low | end_low << 16) as i32);
            let round = _mm256_set1_epi32(1 << 23);
            let mut out = [_mm256_setzero_si256(); 2];
            for ((out, sums), ends) in out.iter_mut().zip(sums).zip(ends) {
                // Interleaving and packing work within the same halves, so that the order comes back.
                let mut pairs = [_mm256_unpacklo_epi16(sums, ends), _mm256_unpackhi_epi16(sums, ends)];
                for pairs in &mut pairs {
                    let high = _mm256_slli_epi32::<{ HALF_BITS as i32 }>(_mm256_madd_epi16(*pairs, high));
                    let low = _mm256_add_epi32(_mm256_madd_epi16(*pairs, low), round);
                    *pairs = _mm256_srli_epi32::<24>(_mm256_add_epi32(high, low));
                }
                *out = _mm256_packs_epi32(pairs[0], pairs[1]);
            }
            out
        }
    }

    #[inline(always)]
    fn upper([low, high]: Self::Levels, factor: i16) -> Self::Levels {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe {
            let factor = _mm256_set1_epi16(factor);
            [_mm256_mulhi_epi16(low, factor), _mm256_mulhi_epi16(high, factor)]
        }
    }

    #[inline(always)]
    fn products(mut one: Self::Levels, other: Self::Levels, [first, second]: [i16; 2]) -> Self::Levels {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe {
            let factors = _mm256_set1_epi32(i32::from(second) << 16 | i32::from(first) & 0xffff);
            let round = _mm256_set1_epi32(1 << 15);
            for (one, other) in one.iter_mut().zip(other) {
                let low = _mm256_madd_epi16(_mm256_unpacklo_epi16(*one, other), factors);
                let high = _mm256_madd_epi16(_mm256_unpackhi_epi16(*one, other), factors);
                let (low, high) = (_mm256_add_epi32(low, round), _mm256_add_epi32(high, round));
                *one = _mm256_packs_epi32(_mm256_srai_epi32::<16>(low), _mm256_srai_epi32::<16>(high));
            }
        }
        one
    }

    #[inline(always)]
    fn luma(mut red: Self::Levels, green: Self::Levels, blue: Self::Levels) -> Self::Levels {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe {
            let (red_green, blue_half) = (_mm256_set1_epi32(LUMA[0]), _mm256_set1_epi32(LUMA[1]));
            let two = _mm256_set1_epi16(2);
            for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
                let low = _mm256_add_epi32(
                    _mm256_madd_epi16(_mm256_unpacklo_epi16(*red, green), red_green),
                    _mm256_madd_epi16(_mm256_unpacklo_epi16(blue, two), blue_half),
                );
                let high = _mm256_add_epi32(
                    _mm256_madd_epi16(_mm256_unpackhi_epi16(*red, green), red_green),
                    _mm256_madd_epi16(_mm256_unpackhi_epi16(blue, two), blue_half),
                );
                let (low, high) = (_mm256_srai_epi32::<16>(low), _mm256_srai_epi32::<16>(high));
                *red = _mm256_add_epi16(_mm256_packs_epi32(low, high), green);
            }
        }
        red
    }

    /// Interleaving with zeros and packing work within the same halves, so that the order comes back.
    #[inline(always)]
    fn split(bytes: &[u8; 64]) -> [Self::Levels; 2] {
        let at: *const __m256i = bytes.as_ptr().cast();
        // SAFETY: the CPU has AVX2 (see above); both loads are of a half of the bytes.
        unsafe {
            let (first, second, zero) =
                (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1)), _mm256_setzero_si256());
            [
                [_mm256_unpacklo_epi8(first, zero), _mm256_unpackhi_epi8(first, zero)],
                [_mm256_unpacklo_epi8(second, zero), _mm256_unpackhi_epi8(second, zero)],
            ]
        }
    }

    #[inline(always)]
    fn merge([first, second]: [Self::Levels; 2]) -> [u8; 64] {
        // SAFETY: the CPU has AVX2 (see above); both sides of the transmutation are 64 plain bytes.
        unsafe {
            transmute([_mm256_packus_epi16(first[0], first[1]), _mm256_packus_epi16(second[0], second[1])])
        }
    }

    /// Sixteen shuffles for 32 bytes: the arithmetic behind the table costs less.
    #[inline(always)]
    fn map(bytes: &mut [u8], table: &[u8; 256]) -> bool {
        Portable::map(bytes, table)
    }
}
