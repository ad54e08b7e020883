//! Here: part of an interleaved image to a planar square of another size, antialiased.
//! Not here: the choice of the part.
//!
//! Bit for bit Pillow's resize: one pass along rows, one along columns, 22-bit fixed-point weights, 8 bits
//! in between. Their order matters: bicubic weights overshoot, and each pass clips what does.

mod passes;

use self::passes::{BEHIND, Narrow, Rows, Strips, Target, narrow, shorten, stack};
use super::filter::{Side, Weights};
use super::room;
use super::simd::{LANES, Quads, Simd};
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

/// A decoded image, interleaved: of an image of `width` x `height` pixels, both divided by `shrink`, some
/// columns and rows (from, to); in memory, pixels from row to row, and before the first column.
#[derive(Clone, Copy)]
pub(crate) struct Pixels<'a> {
    pub(crate) rgb: &'a [u8],
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) shrink: u32,
    pub(crate) columns: (u32, u32),
    pub(crate) rows: (u32, u32),
    pub(crate) pitch: usize,
    pub(crate) before: usize,
}

impl Cut {
    /// Columns and rows (from, to) that are looked at in an image of `width` x `height` pixels, both divided
    /// by `shrink`.
    pub(crate) fn reach(&self, (width, height): (u32, u32), shrink: u32) -> [(u32, u32); 2] {
        let Window { x, y, width: across, height: down } = self.window;
        let side = |start: u32, length: u32, resized: u32, whole: u32| {
            let end = start + length;
            if shrink == 1 {
                return (start, end);
            }
            // The filter reaches beyond the window by its support at most; one pixel more for rounding.
            let divided = |pixels: u32| f64::from(pixels) / f64::from(shrink);
            let reach = self.interpolation.support() * (divided(length) / f64::from(resized)).max(1.0) + 1.0;
            let last = whole.div_ceil(shrink).min((divided(end) + reach).ceil() as u32);
            ((divided(start) - reach).floor().max(0.0) as u32, last)
        };
        [side(x, across, self.resized.0, width), side(y, down, self.resized.1, height)]
    }

    /// The sides of the window, in pixels of the image divided by `shrink`, and the pixel they count from.
    /// At 1, pixels outside the window have no influence, as if it were an image of its own (torchvision
    /// crops first); divided, they have, as with `box` in Pillow's `resize`: its corners need not be whole.
    fn sides(&self, image: Pixels<'_>, mirrored: bool) -> ([Side; 2], (usize, usize)) {
        let Self { window, resized, offset, .. } = *self;
        let side = |start: u32, length: u32, whole: u32, (resized, offset): (u32, u32), mirrored: bool| {
            let divided = |pixels: u32| f64::from(pixels) / f64::from(image.shrink);
            if image.shrink == 1 {
                Side { source: length, start: 0.0, length: f64::from(length), resized, offset, mirrored }
            } else {
                let source = whole.div_ceil(image.shrink);
                Side { source, start: divided(start), length: divided(length), resized, offset, mirrored }
            }
        };
        let across = side(window.x, window.width, image.width, (resized.0, offset.0), mirrored);
        let down = side(window.y, window.height, image.height, (resized.1, offset.1), false);
        let origin = if image.shrink == 1 { (window.x as usize, window.y as usize) } else { (0, 0) };
        ([across, down], origin)
    }

    /// The order of the passes in Pillow 13 (before, rows always came first): columns first where they lose
    /// more than twice the pixels that rows lose. With a `box` Pillow counts those of the image around it.
    fn columns_first(&self, image: Pixels<'_>) -> bool {
        let (across, down) = match image.shrink {
            1 => (self.window.width, self.window.height),
            shrink => (image.width.div_ceil(shrink), image.height.div_ceil(shrink)),
        };
        let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
        let down = lost(down, self.resized.1);
        down > 0 && 2 * lost(across, self.resized.0) < down
    }

    /// False if the window leaves an image of this size, or the square the resized window.
    fn fits(&self, image: Pixels<'_>) -> bool {
        let inside =
            |start: u32, length: u32, whole: u64| length > 0 && u64::from(start) + u64::from(length) <= whole;
        let Window { x, y, width: across, height: down } = self.window;
        inside(x, across, image.width.into())
            && inside(y, down, image.height.into())
            && inside(self.offset.0, self.size, u64::from(self.resized.0))
            && inside(self.offset.1, self.size, u64::from(self.resized.1))
            && self.held(image)
    }

    /// False if pixels that are looked at have not been decoded.
    fn held(&self, image: Pixels<'_>) -> bool {
        let [across, down] = self.reach((image.width, image.height), image.shrink);
        let inside = |(from, to): (u32, u32), part: (u32, u32)| part.0 <= from && to <= part.1;
        let columns = image.before + image.columns.1.saturating_sub(image.columns.0) as usize;
        let rows = image.rows.1.saturating_sub(image.rows.0) as usize;
        inside(across, image.columns)
            && inside(down, image.rows)
            && columns <= image.pitch
            && image.rgb.len() >= rows * image.pitch * 3
    }
}

/// The weights and buffers of a resize, reused from image to image.
pub(crate) struct Resize {
    simd: Simd,
    across: Weights,
    down: Weights,
    narrow: Narrow,
    fours: Vec<Quads>,
    shortened: Vec<u8>,
    line: Vec<[u8; LANES]>,
}

impl Resize {
    pub(crate) fn new(simd: Simd) -> Self {
        let (across, down) = (Weights::default(), Weights::default());
        Self {
            simd,
            across,
            down,
            narrow: Narrow::default(),
            fours: Vec::new(),
            shortened: Vec::new(),
            line: Vec::new(),
        }
    }

    /// Writes the square into `picture`, planar; left and right change places if `mirrored`.
    pub(crate) fn cut(
        &mut self,
        image: Pixels<'_>,
        cut: &Cut,
        mirrored: bool,
        picture: &mut [u8],
    ) -> Result<()> {
        let (size, Pixels { width, height, .. }) = (cut.size as usize, image);
        if !cut.fits(image) || picture.len() != 3 * size * size {
            return Err(Fault::Setting(format!("{cut:?} does not fit an image of {width}x{height}")).into());
        }
        let ([across, down], origin) = cut.sides(image, mirrored);
        self.across.set(across, cut.size, cut.interpolation, self.simd);
        self.down.set(down, cut.size, cut.interpolation, self.simd);
        let (left, right) = self.across.extent();
        let (top, bottom) = self.down.extent();
        let stride = image.pitch * 3;
        let column = origin.0 + left - image.columns.0 as usize + image.before;
        let bytes = &image.rgb[(origin.1 + top - image.rows.0 as usize) * stride + column * 3..];
        let source = Rows { bytes, stride, length: (right - left) * 3, count: bottom - top };
        if cut.columns_first(image) {
            self.columns_then_rows(source, picture);
        } else {
            self.rows_then_columns(source, picture);
        }
        Ok(())
    }

    fn rows_then_columns(&mut self, source: Rows<'_>, picture: &mut [u8]) {
        let size = self.across.len();
        let strips = Strips { count: 3, length: size, apart: size * size };
        let fours = source.count.div_ceil(LANES) * (LANES / 4);
        let fours = room(&mut self.fours, fours * strips.blocks() + BEHIND, Quads::ZERO);
        narrow(self.simd, source, &self.across, &mut self.narrow, Target::Fours(fours));
        shorten(self.simd, fours, strips, &self.down, &mut self.line, picture);
    }

    fn columns_then_rows(&mut self, source: Rows<'_>, picture: &mut [u8]) {
        let size = self.down.len();
        let strips = Strips { count: 1, length: source.length, apart: 0 };
        let fours = source.count.div_ceil(4) * strips.blocks() + BEHIND;
        let fours = room(&mut self.fours, fours, Quads::ZERO);
        stack(self.simd, source, fours);
        let bytes = room(&mut self.shortened, size * source.length, 0);
        shorten(self.simd, fours, strips, &self.down, &mut self.line, bytes);
        let length = source.length;
        let source = Rows { bytes, stride: length, length, count: size };
        narrow(self.simd, source, &self.across, &mut self.narrow, Target::Planes(picture));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::samples;
    use crate::ops::simd::WEIGHT_BITS;

    /// An interleaved image.
    fn interleaved(width: usize, height: usize) -> Vec<u8> {
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
    fn slow(image: Pixels<'_>, cut: &Cut, channel: usize, x: u32, y: u32) -> u8 {
        let Window { x: left, y: top, width: across, height: down } = cut.window;
        let value = |x: u32, y: u32| {
            i64::from(image.rgb[((top + y) * image.width + left + x) as usize * 3 + channel])
        };
        let columns = weights(across, cut.resized.0, cut.offset.0 + x, cut.interpolation);
        let rows = weights(down, cut.resized.1, cut.offset.1 + y, cut.interpolation);
        let out = if cut.columns_first(image) {
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
        let rgb = interleaved(width, height);
        let (columns, rows) = ((0, width as u32), (0, height as u32));
        let image = Pixels {
            rgb: &rgb,
            width: columns.1,
            height: rows.1,
            shrink: 1,
            columns,
            rows,
            pitch: width,
            before: 0,
        };
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
                for simd in Simd::available() {
                    let mut resize = Resize::new(simd);
                    let mut picture = vec![0xab; 3 * (size * size) as usize];
                    resize.cut(image, &cut, false, &mut picture)?;
                    for (i, &found) in (0..).zip(&picture) {
                        let (channel, y, x) = (i / (size * size), i / size % size, i % size);
                        let expected = slow(image, &cut, channel as usize, x, y);
                        assert_eq!(found, expected, "{}, {cut:?}: {channel}, {x}, {y}", simd.name());
                    }
                    let mut mirrored = vec![0xab; picture.len()];
                    resize.cut(image, &cut, true, &mut mirrored)?;
                    mirrored.chunks_exact_mut(size as usize).for_each(<[u8]>::reverse);
                    assert_eq!(mirrored, picture, "{}, {cut:?}", simd.name());
                }
            }
        }
        Ok(())
    }
}
