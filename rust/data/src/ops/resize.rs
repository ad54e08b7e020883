//! Here: part of an interleaved image to a planar square of another size, antialiased.
//! Not here: the choice of the part.
//!
//! Bit for bit Pillow's resize: rows first, then columns, 22-bit fixed-point weights, 8 bits in between.
//! The order matters: bicubic weights overshoot, and the overshoot is clipped after each pass.

use super::{kernel, planes};
use crate::error::{Fault, Result};

/// Filters of a resize; both widen when an image shrinks (antialiasing), as Pillow's do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// Triangle.
    Bilinear,
    /// Cubic with a = -0.5.
    Bicubic,
}

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

/// Fractional bits of a weight: 8 for the value and 2 for overshoot and sign are left of 32.
const WEIGHT_BITS: u32 = 22;

/// Pixels of a row that the column pass sums up in registers.
const BLOCK: usize = 32;

/// Rows that the row pass works on together.
const LANES: usize = 16;

/// Weights of one direction: each output pixel is a weighted sum of some neighbouring source pixels.
#[derive(Debug, Default)]
struct Weights {
    /// First source pixel and number of them, for each output pixel.
    spans: Vec<(usize, usize)>,
    /// Fixed-point weights, `stride` places for each output pixel.
    fixed: Vec<i32>,
    stride: usize,
    exact: Vec<f64>,
}

impl Weights {
    /// For the `size` pixels from `offset` on of a side of `source` pixels made `resized` long. Pixels
    /// beyond the ends of the side are left out, and the others weigh more.
    fn set(&mut self, source: u32, resized: u32, offset: u32, size: u32, filter: Interpolation) {
        let scale = f64::from(source) / f64::from(resized);
        // A filter widens with the step between output pixels, but never narrows: antialiasing.
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        self.stride = support.ceil() as usize * 2 + 1;
        self.spans.clear();
        self.fixed.clear();
        for position in offset..offset + size {
            let centre = (f64::from(position) + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as u32;
            let last = ((centre + support + 0.5) as u32).min(source);
            self.exact.clear();
            self.exact.extend(
                (first..last).map(|pixel| filter.weight((f64::from(pixel) - centre + 0.5) * (1.0 / stretch))),
            );
            let sum: f64 = self.exact.iter().sum();
            self.spans.push((first as usize, self.exact.len()));
            self.fixed.extend(self.exact.iter().map(|&weight| {
                let weight = if sum == 0.0 { weight } else { weight / sum };
                (weight * f64::from(1 << WEIGHT_BITS) + 0.5_f64.copysign(weight)) as i32
            }));
            self.fixed.resize(self.spans.len() * self.stride, 0);
        }
    }

    /// First source pixel and weights of each output pixel.
    #[inline(always)]
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.fixed.chunks_exact(self.stride);
        self.spans.iter().zip(weights).map(|(&(first, count), weights)| (first, &weights[..count]))
    }

    /// The source pixels that any output pixel looks at: first, and one past the last.
    fn extent(&self) -> (usize, usize) {
        let end = |span: Option<&(usize, usize)>| span.map_or(0, |&(first, count)| first + count);
        (self.spans.first().map_or(0, |span| span.0), end(self.spans.last()))
    }
}

impl Interpolation {
    /// Distance in source pixels beyond which a pixel has no weight.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// Weight at a distance; in the order of operations of Pillow, so that the last bit agrees.
    fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Self::Bicubic => 0.0,
        }
    }
}

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
        let size = weights.spans.len();
        let height = target.len() / (3 * size);
        columns.resize(source.length * LANES, 0);
        squeezed.resize(3 * size * LANES, 0);
        for y in (0..height).step_by(LANES) {
            to_columns(source, y, height, columns.as_chunks_mut().0);
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

/// Bytes that are transposed together.
const TILE: usize = 8;

/// Transposes rows from `y` on: byte `i` of row `y + lane` to lane `lane` of column `i`. The last of
/// `height` rows stands in for those below it.
#[inline(always)]
fn to_columns(source: Rows<'_>, y: usize, height: usize, columns: &mut [[u8; LANES]]) {
    let row = |lane: usize| source.row((y + lane).min(height - 1));
    for start in tiles(columns.len()) {
        let columns = &mut columns[start..];
        for lanes in (0..LANES).step_by(TILE) {
            let mut words = [0; TILE];
            for (lane, word) in words.iter_mut().enumerate() {
                *word = load(&row(lanes + lane)[start..]);
            }
            for (column, word) in columns.iter_mut().zip(transpose(words)) {
                store(&mut column[lanes..], word);
            }
        }
    }
}

/// The reverse: `size` columns, each third one from `channel` on, to the rows that `rows` has space for.
#[inline(always)]
fn from_columns(columns: &[[u8; LANES]], channel: usize, size: usize, rows: &mut [u8]) {
    for start in tiles(size) {
        for lanes in (0..rows.len() / size).step_by(TILE) {
            let mut words = [0; TILE];
            for (x, word) in (start..size).zip(&mut words) {
                *word = load(&columns[3 * x + channel][lanes..]);
            }
            for (row, word) in rows[lanes * size..].chunks_exact_mut(size).zip(transpose(words)) {
                store(&mut row[start..], word);
            }
        }
    }
}

/// Where tiles begin that cover `length`: the last one overlaps its neighbour rather than the end.
#[inline(always)]
fn tiles(length: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by(TILE).map(move |start| start.min(length.saturating_sub(TILE)))
}

/// The first eight bytes, or as many as there are.
#[inline(always)]
fn load(bytes: &[u8]) -> u64 {
    if let Some(&word) = bytes.first_chunk() {
        return u64::from_le_bytes(word);
    }
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[inline(always)]
fn store(bytes: &mut [u8], word: u64) {
    if let Some(bytes) = bytes.first_chunk_mut() {
        *bytes = word.to_le_bytes();
    } else {
        bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
    }
}

/// Transposes 8 x 8 bytes: halves, quarters and single bytes change places across the diagonal.
#[inline(always)]
fn transpose(mut words: [u64; TILE]) -> [u64; TILE] {
    let mut exchange = |a: usize, b: usize, bits: u32, mask: u64| {
        let swapped = ((words[a] >> bits) ^ words[b]) & mask;
        words[a] ^= swapped << bits;
        words[b] ^= swapped;
    };
    for a in [0, 1, 2, 3] {
        exchange(a, a + 4, 32, 0x0000_0000_ffff_ffff);
    }
    for a in [0, 1, 4, 5] {
        exchange(a, a + 2, 16, 0x0000_ffff_0000_ffff);
    }
    for a in [0, 2, 4, 6] {
        exchange(a, a + 1, 8, 0x00ff_00ff_00ff_00ff);
    }
    words
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
