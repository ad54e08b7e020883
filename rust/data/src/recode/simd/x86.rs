//! Here: the steps of `Steps` in AVX2 and AVX-512 intrinsics.
//! Not here: their definition (`Portable`), the question what the CPU has (`Simd`).
//!
//! No closures here, nor iterator adaptors that take one: they would be compiled without the instructions.
//!
//! Every block of intrinsics rests on one promise: `Steps` is called inside `kernel!` only, in functions
//! compiled for, and run on, CPUs with these instructions.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{Steps, places};
use crate::ops::simd::{Avx2, Avx512};
use crate::recode::layout::{ESCAPED, LEAST_ESCAPED, LEAST_LARGE, WIDE};
use crate::recode::order::{Block, PAIRED_TO_ZIGZAG, ZIGZAG};

/// Where in each 16 bytes of the zigzag order those of each 16 of the paired order are; 128 for none.
const QUARTERS: [[[u8; 16]; 4]; 4] = {
    let mut places = [[[128; 16]; 4]; 4];
    let mut i = 0;
    while i < 64 {
        let from = PAIRED_TO_ZIGZAG[i];
        places[i / 16][from as usize / 16][i % 16] = from % 16;
        i += 1;
    }
    places
};

/// The transposition of a 4 x 4 matrix of bytes.
const ACROSS: [u8; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

/// Of every third byte, counted from each of the first three, its index: where pixels' bytes are found in 16 bytes
/// of one plane. 128 elsewhere.
const THIRDS: [[[u8; 16]; 3]; 3] = {
    let mut places = [[[128; 16]; 3]; 3];
    let mut i = 0;
    while i < 48 {
        places[i % 3][i / 16][i % 16] = (i / 3) as u8;
        i += 1;
    }
    places
};

/// Where 192 bytes of pixels come from: the plane's index in the first 64, the plane apart.
const PIXELS: [[u8; 64]; 3] = {
    let mut places = [[0; 64]; 3];
    let mut i = 0;
    while i < 192 {
        // Red and green are looked up together, green as 64 to 127.
        places[i / 64][i % 64] = (i / 3 + if i % 3 == 1 { 64 } else { 0 }) as u8;
        i += 1;
    }
    places
};

/// Which of 64 bytes of pixels are blue, for each third of the 192.
const BLUE: [u64; 3] = {
    let mut masks = [0; 3];
    let mut i = 0;
    while i < 64 {
        masks[(3 * i + 2) / 64] |= 1 << ((3 * i + 2) % 64);
        i += 1;
    }
    masks
};

/// Eight bytes in the lower half, the bits of `mask` telling where they go.
///
/// # Safety
/// The CPU has SSSE3.
#[inline(always)]
unsafe fn spread(mask: u64, from: &[u8; 64], at: usize) -> __m128i {
    let eight: &[u8] = &from[at..at + 8];
    // SAFETY: the CPU has SSSE3; both loads are of 8 bytes that are there.
    unsafe {
        let eight = _mm_loadl_epi64(eight.as_ptr().cast());
        _mm_shuffle_epi8(eight, _mm_loadl_epi64(places(mask as u8).as_ptr().cast()))
    }
}

/// As many of the first bytes of `from` as bits of `mask` are set, each moved to its bit's place: 16 at a time.
///
/// # Safety
/// The CPU has AVX2 and POPCNT.
#[inline(always)]
unsafe fn expand(mask: u64, from: &[u8; 64]) -> [__m128i; 4] {
    const ONES: u64 = u64::MAX / 255;
    // Set bits of each byte, then those of all bytes below each: they depend on nothing but the mask.
    let pairs = mask - (mask >> 1 & (ONES * 0x55));
    let fours = (pairs & (ONES * 0x33)) + (pairs >> 2 & (ONES * 0x33));
    let bytes = (fours + (fours >> 4)) & (ONES * 0x0f);
    let before = bytes.wrapping_mul(ONES) << 8;
    // SAFETY: as promised; there are at most 8 bits below each further byte, so at most 56 in all.
    unsafe {
        let mut out = [_mm_setzero_si128(); 4];
        for (i, out) in out.iter_mut().enumerate() {
            let (mask, before) = (mask >> (16 * i), before >> (16 * i));
            let low = spread(mask, from, (before & 63) as usize);
            let high = spread(mask >> 8, from, (before >> 8 & 63) as usize);
            *out = _mm_unpacklo_epi64(low, high);
        }
        out
    }
}

/// A bit for each of 64 bytes: its highest.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn signs(low: __m256i, high: __m256i) -> u64 {
    // SAFETY: as promised.
    unsafe {
        let (low, high) = (_mm256_movemask_epi8(low), _mm256_movemask_epi8(high));
        u64::from(low.cast_unsigned()) | u64::from(high.cast_unsigned()) << 32
    }
}

/// All ones in each byte whose bit is set.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn bytes_of(bits: u32) -> __m256i {
    // SAFETY: as promised.
    unsafe {
        let byte = _mm256_setr_epi64x(0, ONE_EACH, 2 * ONE_EACH, 3 * ONE_EACH);
        let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits.cast_signed()), byte);
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit)
    }
}

const ONE_EACH: i64 = 0x0101_0101_0101_0101;

/// Two halves of 64 bytes.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn halves([a, b, c, d]: [__m128i; 4]) -> [__m256i; 2] {
    // SAFETY: as promised.
    unsafe { [_mm256_set_m128i(b, a), _mm256_set_m128i(d, c)] }
}

impl Steps for Avx2 {
    const BLOCKS: usize = 2;
    type Words = __m256i;

    #[inline(always)]
    fn magnitudes(chunk: &mut [u8; 64], escapes: &[u8; 64]) -> usize {
        // SAFETY: the CPU has AVX2 (see above); loads and stores are of the chunk's halves.
        unsafe {
            let at: *mut __m256i = chunk.as_mut_ptr().cast();
            let four = [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))];
            let escaped = _mm256_set1_epi8(ESCAPED as i8);
            let masks = [_mm256_cmpeq_epi8(four[0], escaped), _mm256_cmpeq_epi8(four[1], escaped)];
            let mask = signs(masks[0], masks[1]);
            let least = _mm256_set1_epi8(LEAST_LARGE as i8);
            if mask == 0 {
                _mm256_storeu_si256(at, _mm256_add_epi8(four[0], least));
                _mm256_storeu_si256(at.add(1), _mm256_add_epi8(four[1], least));
                return 0;
            }
            let extra = halves(expand(mask, escapes));
            for i in 0..2 {
                let wide = _mm256_set1_epi8(WIDE as i8);
                // Where there is no escape, 0 is expanded, which is not wide.
                let is_wide = _mm256_cmpeq_epi8(_mm256_max_epu8(extra[i], wide), extra[i]);
                let value = _mm256_add_epi8(_mm256_add_epi8(four[i], least), extra[i]);
                _mm256_storeu_si256(at.add(i), _mm256_or_si256(value, is_wide));
            }
            const { assert!(LEAST_LARGE + ESCAPED == LEAST_ESCAPED) };
            mask.count_ones() as usize
        }
    }

    #[inline(always)]
    fn values(negative: u64, large: u64, magnitudes: &[u8; 64], out: &mut [u8; 64]) -> u64 {
        // SAFETY: the CPU has AVX2 (see above); stores are to the halves of `out`.
        unsafe {
            let found = halves(expand(large, magnitudes));
            let at: *mut __m256i = out.as_mut_ptr().cast();
            let mut wide = found;
            for i in 0..2 {
                // A large value is 2 at least: where there is none, 0 becomes 1.
                let magnitude = _mm256_max_epu8(found[i], _mm256_set1_epi8(1));
                wide[i] = _mm256_cmpeq_epi8(magnitude, _mm256_set1_epi8(-1));
                let sign = bytes_of((negative >> (32 * i)) as u32);
                // -x is the complement of x - 1.
                _mm256_storeu_si256(at.add(i), _mm256_xor_si256(_mm256_add_epi8(magnitude, sign), sign));
            }
            signs(wide[0], wide[1])
        }
    }

    #[inline(always)]
    fn block(bitmap: u64, values: &[u8; 64], out: &mut Block) {
        // SAFETY: the CPU has AVX2 (see above); a block has room for four stores of 16 values.
        unsafe {
            let zigzag = expand(bitmap, values);
            let at: *mut __m256i = out.0.as_mut_ptr().cast();
            for (i, [first, second]) in QUARTERS.as_chunks::<2>().0.iter().enumerate() {
                let mut paired = _mm256_setzero_si256();
                for (j, &part) in zigzag.iter().enumerate() {
                    let places: __m256i = transmute([first[j], second[j]]);
                    let part = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(part), places);
                    paired = _mm256_or_si256(paired, part);
                }
                let (low, high) = (_mm256_castsi256_si128(paired), _mm256_extracti128_si256::<1>(paired));
                _mm256_store_si256(at.add(2 * i), _mm256_cvtepi8_epi16(low));
                _mm256_store_si256(at.add(2 * i + 1), _mm256_cvtepi8_epi16(high));
            }
        }
    }

    #[inline(always)]
    fn load(blocks: &[Block], half: usize) -> [Self::Words; 4] {
        let (first, second) = (&blocks[0].0[32 * half..][..32], &blocks[1].0[32 * half..][..32]);
        // SAFETY: the CPU has AVX2 (see above); each load is of 8 of the 32 aligned values of a half.
        unsafe {
            let mut chunks = [_mm256_setzero_si256(); 4];
            for (i, chunk) in chunks.iter_mut().enumerate() {
                let low = _mm_load_si128(first.as_ptr().cast::<__m128i>().add(i));
                let high = _mm_load_si128(second.as_ptr().cast::<__m128i>().add(i));
                *chunk = _mm256_set_m128i(high, low);
            }
            chunks
        }
    }

    #[inline(always)]
    fn repeat(words: &[i16; 8]) -> Self::Words {
        // SAFETY: the CPU has AVX2 (see above); the words are a whole reference's.
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(words.as_ptr().cast())) }
    }

    #[inline(always)]
    fn pair(low: i16, high: i16) -> Self::Words {
        Self::word(i32::from(high) << 16 | i32::from(low) & 0xffff)
    }

    #[inline(always)]
    fn word(value: i32) -> Self::Words {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe { _mm256_set1_epi32(value) }
    }

    #[inline(always)]
    fn multiply(one: Self::Words, other: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe { _mm256_mullo_epi16(one, other) }
    }

    #[inline(always)]
    fn dot(sum: Self::Words, one: Self::Words, other: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(one, other)) }
    }

    #[inline(always)]
    fn add(one: Self::Words, other: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe { _mm256_add_epi32(one, other) }
    }

    #[inline(always)]
    fn subtract(one: Self::Words, other: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe { _mm256_sub_epi32(one, other) }
    }

    #[inline(always)]
    fn shift<const BITS: u32>(words: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe { _mm256_sra_epi32(words, _mm_cvtsi32_si128(BITS as i32)) }
    }

    #[inline(always)]
    fn join<const BITS: u32>(low: Self::Words, high: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe {
            let low = _mm256_srl_epi32(low, _mm_cvtsi32_si128(BITS as i32));
            let high = _mm256_sll_epi32(high, _mm_cvtsi32_si128(16 - BITS as i32));
            _mm256_blend_epi16::<0b1010_1010>(low, high)
        }
    }

    #[inline(always)]
    fn transpose([a, b, c, d]: [Self::Words; 4]) -> [Self::Words; 4] {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe {
            let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
            let (ef, gh) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
            [
                _mm256_unpacklo_epi64(ab, cd),
                _mm256_unpackhi_epi64(ab, cd),
                _mm256_unpacklo_epi64(ef, gh),
                _mm256_unpackhi_epi64(ef, gh),
            ]
        }
    }

    #[inline(always)]
    fn store([a, b, c, d, e, f, g, h]: [Self::Words; 8], out: &mut [u8], pitch: usize) {
        // SAFETY: the CPU has AVX2 (see above); each store is to 16 bytes of a slice of so many.
        unsafe {
            let left = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            let right = _mm256_packs_epi16(_mm256_packs_epi32(e, f), _mm256_packs_epi32(g, h));
            let across: __m256i = transmute([ACROSS, ACROSS]);
            let (left, right) = (_mm256_shuffle_epi8(left, across), _mm256_shuffle_epi8(right, across));
            let middle = _mm256_set1_epi8(-128);
            let upper = _mm256_xor_si256(_mm256_unpacklo_epi32(left, right), middle);
            let lower = _mm256_xor_si256(_mm256_unpackhi_epi32(left, right), middle);
            // Each 128-bit part has two rows of a block: now each has a row of two.
            let pairs = [
                _mm256_permute4x64_epi64::<0b11_01_10_00>(upper),
                _mm256_permute4x64_epi64::<0b11_01_10_00>(lower),
            ];
            for (i, pair) in pairs.into_iter().enumerate() {
                let row = &mut out[2 * i * pitch..][..16];
                _mm_storeu_si128(row.as_mut_ptr().cast(), _mm256_castsi256_si128(pair));
                let row = &mut out[(2 * i + 1) * pitch..][..16];
                _mm_storeu_si128(row.as_mut_ptr().cast(), _mm256_extracti128_si256::<1>(pair));
            }
        }
    }

    #[inline(always)]
    fn interleave(planes: [&[u8; 64]; 3], out: &mut [u8; 192]) {
        // SAFETY: the CPU has AVX2 (see above); 16 bytes are loaded from each quarter of a plane, and stored to
        // each twelfth of `out`.
        unsafe {
            for i in 0..4 {
                for third in 0..3 {
                    let mut pixels = _mm_setzero_si128();
                    for (plane, places) in planes.iter().zip(&THIRDS) {
                        let samples = _mm_loadu_si128(plane.as_ptr().cast::<__m128i>().add(i));
                        let places = _mm_loadu_si128(places[third].as_ptr().cast());
                        pixels = _mm_or_si128(pixels, _mm_shuffle_epi8(samples, places));
                    }
                    _mm_storeu_si128(out.as_mut_ptr().cast::<__m128i>().add(3 * i + third), pixels);
                }
            }
        }
    }
}

/// Sixty-four bytes.
///
/// # Safety
/// The CPU has AVX-512 with BW.
#[inline(always)]
unsafe fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the bytes are a whole reference's.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

impl Steps for Avx512 {
    const BLOCKS: usize = 4;
    type Words = __m512i;

    #[inline(always)]
    fn magnitudes(chunk: &mut [u8; 64], escapes: &[u8; 64]) -> usize {
        // SAFETY: the CPU has AVX-512 with VBMI2 (see above); the store is to all of the chunk.
        unsafe {
            let four = load(chunk);
            let escaped = _mm512_cmpeq_epi8_mask(four, _mm512_set1_epi8(ESCAPED as i8));
            let extra = _mm512_maskz_expand_epi8(escaped, load(escapes));
            let wide = _mm512_cmpge_epu8_mask(extra, _mm512_set1_epi8(WIDE as i8));
            let value = _mm512_add_epi8(_mm512_add_epi8(four, _mm512_set1_epi8(LEAST_LARGE as i8)), extra);
            let value = _mm512_mask_mov_epi8(value, wide, _mm512_set1_epi8(-1));
            _mm512_storeu_si512(chunk.as_mut_ptr().cast(), value);
            escaped.count_ones() as usize
        }
    }

    #[inline(always)]
    fn values(signs: u64, large: u64, magnitudes: &[u8; 64], out: &mut [u8; 64]) -> u64 {
        // SAFETY: the CPU has AVX-512 with VBMI2 (see above); the store is to all of `out`.
        unsafe {
            let found = _mm512_mask_expand_epi8(_mm512_set1_epi8(1), large, load(magnitudes));
            let value = _mm512_mask_sub_epi8(found, signs, _mm512_setzero_si512(), found);
            _mm512_storeu_si512(out.as_mut_ptr().cast(), value);
            _mm512_cmpeq_epi8_mask(found, _mm512_set1_epi8(-1))
        }
    }

    #[inline(always)]
    fn block(bitmap: u64, values: &[u8; 64], out: &mut Block) {
        // SAFETY: the CPU has AVX-512 with VBMI2 (see above); a block has room for two stores of 32 values.
        unsafe {
            let zigzag = _mm512_maskz_expand_epi8(bitmap, load(values));
            let paired = _mm512_permutexvar_epi8(load(&PAIRED_TO_ZIGZAG), zigzag);
            let at: *mut __m512i = out.0.as_mut_ptr().cast();
            _mm512_store_si512(at, _mm512_cvtepi8_epi16(_mm512_castsi512_si256(paired)));
            _mm512_store_si512(at.add(1), _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64::<1>(paired)));
        }
    }

    #[inline(always)]
    fn scan(block: &[i16; 64], values: &mut [i16; 64]) -> u64 {
        // SAFETY: the CPU has AVX-512 with VBMI2 (see above); each half is loaded and stored whole, and no more
        // than the 32 values of the first half stand before those of the second.
        unsafe {
            let at: *const __m512i = block.as_ptr().cast();
            let (upper, lower) = (_mm512_loadu_si512(at), _mm512_loadu_si512(at.add(1)));
            let order: *const __m256i = ZIGZAG.as_ptr().cast();
            let first = _mm512_cvtepu8_epi16(_mm256_loadu_si256(order));
            let second = _mm512_cvtepu8_epi16(_mm256_loadu_si256(order.add(1)));
            let first = _mm512_permutex2var_epi16(upper, first, lower);
            let second = _mm512_permutex2var_epi16(upper, second, lower);
            let masks = [_mm512_test_epi16_mask(first, first) & !1, _mm512_test_epi16_mask(second, second)];
            let out: *mut i16 = values.as_mut_ptr();
            _mm512_storeu_si512(out.cast(), _mm512_maskz_compress_epi16(masks[0], first));
            let behind = out.add(masks[0].count_ones() as usize);
            _mm512_storeu_si512(behind.cast(), _mm512_maskz_compress_epi16(masks[1], second));
            u64::from(masks[0]) | u64::from(masks[1]) << 32
        }
    }

    #[inline(always)]
    fn split(values: &[i16; 64], magnitudes: &mut [u8; 64]) -> [u64; 2] {
        // SAFETY: the CPU has AVX-512 with VBMI2 (see above); the store is to all of `magnitudes`.
        unsafe {
            let at: *const __m512i = values.as_ptr().cast();
            let (first, second) = (_mm512_loadu_si512(at), _mm512_loadu_si512(at.add(1)));
            let negative = [_mm512_movepi16_mask(first), _mm512_movepi16_mask(second)];
            // -2^15 is its own magnitude, without a sign.
            let low = _mm512_cvtusepi16_epi8(_mm512_abs_epi16(first));
            let high = _mm512_cvtusepi16_epi8(_mm512_abs_epi16(second));
            let found = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
            let least = _mm512_set1_epi8(LEAST_LARGE as i8);
            let large = _mm512_cmpge_epu8_mask(found, least);
            let packed = _mm512_maskz_compress_epi8(large, _mm512_sub_epi8(found, least));
            _mm512_storeu_si512(magnitudes.as_mut_ptr().cast(), packed);
            [u64::from(negative[0]) | u64::from(negative[1]) << 32, large]
        }
    }

    #[inline(always)]
    fn escape(magnitudes: &mut [u8; 64], escapes: &mut [u8; 64]) -> usize {
        // SAFETY: the CPU has AVX-512 with VBMI2 (see above); both stores are to all of an array.
        unsafe {
            let found = load(magnitudes);
            let escaped = _mm512_set1_epi8(ESCAPED as i8);
            let which = _mm512_cmpge_epu8_mask(found, escaped);
            let extra = _mm512_min_epu8(_mm512_sub_epi8(found, escaped), _mm512_set1_epi8(WIDE as i8));
            _mm512_storeu_si512(escapes.as_mut_ptr().cast(), _mm512_maskz_compress_epi8(which, extra));
            _mm512_storeu_si512(magnitudes.as_mut_ptr().cast(), _mm512_min_epu8(found, escaped));
            which.count_ones() as usize
        }
    }

    #[inline(always)]
    fn load(blocks: &[Block], half: usize) -> [Self::Words; 4] {
        let blocks = &blocks[..4];
        // SAFETY: the CPU has AVX-512 (see above); each load is of the 32 aligned values of a block's half.
        unsafe {
            let mut halves = [_mm512_setzero_si512(); 4];
            for (words, block) in halves.iter_mut().zip(blocks) {
                *words = _mm512_load_si512(block.0[32 * half..][..32].as_ptr().cast());
            }
            let [a, b, c, d] = halves;
            let (low, high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
            let (third, fourth) = (_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d));
            [
                _mm512_shuffle_i32x4::<0x88>(low, high),
                _mm512_shuffle_i32x4::<0xdd>(low, high),
                _mm512_shuffle_i32x4::<0x88>(third, fourth),
                _mm512_shuffle_i32x4::<0xdd>(third, fourth),
            ]
        }
    }

    #[inline(always)]
    fn repeat(words: &[i16; 8]) -> Self::Words {
        // SAFETY: the CPU has AVX-512 (see above); the words are a whole reference's.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(words.as_ptr().cast())) }
    }

    #[inline(always)]
    fn pair(low: i16, high: i16) -> Self::Words {
        Self::word(i32::from(high) << 16 | i32::from(low) & 0xffff)
    }

    #[inline(always)]
    fn word(value: i32) -> Self::Words {
        // SAFETY: the CPU has AVX-512 (see above).
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn multiply(one: Self::Words, other: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX-512 with BW (see above).
        unsafe { _mm512_mullo_epi16(one, other) }
    }

    #[inline(always)]
    fn dot(sum: Self::Words, one: Self::Words, other: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX-512 with VNNI (see above).
        unsafe { _mm512_dpwssd_epi32(sum, one, other) }
    }

    #[inline(always)]
    fn add(one: Self::Words, other: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX-512 (see above).
        unsafe { _mm512_add_epi32(one, other) }
    }

    #[inline(always)]
    fn subtract(one: Self::Words, other: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX-512 (see above).
        unsafe { _mm512_sub_epi32(one, other) }
    }

    #[inline(always)]
    fn shift<const BITS: u32>(words: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX-512 (see above).
        unsafe { _mm512_srai_epi32::<BITS>(words) }
    }

    #[inline(always)]
    fn join<const BITS: u32>(low: Self::Words, high: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX-512 with BW (see above).
        unsafe {
            let low = _mm512_srli_epi32::<BITS>(low);
            let high = _mm512_sll_epi32(high, _mm_cvtsi32_si128(16 - BITS as i32));
            _mm512_mask_blend_epi16(0xaaaa_aaaa, low, high)
        }
    }

    #[inline(always)]
    fn transpose([a, b, c, d]: [Self::Words; 4]) -> [Self::Words; 4] {
        // SAFETY: the CPU has AVX-512 (see above).
        unsafe {
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ef, gh) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ef, gh),
                _mm512_unpackhi_epi64(ef, gh),
            ]
        }
    }

    #[inline(always)]
    fn store([a, b, c, d, e, f, g, h]: [Self::Words; 8], out: &mut [u8], pitch: usize) {
        // SAFETY: the CPU has AVX-512 with BW (see above); each store is to 32 bytes of a slice of so many.
        unsafe {
            let left = _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            let right = _mm512_packs_epi16(_mm512_packs_epi32(e, f), _mm512_packs_epi32(g, h));
            let across = _mm512_broadcast_i32x4(_mm_loadu_si128(ACROSS.as_ptr().cast()));
            let (left, right) = (_mm512_shuffle_epi8(left, across), _mm512_shuffle_epi8(right, across));
            let middle = _mm512_set1_epi8(-128);
            // Each 128-bit part has two rows of a block: now each half has a row of four.
            let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
            let pairs = [_mm512_unpacklo_epi32(left, right), _mm512_unpackhi_epi32(left, right)];
            for (i, pair) in pairs.into_iter().enumerate() {
                let pair = _mm512_permutexvar_epi64(order, _mm512_xor_si512(pair, middle));
                let row = &mut out[2 * i * pitch..][..32];
                _mm256_storeu_si256(row.as_mut_ptr().cast(), _mm512_castsi512_si256(pair));
                let row = &mut out[(2 * i + 1) * pitch..][..32];
                _mm256_storeu_si256(row.as_mut_ptr().cast(), _mm512_extracti64x4_epi64::<1>(pair));
            }
        }
    }

    #[inline(always)]
    fn interleave([red, green, blue]: [&[u8; 64]; 3], out: &mut [u8; 192]) {
        // SAFETY: the CPU has AVX-512 with VBMI (see above); each store is to a third of `out`.
        unsafe {
            let (red, green, blue) = (load(red), load(green), load(blue));
            for (i, places) in PIXELS.iter().enumerate() {
                let places = load(places);
                let pixels = _mm512_permutex2var_epi8(red, places, green);
                let pixels = _mm512_mask_permutexvar_epi8(pixels, BLUE[i], places, blue);
                _mm512_storeu_si512(out.as_mut_ptr().cast::<__m512i>().add(i).cast(), pixels);
            }
        }
    }
}
