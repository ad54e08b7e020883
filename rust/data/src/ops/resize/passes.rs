//! Here: the two passes of a resize, as weighted sums of four samples at a time in 16 lanes.
//! Not here: which pixels and weights, and which pass comes first.
//!
//! Neighbouring pixels of a row have different weights, but the rows share theirs. So the pass along rows
//! takes 16 rows at once, one a lane. What it gives for one column are 16 samples of that column: four
//! fours, just as the pass along columns wants them, where each lane is a column.

use crate::ops::filter::Weights;
use crate::ops::simd::{LANES, Packed, Quads, Vector, kernel};
use crate::ops::{planes, room};

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

/// What the pass along rows needs of memory.
#[derive(Default)]
pub(super) struct Narrow {
    /// Rows that are the last ones of their buffer, each with room behind it.
    edge: Vec<u8>,
    /// Sixteen rows, regrouped.
    columns: Vec<[Quads; 3]>,
}

kernel! {
    /// Every interleaved row to the rows of `target`, one value for each of the weights.
    pub(super) fn narrow / narrow_rows[V](
        source: Rows<'_>,
        weights: &Weights,
        scratch: &mut Narrow,
        target: Target<'_>,
    ) {
        let Narrow { edge, columns } = scratch;
        let mut target = target;
        let size = weights.len();
        let columns = room(columns, source.length.div_ceil(12), [Quads::ZERO; 3]);
        for y in (0..source.count).step_by(LANES) {
            regroup::<V>(source, y, edge, columns);
            for x in (0..size).step_by(LANES) {
                let mut levels = [[[[0; LANES]; 4]; 4]; 3];
                for (four, x) in (x..size).step_by(4).take(4).enumerate() {
                    let made = four_columns::<V>(columns, weights, x);
                    for (levels, made) in levels.iter_mut().zip(made) {
                        levels[four] = made;
                    }
                }
                match &mut target {
                    Target::Fours(fours) => put_fours::<V>(&levels, x, y, size, fours),
                    Target::Planes(picture) => put_rows::<V>(&levels, x, y, size, source.count, picture),
                }
            }
        }
    }
}

/// Four columns, from `x` on, of 16 rows of the three channels.
#[inline(always)]
fn four_columns<V: Vector>(columns: &[[Quads; 3]], weights: &Weights, x: usize) -> [Fours; 3] {
    let mut levels = [[V::whole(V::zero()); 4]; 3];
    for k in 0..4 {
        // What stands behind the last column is not looked at.
        let (first, weights) = weights.of((x + k).min(weights.len() - 1));
        let mut sums = [V::zero(); 3];
        for (quads, weights) in columns[first..].iter().zip(weights) {
            for (sums, quads) in sums.iter_mut().zip(quads) {
                V::dot(sums, quads, weights);
            }
        }
        for (levels, sums) in levels.iter_mut().zip(sums) {
            levels[k] = V::whole(sums);
        }
    }
    [V::by_lanes(levels[0]), V::by_lanes(levels[1]), V::by_lanes(levels[2])]
}

/// Rows `y` to `y + 15`, four pixels of one channel side by side: three `Quads` for each four pixels.
#[inline(always)]
fn regroup<V: Vector>(source: Rows<'_>, y: usize, edge: &mut Vec<u8>, columns: &mut [[Quads; 3]]) {
    // The last four of a row is read with four bytes behind it.
    let length = 12 * columns.len() + 4;
    let mut rows = Rows { bytes: &source.bytes[y * source.stride..], ..source };
    if source.count - y < LANES || rows.bytes.len() < (LANES - 1) * source.stride + length {
        let edge = room(edge, LANES * length, 0);
        for (lane, row) in edge.chunks_exact_mut(length).enumerate() {
            row[..source.length].copy_from_slice(&source.from(y + lane)[..source.length]);
        }
        rows = Rows { bytes: edge, stride: length, ..source };
    }
    for (four, quads) in columns.iter_mut().enumerate() {
        *quads = V::gather(&rows.bytes[12 * four..], rows.stride);
    }
}

/// Four columns of four rows each.
type Fours = [[u8; LANES]; 4];

/// Writes columns `x` to `x + 15` of rows `y` to `y + 15` as the pass along columns reads them.
#[inline(always)]
fn put_fours<V: Vector>(levels: &[[Fours; 4]; 3], x: usize, y: usize, size: usize, fours: &mut [Quads]) {
    let blocks = size.div_ceil(LANES);
    for (channel, levels) in levels.iter().enumerate() {
        let first = (y / 4 * 3 + channel) * blocks + x / LANES;
        for (block, quads) in fours[first..].iter_mut().step_by(3 * blocks).zip(V::quads(levels)) {
            *block = quads;
        }
    }
}

/// Writes them as rows of the three planes.
#[inline(always)]
fn put_rows<V: Vector>(
    levels: &[[Fours; 4]; 3],
    x: usize,
    y: usize,
    size: usize,
    height: usize,
    picture: &mut [u8],
) {
    for (levels, plane) in levels.iter().zip(planes(picture)) {
        for (x, levels) in (x..size).step_by(4).zip(levels) {
            let levels = V::across(levels);
            let rows = plane[y * size..].chunks_exact_mut(size).take(LANES.min(height - y));
            for (values, row) in levels.as_flattened().as_chunks::<4>().0.iter().zip(rows) {
                let row = &mut row[x..];
                match row.first_chunk_mut() {
                    Some(four) => *four = *values,
                    None => row.copy_from_slice(&values[..row.len()]),
                }
            }
        }
    }
}

kernel! {
    /// Four rows after another, as the pass along columns reads them.
    pub(super) fn stack / stack_rows[V](source: Rows<'_>, fours: &mut [Quads]) {
        let blocks = source.length.div_ceil(LANES);
        for (four, blocks) in fours.chunks_exact_mut(blocks).take(source.count.div_ceil(4)).enumerate() {
            let rows: [&[u8]; 4] = std::array::from_fn(|i| &source.from(4 * four + i)[..source.length]);
            let (whole, rest) = blocks.as_chunks_mut::<4>();
            for (i, quads) in whole.iter_mut().enumerate() {
                *quads = V::stack(parts(rows, i * 4 * LANES));
            }
            let last = V::stack(parts(rows, whole.len() * 4 * LANES));
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}

/// 64 bytes of each row from `start` on, filled up with zeros.
#[inline(always)]
fn parts(rows: [&[u8]; 4], start: usize) -> [[u8; 4 * LANES]; 4] {
    let mut parts = [[0; 4 * LANES]; 4];
    for (part, row) in parts.iter_mut().zip(rows) {
        let row = &row[start.min(row.len())..];
        match row.first_chunk() {
            Some(whole) => *part = *whole,
            None => part[..row.len()].copy_from_slice(row),
        }
    }
    parts
}

/// Rows after which memory that was asked for is there.
const AHEAD: usize = 4;

/// Blocks of columns that the pass along columns makes at once.
const AT_ONCE: usize = 4;

/// Blocks that are to stand behind the last one of `fours`: the pass along columns reads them, but uses no value.
pub(super) const BEHIND: usize = AT_ONCE - 1;

kernel! {
    /// Fours of rows to the rows of `target`, one for each of the weights; `line` becomes one with all strips.
    pub(super) fn shorten / shorten_columns[V](
        fours: &[Quads],
        strips: Strips,
        weights: &Weights,
        line: &mut Vec<[u8; LANES]>,
        target: &mut [u8],
    ) {
        let blocks = strips.blocks();
        let (in_strip, length) = (blocks / strips.count * LANES, strips.length);
        let line = room(line, blocks.next_multiple_of(AT_ONCE), [0; LANES]);
        for y in 0..weights.len() {
            for strip in (0..strips.count).filter(|_| y + AHEAD < weights.len()) {
                V::expect(&target[strip * strips.apart + (y + AHEAD) * length..][..length]);
            }
            let (first, weights) = weights.of(y);
            let mut rows = &fours[first * blocks..];
            for levels in line.as_chunks_mut().0 {
                *levels = sum_up::<V>(rows, blocks, weights);
                rows = &rows[AT_ONCE..];
            }
            for (strip, levels) in line.as_flattened().chunks_exact(in_strip).take(strips.count).enumerate() {
                target[strip * strips.apart + y * length..][..length].copy_from_slice(&levels[..length]);
            }
        }
    }
}

/// The levels of the first blocks of `rows`, each of `pitch` blocks.
#[inline(always)]
fn sum_up<V: Vector>(rows: &[Quads], pitch: usize, weights: &[Packed]) -> [[u8; LANES]; AT_ONCE] {
    let mut levels = [V::whole(V::zero()); AT_ONCE];
    for (part, levels) in levels.chunks_exact_mut(V::TOGETHER).enumerate() {
        let mut sums = [V::zero(); AT_ONCE];
        for (row, weights) in weights.iter().enumerate() {
            let quads = &rows[row * pitch + part * V::TOGETHER..][..V::TOGETHER];
            for (sums, quads) in sums.iter_mut().zip(quads) {
                V::dot(sums, quads, weights);
            }
        }
        for (levels, sums) in levels.iter_mut().zip(sums) {
            *levels = V::whole(sums);
        }
    }
    V::in_order(levels)
}
