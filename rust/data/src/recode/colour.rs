//! Here: rows of samples at full resolution to rows of RGB pixels, bit for bit as libjpeg converts them.
//! Not here: how they got that resolution (`upsample.rs`).
//!
//! libjpeg adds products with 16 fractional bits, rounded. Those of the differences are below 2^24; here they are
//! taken apart, so that 16 bits hold every part: a whole multiple of the difference, and the upper half of a
//! product with what is left of the factor.

use super::coefficients::Transform;
use crate::ops::simd::{Interleave, kernel};

/// Samples that are converted together; rows are padded to a multiple of it.
pub(crate) const CHUNK: usize = 64;

/// 1.402 - 1 with 16 fractional bits, rounded as libjpeg does.
const RED_OF_CR: i16 = 26_345;

/// 1.772 - 2.
const BLUE_OF_CB: i16 = -14_942;

/// -0.34414.
const GREEN_OF_CB: i16 = -22_554;

/// -0.71414 + 1.
const GREEN_OF_CR: i16 = 18_734;

/// The upper half of a product.
#[inline(always)]
fn high(one: i16, other: i16) -> i16 {
    ((i32::from(one) * i32::from(other)) >> 16) as i16
}

/// The lower half of a product.
#[inline(always)]
fn low(one: i16, other: i16) -> u16 {
    one.wrapping_mul(other).cast_unsigned()
}

#[inline(always)]
fn level(value: i16) -> u8 {
    value.clamp(0, 255) as u8
}

/// One chunk of luminance and colour differences.
#[inline(always)]
fn ycc(y: &[u8; CHUNK], cb: &[u8; CHUNK], cr: &[u8; CHUNK]) -> [[u8; CHUNK]; 3] {
    let [mut red, mut green, mut blue] = [[0; CHUNK]; 3];
    for i in 0..CHUNK {
        let (y, cb, cr) = (i16::from(y[i]), i16::from(cb[i]) - 128, i16::from(cr[i]) - 128);
        // Rounding is half up: half of one more than the floor of twice the product.
        red[i] = level(y + cr + ((high(2 * cr, RED_OF_CR) + 1) >> 1));
        blue[i] = level(y + 2 * cb + ((high(2 * cb, BLUE_OF_CB) + 1) >> 1));
        // The two products are added before they are rounded: their lower halves can carry, and so can the half.
        let fraction = low(cb, GREEN_OF_CB);
        let sum = fraction.wrapping_add(low(cr, GREEN_OF_CR));
        let carry = i16::from(sum < fraction) + i16::from(sum >= 1 << 15);
        green[i] = level(y - cr + high(cb, GREEN_OF_CB) + high(cr, GREEN_OF_CR) + carry);
    }
    [red, green, blue]
}

kernel! {
    /// As many pixels as `out` has room for. Rows are at least that long, rounded up to whole chunks.
    pub(crate) fn convert / convert_of[V: Interleave](transform: Transform, rows: [&[u8]; 3], out: &mut [u8]) {
        let [first, second, third] = rows;
        let chunks = first.as_chunks().0.iter().zip(second.as_chunks().0).zip(third.as_chunks().0);
        let mut out = out;
        for ((first, second), third) in chunks {
            let converted;
            let planes = match transform {
                Transform::YCbCr => {
                    converted = ycc(first, second, third);
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
