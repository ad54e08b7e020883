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

/// Pixels that a long filter sums up in registers.
const BLOCK: usize = 64;

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
}

impl Blur {
    /// Blurs every plane of a picture whose rows have `width` pixels; `sigma` in pixels, 0 changes nothing.
    pub(crate) fn blur(&mut self, picture: &mut [u8], width: usize, sigma: f64) {
        let sigma = sigma as f32;
        if sigma <= 0.0 || width == 0 {
            return;
        }
        let taps = taps(sigma);
        self.line.resize(width + 2 * (taps.radius + 1), 0);
        self.plane.resize(picture.len() / 3, 0);
        for plane in planes(picture) {
            rows(plane, width, taps, &mut self.line);
            columns(plane, &mut self.plane, width, taps);
            columns(&self.plane, plane, width, taps);
            columns(plane, &mut self.plane, width, taps);
            plane.copy_from_slice(&self.plane);
        }
    }
}

#[inline(always)]
fn weigh(sum: u32, ends: u32, taps: Taps) -> u8 {
    let weighted = sum.wrapping_mul(taps.full).wrapping_add(ends.wrapping_mul(taps.end));
    (weighted.wrapping_add(1 << 23) >> 24) as u8
}

/// One filter over `out.len()` pixels: `source(k)` are the pixels at distance k - radius - 1.
#[inline(always)]
fn filter<'a>(out: &mut [u8], taps: Taps, source: impl Fn(usize) -> &'a [u8]) {
    let last = 2 * (taps.radius + 1);
    for (i, out) in out.chunks_mut(BLOCK).enumerate() {
        // 16 bits suffice up to radius 128.
        let mut sums = [0u16; BLOCK];
        let mut ends = [0u16; BLOCK];
        for k in 1..last {
            add(&mut sums, &source(k)[i * BLOCK..]);
        }
        add(&mut ends, &source(0)[i * BLOCK..]);
        add(&mut ends, &source(last)[i * BLOCK..]);
        for ((out, &sum), &ends) in out.iter_mut().zip(&sums).zip(&ends) {
            *out = weigh(u32::from(sum), u32::from(ends), taps);
        }
    }
}

#[inline(always)]
fn add(sums: &mut [u16; BLOCK], values: &[u8]) {
    for (sum, &value) in sums.iter_mut().zip(values) {
        *sum += u16::from(value);
    }
}

kernel! {
    /// All passes along every row, in place. `line` holds a row with margins of radius + 1.
    fn rows / rows_portable(plane: &mut [u8], width: usize, taps: Taps, line: &mut [u8]) {
        let margin = taps.radius + 1;
        for row in plane.chunks_exact_mut(width) {
            for _ in 0..PASSES {
                line[..margin].fill(row[0]);
                line[margin..margin + width].copy_from_slice(row);
                line[margin + width..].fill(row[width - 1]);
                let line = &*line;
                filter(row, taps, |k| &line[k..k + width]);
            }
        }
    }
}

kernel! {
    /// One pass along every column.
    fn columns / columns_portable(plane: &[u8], out: &mut [u8], width: usize, taps: Taps) {
        let height = plane.len() / width;
        for (y, out) in out.chunks_exact_mut(width).enumerate() {
            filter(out, taps, |k| {
                let y = (y + k).saturating_sub(taps.radius + 1).min(height - 1);
                &plane[y * width..(y + 1) * width]
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::samples;

    /// One pass along a line by its definition, in exact integers.
    fn pass(line: &[u8], taps: Taps) -> Vec<u8> {
        let at = |x: isize| u64::from(line[x.clamp(0, line.len() as isize - 1) as usize]);
        let radius = taps.radius as isize;
        (0..line.len() as isize)
            .map(|x| {
                let sum: u64 = (x - radius..=x + radius).map(at).sum();
                let ends = at(x - radius - 1) + at(x + radius + 1);
                ((sum * u64::from(taps.full) + ends * u64::from(taps.end) + (1 << 23)) >> 24) as u8
            })
            .collect()
    }

    fn slow(plane: &[u8], width: usize, taps: Taps) -> Vec<u8> {
        let thrice = |line: Vec<u8>| (0..PASSES).fold(line, |line, _| pass(&line, taps));
        let rows: Vec<u8> = plane.chunks(width).flat_map(|row| thrice(row.to_vec())).collect();
        let mut out = rows.clone();
        for x in 0..width {
            let column = thrice(rows.iter().skip(x).step_by(width).copied().collect());
            out.iter_mut().skip(x).step_by(width).zip(column).for_each(|(out, value)| *out = value);
        }
        out
    }

    #[test]
    fn every_size_and_sigma_gives_the_definition() {
        for (width, height) in [(1, 1), (1, 9), (9, 1), (33, 20), (70, 3)] {
            for sigma in [0.1, 0.7, 1.3, 1.5, 2.0, 2.6, 3.5, 9.0, 40.0] {
                let mut picture = samples::picture(width, height);
                let taps = taps(sigma);
                let expected: Vec<u8> =
                    picture.chunks(width * height).flat_map(|plane| slow(plane, width, taps)).collect();
                Blur::default().blur(&mut picture, width, f64::from(sigma));
                assert_eq!(picture, expected, "{width}x{height}, sigma {sigma}");
            }
        }
    }

    /// Variance of a box with weights `full` and `end`, three times: sigma squared, up to fixed point.
    #[test]
    fn three_passes_have_the_variance_of_the_gaussian() {
        for sigma in [0.1, 0.5, 1.0, 1.5, 2.0, 5.0, 20.0] {
            let taps = taps(sigma);
            let weights = (2 * taps.radius + 1) as f64 * f64::from(taps.full) + 2.0 * f64::from(taps.end);
            let squares: f64 = (1..=taps.radius).map(|x| 2.0 * (x * x) as f64).sum();
            let end = 2.0 * ((taps.radius + 1) as f64).powi(2);
            let variance = (squares * f64::from(taps.full) + end * f64::from(taps.end)) / weights;
            let expected = f64::from(sigma).powi(2) / 3.0;
            assert!((variance - expected).abs() < 1e-4 * expected.max(0.1), "{sigma}: {variance} {expected}");
            assert!((weights / f64::from(1 << 24) - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn both_compilations_give_equal_bytes() {
        for sigma in [0.5, 1.9, 12.0] {
            let taps = taps(sigma);
            let mut line = vec![0; 45 + 2 * (taps.radius + 1)];
            let mut one = samples::picture(45, 10);
            let mut two = one.clone();
            rows(&mut one, 45, taps, &mut line);
            rows_portable(&mut two, 45, taps, &mut line);
            assert_eq!(one, two);
            let (mut wide, mut portable) = (one.clone(), one.clone());
            columns(&one, &mut wide, 45, taps);
            columns_portable(&one, &mut portable, 45, taps);
            assert_eq!(wide, portable);
        }
    }
}
