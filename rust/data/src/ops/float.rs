//! Here: planar bytes to interleaved, scaled floats: what networks on a CPU take.
//! Not here: which scale; floats on other devices.

use super::simd::kernel;

/// Pixels converted together: enough to fill vectors, few enough to stay in L1.
const BLOCK: usize = 64;

kernel! {
    /// Value `i` of channel `c` becomes `value * scale[c] + shift[c]`, at `out[3 * i + c]`.
    pub(crate) fn interleave / interleave_by(
        picture: &[u8],
        scale: [f32; 3],
        shift: [f32; 3],
        out: &mut [f32],
    ) {
        let size = picture.len() / 3;
        let (red, rest) = picture.split_at(size);
        let (green, blue) = rest.split_at(size);
        let planes = red.chunks(BLOCK).zip(green.chunks(BLOCK)).zip(blue.chunks(BLOCK));
        for (out, ((red, green), blue)) in out.chunks_mut(3 * BLOCK).zip(planes) {
            for (((out, &r), &g), &b) in out.as_chunks_mut::<3>().0.iter_mut().zip(red).zip(green).zip(blue) {
                *out = [
                    f32::from(r) * scale[0] + shift[0],
                    f32::from(g) * scale[1] + shift[1],
                    f32::from(b) * scale[2] + shift[2],
                ];
            }
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
                interleave(simd, &picture, scale, shift, &mut out);
                for (i, &found) in out.iter().enumerate() {
                    let (pixel, channel) = (i / 3, i % 3);
                    let value = f32::from(picture[channel * pixels + pixel]);
                    assert_eq!(found, value * scale[channel] + shift[channel], "{}", simd.name());
                }
            }
        }
    }
}
