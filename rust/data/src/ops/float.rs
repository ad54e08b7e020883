//! Here: planar bytes to interleaved, scaled floats: what networks on a CPU take.
//! Not here: which scale; floats on other devices.

use super::simd::{Interleave, kernel};

/// Pixels converted together.
const BLOCK: usize = 64;

/// Values after which channels and vectors begin together again.
const PERIOD: usize = 48;

kernel! {
    /// Value `i` of channel `c` becomes `value * scale[c] + shift[c]`, at `out[3 * i + c]`; past the caches if `far`.
    pub(crate) fn interleave / interleave_by[V: Interleave](
        picture: &[u8],
        scale: [f32; 3],
        shift: [f32; 3],
        far: bool,
        out: &mut [f32],
    ) {
        let size = picture.len() / 3;
        let (red, rest) = picture.split_at(size);
        let (green, blue) = rest.split_at(size);
        let (red, red_rest) = red.as_chunks::<BLOCK>();
        let (green, green_rest) = green.as_chunks::<BLOCK>();
        let (blue, blue_rest) = blue.as_chunks::<BLOCK>();
        let mut factors = ([0.0; PERIOD], [0.0; PERIOD]);
        for i in 0..PERIOD {
            (factors.0[i], factors.1[i]) = (scale[i % 3], shift[i % 3]);
        }
        // First as bytes, which are a quarter to move about.
        let (mut pixels, mut values) = ([0; 3 * BLOCK], [0.0; 3 * BLOCK]);
        let (whole, rest) = out.as_chunks_mut::<{ 3 * BLOCK }>();
        for (((out, red), green), blue) in whole.iter_mut().zip(red).zip(green).zip(blue) {
            V::interleave([red, green, blue], &mut pixels);
            if far {
                scaled(&pixels, &factors, &mut values);
                V::stream(&values, out);
            } else {
                scaled(&pixels, &factors, out);
            }
        }
        let mut last = [[0; BLOCK]; 3];
        for (block, rest) in last.iter_mut().zip([red_rest, green_rest, blue_rest]) {
            block[..rest.len()].copy_from_slice(rest);
        }
        V::interleave(last.each_ref(), &mut pixels);
        scaled(&pixels, &factors, &mut values);
        rest.copy_from_slice(&values[..rest.len()]);
        V::settle();
    }
}

/// Every value times its factor, and its summand added.
#[inline(always)]
fn scaled(
    pixels: &[u8; 3 * BLOCK],
    (scale, shift): &([f32; PERIOD], [f32; PERIOD]),
    out: &mut [f32; 3 * BLOCK],
) {
    for (out, pixels) in out.as_chunks_mut::<PERIOD>().0.iter_mut().zip(pixels.as_chunks::<PERIOD>().0) {
        for i in 0..PERIOD {
            out[i] = f32::from(pixels[i]) * scale[i] + shift[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::samples;
    use crate::ops::simd::Simd;

    #[test]
    fn every_value_is_scaled_and_finds_its_place() {
        for pixels in [1, 63, 64, 65, 1000] {
            let picture = samples::picture(pixels, 1);
            let (scale, shift) = ([0.5, 0.25, 2.0], [-1.0, 0.0, 3.0]);
            for simd in Simd::available() {
                let mut out = vec![f32::NAN; 3 * pixels];
                interleave(simd, &picture, scale, shift, false, &mut out);
                // Past the caches, at every alignment.
                for offset in 0..4 {
                    let mut far = vec![f32::NAN; 3 * pixels + offset];
                    interleave(simd, &picture, scale, shift, true, &mut far[offset..]);
                    assert!(far[offset..] == out, "{}, {pixels}, {offset}", simd.name());
                }
                for (i, &found) in out.iter().enumerate() {
                    let (pixel, channel) = (i / 3, i % 3);
                    let value = f32::from(picture[channel * pixels + pixel]);
                    assert_eq!(found, value * scale[channel] + shift[channel], "{}", simd.name());
                }
            }
        }
    }
}
