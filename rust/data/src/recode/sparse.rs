//! Here: the coefficients of an image as those that are not zero, in zigzag order: as sequential scans code them and
//! the layout stores them.
//! Not here: all coefficients (`coefficients.rs`), the streams of the layout.

use super::coefficients::{Coefficients, Component, Transform};
use super::layout::Plane;
use super::sequential::ROOM;
use super::simd::Steps;
use crate::ops::simd::{Simd, kernel};

/// Made to be reused: memory stays.
pub(crate) struct Sparse {
    /// In pixels.
    pub(crate) width: u32,
    /// In pixels.
    pub(crate) height: u32,
    pub(crate) transform: Transform,
    pub(crate) planes: Vec<Blocks>,
}

impl Default for Sparse {
    fn default() -> Self {
        Self { width: 0, height: 0, transform: Transform::Grey, planes: Vec::new() }
    }
}

/// The blocks of one component.
#[derive(Default)]
pub(crate) struct Blocks {
    pub(crate) plane: Plane,
    pub(crate) rows: usize,
    /// Of each block the places that are not zero, bit k for place k; without the first coefficient.
    bitmaps: Vec<u64>,
    /// Of each block the first coefficient.
    dc: Vec<i16>,
    /// The other values that are not zero; each row of blocks has room for all.
    values: Vec<i16>,
    /// How many values each row has.
    counts: Vec<usize>,
}

/// A row of blocks.
pub(crate) struct Row<'a> {
    pub(crate) bitmaps: &'a [u64],
    pub(crate) dc: &'a [i16],
    pub(crate) values: &'a [i16],
    /// The same and what is behind them, which means nothing, in whole vectors of 64.
    pub(crate) padded: &'a [[i16; 64]],
}

/// What is left of a row that is being filled from the left.
pub(super) struct Filling<'a> {
    pub(super) bitmaps: &'a mut [u64],
    pub(super) dc: &'a mut [i16],
    pub(super) values: &'a mut [i16],
    /// How many values the row has so far.
    pub(super) count: &'a mut usize,
}

impl Blocks {
    /// Begins a component of which every block is zero.
    pub(super) fn begin(&mut self, plane: Plane, rows: usize) {
        (self.plane, self.rows) = (plane, rows);
        let blocks = rows * plane.columns;
        self.bitmaps.clear();
        self.bitmaps.resize(blocks, 0);
        self.dc.clear();
        self.dc.resize(blocks, 0);
        self.counts.clear();
        self.counts.resize(rows, 0);
        // What is behind the values of a row means nothing, nor what was there before: new memory instead of a copy,
        // so that what no value reaches is never touched.
        let room = rows * self.pitch();
        if self.values.len() < room {
            self.values = Vec::new();
            self.values = vec![0; room];
        }
    }

    /// From the values of one row to those of the next: a block is written with more room than it takes.
    fn pitch(&self) -> usize {
        64 * self.plane.columns + ROOM
    }

    pub(crate) fn row(&self, row: usize) -> Row<'_> {
        let (columns, values) = (self.plane.columns, &self.values[row * self.pitch()..]);
        let count = self.counts[row];
        Row {
            bitmaps: &self.bitmaps[row * columns..][..columns],
            dc: &self.dc[row * columns..][..columns],
            values: &values[..count],
            // There is room for one more than all values.
            padded: values[..count.next_multiple_of(64)].as_chunks().0,
        }
    }

    /// To fill a row from its block in `column` on, of which it has none yet.
    #[inline(always)]
    pub(super) fn filling(&mut self, row: usize, column: usize) -> Option<Filling<'_>> {
        let (columns, pitch) = (self.plane.columns, self.pitch());
        let (first, end) = (row * columns + column, (row + 1) * columns);
        let count = self.counts.get_mut(row)?;
        Some(Filling {
            bitmaps: self.bitmaps.get_mut(first..end)?,
            dc: self.dc.get_mut(first..end)?,
            values: self.values.get_mut(row * pitch + *count..(row + 1) * pitch)?,
            count,
        })
    }

    /// To fill a row by single blocks ([`block`](Self::block)) from its block in `column` on, with `count` to come: the
    /// places of the first one and of its values.
    pub(super) fn begins(&self, row: usize, column: usize, count: usize) -> Option<(usize, usize)> {
        let columns = self.plane.columns;
        let fits = row < self.rows && column + count <= columns;
        fits.then(|| (row * columns + column, row * self.pitch() + self.counts[row]))
    }

    /// The bitmap and the first coefficient of a block, and its values, whose place is told.
    #[inline(always)]
    pub(super) fn block(
        &mut self,
        block: usize,
        value: usize,
    ) -> Option<(&mut u64, &mut i16, &mut [i16; ROOM])> {
        let values = self.values.get_mut(value..)?.first_chunk_mut()?;
        Some((self.bitmaps.get_mut(block)?, self.dc.get_mut(block)?, values))
    }

    /// A row has been filled up to the value in this place.
    pub(super) fn ends(&mut self, row: usize, value: usize) {
        let begin = row * self.pitch();
        if let Some(count) = self.counts.get_mut(row) {
            *count = value - begin;
        }
    }

    /// Takes all of a component.
    fn take(&mut self, simd: Simd, component: &Component) {
        let Component { id, h, v, quant, columns, rows, ref blocks } = *component;
        self.begin(Plane { id, h, v, quant, columns: columns as usize }, rows as usize);
        for (row, blocks) in blocks.chunks_exact(columns.max(1) as usize).enumerate() {
            if let Some(mut filling) = self.filling(row, 0) {
                scan_row(simd, blocks, &mut filling);
            }
        }
    }
}

impl Sparse {
    /// Takes all of an image.
    pub(super) fn take(&mut self, image: &Coefficients) {
        let Coefficients { width, height, transform, ref components } = *image;
        (self.width, self.height, self.transform) = (width, height, transform);
        self.planes.resize_with(components.len(), Blocks::default);
        for (plane, component) in self.planes.iter_mut().zip(components) {
            plane.take(Simd::detect(), component);
        }
    }
}

kernel! {
    fn scan_row / scan_row_in[V: Steps](blocks: &[[i16; 64]], row: &mut Filling<'_>) {
        let mut count = 0;
        for ((block, bitmap), dc) in blocks.iter().zip(&mut *row.bitmaps).zip(&mut *row.dc) {
            let Some(values) = row.values.get_mut(count..).and_then(|room| room.first_chunk_mut()) else {
                break;
            };
            *bitmap = V::scan(block, values);
            *dc = block[0];
            count += bitmap.count_ones() as usize;
        }
        *row.count += count;
    }
}
