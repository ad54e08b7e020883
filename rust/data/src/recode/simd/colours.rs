//! Here: the step of `Convert` in AVX2 intrinsics.
//! Not here: its definition (`Portable`), what it is put together to (`colour.rs`).
//!
//! Products of bytes with bytes are added in pairs by one instruction: of one difference with 2 and of the other with 0,
//! that both widens and doubles it. Twice a difference times half a factor is, rounded, what libjpeg has for every one
//! of the 256, although the factor is above 1. Green's two factors are cut at 9 bits: what the upper parts give needs
//! no fraction of theirs, and the sum of the lower ones with its rounding is positive.

use std::arch::x86_64::*;

use crate::ops::simd::Avx2;
use crate::recode::colour::{CHUNK, Convert};

/// 1.402 and 1.772 with 14 fractional bits.
const FACTORS: [i16; 2] = [22_970, 29_033];

/// 0.34414 and 0.71414 with 16 fractional bits, as libjpeg rounds them.
const GREEN: [u16; 2] = [22_554, 46_802];

/// The lower bits of these.
const LOW_BITS: u32 = 9;

/// Factors for blue's and red's differences, side by side.
const fn pair(blue: u16, red: u16) -> i16 {
    assert!(blue <= 255 && red <= 255);
    (red << 8 | blue).cast_signed()
}

const HIGH: i16 = pair(GREEN[0] >> LOW_BITS, GREEN[1] >> LOW_BITS);

const LOW: i16 = pair(GREEN[0] % (1 << LOW_BITS), GREEN[1] % (1 << LOW_BITS));

/// Half less one, of 2^16: libjpeg adds a half to the negative of what is subtracted here.
const ROUNDING: i16 = i16::MAX;

impl Convert for Avx2 {
    #[inline(always)]
    fn ycc(y: &[u8; CHUNK], cb: &[u8; CHUNK], cr: &[u8; CHUNK]) -> [[u8; CHUNK]; 3] {
        let mut out = [[0; CHUNK]; 3];
        // SAFETY: the CPU has AVX2 (see `Convert`); loads and stores are of halves of arrays.
        unsafe {
            let zero = _mm256_setzero_si256();
            for half in [0, CHUNK / 2] {
                let y = _mm256_loadu_si256(y.as_ptr().add(half).cast());
                let middle = _mm256_set1_epi8(-128);
                let blue = _mm256_xor_si256(_mm256_loadu_si256(cb.as_ptr().add(half).cast()), middle);
                let red = _mm256_xor_si256(_mm256_loadu_si256(cr.as_ptr().add(half).cast()), middle);
                let low = of(_mm256_unpacklo_epi8(y, zero), _mm256_unpacklo_epi8(blue, red));
                let high = of(_mm256_unpackhi_epi8(y, zero), _mm256_unpackhi_epi8(blue, red));
                for (out, (low, high)) in out.iter_mut().zip(low.into_iter().zip(high)) {
                    // Within the halves in which they were unpacked.
                    _mm256_storeu_si256(out.as_mut_ptr().add(half).cast(), _mm256_packus_epi16(low, high));
                }
            }
        }
        out
    }
}

/// Red, green and blue, not clipped yet, of luminance and pairs of differences, blue's first.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn of(y: __m256i, differences: __m256i) -> [__m256i; 3] {
    // SAFETY: as promised.
    unsafe {
        let red = _mm256_maddubs_epi16(_mm256_set1_epi16(pair(0, 2)), differences);
        let blue = _mm256_maddubs_epi16(_mm256_set1_epi16(pair(2, 0)), differences);
        let low = _mm256_maddubs_epi16(_mm256_set1_epi16(LOW), differences);
        let low =
            _mm256_srli_epi16::<{ LOW_BITS as i32 }>(_mm256_add_epi16(low, _mm256_set1_epi16(ROUNDING)));
        let high = _mm256_maddubs_epi16(_mm256_set1_epi16(HIGH), differences);
        let green = _mm256_srai_epi16::<{ 16 - LOW_BITS as i32 }>(_mm256_add_epi16(high, low));
        [
            _mm256_add_epi16(y, _mm256_mulhrs_epi16(red, _mm256_set1_epi16(FACTORS[0]))),
            _mm256_sub_epi16(y, green),
            _mm256_add_epi16(y, _mm256_mulhrs_epi16(blue, _mm256_set1_epi16(FACTORS[1]))),
        ]
    }
}
