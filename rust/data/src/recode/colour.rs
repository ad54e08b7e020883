//! Here: rows of samples at full resolution to rows of RGB pixels, bit for bit as libjpeg converts them.
//! Not here: how they got that resolution (`upsample.rs`).
//!
//! libjpeg adds products with 16 fractional bits, rounded. Red and blue have one product each, of a difference with
//! 256 values: there, factors with 15 bits for what is left of a whole multiple give the same. Green has two, which
//! are added before they are rounded.

use super::coefficients::Transform;
#[cfg(target_arch = "x86_64")]
use crate::ops::simd::Avx512;
#[cfg(target_arch = "aarch64")]
use crate::ops::simd::Neon;
use crate::ops::simd::{Interleave, Line, Portable, Vector, kernel};

/// Samples that are converted together; rows are padded to a multiple of it.
pub(crate) const CHUNK: usize = 64;

/// 1.402 - 1 with 15 fractional bits.
const RED_OF_CR: i16 = 13_173;

/// 1.772 - 1.
const BLUE_OF_CB: i16 = 25_297;

/// -0.34414, and -0.71414 + 1, with 16 fractional bits, rounded as libjpeg does.
const GREEN: [i16; 2] = [-22_554, 18_734];

/// The colours of one chunk on one instruction set; called inside `kernel!` only, where the CPU has it.
pub(crate) trait Convert: Interleave + Vector {
    /// Red, green and blue from luminance and colour differences.
    #[inline(always)]
    fn ycc(y: &[u8; CHUNK], cb: &[u8; CHUNK], cr: &[u8; CHUNK]) -> [[u8; CHUNK]; 3] {
        const NONE: Line = [128; size_of::<Line>() / 2];
        let (y, mut blue, mut red) = (Self::split(y), Self::split(cb), Self::split(cr));
        let (mut green, none) = (y, Self::load(&NONE));
        for i in 0..2 {
            let (y, cb, cr) = (y[i], Self::subtract(blue[i], none), Self::subtract(red[i], none));
            red[i] = Self::add(Self::add(y, cr), Self::scale(cr, RED_OF_CR));
            green[i] = Self::add(Self::subtract(y, cr), Self::products(cb, cr, GREEN));
            blue[i] = Self::add(Self::add(y, cb), Self::scale(cb, BLUE_OF_CB));
        }
        [Self::merge(red), Self::merge(green), Self::merge(blue)]
    }
}

#[cfg(target_arch = "x86_64")]
impl Convert for Avx512 {}
#[cfg(target_arch = "aarch64")]
impl Convert for Neon {}

/// Value by value, of which compilers make vectors.
impl Convert for Portable {
    #[inline(always)]
    fn ycc(y: &[u8; CHUNK], cb: &[u8; CHUNK], cr: &[u8; CHUNK]) -> [[u8; CHUNK]; 3] {
        let [mut red, mut green, mut blue] = [[0; CHUNK]; 3];
        let product = |one: i16, other: i16| i32::from(one) * i32::from(other);
        for i in 0..CHUNK {
            let (y, cb, cr) = (i16::from(y[i]), i16::from(cb[i]) - 128, i16::from(cr[i]) - 128);
            let of_cr = ((product(cr, RED_OF_CR) + (1 << 14)) >> 15) as i16;
            let of_cb = ((product(cb, BLUE_OF_CB) + (1 << 14)) >> 15) as i16;
            let of_both = ((product(cb, GREEN[0]) + product(cr, GREEN[1]) + (1 << 15)) >> 16) as i16;
            red[i] = (y + cr + of_cr).clamp(0, 255) as u8;
            green[i] = (y - cr + of_both).clamp(0, 255) as u8;
            blue[i] = (y + cb + of_cb).clamp(0, 255) as u8;
        }
        [red, green, blue]
    }
}

kernel! {
    /// As many pixels as `out` has room for. Rows are at least that long, rounded up to whole chunks.
    pub(crate) fn convert / convert_of[V: Convert](transform: Transform, rows: [&[u8]; 3], out: &mut [u8]) {
        let [first, second, third] = rows;
        let chunks = first.as_chunks().0.iter().zip(second.as_chunks().0).zip(third.as_chunks().0);
        let mut out = out;
        for ((first, second), third) in chunks {
            let converted;
            let planes = match transform {
                Transform::YCbCr => {
                    converted = V::ycc(first, second, third);
                    [&converted[0], &converted[1], &converted[2]]
                }
                Transform::Rgb => [first, second, third],
                Transform::Grey => [first, first, first],
            };
            let mut pixels = [0; 3 * CHUNK];
            if out.len() < pixels.len() {
                V::interleave(planes, &mut pixels);
                out.copy_from_slice(&pixels[..out.len()]);
                return;
            }
            if let Some((pixels, rest)) = std::mem::take(&mut out).split_first_chunk_mut() {
                V::interleave(planes, pixels);
                out = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::simd::Simd;

    /// libjpeg's sums, for every pair of differences and levels that show every rounding and clipping.
    #[test]
    fn every_difference_gives_the_colours_of_libjpeg() {
        let factor = |value: f64| (value * 65_536.0 + 0.5) as i32;
        let (red_of_cr, blue_of_cb) = (factor(1.402), factor(1.772));
        let green_of = [factor(0.344_14), factor(0.714_14)];
        let all: [u8; 256] = std::array::from_fn(|cr| cr as u8);
        for simd in Simd::available() {
            // Miri takes a thousand times as long.
            for cb in (0..=255u8).step_by(if cfg!(miri) { 51 } else { 1 }) {
                // Of each colour some level is not clipped.
                for y in [0, 128, 255, cb.wrapping_mul(37)] {
                    let mut found = [0; 3 * 256];
                    convert(simd, Transform::YCbCr, [&[y; 256], &[cb; 256], &all], &mut found);
                    for (pixel, cr) in found.as_chunks::<3>().0.iter().zip(0..) {
                        let (level, cb, cr) = (i32::from(y), i32::from(cb) - 128, cr - 128);
                        let half = 1 << 15;
                        let expected = [
                            level + ((cr * red_of_cr + half) >> 16),
                            level + ((half - cb * green_of[0] - cr * green_of[1]) >> 16),
                            level + ((cb * blue_of_cb + half) >> 16),
                        ];
                        let expected = expected.map(|value| value.clamp(0, 255) as u8);
                        assert_eq!(*pixel, expected, "{}: {y}, {cb}, {cr}", simd.name());
                    }
                }
            }
        }
    }
}
