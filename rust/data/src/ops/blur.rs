//! Here: Pillow's GaussianBlur: three passes of an extended box filter along rows, three along columns.
//! Not here: drawing of sigma.
//!
//! The box has whole weights within `radius` pixels and a fractional one at either end, so that three
//! passes have exactly the variance sigma^2 (Gwosdek et al., "Theoretical foundations of Gaussian
//! convolution by extended box filtering", 2011). Pixels beyond the border repeat the border's. Each pass
//! rounds to 8 bits; weights are 24-bit fixed point, bit for bit Pillow's.

use super::{kernel, planes};

/// Passes in each direction.
const PASSES: usize = 3;

/// One extended box filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taps {
    /// Pixels of full weight on either side of the centre.
    radius: usize,
    /// Full weight, times 2^24.
    full: u32,
    /// Weight of the two pixels at distance radius + 1, times 2^24.
    end: u32,
}

/// The filter whose three passes have standard deviation `sigma`. Pillow rounds to single precision where
/// this does.
fn taps(sigma: f32) -> Taps {
    let variance = sigma * sigma / PASSES as f32;
    let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
    let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
    let mut part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
    part /= 6.0 * (variance - (whole + 1.0) * (whole + 1.0));
    let extent = whole + part;
    let radius = extent as usize;
    let full = ((1u32 << 24) as f32 / (extent * 2.0 + 1.0)) as u32;
    // A quotient rounded up can exceed 2^24 by a hair; Pillow's unsigned arithmetic wraps there, too.
    let end = (1u32 << 24).wrapping_sub((radius as u32 * 2 + 1) * full) / 2;
    Taps { radius, full, end }
}

/// Buffers that are reused from picture to picture.
#[derive(Debug, Default)]
pub(crate) struct Blur {
    plane: Vec<u8>,
    line: Vec<u8>,
    sums: Vec<u32>,
}

impl Blur {
    /// Blurs every plane of a picture whose rows have `width` pixels; `sigma` in pixels, 0 changes nothing.
    pub(crate) fn blur(&mut self, picture: &mut [u8], width: usize, sigma: f64) {
        let sigma = sigma as f32;
        if sigma <= 0.0 || width == 0 {
            return;
        }
        let taps = taps(sigma);
        let margin = taps.radius + 1;
        self.line.resize(width + 2 * margin, 0);
        self.sums.resize(width, 0);
        self.plane.resize(picture.len() / 3, 0);
        for plane in planes(picture) {
            rows(plane, width, taps, &mut self.line, &mut self.sums);
            for _ in 0..PASSES {
                columns(plane, &mut self.plane, width, taps, &mut self.sums);
                plane.copy_from_slice(&self.plane);
            }
        }
    }
}

#[inline(always)]
fn weigh(sum: u32, ends: u32, taps: Taps) -> u8 {
    let weighted = sum.wrapping_mul(taps.full).wrapping_add(ends.wrapping_mul(taps.end));
    (weighted.wrapping_add(1 << 23) >> 24) as u8
}

kernel! {
    /// Three passes along every row, in place. `line` holds a row with margins of radius + 1.
    fn rows / rows_portable(plane: &mut [u8], width: usize, taps: Taps, line: &mut [u8], sums: &mut [u32]) {
        let margin = taps.radius + 1;
        for row in plane.chunks_exact_mut(width) {
            for _ in 0..PASSES {
                line[..margin].fill(row[0]);
                line[margin..margin + width].copy_from_slice(row);
                line[margin + width..].fill(row[width - 1]);
                sums.fill(0);
                for offset in 1..=2 * taps.radius + 1 {
                    for (sum, &value) in sums.iter_mut().zip(&line[offset..offset + width]) {
                        *sum += u32::from(value);
                    }
                }
                let ends = line[..width].iter().zip(&line[2 * margin..]);
                for ((out, &sum), (&left, &right)) in row.iter_mut().zip(&*sums).zip(ends) {
                    *out = weigh(sum, u32::from(left) + u32::from(right), taps);
                }
            }
        }
    }
}

kernel! {
    /// One pass along every column: a running sum for each.
    fn columns / columns_portable(plane: &[u8], out: &mut [u8], width: usize, taps: Taps, sums: &mut [u32]) {
        let height = plane.len() / width;
        let row = |y: isize| {
            let y = y.clamp(0, height as isize - 1) as usize;
            &plane[y * width..(y + 1) * width]
        };
        let radius = taps.radius as isize;
        sums.fill(0);
        // The sum of the row above the first: it drops its first row before it is used.
        for y in -radius - 1..radius {
            for (sum, &value) in sums.iter_mut().zip(row(y)) {
                *sum += u32::from(value);
            }
        }
        for (y, out) in out.chunks_exact_mut(width).enumerate() {
            let y = y as isize;
            let (gone, new) = (row(y - radius - 1), row(y + radius));
            let ends = gone.iter().zip(row(y + radius + 1));
            for (((out, sum), &new), (&gone, &below)) in out.iter_mut().zip(&mut *sums).zip(new).zip(ends) {
                *sum = *sum + u32::from(new) - u32::from(gone);
                *out = weigh(*sum, u32::from(gone) + u32::from(below), taps);
            }
        }
    }
}
