//! Here: brightness, contrast, greyscale, solarize, as Pillow's ImageEnhance and ImageOps do.
//! Not here: saturation (saturation.rs), hue (hue.rs), drawing of factors.
//!
//! ImageEnhance blends the picture with a degenerate one (black, the mean grey, its own greyscale) in
//! single precision and truncates: `degenerate + factor * (value - degenerate)`.

use super::simd::{Simd, kernel};
use super::{planes, whole_f32};

/// ITU-R 601 luma in 16-bit fixed point, rounded: Pillow's `convert("L")`.
#[inline(always)]
pub(super) fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// Pillow's `Image.blend`: exact for factors in [0, 1], clipped outside.
#[inline(always)]
pub(super) fn blend(degenerate: u8, value: u8, factor: f32) -> u8 {
    let (from, to) = (i32::from(degenerate), i32::from(value));
    whole_f32(from as f32 + factor * (to - from) as f32)
}

kernel! {
    /// Blends every value with one grey: black for brightness, the mean for contrast.
    fn blend_grey / blend_grey_by[V](picture: &mut [u8], grey: u8, factor: f32) {
        let table = std::array::from_fn(|value| blend(grey, value as u8, factor));
        if !V::map(picture, &table) {
            for value in picture {
                *value = blend(grey, *value, factor);
            }
        }
    }
}

/// Blends every value with black.
pub(crate) fn brightness(simd: Simd, picture: &mut [u8], factor: f32) {
    blend_grey(simd, picture, 0, factor);
}

kernel! {
    /// Adds up the luma of all pixels.
    fn add_luma / add_luma_portable(picture: &[u8], sum: &mut u64) {
        let size = picture.len() / 3;
        let (red, rest) = picture.split_at(size);
        let (green, blue) = rest.split_at(size);
        // A block's sum fits 32 bits, which vectorise better than 64.
        for ((r, g), b) in red.chunks(4096).zip(green.chunks(4096)).zip(blue.chunks(4096)) {
            let block = r.iter().zip(g).zip(b).map(|((&r, &g), &b)| u32::from(luma(r, g, b)));
            *sum += u64::from(block.sum::<u32>());
        }
    }
}

/// Blends every value with the picture's mean luma, rounded half up to a whole level.
pub(crate) fn contrast(simd: Simd, picture: &mut [u8], factor: f32) {
    let mut sum = 0;
    add_luma(simd, picture, &mut sum);
    let mean = sum as f64 / (picture.len() / 3) as f64;
    blend_grey(simd, picture, (mean + 0.5) as u8, factor);
}

kernel! {
    /// Replaces every pixel by its luma, in three equal channels.
    pub(crate) fn grayscale / grayscale_portable(picture: &mut [u8]) {
        let [red, green, blue] = planes(picture);
        for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
            let grey = luma(*r, *g, *b);
            (*r, *g, *b) = (grey, grey, grey);
        }
    }
}

kernel! {
    /// Inverts every value that is not below the threshold.
    pub(crate) fn solarize / solarize_portable(picture: &mut [u8], threshold: u8) {
        for value in picture {
            *value = if *value < threshold { *value } else { 255 - *value };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::samples;

    type Kernel = fn(Simd, &mut [u8]);

    #[test]
    fn all_instruction_sets_give_equal_bytes() {
        let kernels: [Kernel; 5] = [
            |simd, p| brightness(simd, p, 1.37),
            |simd, p| blend_grey(simd, p, 97, 0.61),
            |simd, p| contrast(simd, p, 0.6),
            grayscale,
            |simd, p| solarize(simd, p, 128),
        ];
        for (i, kernel) in kernels.into_iter().enumerate() {
            let expected = with(Simd::PORTABLE, kernel);
            for simd in Simd::available() {
                assert_eq!(with(simd, kernel), expected, "kernel {i}, {}", simd.name());
            }
        }
    }

    fn with(simd: Simd, kernel: Kernel) -> Vec<u8> {
        let mut picture = samples::picture(37, 29);
        kernel(simd, &mut picture);
        picture
    }

    /// By hand: luma of (255, 0, 0) is 76.2, of (0, 255, 0) 149.7, of (0, 0, 255) 29.07.
    #[test]
    fn luma_is_rounded() {
        assert_eq!(
            [luma(255, 0, 0), luma(0, 255, 0), luma(0, 0, 255), luma(255, 255, 255)],
            [76, 150, 29, 255]
        );
    }

    #[test]
    fn contrast_turns_about_the_rounded_mean() {
        // Lumas 10 and 13: mean 11.5, rounded 12; factor 0 leaves only the mean.
        let mut picture = [10, 13, 10, 13, 10, 13];
        contrast(Simd::detect(), &mut picture, 0.0);
        assert_eq!(picture, [12; 6]);
        let mut picture = [10, 13, 10, 13, 10, 13];
        contrast(Simd::detect(), &mut picture, 2.0);
        assert_eq!(picture, [8, 14, 8, 14, 8, 14]);
    }

    #[test]
    fn solarize_inverts_from_the_threshold_on() {
        let mut picture = [0, 127, 128, 255, 1, 200];
        solarize(Simd::detect(), &mut picture, 128);
        assert_eq!(picture, [0, 127, 127, 0, 1, 55]);
    }

    #[test]
    fn blends_clip_and_truncate() {
        assert_eq!(
            [blend(0, 200, 1.4), blend(0, 3, 0.5), blend(100, 0, 1.5), blend(7, 9, 1.0)],
            [255, 1, 0, 9]
        );
    }
}
