//! Here: part of an interleaved image to a planar square of another size, antialiased.
//! Not here: the choice of the part.
//!
//! Bit for bit Pillow's resize: one pass along rows, one along columns, 22-bit fixed-point weights, 8 bits
//! in between. Their order matters: bicubic weights overshoot, and each pass clips what does.

use super::filter::{WEIGHT_BITS, Weights};
use super::transpose::{LANES, from_columns, to_columns};
use super::{kernel, planes};
use crate::error::{Fault, Result};

pub use super::filter::Interpolation;

/// A rectangle of whole pixels of a source image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Left column.
    pub x: u32,
    /// Top row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// Which square to make of an image: `window` of it is resized to `resized`, and the `size` x `size`
/// pixels at `offset` of that are the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Part of the source that is looked at.
    pub window: Window,
    /// Width and height of the resized window.
    pub resized: (u32, u32),
    /// x and y of the square in the resized window.
    pub offset: (u32, u32),
    /// Side of the square in pixels.
    pub size: u32,
    /// Filter of the resize.
    pub interpolation: Interpolation,
}

impl Cut {
    /// False if the window leaves an image of this size, or the square the resized window.
    fn fits(&self, width: usize, height: usize) -> bool {
        let inside =
            |start: u32, length: u32, whole: u64| length > 0 && u64::from(start) + u64::from(length) <= whole;
        let Window { x, y, width: across, height: down } = self.window;
        inside(x, across, width as u64)
            && inside(y, down, height as u64)
            && inside(self.offset.0, self.size, u64::from(self.resized.0))
            && inside(self.offset.1, self.size, u64::from(self.resized.1))
    }
}

/// Pixels of a row that the column pass sums up in registers.
const BLOCK: usize = 32;

/// The weights and buffers of a resize, reused from image to image.
#[derive(Default)]
pub(crate) struct Resize {
    across: Weights,
    down: Weights,
    between: Vec<u8>,
    columns: Vec<u8>,
    squeezed: Vec<u8>,
}

impl Resize {
    /// Writes the square into `picture`, planar. Pixels outside the window have no influence, as if the
    /// window were an image of its own.
    pub(crate) fn cut(
        &mut self,
        rgb: &[u8],
        (width, height): (usize, usize),
        cut: &Cut,
        picture: &mut [u8],
    ) -> Result<()> {
        let size = cut.size as usize;
        if !cut.fits(width, height) || rgb.len() != width * height * 3 || picture.len() != 3 * size * size {
            return Err(Fault::Setting(format!("{cut:?} does not fit an image of {width}x{height}")).into());
        }
        let Cut { window, resized, offset, interpolation, .. } = *cut;
        self.across.set(window.width, resized.0, offset.0, cut.size, interpolation);
        self.down.set(window.height, resized.1, offset.1, cut.size, interpolation);
        let (left, right) = self.across.extent();
        let (top, bottom) = self.down.extent();
        let corner = ((window.y as usize + top) * width + window.x as usize + left) * 3;
        let source = Rows { bytes: &rgb[corner..], stride: width * 3, length: (right - left) * 3 };
        if columns_first(cut) {
            self.between.resize(size * source.length, 0);
            shorten_columns(source, top, &self.down, &mut self.between);
            let between = Rows { bytes: &self.between, stride: source.length, length: source.length };
            narrow_rows(between, left, &self.across, &mut self.columns, &mut self.squeezed, picture);
        } else {
            self.between.resize(3 * (bottom - top) * size, 0);
            let target = &mut self.between;
            narrow_rows(source, left, &self.across, &mut self.columns, &mut self.squeezed, target);
            for (plane, target) in planes(&mut self.between).into_iter().zip(planes(picture)) {
                let plane = Rows { bytes: plane, stride: size, length: size };
                shorten_columns(plane, top, &self.down, target);
            }
        }
        Ok(())
    }
}

/// The order of the passes in Pillow 13 (before, rows always came first): columns first where they lose
/// more than twice the pixels that rows lose.
fn columns_first(cut: &Cut) -> bool {
    let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let down = lost(cut.window.height, cut.resized.1);
    down > 0 && 2 * lost(cut.window.width, cut.resized.0) < down
}

/// Rows of `length` bytes, `stride` bytes apart.
#[derive(Clone, Copy)]
struct Rows<'a> {
    bytes: &'a [u8],
    stride: usize,
    length: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn row(self, y: usize) -> &'a [u8] {
        &self.bytes[y * self.stride..][..self.length]
    }
}

#[inline(always)]
fn clip(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

kernel! {
    /// Every interleaved row, whose first pixel is source column `left`, to the planar, narrower `target`.
    ///
    /// Neighbouring pixels of a row have different weights, but the rows share theirs: some rows are
    /// transposed, so that what a weight is multiplied with lies side by side.
    fn narrow_rows / narrow_rows_portable(
        source: Rows<'_>,
        left: usize,
        weights: &Weights,
        columns: &mut Vec<u8>,
        squeezed: &mut Vec<u8>,
        target: &mut [u8],
    ) {
        let size = weights.len();
        let height = target.len() / (3 * size);
        columns.resize(source.length * LANES, 0);
        squeezed.resize(3 * size * LANES, 0);
        for y in (0..height).step_by(LANES) {
            // The last row stands in for those below it.
            let row = |lane: usize| source.row((y + lane).min(height - 1));
            to_columns(row, columns.as_chunks_mut().0);
            let pixels = columns.as_chunks::<{ 3 * LANES }>().0;
            let sums = squeezed.as_chunks_mut::<{ 3 * LANES }>().0;
            for (out, (first, weights)) in sums.iter_mut().zip(weights.iter()) {
                weigh_pixels(&pixels[first - left..][..weights.len()], weights, out);
            }
            let rows = LANES.min(height - y);
            for (channel, plane) in planes(target).into_iter().enumerate() {
                let columns = squeezed.as_chunks().0;
                from_columns(columns, channel, size, &mut plane[y * size..(y + rows) * size]);
            }
        }
    }
}

/// One output pixel of all three channels in all lanes.
#[inline(always)]
fn weigh_pixels(pixels: &[[u8; 3 * LANES]], weights: &[i32], out: &mut [u8; 3 * LANES]) {
    let mut sums = [1i32 << (WEIGHT_BITS - 1); 3 * LANES];
    for (values, &weight) in pixels.iter().zip(weights) {
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += i32::from(value) * weight;
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = clip(sum);
    }
}

kernel! {
    /// Rows of bytes, the first of them source row `top`, to the fewer rows of `target`.
    fn shorten_columns / shorten_columns_portable(
        source: Rows<'_>,
        top: usize,
        weights: &Weights,
        target: &mut [u8],
    ) {
        for (out, (first, weights)) in target.chunks_exact_mut(source.length).zip(weights.iter()) {
            let mut blocks = out.chunks_exact_mut(BLOCK);
            for (i, out) in blocks.by_ref().enumerate() {
                let mut sums = [1i32 << (WEIGHT_BITS - 1); BLOCK];
                for (y, &weight) in (first - top..).zip(weights) {
                    let values = &source.row(y)[i * BLOCK..][..BLOCK];
                    for (sum, &value) in sums.iter_mut().zip(values) {
                        *sum += i32::from(value) * weight;
                    }
                }
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = clip(sum);
                }
            }
            let rest = blocks.into_remainder();
            let start = source.length - rest.len();
            for (x, out) in (start..).zip(rest) {
                let rows = (first - top..).zip(weights);
                let weighted = rows.map(|(y, &weight)| i32::from(source.row(y)[x]) * weight);
                *out = clip((1 << (WEIGHT_BITS - 1)) + weighted.sum::<i32>());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::samples;

    /// An interleaved image.
    fn image(width: usize, height: usize) -> Vec<u8> {
        let planes = samples::picture(width, height);
        (0..planes.len()).map(|i| planes[i % 3 * width * height + i / 3]).collect()
    }

    /// One side's weights for output pixel `position`, straight from the definition: (source pixel, weight).
    fn weights(source: u32, resized: u32, position: u32, filter: Interpolation) -> Vec<(u32, i64)> {
        let scale = f64::from(source) / f64::from(resized);
        let centre = (f64::from(position) + 0.5) * scale - 0.5;
        let weigh = |x: u32| filter.weight((f64::from(x) - centre) / scale.max(1.0));
        let sum: f64 = (0..source).map(weigh).sum();
        let fixed = |x| (weigh(x) / sum * f64::from(1 << WEIGHT_BITS)).round() as i64;
        (0..source).map(|x| (x, fixed(x))).collect()
    }

    fn level(weighted: impl Iterator<Item = i64>) -> i64 {
        ((weighted.sum::<i64>() + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS).clamp(0, 255)
    }

    /// One value of the square, slowly.
    fn slow(rgb: &[u8], width: usize, cut: &Cut, channel: usize, x: u32, y: u32) -> u8 {
        let Window { x: left, y: top, width: across, height: down } = cut.window;
        let value =
            |x: u32, y: u32| i64::from(rgb[((top + y) as usize * width + (left + x) as usize) * 3 + channel]);
        let columns = weights(across, cut.resized.0, cut.offset.0 + x, cut.interpolation);
        let rows = weights(down, cut.resized.1, cut.offset.1 + y, cut.interpolation);
        let out = if columns_first(cut) {
            let column = |x| level(rows.iter().map(|&(y, w)| w * value(x, y)));
            level(columns.iter().map(|&(x, w)| w * column(x)))
        } else {
            let row = |y| level(columns.iter().map(|&(x, w)| w * value(x, y)));
            level(rows.iter().map(|&(y, w)| w * row(y)))
        };
        out as u8
    }

    #[test]
    fn every_value_is_the_weighted_sum_of_its_definition() -> Result<()> {
        let (width, height) = (41, 37);
        let rgb = image(width, height);
        let mut resize = Resize::default();
        // Window, resized, offset, size: smaller, larger, either order of passes, parts, single pixels.
        for (window, resized, offset, size) in [
            ((0, 0, 41, 37), (13, 13), (0, 0), 13),
            ((5, 3, 20, 33), (17, 17), (0, 0), 17),
            ((5, 3, 33, 20), (17, 17), (0, 0), 17),
            ((0, 0, 41, 37), (60, 54), (21, 10), 33),
            ((0, 0, 41, 37), (11, 10), (2, 1), 8),
            ((40, 36, 1, 1), (9, 9), (0, 0), 9),
            ((3, 4, 2, 30), (5, 5), (0, 0), 5),
            ((3, 4, 30, 1), (1, 1), (0, 0), 1),
            ((3, 4, 16, 16), (16, 16), (0, 0), 16),
        ] {
            for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
                let (x, y, across, down) = window;
                let window = Window { x, y, width: across, height: down };
                let cut = Cut { window, resized, offset, size, interpolation };
                let mut picture = vec![0xab; 3 * (size * size) as usize];
                resize.cut(&rgb, (width, height), &cut, &mut picture)?;
                for (i, &found) in (0..).zip(&picture) {
                    let (channel, y, x) = (i / (size * size), i / size % size, i % size);
                    let expected = slow(&rgb, width, &cut, channel as usize, x, y);
                    assert_eq!(found, expected, "{cut:?}: {channel}, {x}, {y}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn both_compilations_of_the_passes_give_equal_bytes() {
        let (rgb, size) = (image(29, 31), 12);
        let mut weights = Weights::default();
        weights.set(29, size, 0, size, Interpolation::Bicubic);
        let source = Rows { bytes: &rgb, stride: 29 * 3, length: 29 * 3 };
        let (mut columns, mut squeezed) = (Vec::new(), Vec::new());
        let (mut wide, mut portable) = (vec![0; 3 * 31 * 12], vec![0; 3 * 31 * 12]);
        narrow_rows(source, 0, &weights, &mut columns, &mut squeezed, &mut wide);
        narrow_rows_portable(source, 0, &weights, &mut columns, &mut squeezed, &mut portable);
        assert_eq!(wide, portable);
        let (mut wide, mut portable) = (vec![0; 87 * 12], vec![0; 87 * 12]);
        shorten_columns(source, 0, &weights, &mut wide);
        shorten_columns_portable(source, 0, &weights, &mut portable);
        assert_eq!(wide, portable);
    }
}
