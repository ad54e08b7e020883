//! Here: saturation, as Pillow's ImageEnhance does it: every pixel blended with its luma.
//! Not here: other blends (colour.rs), drawing of factors.
//!
//! A value becomes `grey + factor * (value - grey)` in single precision, truncated and clipped. For factors near
//! 1 that is the value and a whole part of its difference from the grey, which has 511 values at most. So it is
//! enough to multiply the difference by 16 bits of `factor - 1`, if the few differences for which these give another
//! level are known and put right. Where the sum of grey and product could be rounded up to the next level, the
//! arithmetic is that of single precision.

use super::colour::{blend, luma};
use super::planes;
use super::simd::{Simd, Vector, kernel};

/// Pixels that are treated together.
const BLOCK: usize = 64;

/// Largest difference.
const MOST: i16 = 255;

/// Differences that can be put right.
const CORRECTIONS: usize = 4;

/// A product so little below a whole number could reach it when the grey is added: sums are below 2^10, and have 24
/// bits.
const CLOSE: f32 = 1.0 / (1 << 13) as f32;

/// A factor as sixteen bits take it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stretch {
    /// The factor less 1, times 2^16.
    beyond: i16,
    /// For which differences that gives another level, and what is to be added.
    corrections: [(i16, i16); CORRECTIONS],
    count: usize,
}

impl Stretch {
    /// `None` where the factor is far from 1, or some product too close to a whole number.
    fn of(simd: Simd, factor: f32) -> Option<Self> {
        let exact = (f64::from(factor) - 1.0) * f64::from(1 << 16);
        if !(-32_767.0..32_767.0).contains(&exact) {
            return None;
        }
        let attempts = [exact.floor(), exact.floor() + 1.0].map(|beyond| {
            let beyond = beyond as i16;
            let mut wrong = [0; 2 * MOST as usize + 1];
            let apart = differences(simd, factor, beyond, &mut wrong);
            let mut found = Self { beyond, corrections: [(i16::MAX, 0); CORRECTIONS], count: 0 };
            for (difference, &by) in (-MOST..).zip(&wrong).filter(|&(_, &by)| by != 0) {
                *found.corrections.get_mut(found.count)? = (difference, by);
                found.count += 1;
            }
            apart.then_some(found)
        });
        attempts.into_iter().flatten().min_by_key(|found| found.count)
    }
}

kernel! {
    /// How much `beyond` gives too little for each difference; false if a product is too close to the next level.
    fn differences / differences_by[_V: Vector](factor: f32, beyond: i16, wrong: &mut [i16]) -> bool {
        let mut apart = true;
        for (difference, wrong) in (-MOST..).zip(wrong) {
            let product = factor * f32::from(difference);
            let whole = product.floor();
            apart &= product - whole < 1.0 - CLOSE;
            let found = i32::from(difference) + ((i32::from(difference) * i32::from(beyond)) >> 16);
            // SAFETY: at most twice 255 in size.
            *wrong = (unsafe { whole.to_int_unchecked::<i32>() } - found) as i16;
        }
        apart
    }
}

/// Blends every pixel with its luma.
pub(crate) fn saturation(simd: Simd, picture: &mut [u8], factor: f32) {
    match Stretch::of(simd, factor) {
        Some(stretch) if stretch.count == 0 => stretched_0(simd, picture, &stretch),
        Some(stretch) if stretch.count <= 2 => stretched_2(simd, picture, &stretch),
        Some(stretch) => stretched_4(simd, picture, &stretch),
        None => blended(simd, picture, factor),
    }
}

kernel! {
    /// For any factor.
    fn blended / blended_by[_V: Vector](picture: &mut [u8], factor: f32) {
        let [red, green, blue] = planes(picture);
        for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
            let grey = luma(*r, *g, *b);
            *r = blend(grey, *r, factor);
            *g = blend(grey, *g, factor);
            *b = blend(grey, *b, factor);
        }
    }
}

/// The kernel for so many corrections at most.
macro_rules! stretched {
    ($name:ident / $by:ident, $count:literal) => {
        kernel! {
            fn $name / $by[V: Vector](picture: &mut [u8], stretch: &Stretch) {
                stretch_by::<V, $count>(picture, stretch);
            }
        }
    };
}

stretched!(stretched_0 / stretched_0_by, 0);
stretched!(stretched_2 / stretched_2_by, 2);
stretched!(stretched_4 / stretched_4_by, 4);

#[inline(always)]
fn stretch_by<V: Vector, const COUNT: usize>(picture: &mut [u8], stretch: &Stretch) {
    let [red, green, blue] = planes(picture);
    let (red, red_rest) = red.as_chunks_mut::<BLOCK>();
    let (green, green_rest) = green.as_chunks_mut::<BLOCK>();
    let (blue, blue_rest) = blue.as_chunks_mut::<BLOCK>();
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        stretch_block::<V, COUNT>([r, g, b], stretch);
    }
    let mut rest = [[0; BLOCK]; 3];
    let sources = [red_rest, green_rest, blue_rest];
    for (block, source) in rest.iter_mut().zip(&sources) {
        block[..source.len()].copy_from_slice(source);
    }
    stretch_block::<V, COUNT>(rest.each_mut(), stretch);
    for (block, source) in rest.iter().zip(sources) {
        source.copy_from_slice(&block[..source.len()]);
    }
}

#[inline(always)]
fn stretch_block<V: Vector, const COUNT: usize>(channels: [&mut [u8; BLOCK]; 3], stretch: &Stretch) {
    let mut levels = [V::split(channels[0]), V::split(channels[1]), V::split(channels[2])];
    for half in 0..2 {
        let grey = V::luma(levels[0][half], levels[1][half], levels[2][half]);
        for levels in &mut levels {
            let difference = V::subtract(levels[half], grey);
            let mut part = V::upper(difference, stretch.beyond);
            for i in 0..COUNT {
                let (key, by) = stretch.corrections[i];
                part = V::correct(part, difference, key, by);
            }
            levels[half] = V::add(levels[half], part);
        }
    }
    for (channel, levels) in channels.into_iter().zip(levels) {
        *channel = V::merge(levels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::samples;

    /// ImageEnhance's arithmetic, value by value.
    fn slow(picture: &[u8], factor: f32) -> Vec<u8> {
        let size = picture.len() / 3;
        let grey = |i: usize| luma(picture[i], picture[size + i], picture[2 * size + i]);
        (0..picture.len()).map(|i| blend(grey(i % size), picture[i], factor)).collect()
    }

    /// Of every difference that red can have from the grey, and many more colours.
    fn colours() -> Vec<u8> {
        let mut colours: Vec<[u8; 3]> =
            (0..=255).flat_map(|r| [[r, 0, 0], [r, 255, 255], [r, r, 255]]).collect();
        let noise = samples::picture(40, 31);
        colours.extend(noise.as_chunks().0);
        (0..3).flat_map(|channel| colours.iter().map(move |colour| colour[channel])).collect()
    }

    #[test]
    fn every_factor_gives_the_blend_on_all_instruction_sets() {
        let colours = colours();
        let mut counts = [0; CORRECTIONS + 1];
        let near = (0..400).map(|i| 0.8 + 0.001 * i as f32);
        let edges = [0.0, 0.5, 0.500_03, 0.999_999_94, 1.0, 1.000_000_1, 1.499_98, 1.5, 1.75, 2.0, 1e6];
        for factor in near.chain(edges) {
            let expected = slow(&colours, factor);
            if let Some(stretch) = Stretch::of(Simd::detect(), factor) {
                counts[stretch.count] += 1;
            }
            for simd in Simd::available() {
                let mut found = colours.clone();
                saturation(simd, &mut found, factor);
                assert!(found == expected, "{}, {factor}", simd.name());
            }
        }
        // Every kind was there: without it, less would have been tested.
        assert!(counts[0] > 9 && counts[1] > 9 && counts[2] > 9, "{counts:?}");
    }

    #[test]
    fn products_just_below_a_level_are_not_cut_short() {
        // 255 times this factor is 255 less 2^-17, which with any grey is the level itself.
        assert_eq!(Stretch::of(Simd::detect(), 0.999_999_94), None);
        assert_eq!(Stretch::of(Simd::detect(), f32::NAN), None);
        assert_eq!(
            Stretch::of(Simd::detect(), 1.0).map(|stretch| (stretch.beyond, stretch.count)),
            Some((0, 0))
        );
    }
}
