//! Here: the two passes of a resize, as weighted sums of four samples at a time in 16 lanes.
//! Not here: which pixels and weights, and which pass comes first.
//!
//! Neighbouring pixels of a row have different weights, but the rows share theirs. So the pass along rows
//! takes 16 rows at once, one a lane. What it gives for one column are 16 samples of that column: four
//! fours, just as the pass along columns wants them, where each lane is a column.

use crate::ops::filter::Weights;
use crate::ops::planes;
use crate::ops::simd::{LANES, Quads, Vector, kernel};

/// `count` rows of `length` bytes, `stride` bytes apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) stride: usize,
    pub(super) length: usize,
    pub(super) count: usize,
}

impl<'a> Rows<'a> {
    /// Row `y` and all that follows it; the last row stands in for those below it.
    #[inline(always)]
    fn from(self, y: usize) -> &'a [u8] {
        &self.bytes[y.min(self.count - 1) * self.stride..]
    }
}

/// `count` strips of `length` bytes a row; in the result, `apart` bytes from one strip to the next.
#[derive(Clone, Copy)]
pub(super) struct Strips {
    pub(super) count: usize,
    pub(super) length: usize,
    pub(super) apart: usize,
}

impl Strips {
    /// Blocks of 16 columns in all strips of a row.
    pub(super) fn blocks(self) -> usize {
        self.count * self.length.div_ceil(LANES)
    }
}

/// What becomes of the pass along rows.
pub(super) enum Target<'a> {
    /// Input of the pass along columns: for each four rows three strips of blocks.
    Fours(&'a mut [Quads]),
    /// The planar picture.
    Planes(&'a mut [u8]),
}

kernel! {
    /// Every interleaved row to the rows of `target`, one value for each of the weights.
    pub(super) fn narrow / narrow_rows[V](
        source: Rows<'_>,
        weights: &Weights,
        columns: &mut Vec<Quads>,
        target: Target<'_>,
    ) {
        let mut target = target;
        let size = weights.len();
        let fours = source.length.div_ceil(12);
        columns.resize(3 * fours, Quads::ZERO);
        for y in (0..source.count).step_by(LANES) {
            regroup::<V>(source, y, columns);
            for x in (0..size).step_by(4) {
                let mut levels = [[[0; LANES]; 4]; 3];
                for k in 0..4.min(size - x) {
                    let (first, weights) = weights.of(x + k);
                    let mut sums = [V::zero(); 3];
                    let columns = columns[3 * first..].as_chunks::<3>().0;
                    for (quads, weights) in columns.iter().zip(weights) {
                        for (sums, quads) in sums.iter_mut().zip(quads) {
                            V::dot(sums, quads, weights);
                        }
                    }
                    for (levels, sums) in levels.iter_mut().zip(sums) {
                        levels[k] = V::levels(sums);
                    }
                }
                match &mut target {
                    Target::Fours(fours) => put_fours::<V>(&levels, x, y, size, fours),
                    Target::Planes(picture) => put_rows(&levels, x, y, size, source.count, picture),
                }
            }
        }
    }
}

/// Rows `y` to `y + 15`, four pixels of one channel side by side: three `Quads` for each four pixels.
#[inline(always)]
fn regroup<V: Vector>(source: Rows<'_>, y: usize, columns: &mut [Quads]) {
    let rows: [&[u8]; LANES] = std::array::from_fn(|lane| source.from(y + lane));
    // The lowest row has the fewest bytes behind it.
    let whole = rows[LANES - 1].len().saturating_sub(4) / 12;
    for (four, quads) in columns.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let at = 12 * four;
        let mut ends = [[0; 16]; LANES];
        let mut pixels = [&[0; 16]; LANES];
        if four < whole {
            for (pixels, row) in pixels.iter_mut().zip(rows) {
                if let Some(found) = row[at..].first_chunk() {
                    *pixels = found;
                }
            }
        } else {
            for (end, row) in ends.iter_mut().zip(rows) {
                let left = &row[at.min(row.len())..];
                let length = left.len().min(12);
                end[..length].copy_from_slice(&left[..length]);
            }
            pixels = ends.each_ref();
        }
        *quads = V::gather(pixels);
    }
}

/// Four columns (from `x` on) of 16 rows (from `y` on) as the pass along columns reads them.
#[inline(always)]
fn put_fours<V: Vector>(
    levels: &[[[u8; LANES]; 4]; 3],
    x: usize,
    y: usize,
    size: usize,
    fours: &mut [Quads],
) {
    let blocks = size.div_ceil(LANES);
    for (channel, levels) in levels.iter().enumerate() {
        for (i, words) in V::regroup(levels).iter().enumerate() {
            let block = &mut fours[((y / 4 + i) * 3 + channel) * blocks + x / LANES];
            block.0[4 * (x % LANES)..][..16].copy_from_slice(words);
        }
    }
}

/// Four columns (from `x` on) of 16 rows (from `y` on) as rows of the three planes.
#[inline(always)]
fn put_rows(
    levels: &[[[u8; LANES]; 4]; 3],
    x: usize,
    y: usize,
    size: usize,
    height: usize,
    picture: &mut [u8],
) {
    let width = 4.min(size - x);
    for (levels, plane) in levels.iter().zip(planes(picture)) {
        for (lane, row) in plane[y * size..].chunks_exact_mut(size).take(LANES.min(height - y)).enumerate() {
            let values = levels.map(|column| column[lane]);
            row[x..x + width].copy_from_slice(&values[..width]);
        }
    }
}

kernel! {
    /// Four rows after another, as the pass along columns reads them.
    pub(super) fn stack / stack_rows(source: Rows<'_>, fours: &mut [Quads]) {
        let blocks = source.length.div_ceil(LANES);
        for (four, blocks) in fours.chunks_exact_mut(blocks).enumerate() {
            let rows: [&[u8]; 4] = std::array::from_fn(|i| &source.from(4 * four + i)[..source.length]);
            for (block, quads) in blocks.iter_mut().enumerate() {
                let start = block * LANES;
                let mut parts = [[0u8; LANES]; 4];
                for (part, row) in parts.iter_mut().zip(rows) {
                    let row = &row[start..];
                    match row.first_chunk() {
                        Some(whole) => *part = *whole,
                        None => part[..row.len()].copy_from_slice(row),
                    }
                }
                for (lane, word) in quads.0.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let [a, b, c, d] = parts.map(|part| u32::from(part[lane]));
                    *word = (a | b << 8 | c << 16 | d << 24).to_le_bytes();
                }
            }
        }
    }
}

/// Blocks of columns that are summed up together: enough independent sums to keep the units busy.
const TOGETHER: usize = 2;

kernel! {
    /// Fours of rows to the rows of `target`, one for each of the weights.
    pub(super) fn shorten / shorten_columns[V](
        fours: &[Quads],
        strips: Strips,
        weights: &Weights,
        target: &mut [u8],
    ) {
        let (blocks, length) = (strips.blocks(), strips.length);
        let in_strip = blocks / strips.count;
        for y in 0..weights.len() {
            let (first, weights) = weights.of(y);
            let rows = &fours[first * blocks..][..weights.len() * blocks];
            for strip in 0..strips.count {
                let out = &mut target[strip * strips.apart + y * length..][..length];
                let start = strip * in_strip;
                for block in (0..in_strip).step_by(TOGETHER) {
                    let together = TOGETHER.min(in_strip - block);
                    let mut sums = [V::zero(); TOGETHER];
                    for (row, weights) in rows.chunks_exact(blocks).zip(weights) {
                        let quads = &row[start + block..][..together];
                        for (sums, quads) in sums.iter_mut().zip(quads) {
                            V::dot(sums, quads, weights);
                        }
                    }
                    for (sums, out) in sums.into_iter().zip(out[block * LANES..].chunks_mut(LANES)) {
                        let levels = V::levels(sums);
                        match out.first_chunk_mut() {
                            Some(whole) => *whole = levels,
                            None => out.copy_from_slice(&levels[..out.len()]),
                        }
                    }
                }
            }
        }
    }
}
