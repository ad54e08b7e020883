//! Here: the hue shift, as torchvision's `adjust_hue` on a PIL image: RGB to 8-bit HSV, hue plus a
//! whole number of levels modulo 256, and back.
//! Not here: drawing of the shift.
//!
//! Pillow computes partly in single, partly in double precision, and truncates or rounds at each step;
//! the same is done here, without branches, in blocks that the compiler vectorises.

use super::{kernel, planes, whole_f32, whole_f64};

/// Pixels treated together: enough to fill vectors, few enough to stay in registers and L1.
const BLOCK: usize = 64;

/// Levels to add for a shift in [-0.5, 0.5] turns: truncated towards zero, as torchvision does.
pub(crate) fn levels(shift: f64) -> u8 {
    ((shift * 255.0) as i32) as u8
}

kernel! {
    /// Turns the hue of every pixel by `levels` of 256.
    pub(crate) fn hue / hue_portable(picture: &mut [u8], levels: u8) {
        let [red, green, blue] = planes(picture);
        let (red, red_rest) = red.as_chunks_mut::<BLOCK>();
        let (green, green_rest) = green.as_chunks_mut::<BLOCK>();
        let (blue, blue_rest) = blue.as_chunks_mut::<BLOCK>();
        for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
            turn(r, g, b, levels);
        }
        let mut rest = [[0; BLOCK]; 3];
        let sources = [red_rest, green_rest, blue_rest];
        for (block, source) in rest.iter_mut().zip(&sources) {
            block[..source.len()].copy_from_slice(source);
        }
        let [r, g, b] = &mut rest;
        turn(r, g, b, levels);
        for (block, source) in rest.iter().zip(sources) {
            source.copy_from_slice(&block[..source.len()]);
        }
    }
}

#[inline(always)]
fn turn(red: &mut [u8; BLOCK], green: &mut [u8; BLOCK], blue: &mut [u8; BLOCK], levels: u8) {
    let mut hues = [0u8; BLOCK];
    let mut saturations = [0u8; BLOCK];
    let mut values = [0u8; BLOCK];
    for i in 0..BLOCK {
        (hues[i], saturations[i], values[i]) = to_hsv(red[i], green[i], blue[i]);
    }
    for i in 0..BLOCK {
        (red[i], green[i], blue[i]) = to_rgb(hues[i].wrapping_add(levels), saturations[i], values[i]);
    }
}

/// Pillow's hue is the position of the middle channel between the other two, in single precision; the
/// channel order chooses where that position lies on the circle.
#[inline(always)]
fn to_hsv(r: u8, g: u8, b: u8) -> (u8, u8, u8) {
    let high = r.max(g).max(b);
    let low = r.min(g).min(b);
    let middle = r.max(g).min(r.min(g).max(b));
    // Greys have saturation 0, and any hue then gives the same colour back.
    let below = f32::from(high - middle) / f32::from((high - low).max(1));
    let saturation = f32::from(high - low) / f32::from(high.max(1));
    let (start, sign) = if r == high {
        if b == low { (1.0, -1.0) } else { (-1.0, 1.0) }
    } else if g == high {
        if b == low { (1.0, 1.0) } else { (3.0, -1.0) }
    } else if r == low {
        (3.0, 1.0)
    } else {
        (5.0, -1.0)
    };
    let sixths: f32 = start + sign * below;
    let turns = f64::from(sixths) / 6.0 + 1.0;
    let turns = if turns >= 1.0 { turns - 1.0 } else { turns } as f32;
    (whole_f32(turns * 255.0), whole_f32(saturation * 255.0), high)
}

#[inline(always)]
fn to_rgb(hue: u8, saturation: u8, value: u8) -> (u8, u8, u8) {
    let sixths = u16::from(hue) * 6;
    let sector = (sixths / 255) as u8;
    let within = f32::from((sixths % 255) as u8) / 255.0;
    let saturation = f32::from(saturation) / 255.0;
    let lowest = whole_f32(f32::from(value) * (1.0 - saturation) + 0.5);
    // The middle channel falls in odd sectors and rises in even ones; Pillow multiplies in single
    // precision for the one and in double for the other.
    let falling = f64::from(saturation * within);
    let rising = f64::from(saturation) * (1.0 - f64::from(within));
    let lost = if sector % 2 == 1 { falling } else { rising };
    let middle = whole_f64(f64::from(value) * (1.0 - lost) + 0.5);
    let (v, m, l) = (value, middle, lowest);
    let red = if sector == 2 || sector == 3 {
        l
    } else if sector == 1 || sector == 4 {
        m
    } else {
        v
    };
    let green = if sector == 1 || sector == 2 {
        v
    } else if sector == 0 || sector == 3 || sector == 6 {
        m
    } else {
        l
    };
    let blue = if sector == 3 || sector == 4 {
        v
    } else if sector == 2 || sector == 5 {
        m
    } else {
        l
    };
    (red, green, blue)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::samples;

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
        let mut picture = vec![0u8; 3 << 8];
        for r in 0..=255u8 {
            for g in 0..=255u8 {
                let levels = r.wrapping_mul(31).wrapping_add(g.wrapping_mul(57));
                picture[..256].fill(r);
                picture[256..512].fill(g);
                picture[512..].iter_mut().zip(0..=255).for_each(|(b, level)| *b = level);
                hue(&mut picture, levels);
                for b in 0..=255u8 {
                    let turned = [0, 256, 512].map(|plane| picture[plane + usize::from(b)]);
                    assert_eq!(turned, reference([r, g, b], levels), "{:?} + {levels}", [r, g, b]);
                }
            }
        }
    }

    #[test]
    fn both_compilations_give_equal_bytes_for_any_number_of_pixels() {
        for pixels in [1, 63, 64, 65, 1000] {
            let mut one = samples::picture(pixels, 1);
            let mut two = one.clone();
            hue(&mut one, 23);
            hue_portable(&mut two, 23);
            assert_eq!(one, two);
        }
    }

    #[test]
    fn shifts_are_truncated_and_wrap() {
        assert_eq!([0.5, -0.5, 0.1, -0.1, 0.0039].map(levels), [127, 129, 25, 231, 0]);
    }
}
