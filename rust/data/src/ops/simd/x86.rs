//! Here: the steps of `Vector` in AVX2 and AVX-512 intrinsics.
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
const BY_CHANNEL: [u8; 16] = [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, 128, 128, 128, 128];

/// Bits of a weight's lower part where it is split in two.
const HALF_BITS: u32 = 12;

/// AVX2: samples widened to 16 bits, weights in two parts of 12 bits.
pub(crate) struct Avx2;

/// AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later): bytes times bytes, weights as three signed digits.
pub(crate) struct Avx512;

/// `value` = high * 2^12 + low with 0 <= low < 2^12; both fit 16 bits for any value below 2^27.
#[inline(always)]
fn halves(value: i32) -> (u32, u32) {
    ((value >> HALF_BITS) as u16 as u32, (value & ((1 << HALF_BITS) - 1)) as u32)
}

/// Sixteen bytes of a row.
///
/// # Safety
/// Nothing to promise: every x86-64 CPU has SSE2. Unsafe only as the intrinsic is.
#[inline(always)]
unsafe fn load(row: &[u8; 16]) -> __m128i {
    // SAFETY: the bytes are a whole reference's.
    unsafe { _mm_loadu_si128(row.as_ptr().cast()) }
}

/// The 4 x 4 transposition of 32-bit words.
#[inline(always)]
fn words_across(columns: &[[u8; LANES]; 4]) -> [[u8; LANES]; 4] {
    // SAFETY: every x86-64 CPU has SSE2; both sides of the transmutation are 64 plain bytes.
    unsafe {
        let (a, b) = (load(&columns[0]), load(&columns[1]));
        let (c, d) = (load(&columns[2]), load(&columns[3]));
        let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
        let (ef, gh) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
        transmute([
            _mm_unpacklo_epi64(ab, cd),
            _mm_unpackhi_epi64(ab, cd),
            _mm_unpacklo_epi64(ef, gh),
            _mm_unpackhi_epi64(ef, gh),
        ])
    }
}

/// The 4 x 4 transposition of 32-bit words in each 128-bit part of four vectors; the last row is dropped.
macro_rules! transpose_words {
    ($rows:expr, $low:ident, $high:ident, $low64:ident, $high64:ident) => {{
        let [a, b, c, d] = $rows;
        let (ab, cd) = ($low(a, b), $low(c, d));
        [$low64(ab, cd), $high64(ab, cd), $low64($high(a, b), $high(c, d))]
    }};
}

impl Vector for Avx2 {
    /// Sums of the high and of the low parts of weights, for lanes 0 to 7 and 8 to 15.
    type Sums = [[__m256i; 2]; 2];
    type Levels = [__m256i; 2];

    /// Even samples' high and low parts, odd samples' high and low parts.
    #[inline(always)]
    fn pack(weights: [i32; 4]) -> Packed {
        let [a, b, c, d] = weights;
        let ((a, a_low), (b, b_low)) = (halves(a), halves(b));
        let ((c, c_low), (d, d_low)) = (halves(c), halves(d));
        [a | c << 16, a_low | c_low << 16, b | d << 16, b_low | d_low << 16]
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
    fn levels(sums: Self::Sums) -> [u8; LANES] {
        // SAFETY: the CPU has AVX2 (see above); both sides of the transmutation are 16 plain bytes.
        unsafe {
            let round = _mm256_set1_epi32(1 << (WEIGHT_BITS - 1));
            let mut halves = [_mm256_setzero_si256(); 2];
            for (half, [high, low]) in halves.iter_mut().zip(sums) {
                let high = _mm256_slli_epi32::<{ HALF_BITS as i32 }>(high);
                let sum = _mm256_add_epi32(_mm256_add_epi32(high, low), round);
                *half = _mm256_srai_epi32::<{ WEIGHT_BITS as i32 }>(sum);
            }
            // Packing works within halves: lanes 0-3, 8-11 | 4-7, 12-15.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(halves[0], halves[1]));
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            transmute(_mm_packus_epi16(low, high))
        }
    }

    #[inline(always)]
    fn gather(rows: [&[u8; 16]; LANES]) -> [Quads; 3] {
        let mut out = [Quads([0; 4 * LANES]); 3];
        // SAFETY: the CPU has AVX2 (see above); each load is of a row's 16 bytes, each store of 32 of the
        // 64 aligned bytes of a `Quads`.
        unsafe {
            let by_channel = _mm256_broadcastsi128_si256(load(&BY_CHANNEL));
            for half in 0..2 {
                let mut vectors = [_mm256_setzero_si256(); 4];
                for (j, vector) in vectors.iter_mut().enumerate() {
                    let (low, high) = (load(rows[8 * half + j]), load(rows[8 * half + 4 + j]));
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
    fn regroup(columns: &[[u8; LANES]; 4]) -> [[u8; LANES]; 4] {
        words_across(columns)
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

    /// Sixteen shuffles for 32 bytes: the arithmetic behind the table costs less.
    #[inline(always)]
    fn map(bytes: &mut [u8], table: &[u8; 256]) -> bool {
        Portable::map(bytes, table)
    }
}

impl Vector for Avx512 {
    /// Sums of each digit of the weights.
    type Sums = [__m512i; 3];
    type Levels = __m512i;

    /// weight = d0 + d1 * 2^8 + d2 * 2^16 with digits from -128 to 127; one word for each digit. Adding 128
    /// to each digit makes them the plain bytes of weight + 0x808080.
    #[inline(always)]
    fn pack(weights: [i32; 4]) -> Packed {
        let mut packed = Packed::default();
        for (i, word) in packed.iter_mut().take(3).enumerate() {
            for (k, weight) in weights.iter().enumerate() {
                let digit = (weight.wrapping_add(0x80_8080).cast_unsigned() >> (8 * i)) & 255;
                *word |= (digit ^ 128) << (8 * k);
            }
        }
        packed
    }

    #[inline(always)]
    fn zero() -> Self::Sums {
        // SAFETY: the CPU has AVX-512 (see above).
        unsafe { [_mm512_setzero_si512(); 3] }
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
    fn levels(sums: Self::Sums) -> [u8; LANES] {
        // SAFETY: the CPU has AVX-512 (see above); both sides of the transmutation are 16 plain bytes.
        unsafe {
            let [low, middle, high] = sums;
            let low = _mm512_add_epi32(low, _mm512_set1_epi32(1 << (WEIGHT_BITS - 1)));
            let upper = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), middle);
            let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(upper), low);
            let level = _mm512_srai_epi32::<WEIGHT_BITS>(sum);
            transmute(_mm512_cvtusepi32_epi8(_mm512_max_epi32(level, _mm512_setzero_si512())))
        }
    }

    #[inline(always)]
    fn gather(rows: [&[u8; 16]; LANES]) -> [Quads; 3] {
        // SAFETY: the CPU has AVX-512 (see above); each load is of a row's 16 bytes; `Quads` is 64 plain bytes.
        unsafe {
            let by_channel = _mm512_broadcast_i32x4(load(&BY_CHANNEL));
            let mut vectors = [_mm512_setzero_si512(); 4];
            for (j, vector) in vectors.iter_mut().enumerate() {
                let all = _mm512_castsi128_si512(load(rows[j]));
                let all = _mm512_inserti32x4::<1>(all, load(rows[4 + j]));
                let all = _mm512_inserti32x4::<2>(all, load(rows[8 + j]));
                let all = _mm512_inserti32x4::<3>(all, load(rows[12 + j]));
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
    fn regroup(columns: &[[u8; LANES]; 4]) -> [[u8; LANES]; 4] {
        words_across(columns)
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
            let round = _mm512_set1_epi32(1 << 23);
            // Interleaving and packing work within the same parts, so that the order comes back.
            let mut pairs = [_mm512_unpacklo_epi16(sums, ends), _mm512_unpackhi_epi16(sums, ends)];
            for pairs in &mut pairs {
                let high = _mm512_slli_epi32::<HALF_BITS>(_mm512_madd_epi16(*pairs, high));
                let sum = _mm512_add_epi32(_mm512_dpwssd_epi32(round, *pairs, low), high);
                *pairs = _mm512_srli_epi32::<24>(sum);
            }
            _mm512_packs_epi32(pairs[0], pairs[1])
        }
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
