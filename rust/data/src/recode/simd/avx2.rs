//! Here: the steps of `Steps` in AVX2 intrinsics.
//! Not here: their definition (`Portable`), the question what the CPU has (`Simd`).
//!
//! No closures here, nor iterator adaptors that take one: they would be compiled without the instructions.
//!
//! Every block of intrinsics rests on one promise: `Steps` is called inside `kernel!` only, in functions
//! compiled for, and run on, CPUs with these instructions.

use std::arch::{asm, x86_64::*};
use std::mem::transmute;

use super::{Steps, places_of};
use crate::ops::simd::Avx2;
use crate::recode::layout::{ESCAPED, LEAST_ESCAPED, LEAST_LARGE, WIDE};
use crate::recode::order::{Block, PAIRED_TO_ZIGZAG};

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

/// Sixteen bytes that are loaded at once.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct Sixteen([u8; 16]);

/// Of each byte of a bitmap, which of the bytes that it spreads goes to each of eight places (128 for none), and behind
/// these how many it spreads, for each of eight places of the next byte.
static LOWER: [Sixteen; 256] = {
    let mut lower = [Sixteen([0; 16]); 256];
    let mut i = 0;
    while i < 16 * 256 {
        let (mask, place) = (i / 16, i % 16);
        let places = places_of(mask as u8);
        lower[mask].0[place] = if place < 8 { places[place] } else { mask.count_ones() as u8 };
        i += 1;
    }
    lower
};

/// The same of the next byte, to be added: nothing for the places of the one before.
static UPPER: [Sixteen; 256] = {
    let mut upper = [Sixteen([0; 16]); 256];
    let mut i = 0;
    while i < 8 * 256 {
        let (mask, place) = (i / 8, i % 8);
        upper[mask].0[8 + place] = places_of(mask as u8)[place];
        i += 1;
    }
    upper
};

/// The same 16 bytes in both halves.
///
/// # Safety
/// The CPU has AVX2; the 16 bytes are there.
#[inline(always)]
unsafe fn twice(bytes: *const u8) -> __m256i {
    // SAFETY: as promised.
    unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.cast())) }
}

/// As many of the first bytes of `from` as bits of `mask` are set, each moved to its bit's place: 16 at a time, for so
/// many of the four times 16 bits, each in both halves.
///
/// # Safety
/// The CPU has AVX2 and POPCNT.
#[inline(always)]
unsafe fn expand<const PARTS: usize>(mask: u64, from: &[u8; 64]) -> [__m256i; PARTS] {
    const { assert!(PARTS <= 4) };
    // SAFETY: as promised; at most 48 bits are below the last part, so that 16 bytes are there.
    unsafe {
        let mut out = [_mm256_setzero_si256(); PARTS];
        for (i, out) in out.iter_mut().enumerate() {
            let below = if i == 0 { 0 } else { (mask << (64 - 16 * i)).count_ones() as usize };
            let (low, high) = ((mask >> (16 * i)) as u8, (mask >> (16 * i + 8)) as u8);
            let low = twice(LOWER[usize::from(low)].0.as_ptr());
            let high = twice(UPPER[usize::from(high)].0.as_ptr());
            *out = _mm256_shuffle_epi8(twice(from.as_ptr().add(below)), _mm256_add_epi8(low, high));
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

/// Two halves of 64 bytes, from fourths that are twice in a vector.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn halves([a, b, c, d]: [__m256i; 4]) -> [__m256i; 2] {
    // SAFETY: as promised.
    unsafe { [_mm256_blend_epi32::<0xf0>(a, b), _mm256_blend_epi32::<0xf0>(c, d)] }
}

/// A block's values, of which there are none behind the first `PARTS` times 16 places.
///
/// # Safety
/// The CPU has AVX2 and POPCNT.
#[inline(always)]
unsafe fn spread_over<const PARTS: usize>(bitmap: u64, values: &[u8; 64], out: &mut Block) {
    // SAFETY: as promised; a block has room for four stores of 16 values.
    unsafe {
        let zigzag = expand::<PARTS>(bitmap, values);
        let at: *mut __m256i = out.0.as_mut_ptr().cast();
        for (i, [first, second]) in QUARTERS.as_chunks::<2>().0.iter().enumerate() {
            let mut paired = _mm256_setzero_si256();
            for (j, &part) in zigzag.iter().enumerate() {
                let places: __m256i = transmute([first[j], second[j]]);
                paired = _mm256_or_si256(paired, _mm256_shuffle_epi8(part, places));
            }
            let (low, high) = (_mm256_castsi256_si128(paired), _mm256_extracti128_si256::<1>(paired));
            _mm256_store_si256(at.add(2 * i), _mm256_cvtepi8_epi16(low));
            _mm256_store_si256(at.add(2 * i + 1), _mm256_cvtepi8_epi16(high));
        }
    }
}

/// The same, but no compiler knows what it is.
#[inline]
#[target_feature(enable = "avx2")]
fn unknown(words: __m256i) -> __m256i {
    let mut words = words;
    // Miri knows no assembler.
    if !cfg!(miri) {
        // SAFETY: nothing is done.
        unsafe {
            asm!("/* {words} */", words = inout(ymm_reg) words, options(pure, nomem, nostack, preserves_flags))
        };
    }
    words
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
            let extra = halves(expand::<4>(mask, escapes));
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
            let found = halves(expand::<4>(large, magnitudes));
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
        // SAFETY: the CPU has AVX2 (see above).
        unsafe {
            // Most blocks have nothing in the second half of their frequencies.
            if bitmap >> 32 == 0 {
                spread_over::<2>(bitmap, values, out);
            } else {
                spread_over::<4>(bitmap, values, out);
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
    fn kept(words: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe { unknown(words) }
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
    fn corner(left: Self::Words, right: Self::Words) -> Self::Words {
        // SAFETY: the CPU has AVX2 (see above).
        unsafe { _mm256_blend_epi32::<0x88>(left, _mm256_shuffle_epi32::<0b10_00_00_00>(right)) }
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
    fn store<const BITS: u32>(columns: [Self::Words; 8], out: &mut [u8], pitch: usize) {
        const { assert!(BITS >= 16) };
        let out = &mut out[..3 * pitch + 16];
        // SAFETY: the CPU has AVX2 (see above); each store is to the first 16 bytes of one of four rows.
        unsafe {
            // Of each word of two columns side by side: packing of words is for one of the ports alone.
            let mut twos = [_mm256_setzero_si256(); 4];
            for (two, columns) in twos.iter_mut().zip(columns.as_chunks::<2>().0) {
                let whole =
                    _mm256_blend_epi16::<0b1010_1010>(_mm256_srli_epi32::<16>(columns[0]), columns[1]);
                *two = _mm256_sra_epi16(whole, _mm_cvtsi32_si128(BITS as i32 - 16));
            }
            let (outer, inner) =
                (_mm256_packus_epi16(twos[0], twos[2]), _mm256_packus_epi16(twos[1], twos[3]));
            // The first four columns of four rows, then the others.
            let left = unknown(_mm256_unpacklo_epi16(outer, inner));
            let right = unknown(_mm256_unpackhi_epi16(outer, inner));
            let pairs = [_mm256_unpacklo_epi32(left, right), _mm256_unpackhi_epi32(left, right)];
            for (i, pair) in pairs.into_iter().enumerate() {
                // Each 128-bit part has two rows of a block: now each has a row of two.
                let rows = unknown(_mm256_permute4x64_epi64::<0b11_01_10_00>(pair));
                let at = out.as_mut_ptr().add(2 * i * pitch);
                _mm_storeu_si128(at.cast(), _mm256_castsi256_si128(rows));
                _mm_storeu_si128(at.add(pitch).cast(), _mm256_extracti128_si256::<1>(rows));
            }
        }
    }
}
