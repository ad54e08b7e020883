//! Here: the steps of `Vector` in AVX-512 intrinsics.
//! Not here: their definition (`Portable`), the question what the CPU has (`Simd`).
//!
//! No closures here, nor iterator adaptors that take one: they would be compiled without the instructions.
//!
//! Every block of intrinsics rests on one promise: `Vector` is called inside `kernel!` only, in functions
//! compiled for, and run on, CPUs with these instructions.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::transmute;

use super::avx2::{ACROSS, BY_CHANNEL, HALF_BITS, LUMA, fours_apart, halves, load, transpose_words};
use super::{LANES, Line, Packed, Quads, Vector, WEIGHT_BITS};

/// AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later): bytes times bytes, weights as three signed digits.
pub(crate) struct Avx512;

/// Sums of the two products of pairs, and of what was there: `_mm512_dpwssd_epi32`. Of that compilers make a product
/// and a sum, for the sake of older CPUs that take longer for both together; here each instruction counts.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(crate) fn add_products(sum: __m512i, one: __m512i, other: __m512i) -> __m512i {
    let mut sum = sum;
    // SAFETY: the function is compiled for this instruction, which has registers alone for operands.
    unsafe {
        asm!(
            "vpdpwssd {sum}, {one}, {other}",
            sum = inout(zmm_reg) sum,
            one = in(zmm_reg) one,
            other = in(zmm_reg) other,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// The same, but no compiler knows what it is: it takes steps with constants for others of equal result.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn unknown(value: __m512i) -> __m512i {
    let mut value = value;
    // SAFETY: nothing is done.
    unsafe {
        asm!("/* {value} */", value = inout(zmm_reg) value, options(pure, nomem, nostack, preserves_flags))
    };
    value
}

impl Vector for Avx512 {
    /// Sums of each digit of the weights.
    type Sums = [__m512i; 3];
    type Levels = __m512i;
    type Whole = __m512i;

    const TOGETHER: usize = 4;

    /// weight = d0 + d1 * 2^8 + d2 * 2^16 with digits from -128 to 127; one word for each digit. Adding 128
    /// to each digit makes them the plain bytes of weight + 0x808080. The fourth word has no meaning.
    #[inline(always)]
    fn pack(weights: &[[i32; 8]; 4]) -> [Packed; 8] {
        // SAFETY: the CPU has AVX-512 (see above); each load is of a whole array, each store of two of eight fours.
        unsafe {
            let bias = _mm256_set1_epi32(0x80_8080);
            let mut digits = [_mm256_setzero_si256(); 4];
            for (digits, weights) in digits.iter_mut().zip(weights) {
                let weights = _mm256_loadu_si256(weights.as_ptr().cast());
                *digits = _mm256_xor_si256(_mm256_add_epi32(weights, bias), bias);
            }
            let mut packed = fours_apart(digits);
            let across = _mm512_broadcast_i32x4(load(&ACROSS));
            for fours in packed.as_chunks_mut::<4>().0 {
                let at: *mut __m512i = fours.as_mut_ptr().cast();
                _mm512_storeu_si512(at, _mm512_shuffle_epi8(_mm512_loadu_si512(at), across));
            }
            packed
        }
    }

    #[inline(always)]
    fn shares(weights: [f64; 8], sums: [f64; 8], reciprocals: [f64; 8]) -> [f64; 8] {
        // SAFETY: the CPU has AVX-512 (see above); loads and the transmutation are of eight numbers.
        unsafe {
            let (weights, sums) = (_mm512_loadu_pd(weights.as_ptr()), _mm512_loadu_pd(sums.as_ptr()));
            let reciprocals = _mm512_loadu_pd(reciprocals.as_ptr());
            // From a reciprocal that is rounded, and a quotient off by less than a last place, as the first correction
            // leaves it, one more correction makes the rounded quotient (Markstein, "Computation of elementary
            // functions on the IBM RISC System/6000 processor", 1990).
            let mut shares = _mm512_mul_pd(weights, reciprocals);
            for _ in 0..2 {
                let left = _mm512_fnmadd_pd(shares, sums, weights);
                shares = _mm512_fmadd_pd(left, reciprocals, shares);
            }
            transmute(shares)
        }
    }

    #[inline(always)]
    fn zero() -> Self::Sums {
        // SAFETY: the CPU has AVX-512 (see above).
        unsafe {
            let round = _mm512_set1_epi32(1 << (WEIGHT_BITS - 1));
            [round, _mm512_setzero_si512(), _mm512_setzero_si512()]
        }
    }

    #[inline(always)]
    fn dot(sums: &mut Self::Sums, quads: &Quads, weights: &Packed) {
        // SAFETY: the CPU has AVX-512 VNNI (see above); `Quads` holds the 64 aligned bytes that are loaded.
        unsafe {
            let samples = _mm512_load_si512(quads.0.as_ptr().cast());
            for (sum, &digits) in sums.iter_mut().zip(weights) {
                *sum = _mm512_dpbusd_epi32(*sum, samples, _mm512_set1_epi32(digits as i32));
            }
        }
    }

    #[inline(always)]
    fn whole([low, middle, high]: Self::Sums) -> Self::Whole {
        // SAFETY: the CPU has AVX-512 (see above).
        unsafe {
            let upper = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), middle);
            let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(upper), low);
            _mm512_srai_epi32::<WEIGHT_BITS>(sum)
        }
    }

    #[inline(always)]
    fn in_order([a, b, c, d]: [Self::Whole; 4]) -> [[u8; LANES]; 4] {
        // SAFETY: the CPU has AVX-512 (see above); both sides of the transmutation are 64 plain bytes.
        unsafe {
            let words = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            transmute(_mm512_permutexvar_epi32(order, words))
        }
    }

    #[inline(always)]
    fn by_lanes([a, b, c, d]: [Self::Whole; 4]) -> [[u8; LANES]; 4] {
        // SAFETY: the CPU has AVX-512 (see above); both sides of the transmutation are 64 plain bytes.
        unsafe {
            // Packing works within 128 bits: just the order that is wanted.
            transmute(_mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d)))
        }
    }

    #[inline(always)]
    fn gather(rows: &[u8], stride: usize) -> [Quads; 3] {
        let rows = &rows[..15 * stride + 16];
        // SAFETY: the CPU has AVX-512 (see above); each load is of the 16 bytes from a row's first on, of 16 rows,
        // which are there; `Quads` is 64 plain bytes.
        unsafe {
            let by_channel = _mm512_broadcast_i32x4(load(&BY_CHANNEL));
            let mut vectors = [_mm512_setzero_si512(); 4];
            for (j, vector) in vectors.iter_mut().enumerate() {
                let at = rows.as_ptr().add(j * stride);
                let [a, b, c, d] = [0, 4, 8, 12];
                let all = _mm512_castsi128_si512(_mm_loadu_si128(at.add(a * stride).cast()));
                // Repeated and masked, unlike inserted, they need no unit that shuffles.
                let row = _mm512_broadcast_i32x4(_mm_loadu_si128(at.add(b * stride).cast()));
                let all = _mm512_mask_mov_epi32(all, 0xf0, row);
                let row = _mm512_broadcast_i32x4(_mm_loadu_si128(at.add(c * stride).cast()));
                let all = _mm512_mask_mov_epi32(all, 0xf00, row);
                let row = _mm512_broadcast_i32x4(_mm_loadu_si128(at.add(d * stride).cast()));
                let all = _mm512_mask_mov_epi32(all, 0xf000, row);
                *vector = _mm512_shuffle_epi8(all, by_channel);
            }
            let words = transpose_words!(
                vectors,
                _mm512_unpacklo_epi32,
                _mm512_unpackhi_epi32,
                _mm512_unpacklo_epi64,
                _mm512_unpackhi_epi64
            );
            transmute::<[__m512i; 3], [Quads; 3]>(words)
        }
    }

    #[inline(always)]
    fn across(matrices: &[[u8; 16]; 4]) -> [[u8; 16]; 4] {
        // SAFETY: the CPU has AVX-512 (see above); the load is of all 64 bytes, and both sides of the
        // transmutation are as many.
        unsafe {
            let all = _mm512_loadu_si512(matrices.as_ptr().cast());
            transmute(_mm512_shuffle_epi8(all, _mm512_broadcast_i32x4(load(&ACROSS))))
        }
    }

    #[inline(always)]
    fn quads(parts: &[[[u8; 16]; 4]; 4]) -> [Quads; 4] {
        // SAFETY: the CPU has AVX-512 (see above); each load is of a part's 64 bytes, `Quads` is 64 plain bytes.
        unsafe {
            let (a, b) =
                (_mm512_loadu_si512(parts[0].as_ptr().cast()), _mm512_loadu_si512(parts[1].as_ptr().cast()));
            let (c, d) =
                (_mm512_loadu_si512(parts[2].as_ptr().cast()), _mm512_loadu_si512(parts[3].as_ptr().cast()));
            let (low, high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
            let (third, fourth) = (_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d));
            transmute::<[__m512i; 4], [Quads; 4]>([
                _mm512_shuffle_i32x4::<0x88>(low, high),
                _mm512_shuffle_i32x4::<0xdd>(low, high),
                _mm512_shuffle_i32x4::<0x88>(third, fourth),
                _mm512_shuffle_i32x4::<0xdd>(third, fourth),
            ])
        }
    }

    #[inline(always)]
    fn stack(rows: [[u8; 64]; 4]) -> [Quads; 4] {
        // SAFETY: the CPU has AVX-512 with BW (see above); each load is of a row's 64 bytes, and both sides of the
        // transmutation are 256.
        unsafe {
            let (a, b) =
                (_mm512_loadu_si512(rows[0].as_ptr().cast()), _mm512_loadu_si512(rows[1].as_ptr().cast()));
            let (c, d) =
                (_mm512_loadu_si512(rows[2].as_ptr().cast()), _mm512_loadu_si512(rows[3].as_ptr().cast()));
            let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
            let (ef, gh) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
            // Each has four bytes of all rows from each 16.
            Self::quads(&transmute::<[__m512i; 4], [[[u8; 16]; 4]; 4]>([
                _mm512_unpacklo_epi16(ab, cd),
                _mm512_unpackhi_epi16(ab, cd),
                _mm512_unpacklo_epi16(ef, gh),
                _mm512_unpackhi_epi16(ef, gh),
            ]))
        }
    }

    #[inline(always)]
    fn load(line: &Line) -> Self::Levels {
        // SAFETY: the CPU has AVX-512 (see above); a `Line` is 64 bytes.
        unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
    }

    #[inline(always)]
    fn add(one: Self::Levels, other: Self::Levels) -> Self::Levels {
        // SAFETY: the CPU has AVX-512 (see above).
        unsafe { _mm512_add_epi16(one, other) }
    }

    #[inline(always)]
    fn subtract(one: Self::Levels, other: Self::Levels) -> Self::Levels {
        // SAFETY: the CPU has AVX-512 (see above).
        unsafe { _mm512_sub_epi16(one, other) }
    }

    #[inline(always)]
    fn scale(levels: Self::Levels, factor: i16) -> Self::Levels {
        // SAFETY: the CPU has AVX-512 with BW (see above).
        unsafe { _mm512_mulhrs_epi16(levels, _mm512_set1_epi16(factor)) }
    }

    #[inline(always)]
    fn correct(levels: Self::Levels, keys: Self::Levels, key: i16, by: i16) -> Self::Levels {
        // SAFETY: the CPU has AVX-512 with BW (see above).
        unsafe {
            let there = _mm512_cmpeq_epi16_mask(keys, _mm512_set1_epi16(key));
            _mm512_mask_add_epi16(levels, there, levels, _mm512_set1_epi16(by))
        }
    }

    #[inline(always)]
    fn widen(bytes: &[u8; 32]) -> Self::Levels {
        // SAFETY: the CPU has AVX-512 with BW (see above); the load is of all bytes.
        unsafe { _mm512_cvtepu8_epi16(_mm256_loadu_si256(bytes.as_ptr().cast())) }
    }

    #[inline(always)]
    fn bytes(levels: Self::Levels) -> [u8; 32] {
        // SAFETY: the CPU has AVX-512 with BW (see above); both sides of the transmutation are 32 plain bytes.
        unsafe { transmute(_mm512_cvtepi16_epi8(levels)) }
    }

    #[inline(always)]
    fn store(levels: Self::Levels, line: &mut Line) {
        // SAFETY: the CPU has AVX-512 (see above); a `Line` is 64 bytes.
        unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), levels) }
    }

    #[inline(always)]
    fn weigh(sums: Self::Levels, ends: Self::Levels, full: u32, end: u32) -> Self::Levels {
        let ((full_high, full_low), (end_high, end_low)) =
            (halves(full.cast_signed()), halves(end.cast_signed()));
        // SAFETY: the CPU has AVX-512 with VNNI (see above).
        unsafe {
            let high = _mm512_set1_epi32((full_high | end_high << 16) as i32);
            let low = _mm512_set1_epi32((full_low | end_low << 16) as i32);
            let round = _mm512_set1_epi32(1 << (23 - HALF_BITS));
            // Interleaving and packing work within the same parts, so that the order comes back.
            let mut pairs = [_mm512_unpacklo_epi16(sums, ends), _mm512_unpackhi_epi16(sums, ends)];
            for pairs in &mut pairs {
                let high = _mm512_slli_epi32::<HALF_BITS>(add_products(round, *pairs, high));
                *pairs = _mm512_srli_epi32::<24>(add_products(high, *pairs, low));
            }
            _mm512_packs_epi32(pairs[0], pairs[1])
        }
    }

    #[inline(always)]
    fn upper(levels: Self::Levels, factor: i16) -> Self::Levels {
        // SAFETY: the CPU has AVX-512 with BW (see above).
        unsafe { _mm512_mulhi_epi16(levels, _mm512_set1_epi16(factor)) }
    }

    #[inline(always)]
    fn products(one: Self::Levels, other: Self::Levels, [first, second]: [i16; 2]) -> Self::Levels {
        // SAFETY: the CPU has AVX-512 with VNNI (see above).
        unsafe {
            let factors = _mm512_set1_epi32(i32::from(second) << 16 | i32::from(first) & 0xffff);
            let round = _mm512_set1_epi32(1 << 15);
            let low = add_products(round, _mm512_unpacklo_epi16(one, other), factors);
            let high = add_products(round, _mm512_unpackhi_epi16(one, other), factors);
            _mm512_packs_epi32(_mm512_srai_epi32::<16>(low), _mm512_srai_epi32::<16>(high))
        }
    }

    #[inline(always)]
    fn luma(red: Self::Levels, green: Self::Levels, blue: Self::Levels) -> Self::Levels {
        // SAFETY: the CPU has AVX-512 with VNNI (see above).
        unsafe {
            let (red_green, blue_half) = (_mm512_set1_epi32(LUMA[0]), _mm512_set1_epi32(LUMA[1]));
            let two = _mm512_set1_epi16(2);
            let low = _mm512_madd_epi16(_mm512_unpacklo_epi16(red, green), red_green);
            let low = add_products(low, _mm512_unpacklo_epi16(blue, two), blue_half);
            let high = _mm512_madd_epi16(_mm512_unpackhi_epi16(red, green), red_green);
            let high = add_products(high, _mm512_unpackhi_epi16(blue, two), blue_half);
            let upper = _mm512_packs_epi32(_mm512_srai_epi32::<16>(low), _mm512_srai_epi32::<16>(high));
            _mm512_add_epi16(upper, green)
        }
    }

    /// Interleaving with zeros and packing work within the same 128 bits, so that the order comes back.
    #[inline(always)]
    fn split(bytes: &[u8; 64]) -> [Self::Levels; 2] {
        // SAFETY: the CPU has AVX-512 with BW (see above); the load is of all bytes.
        unsafe {
            let (bytes, zero) = (_mm512_loadu_si512(bytes.as_ptr().cast()), _mm512_setzero_si512());
            [_mm512_unpacklo_epi8(bytes, zero), _mm512_unpackhi_epi8(bytes, zero)]
        }
    }

    #[inline(always)]
    fn merge([first, second]: [Self::Levels; 2]) -> [u8; 64] {
        // SAFETY: the CPU has AVX-512 with BW (see above); both sides of the transmutation are 64 plain bytes.
        unsafe { transmute(_mm512_packus_epi16(first, second)) }
    }

    #[inline(always)]
    fn map(bytes: &mut [u8], table: &[u8; 256]) -> bool {
        let (blocks, rest) = bytes.as_chunks_mut::<64>();
        // SAFETY: the CPU has AVX-512 with VBMI (see above); loads and stores are of whole arrays.
        unsafe {
            let (parts, _) = table.as_chunks::<64>();
            let a = _mm512_loadu_si512(parts[0].as_ptr().cast());
            let b = _mm512_loadu_si512(parts[1].as_ptr().cast());
            let c = _mm512_loadu_si512(parts[2].as_ptr().cast());
            let d = _mm512_loadu_si512(parts[3].as_ptr().cast());
            for block in blocks {
                let values = _mm512_loadu_si512(block.as_ptr().cast());
                let dark = _mm512_permutex2var_epi8(a, values, b);
                let bright = _mm512_permutex2var_epi8(c, values, d);
                let mapped = _mm512_mask_blend_epi8(_mm512_movepi8_mask(values), dark, bright);
                _mm512_storeu_si512(block.as_mut_ptr().cast(), mapped);
            }
        }
        rest.iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]);
        true
    }
}
