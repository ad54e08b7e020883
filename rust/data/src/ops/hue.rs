//! Here: the hue shift, as torchvision's `adjust_hue` on a PIL image: RGB to 8-bit HSV, hue plus a
//! whole number of levels modulo 256, and back.
//! Not here: drawing of the shift.
//!
//! Pillow's way back mixes single and double precision, but always comes to the exact quotient, rounded;
//! so does its saturation, truncated. Only the hue depends on how it is computed: in single precision.
//! The test over all colours holds this to Pillow's own steps. Loops are cut where the width of values
//! changes, so that compilers vectorise each at its own width.

#[cfg(target_arch = "x86_64")]
mod wide;

use super::planes;
#[cfg(target_arch = "x86_64")]
use super::simd::Avx2;
#[cfg(target_arch = "aarch64")]
use super::simd::Neon;
use super::simd::{Portable, kernel};

/// Pixels treated together: enough to fill vectors, few enough to stay in L1.
const BLOCK: usize = 64;

/// One value of each pixel of a block.
type Values<T> = [T; BLOCK];

/// Levels to add for a shift in [-0.5, 0.5] turns: truncated towards zero, as torchvision does.
pub(crate) fn levels(shift: f64) -> u8 {
    ((shift * 255.0) as i32) as u8
}

kernel! {
    /// Turns the hue of every pixel by `levels` of 256.
    pub(crate) fn hue / hue_by[V: Turn](picture: &mut [u8], levels: u8) {
        let [red, green, blue] = planes(picture);
        let (red, red_rest) = red.as_chunks_mut::<BLOCK>();
        let (green, green_rest) = green.as_chunks_mut::<BLOCK>();
        let (blue, blue_rest) = blue.as_chunks_mut::<BLOCK>();
        for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
            V::turn(r, g, b, levels);
        }
        let mut rest = [[0; BLOCK]; 3];
        let sources = [red_rest, green_rest, blue_rest];
        for (block, source) in rest.iter_mut().zip(&sources) {
            block[..source.len()].copy_from_slice(source);
        }
        let [r, g, b] = &mut rest;
        V::turn(r, g, b, levels);
        for (block, source) in rest.iter().zip(sources) {
            source.copy_from_slice(&block[..source.len()]);
        }
    }
}

/// A block's turn on one instruction set; called inside `kernel!` only, where the CPU has it.
trait Turn {
    /// Turns the hue of every pixel by `levels` of 256.
    #[inline(always)]
    fn turn(red: &mut Values<u8>, green: &mut Values<u8>, blue: &mut Values<u8>, levels: u8) {
        let mut hue = [0; BLOCK];
        let mut saturation = [0; BLOCK];
        let mut high = [0; BLOCK];
        to_hsv((&*red, &*green, &*blue), &mut hue, &mut saturation, &mut high);
        hue.iter_mut().for_each(|hue| *hue = hue.wrapping_add(levels));
        to_rgb((&hue, &saturation, &high), red, green, blue);
    }
}

impl Turn for Portable {}
#[cfg(target_arch = "x86_64")]
impl Turn for Avx2 {}
#[cfg(target_arch = "aarch64")]
impl Turn for Neon {}

/// Together 255 / 6, from sixths of a turn to levels. One product, or other factors, give a few colours another
/// level than Pillow's quotient and product, rounded one after the other; these, found by trial, give none.
const TURN: [f32; 2] = [1.322_460_8, 32.137_06];

/// For each sector of the circle its `start` and `falls`: a hue is `start - 1` sixths of a turn, and the quotient of
/// `below` and `range` more, or less if it `falls`. By their channels, highest first: rgb, grb, gbr, bgr, brg, rbg.
const SECTORS: [(u8, u8); 6] = [(2, 1), (2, 0), (4, 1), (4, 0), (6, 1), (0, 0)];

/// A hue in levels, with their fraction, from the quotient of `below` and `range`.
#[inline(always)]
const fn level(start: u8, falls: u8, part: f32) -> f32 {
    let sign = 1.0 - 2.0 * falls as f32;
    let sixths = start as f32 - 1.0 + sign * part;
    let levels = sixths * TURN[0] * TURN[1];
    if sixths < 0.0 { levels + 255.0 } else { levels }
}

/// Hue, saturation and value. The hue is the position of the middle channel between the other two; which
/// channels these are chooses where that position lies on the circle.
#[inline(always)]
fn to_hsv(
    (red, green, blue): (&Values<u8>, &Values<u8>, &Values<u8>),
    hue: &mut Values<u8>,
    saturation: &mut Values<u8>,
    high: &mut Values<u8>,
) {
    let mut range = [0u8; BLOCK];
    let mut below = [0u8; BLOCK];
    let mut start = [0u8; BLOCK];
    let mut falls = [0u8; BLOCK];
    for i in 0..BLOCK {
        let (r, g, b) = (red[i], green[i], blue[i]);
        let (most, least) = (r.max(g).max(b), r.min(g).min(b));
        let middle = r.max(g).min(r.min(g).max(b));
        high[i] = most;
        range[i] = most - least;
        below[i] = most - middle;
        let [rgb, grb, gbr, bgr, brg, rbg] = SECTORS;
        let (from, down) = if r == most {
            if b == least { rgb } else { rbg }
        } else if g == most {
            if b == least { grb } else { gbr }
        } else if r == least {
            bgr
        } else {
            brg
        };
        start[i] = from;
        falls[i] = down;
    }
    let mut turned = [0i32; BLOCK];
    let mut purity = [0i32; BLOCK];
    for i in 0..BLOCK {
        // Greys have saturation 0, and any hue then gives the same colour back.
        let part = f32::from(below[i]) / f32::from(range[i].max(1));
        let levels = level(start[i], falls[i], part);
        let share = f32::from(range[i]) / f32::from(high[i].max(1));
        // SAFETY: both lie within [0, 255]: no quotient here exceeds 1, and none is NaN.
        (turned[i], purity[i]) = unsafe { (levels.to_int_unchecked(), (share * 255.0).to_int_unchecked()) };
    }
    for i in 0..BLOCK {
        hue[i] = turned[i] as u8;
        saturation[i] = purity[i] as u8;
    }
}

/// The reverse. With s = S / 255 and f = N / 255 the position in the sector, the channels are v,
/// v (1 - s), and v (1 - s f) in odd or v (1 - s (1 - f)) in even sectors: exact quotients, rounded to
/// the nearest level. No tie exists, since 255 is odd.
#[inline(always)]
fn to_rgb(
    (hue, saturation, value): (&Values<u8>, &Values<u8>, &Values<u8>),
    red: &mut Values<u8>,
    green: &mut Values<u8>,
    blue: &mut Values<u8>,
) {
    let mut sector = [0u8; BLOCK];
    let mut kept = [0u16; BLOCK];
    let mut low = [0u8; BLOCK];
    for i in 0..BLOCK {
        let sixths = u16::from(hue[i]) * 6;
        // (sixths + 1) * 257 >> 16 is sixths / 255 for all that can occur.
        let whole = (((u32::from(sixths) + 1) * 257) >> 16) as u16;
        let within = sixths - whole * 255;
        let s = u16::from(saturation[i]);
        let distance = if whole % 2 == 1 { within } else { 255 - within };
        sector[i] = whole as u8;
        kept[i] = 65025 - s * distance;
        let product = u16::from(value[i]) * (255 - s) + 128;
        low[i] = ((product + (product >> 8)) >> 8) as u8;
    }
    let mut middle = [0u8; BLOCK];
    for i in 0..BLOCK {
        middle[i] = rounded_by_65025(u32::from(value[i]) * u32::from(kept[i])) as u8;
    }
    for i in 0..BLOCK {
        let (v, m, l) = (value[i], middle[i], low[i]);
        let s = sector[i];
        // Without short cuts, and one choice after the other: a `match`, or what looks like one, would be
        // compiled to a jump for every pixel.
        let choose = |high: bool, middle: bool| {
            let below = if middle { m } else { l };
            if high { v } else { below }
        };
        red[i] = choose((s == 0) | (s >= 5), (s == 1) | (s == 4));
        green[i] = choose((s == 1) | (s == 2), (s == 0) | (s == 3) | (s == 6));
        blue[i] = choose((s == 3) | (s == 4), (s == 2) | (s == 5));
    }
}

/// `product` / 65025 (255 squared), rounded, for products up to 255 * 65025: whole numbers that single
/// precision holds, and the product with its reciprocal never crosses a whole number (tested for all).
#[inline(always)]
fn rounded_by_65025(product: u32) -> i32 {
    let quotient = (product + 32512) as f32 * (1.0 / 65025.0);
    // SAFETY: positive, at most 256.
    unsafe { quotient.to_int_unchecked() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::samples;
    use crate::ops::simd::Simd;

    /// colorsys with Pillow's precisions, written for reading.
    fn reference([r, g, b]: [u8; 3], levels: u8) -> [u8; 3] {
        let (high, low) = (r.max(g).max(b), r.min(g).min(b));
        let (mut hue, mut saturation) = (0, 0);
        if high > low {
            let range = f32::from(high - low);
            let [rc, gc, bc] = [r, g, b].map(|c| f32::from(high - c) / range);
            let sixths = if r == high {
                bc - gc
            } else if g == high {
                (2.0 + f64::from(rc) - f64::from(bc)) as f32
            } else {
                (4.0 + f64::from(gc) - f64::from(rc)) as f32
            };
            let turns = ((f64::from(sixths) / 6.0 + 1.0) % 1.0) as f32;
            hue = (f64::from(turns) * 255.0) as u8;
            saturation = (f64::from(range / f32::from(high)) * 255.0) as u8;
        }
        let hue = hue.wrapping_add(levels);
        let position = f64::from(hue) * 6.0 / 255.0;
        let sector = position.floor();
        let within = (position - sector) as f32;
        let s = (f64::from(saturation) / 255.0) as f32;
        let v = f64::from(high);
        let p = (v * (1.0 - f64::from(s))).round() as u8;
        let q = (v * (1.0 - f64::from(s * within))).round() as u8;
        let t = (v * (1.0 - f64::from(s) * (1.0 - f64::from(within)))).round() as u8;
        match sector as u8 {
            0 | 6 => [high, t, p],
            1 => [q, high, p],
            2 => [p, high, t],
            3 => [p, q, high],
            4 => [t, p, high],
            _ => [high, p, q],
        }
    }

    #[test]
    fn every_colour_turns_as_in_plain_double_precision() {
        // All 2^24 colours; the shift changes with them, so that every hue meets every sector.
        let (mut picture, mut expected) = (vec![0u8; 3 << 8], vec![0u8; 3 << 8]);
        let sets = Simd::available();
        for r in 0..=255u8 {
            for g in 0..=255u8 {
                let levels = r.wrapping_mul(31).wrapping_add(g.wrapping_mul(57));
                for b in 0..=255u8 {
                    for (plane, level) in reference([r, g, b], levels).into_iter().enumerate() {
                        expected[256 * plane + usize::from(b)] = level;
                    }
                }
                for &simd in &sets {
                    picture[..256].fill(r);
                    picture[256..512].fill(g);
                    picture[512..].iter_mut().zip(0..=255).for_each(|(b, level)| *b = level);
                    hue(simd, &mut picture, levels);
                    assert!(picture == expected, "{}: {r}, {g}, 0 to 255, + {levels}", simd.name());
                }
            }
        }
    }

    #[test]
    fn all_instruction_sets_give_equal_bytes_for_any_number_of_pixels() {
        for pixels in [1, 63, 64, 65, 1000] {
            let picture = samples::picture(pixels, 1);
            let turned = Simd::available().into_iter().map(|simd| {
                let mut picture = picture.clone();
                hue(simd, &mut picture, 23);
                picture
            });
            let turned: Vec<_> = turned.collect();
            assert!(turned.windows(2).all(|pair| pair[0] == pair[1]), "{pixels}");
        }
    }

    /// Every value that a quotient is taken of, by plain division.
    #[test]
    fn quotients_are_exact() {
        for product in 0..=255 * 65025u32 {
            assert_eq!(
                rounded_by_65025(product),
                ((2 * product + 65025) / 130_050).cast_signed(),
                "{product}"
            );
        }
        for hue in 0..256u32 {
            assert_eq!(((hue * 6 + 1) * 257) >> 16, hue * 6 / 255);
        }
    }

    #[test]
    fn shifts_are_truncated_and_wrap() {
        assert_eq!([0.5, -0.5, 0.1, -0.1, 0.0039].map(levels), [127, 129, 25, 231, 0]);
    }
}
