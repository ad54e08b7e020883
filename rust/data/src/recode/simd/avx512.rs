//! Here: the steps of `Steps` in AVX-512 intrinsics.
//! Not here: their definition (`Portable`), the question what the CPU has (`Simd`).
//!
//! No closures here, nor iterator adaptors that take one: they would be compiled without the instructions.
//!
//! Every block of intrinsics rests on one promise: `Steps` is called inside `kernel!` only, in functions
//! compiled for, and run on, CPUs with these instructions.

use std::arch::x86_64::*;

use super::{ACROSS, Steps};
use crate::ops::simd::{Avx512, add_products, unknown};
use crate::recode::layout::{ESCAPED, LEAST_LARGE, WIDE};
use crate::recode::order::{Block, PAIRED_TO_ZIGZAG, ZIGZAG};
use crate::recode::pieces::{COUNT, MOST_JOINED, Piece};

/// Every place.
const COUNTING: [u8; 64] = {
    let mut places = [0; 64];
    let mut i = 0;
    while i < 64 {
        places[i] = i as u8;
        i += 1;
    }
    places
};

/// The place before each; before the first, the last.
const BEFORE: [u8; 64] = {
    let mut places = COUNTING;
    let mut i = 0;
    while i < 64 {
        places[i] = places[i].wrapping_sub(1) & 63;
        i += 1;
    }
    places
};

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
    fn weigh(bitmap: u64, values: &[u8; 64], steps: &[u8; 64]) -> Option<u32> {
        // SAFETY: the CPU has AVX-512 with VBMI2 and VNNI (see above).
        unsafe {
            let magnitudes = _mm512_abs_epi8(_mm512_maskz_expand_epi8(bitmap, load(values)));
            let sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), load(steps), magnitudes);
            Some(_mm512_reduce_add_epi32(sums).cast_unsigned())
        }
    }

    #[inline(always)]
    fn same_bitmaps(
        around: &[u8; 80],
        begins: u64,
        counts: u64,
        odd: u64,
        bitmaps: &[u64; 8],
    ) -> Option<bool> {
        // SAFETY: the CPU has AVX-512 (see above). Words are gathered from the first 64 bytes of `around` on, and from
        // the bytes behind those: of 80 that are there.
        unsafe {
            let at = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(begins.cast_signed()));
            let at = _mm512_add_epi64(at, _mm512_set1_epi64(odd.cast_signed()));
            let byte = _mm512_and_si512(_mm512_srli_epi64::<1>(at), _mm512_set1_epi64(63));
            let shift = _mm512_slli_epi64::<2>(_mm512_and_si512(at, _mm512_set1_epi64(1)));
            let from: *const i64 = around.as_ptr().cast();
            let word = _mm512_i64gather_epi64::<1>(byte, from);
            let behind = _mm512_i64gather_epi64::<1>(_mm512_add_epi64(byte, _mm512_set1_epi64(1)), from);
            // Of 17 times 4 bits the last is in the ninth byte.
            let last = _mm512_slli_epi64::<60>(_mm512_srli_epi64::<56>(behind));
            let last = _mm512_maskz_mov_epi64(_mm512_test_epi64_mask(shift, shift), last);
            let found = _mm512_or_si512(_mm512_srlv_epi64(word, shift), last);
            let counts = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(counts.cast_signed()));
            let one = _mm512_set1_epi64(1);
            // Shifted by 64 bits nothing is left of it, and all bits count.
            let there = _mm512_sub_epi64(_mm512_sllv_epi64(one, _mm512_slli_epi64::<2>(counts)), one);
            let found = _mm512_slli_epi64::<1>(_mm512_and_si512(found, there));
            let bitmaps = _mm512_loadu_si512(bitmaps.as_ptr().cast());
            Some(_mm512_cmpneq_epi64_mask(found, bitmaps) == 0)
        }
    }

    #[inline(always)]
    fn unstuff(bytes: &[u8; 64], behind: bool, out: &mut [u8; 64]) -> Option<(usize, bool)> {
        // SAFETY: the CPU has AVX-512 with VBMI2 (see above); the store is to all of `out`.
        unsafe {
            let bytes = load(bytes);
            let marks = _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(-1));
            let stuffed = marks << 1 | u64::from(behind);
            if stuffed & _mm512_test_epi8_mask(bytes, bytes) != 0 {
                return None;
            }
            _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_maskz_compress_epi8(!stuffed, bytes));
            Some((64 - stuffed.count_ones() as usize, marks >> 63 == 1))
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
    fn split(values: &[i16; 64], magnitudes: &mut [u8; 64]) -> [u64; 3] {
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
            let wide = _mm512_movepi8_mask(found);
            [u64::from(negative[0]) | u64::from(negative[1]) << 32, large, wide]
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
    fn pieces(bitmap: u64, values: &[u8; 64], small: &[[Piece; 256]; 16], out: &mut [Piece; 64]) -> bool {
        // SAFETY: the CPU has AVX-512 with VBMI2 (see above). Only lanes of values are gathered: a run is at most 15
        // and a value has 8 bits, so that all indices are within the table. Each store is to a fourth of `out`.
        unsafe {
            let places = _mm512_maskz_compress_epi8(bitmap, load(&COUNTING));
            // The place before the first, 0, is that of the first coefficient.
            let before = _mm512_maskz_permutexvar_epi8(!1, load(&BEFORE), places);
            let mut runs = _mm512_sub_epi8(places, _mm512_add_epi8(before, _mm512_set1_epi8(1)));
            let count = bitmap.count_ones();
            let mut there = (1_u64 << (count & 63)) - 1;
            if _mm512_mask_cmpgt_epu8_mask(there, runs, _mm512_set1_epi8(15)) != 0 {
                return false;
            }
            let (mut values, mut none) = (load(values), 0);
            for out in out.as_chunks_mut::<16>().0 {
                let run = _mm512_cvtepu8_epi32(_mm512_castsi512_si128(runs));
                let value = _mm512_cvtepu8_epi32(_mm512_castsi512_si128(values));
                let index = _mm512_or_si512(_mm512_slli_epi32::<8>(run), value);
                let lanes = there as u16;
                let found = _mm512_mask_i32gather_epi32::<4>(
                    _mm512_setzero_si512(),
                    lanes,
                    index,
                    small.as_ptr().cast(),
                );
                _mm512_storeu_si512(out.as_mut_ptr().cast(), found);
                none |= _mm512_movepi32_mask(found);
                there >>= 16;
                if there == 0 {
                    break;
                }
                runs = _mm512_alignr_epi64::<2>(runs, runs);
                values = _mm512_alignr_epi64::<2>(values, values);
            }
            none == 0
        }
    }

    #[inline(always)]
    fn join_pieces(pieces: &[Piece; 16]) -> Option<[(u64, u64); 4]> {
        // SAFETY: the CPU has AVX-512 with DQ (see above); the pieces are a whole reference's, and each store is to
        // all of an array.
        unsafe {
            let all = _mm512_loadu_si512(pieces.as_ptr().cast());
            let count = _mm512_set1_epi64(COUNT.into());
            // Of each pair the first is the lower half.
            let low = _mm512_and_si512(all, _mm512_set1_epi64(0xffff_ffff));
            let behind = _mm512_and_si512(_mm512_srli_epi64::<32>(all), count);
            let bits = _mm512_sllv_epi64(_mm512_srli_epi64::<6>(low), behind);
            let bits = _mm512_or_si512(bits, _mm512_srli_epi64::<38>(all));
            let counts = _mm512_add_epi64(_mm512_and_si512(low, count), behind);
            let behind = _mm512_unpackhi_epi64(counts, counts);
            let bits = _mm512_or_si512(_mm512_sllv_epi64(bits, behind), _mm512_unpackhi_epi64(bits, bits));
            let counts = _mm512_add_epi64(counts, behind);
            let long = _mm512_cmpgt_epu64_mask(counts, _mm512_set1_epi64(MOST_JOINED.into()));
            if _mm512_movepi32_mask(all) != 0 || long & 0x55 != 0 {
                return None;
            }
            let (mut words, mut lengths) = ([0_u64; 8], [0_u64; 8]);
            _mm512_storeu_si512(words.as_mut_ptr().cast(), bits);
            _mm512_storeu_si512(lengths.as_mut_ptr().cast(), counts);
            Some([
                (words[0], lengths[0]),
                (words[2], lengths[2]),
                (words[4], lengths[4]),
                (words[6], lengths[6]),
            ])
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
        unsafe { add_products(sum, one, other) }
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
    fn corner(left: Self::Words, right: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX-512 (see above).
        unsafe { _mm512_mask_shuffle_epi32::<0b10_00_00_00>(left, 0x8888, right) }
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
    fn store<const BITS: u32>(mut columns: [Self::Words; 8], out: &mut [u8], pitch: usize) {
        for column in &mut columns {
            *column = Self::shift::<BITS>(*column);
        }
        let [a, b, c, d, e, f, g, h] = columns;
        // SAFETY: the CPU has AVX-512 with BW (see above); each store is to 32 bytes of a slice of so many.
        unsafe {
            let left = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            let right = _mm512_packus_epi16(_mm512_packs_epi32(e, f), _mm512_packs_epi32(g, h));
            let across = _mm512_broadcast_i32x4(_mm_loadu_si128(ACROSS.as_ptr().cast()));
            let (left, right) = (_mm512_shuffle_epi8(left, across), _mm512_shuffle_epi8(right, across));
            // Each 128-bit part has two rows of a block: now each half has a row of four.
            let order = unknown(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7));
            let pairs = [_mm512_unpacklo_epi32(left, right), _mm512_unpackhi_epi32(left, right)];
            for (i, pair) in pairs.into_iter().enumerate() {
                let pair = _mm512_permutexvar_epi64(order, pair);
                let row = &mut out[2 * i * pitch..][..32];
                _mm256_storeu_si256(row.as_mut_ptr().cast(), _mm512_castsi512_si256(pair));
                let row = &mut out[(2 * i + 1) * pitch..][..32];
                _mm256_storeu_si256(row.as_mut_ptr().cast(), _mm512_extracti64x4_epi64::<1>(pair));
            }
        }
    }
}
