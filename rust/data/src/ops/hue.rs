//! Here: the hue shift, as torchvision's `adjust_hue` on a PIL image: RGB to 8-bit HSV, hue plus a
//! whole number of levels modulo 256, and back.
//! Not here: drawing of the shift.
//!
//! Pillow computes partly in single, partly in double precision, and truncates or rounds at each step;
//! the same is done here, without branches, in blocks that the compiler vectorises.

use super::{kernel, planes};

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

#[inline(always)]
fn to_hsv(r: u8, g: u8, b: u8) -> (u8, u8, u8) {
    let high = r.max(g).max(b);
    let low = r.min(g).min(b);
    let [rf, gf, bf, maximum] = [r, g, b, high].map(f32::from);
    // Greys have saturation and hue 0: with a numerator of 0 any positive divisor says so.
    let range = f32::from((high - low).max(1));
    let saturation = f32::from(high - low) / maximum.max(1.0);
    let (rc, gc, bc) = ((maximum - rf) / range, (maximum - gf) / range, (maximum - bf) / range);
    let [rd, gd, bd] = [rc, gc, bc].map(f64::from);
    let is_red = bc - gc;
    let is_green = (2.0 + rd - bd) as f32;
    let is_blue = (4.0 + gd - rd) as f32;
    let sixths = if r == high {
        is_red
    } else if g == high {
        is_green
    } else {
        is_blue
    };
    let turns = f64::from(sixths) / 6.0 + 1.0;
    let turns = if turns >= 1.0 { turns - 1.0 } else { turns } as f32;
    (truncate(f64::from(turns) * 255.0), truncate(f64::from(saturation) * 255.0), high)
}

#[inline(always)]
fn to_rgb(hue: u8, saturation: u8, value: u8) -> (u8, u8, u8) {
    // Whole sixths of a turn by integers; the product and the quotient below are exact enough for both
    // to agree (test `every_colour_...`).
    let sector = (u32::from(hue) * 6 / 255) as i32;
    let within = (f64::from(hue) * 6.0 / 255.0 - f64::from(sector)) as f32;
    let s = (f64::from(saturation) / 255.0) as f32;
    let v = f64::from(value);
    let p = truncate(v * (1.0 - f64::from(s)) + 0.5);
    let q = truncate(v * (1.0 - f64::from(s * within)) + 0.5);
    let t = truncate(v * (1.0 - f64::from(s) * (1.0 - f64::from(within))) + 0.5);
    let sector = if sector == 6 { 0 } else { sector };
    let pick = |a: [u8; 6]| {
        let mut chosen = a[0];
        for (k, &candidate) in a.iter().enumerate().skip(1) {
            chosen = if sector == k as i32 { candidate } else { chosen };
        }
        chosen
    };
    (pick([value, q, p, p, t, value]), pick([t, value, value, q, p, p]), pick([p, p, t, value, value, q]))
}

/// A value in [0, 256) to the whole level below it.
#[inline(always)]
fn truncate(value: f64) -> u8 {
    value as i32 as u8
}
