//! Here: what sequential scans code of a band's blocks, without the blocks; whether libjpeg's arithmetic is up to them.
//! Not here: the codes.

use super::super::layout::{Layout, PairedSteps, damaged};
use super::{Block, Cursor, Expander, Wide, next_block, widen, window};
use crate::error::Result;
use crate::ops::simd::{Simd, kernel};
use crate::recode::simd::Steps;

/// A block without its values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    /// Places that are not zero, bit k for place k of the zigzag order; without the first coefficient.
    pub(crate) bitmap: u64,
    /// The first coefficient.
    pub(crate) dc: i16,
}

/// The heads of a band, and its values. Made to be reused.
#[derive(Default)]
pub(crate) struct Heads {
    expander: Expander,
    steps: Vec<PairedSteps>,
    heads: Vec<Head>,
    rows: Vec<Start>,
}

/// Where a row of blocks begins.
#[derive(Debug, Clone, Copy)]
struct Start {
    head: usize,
    value: usize,
}

impl Heads {
    /// Forgets the last image.
    pub(crate) fn begin(&mut self, layout: &Layout<'_>) {
        self.steps.clear();
        self.steps.extend(layout.planes.iter().map(|plane| PairedSteps::new(&plane.quant)));
    }

    /// Reads a band, all of it.
    pub(crate) fn open(&mut self, simd: Simd, layout: &Layout<'_>, band: usize) -> Result<()> {
        self.expander.open(simd, layout, band)?;
        self.heads.clear();
        self.rows.clear();
        for (plane, steps) in layout.planes.iter().zip(&self.steps) {
            self.expander.component();
            for _ in 0..plane.v {
                self.rows.push(Start { head: self.heads.len(), value: self.expander.cursor.value });
                match heads_of(simd, &mut self.expander, plane.columns, steps, &mut self.heads) {
                    None => return Err(damaged("blocks that do not fit their streams")),
                    Some(false) => return Err(damaged(super::super::layout::NOT_FAITHFUL)),
                    Some(true) => {}
                }
            }
        }
        self.expander.close()
    }

    /// A row of the band, counted over all components, from its first block on.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> Option<&[Head]> {
        self.heads.get(self.rows.get(row)?.head..)
    }

    /// Of each row the index of its first value.
    pub(crate) fn first_values(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().map(|row| row.value)
    }

    /// Values from an index on; `WIDE_VALUE` for those in [`wide`](Self::wide).
    #[inline(always)]
    pub(crate) fn values(&self, at: usize) -> Option<&[u8; 64]> {
        window(&self.expander.values, at)
    }

    /// The band's values that need 16 bits.
    #[inline(always)]
    pub(crate) fn wide(&self) -> &[Wide] {
        &self.expander.wide
    }
}

kernel! {
    /// One row of blocks. `None` if the streams end early, false if a block is too much for libjpeg.
    fn heads_of / heads_in[V: Steps](
        band: &mut Expander,
        columns: usize,
        steps: &PairedSteps,
        heads: &mut Vec<Head>,
    ) -> Option<bool> {
        let mut cursor = band.cursor;
        let tame = heads_from::<V>(band, &mut cursor, columns, steps, heads);
        band.cursor = cursor;
        tame
    }
}

#[inline(always)]
fn heads_from<V: Steps>(
    band: &Expander,
    cursor: &mut Cursor,
    columns: usize,
    steps: &PairedSteps,
    heads: &mut Vec<Head>,
) -> Option<bool> {
    let mut dc = cursor.above;
    let mut next_wide = band.wide.get(cursor.wide).map_or(usize::MAX, |wide| wide.at);
    let mut block = Block::ZERO;
    heads.reserve(columns);
    for column in 0..columns {
        let bitmap = next_block(band, band.streams, cursor, &mut dc)?;
        if column == 0 {
            cursor.above = dc;
        }
        let value = cursor.value;
        cursor.value += bitmap.count_ones() as usize;
        let values = window(&band.values, value)?;
        let is_wide = next_wide < cursor.value;
        if is_wide || !steps.plainly_allow::<V>((bitmap, values), dc) {
            V::block(bitmap, values, &mut block);
            if is_wide {
                widen(&band.wide[cursor.wide..], bitmap, value, &mut block);
                while next_wide < cursor.value {
                    cursor.wide += 1;
                    next_wide = band.wide.get(cursor.wide).map_or(usize::MAX, |wide| wide.at);
                }
            }
            if !steps.allow(&block, dc, is_wide) {
                return Some(false);
            }
        }
        heads.push(Head { bitmap, dc });
    }
    Some(true)
}
