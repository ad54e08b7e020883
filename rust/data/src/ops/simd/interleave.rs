//! Here: planes to interleaved pixels, and pixels to memory past the caches, on every instruction set.
//! Not here: where planes come from, what becomes of pixels.

#[cfg(target_arch = "aarch64")]
use super::Neon;
use super::Portable;
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512};

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A step of one instruction set; called inside `kernel!` only, where the CPU has it: on that all intrinsics here rest.
pub(crate) trait Interleave {
    /// Pixels from their red, green and blue.
    fn interleave(planes: [&[u8; 64]; 3], out: &mut [u8; 192]);

    /// Copies values to where nobody looks at them soon: memory is not read first, as it is to change a part of what a
    /// cache holds. `settle` must follow before another thread may look.
    #[inline(always)]
    fn stream(values: &[f32; 192], out: &mut [f32; 192]) {
        *out = *values;
    }

    /// Waits for what was streamed.
    #[inline(always)]
    fn settle() {}
}

/// `Interleave::stream` of every x86-64 CPU.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn stream(values: &[f32; 192], out: &mut [f32; 192]) {
    let at = out.as_mut_ptr();
    if at.align_offset(16) != 0 {
        *out = *values;
        return;
    }
    for (i, four) in values.as_chunks::<4>().0.iter().enumerate() {
        // SAFETY: every x86-64 CPU has SSE; four of the 192 values are stored, from an aligned one on.
        unsafe { _mm_stream_ps(at.add(4 * i), _mm_loadu_ps(four.as_ptr())) };
    }
}

impl Interleave for Portable {
    #[inline(always)]
    fn interleave([red, green, blue]: [&[u8; 64]; 3], out: &mut [u8; 192]) {
        for (i, pixel) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            *pixel = [red[i], green[i], blue[i]];
        }
    }
}

/// Where the bytes of each third of 16 pixels come from, for red, green and blue: the index in the plane; 128 for bytes
/// of another.
#[cfg(target_arch = "x86_64")]
const PLACES: [[[u8; 16]; 3]; 3] = {
    let mut places = [[[128; 16]; 3]; 3];
    let mut i = 0;
    while i < 48 {
        places[i / 16][i % 3][i % 16] = (i / 3) as u8;
        i += 1;
    }
    places
};

/// # Safety
/// The CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn twice(table: &[u8; 16]) -> __m256i {
    // SAFETY: as promised; the load is of the whole table.
    unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())) }
}

#[cfg(target_arch = "x86_64")]
impl Interleave for Avx2 {
    #[inline(always)]
    fn stream(values: &[f32; 192], out: &mut [f32; 192]) {
        stream(values, out);
    }

    #[inline(always)]
    fn settle() {
        // SAFETY: every x86-64 CPU has SSE.
        unsafe { _mm_sfence() };
    }

    #[inline(always)]
    fn interleave(planes: [&[u8; 64]; 3], out: &mut [u8; 192]) {
        // SAFETY: the CPU has AVX2 (see `Interleave`); 32 bytes are loaded from each half of a plane, and stored to each
        // sixth of `out`; tables have 16.
        unsafe {
            for i in 0..2 {
                let mut thirds = [_mm256_setzero_si256(); 3];
                for (third, places) in thirds.iter_mut().zip(&PLACES) {
                    for (plane, places) in planes.iter().zip(places) {
                        let plane = _mm256_loadu_si256(plane.as_ptr().cast::<__m256i>().add(i));
                        *third = _mm256_or_si256(*third, _mm256_shuffle_epi8(plane, twice(places)));
                    }
                }
                // Each third of the first 16 pixels, then each of the others.
                let [first, second, third] = thirds;
                let at = out.as_mut_ptr().cast::<__m256i>().add(3 * i);
                _mm256_storeu_si256(at, _mm256_permute2x128_si256::<0x20>(first, second));
                _mm256_storeu_si256(at.add(1), _mm256_permute2x128_si256::<0x30>(third, first));
                _mm256_storeu_si256(at.add(2), _mm256_permute2x128_si256::<0x31>(second, third));
            }
        }
    }
}

/// Where 192 bytes of pixels come from: the plane's index in the first 64, the plane apart.
#[cfg(target_arch = "x86_64")]
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
#[cfg(target_arch = "x86_64")]
const BLUE: [u64; 3] = {
    let mut masks = [0; 3];
    let mut i = 0;
    while i < 64 {
        masks[(3 * i + 2) / 64] |= 1 << ((3 * i + 2) % 64);
        i += 1;
    }
    masks
};

#[cfg(target_arch = "x86_64")]
impl Interleave for Avx512 {
    #[inline(always)]
    fn stream(values: &[f32; 192], out: &mut [f32; 192]) {
        stream(values, out);
    }

    #[inline(always)]
    fn settle() {
        // SAFETY: every x86-64 CPU has SSE.
        unsafe { _mm_sfence() };
    }

    #[inline(always)]
    fn interleave([red, green, blue]: [&[u8; 64]; 3], out: &mut [u8; 192]) {
        // SAFETY: the CPU has AVX-512 with VBMI (see `Interleave`); each store is to a third of `out`.
        unsafe {
            let red = _mm512_loadu_si512(red.as_ptr().cast());
            let green = _mm512_loadu_si512(green.as_ptr().cast());
            let blue = _mm512_loadu_si512(blue.as_ptr().cast());
            for (i, places) in PIXELS.iter().enumerate() {
                let places = _mm512_loadu_si512(places.as_ptr().cast());
                let pixels = _mm512_permutex2var_epi8(red, places, green);
                let pixels = _mm512_mask_permutexvar_epi8(pixels, BLUE[i], places, blue);
                _mm512_storeu_si512(out.as_mut_ptr().cast::<__m512i>().add(i).cast(), pixels);
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
impl Interleave for Neon {
    #[inline(always)]
    fn interleave([red, green, blue]: [&[u8; 64]; 3], out: &mut [u8; 192]) {
        // SAFETY: the CPU has NEON (see `Interleave`); loads are of quarters of planes, stores to those of `out`.
        unsafe {
            for i in 0..4 {
                let (red, green) = (vld1q_u8(red.as_ptr().add(16 * i)), vld1q_u8(green.as_ptr().add(16 * i)));
                let pixels = uint8x16x3_t(red, green, vld1q_u8(blue.as_ptr().add(16 * i)));
                vst3q_u8(out.as_mut_ptr().add(48 * i), pixels);
            }
        }
    }
}
