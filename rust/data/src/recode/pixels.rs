//! Here: a layout to the RGB pixels of a part of its image, one row of coding units (a band) after the other.
//! Not here: what is done with the blocks of a row (`expand.rs`, `idct.rs`), with rows of samples (`upsample.rs`,
//! `colour.rs`); the choice of a part.
//!
//! Nothing is larger than a band but the result, so that all between stays in the first caches: the samples of
//! a band of each component, and the last row of the band before, for rows that lie between two bands.

use std::ops::Range;

use super::coefficients::Transform;
use super::colour::{self, CHUNK};
use super::expand::{Expander, TOGETHER};
use super::idct::{self, Quant};
use super::layout::{Layout, Plane};
use super::order::Block;
use super::upsample;
use crate::error::{Fault, Result};
use crate::jpeg::Part;
use crate::ops::simd::Simd;

/// Bytes before the first sample of a row: one is a neighbour of the first, the others align it.
const MARGIN: usize = 64;

/// What decoding needs of memory; made to be reused.
#[derive(Default)]
pub struct Scratch {
    expander: Expander,
    blocks: Vec<Block>,
    strips: [Strip; 3],
    sums: Vec<u16>,
}

/// How samples become one for each pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stretch {
    #[default]
    Full,
    /// Smoothed, twice as many in a row.
    Across,
    /// Smoothed, twice as many rows.
    Down,
    /// Smoothed, both.
    Both,
    /// Not smoothed, so many for each.
    Repeat,
}

impl Stretch {
    fn looks_across(self) -> bool {
        matches!(self, Self::Across | Self::Both)
    }

    fn looks_down(self) -> bool {
        matches!(self, Self::Down | Self::Both)
    }
}

/// A component's samples of one band, behind the last row of the band before.
#[derive(Default)]
struct Strip {
    samples: Vec<u8>,
    /// Bytes from one row to the next.
    pitch: usize,
    /// Samples that a block has on each side: 8, 4, 2 or 1.
    size: usize,
    /// Of the whole component, in samples.
    width: usize,
    /// Of the whole component, in samples.
    height: usize,
    /// Pixels for each sample, across and down.
    times: [usize; 2],
    stretch: Stretch,
    /// Columns of blocks that are transformed.
    columns: Range<usize>,
    /// The component's first row in the band, and how many there are.
    rows: Range<usize>,
    /// One row of pixels' samples.
    row: Vec<u8>,
}

/// What a part needs of all components.
struct Plan {
    /// Pixels of a part's row.
    columns: Range<usize>,
    rows: Range<usize>,
    /// Rows of pixels in a band.
    band: usize,
    /// Whether a row can need samples of the next band.
    looks_down: bool,
}

impl Layout<'_> {
    /// Decodes `part`, of which there must be something, to `rgb`: its rows without anything between them, the
    /// pixels of libjpeg-turbo for the JPEG that was recoded. All of `simd` give the same.
    ///
    /// # Errors
    /// `Damaged` where the bytes of a band that is needed break the grammar, `Setting` for a part that is
    /// empty or shrinks by other than 1, 2, 4 or 8.
    pub fn pixels(&self, part: Part, simd: Simd, scratch: &mut Scratch, rgb: &mut Vec<u8>) -> Result<()> {
        if !matches!(part.shrink, 1 | 2 | 4 | 8) {
            return Err(Fault::Setting(format!("images shrink by 1, 2, 4 or 8, not {}", part.shrink)).into());
        }
        let part = part.within(self.width, self.height);
        if part.columns.0 >= part.columns.1 || part.rows.0 >= part.rows.1 {
            return Err(Fault::Setting(format!("{part:?} holds nothing of the image")).into());
        }
        let plan = self.plan(part, &mut scratch.strips);
        rgb.resize(3 * plan.columns.len() * plan.rows.len(), 0);
        let context = usize::from(plan.looks_down);
        let first = plan.rows.start.saturating_sub(context) / plan.band;
        let last = ((plan.rows.end - 1 + context) / plan.band).min(self.bands() - 1);
        let mut row = plan.rows.start;
        for band in first..=last {
            self.transform(band, simd, scratch)?;
            // The last row of a band waits for the next one where it lies between the two.
            let there = if band + 1 == self.bands() { usize::MAX } else { (band + 1) * plan.band - context };
            while row < plan.rows.end.min(there) {
                let at = 3 * plan.columns.len() * (row - plan.rows.start);
                let out = &mut rgb[at..at + 3 * plan.columns.len()];
                self.row(row, &plan, simd, scratch, out);
                row += 1;
            }
        }
        Ok(())
    }

    fn plan(&self, part: Part, strips: &mut [Strip; 3]) -> Plan {
        let range = |(from, to): (u32, u32)| from as usize..to as usize;
        let (columns, rows) = (range(part.columns), range(part.rows));
        let shrunk = 8 / part.shrink as usize;
        let most = |of: fn(&Plane) -> u8| usize::from(self.planes.iter().map(of).max().unwrap_or(1));
        let most = [most(|plane| plane.h), most(|plane| plane.v)];
        let mut looks_down = false;
        for (plane, strip) in self.planes.iter().zip(strips) {
            strip.shape(plane, [self.width, self.height].map(|side| side as usize), most, shrunk);
            strip.place(plane, &columns);
            looks_down |= strip.stretch.looks_down();
        }
        Plan { columns, rows, band: most[1] * shrunk, looks_down }
    }

    /// Makes the samples of a band.
    fn transform(&self, band: usize, simd: Simd, scratch: &mut Scratch) -> Result<()> {
        let Scratch { expander, blocks, strips, .. } = scratch;
        expander.open(simd, self, band)?;
        for (plane, strip) in self.planes.iter().zip(strips) {
            strip.advance(band, usize::from(plane.v));
            let quant = Quant::new(&plane.quant);
            expander.component();
            for row in 0..usize::from(plane.v) {
                expander.row(simd, plane.columns, strip.columns.clone(), blocks)?;
                let out = &mut strip.samples[(1 + row * strip.size) * strip.pitch + MARGIN..];
                match strip.size {
                    8 => idct::full(simd, blocks, expander.corners(), &quant, out, strip.pitch),
                    4 => idct::half(simd, blocks, &quant, out, strip.pitch),
                    2 => idct::quarter(simd, blocks, &quant, out, strip.pitch),
                    _ => idct::whole(blocks, &quant, out),
                }
            }
            if strip.stretch.looks_across() {
                strip.repeat_edges();
            }
        }
        expander.close()
    }

    /// One row of pixels.
    fn row(&self, row: usize, plan: &Plan, simd: Simd, scratch: &mut Scratch, out: &mut [u8]) {
        let Scratch { strips, sums, .. } = scratch;
        let count = self.planes.len();
        for strip in &mut strips[..count] {
            strip.stretch_row(row, &plan.columns, simd, sums);
        }
        let rows = match self.transform {
            Transform::Grey => [0, 0, 0],
            _ => [0, 1, 2],
        };
        let rows = rows.map(|i| strips[i].pixels(row, &plan.columns));
        colour::convert(simd, self.transform, rows, out);
    }
}

impl Strip {
    /// Sizes and the way of stretching, as libjpeg decides about them: it rather transforms to more samples than
    /// it stretches them.
    fn shape(&mut self, plane: &Plane, image: [usize; 2], most: [usize; 2], shrunk: usize) {
        let factors = [usize::from(plane.h), usize::from(plane.v)];
        let wanted = most.map(|most| most * shrunk);
        self.size = shrunk;
        while self.size < 8 && (0..2).all(|i| wanted[i] % (factors[i] * self.size * 2) == 0) {
            self.size *= 2;
        }
        self.times = [0, 1].map(|i| wanted[i] / (factors[i] * self.size));
        let side = |i: usize| (image[i] * factors[i] * self.size).div_ceil(most[i] * 8);
        (self.width, self.height) = (side(0), side(1));
        let smooth = shrunk > 1;
        self.stretch = match self.times {
            [1, 1] => Stretch::Full,
            [2, 1] if smooth && self.width > 2 => Stretch::Across,
            [1, 2] if smooth => Stretch::Down,
            [2, 2] if smooth && self.width > 2 => Stretch::Both,
            _ => Stretch::Repeat,
        };
    }

    /// Which blocks the columns of pixels need, and memory for their samples.
    fn place(&mut self, plane: &Plane, columns: &Range<usize>) {
        let beside = usize::from(self.stretch.looks_across());
        let first = (columns.start / self.times[0]).saturating_sub(beside);
        let end = ((columns.end - 1) / self.times[0] + 1 + beside).min(self.width);
        self.columns = first / self.size..end.div_ceil(self.size).min(plane.columns);
        let blocks = self.columns.len().next_multiple_of(TOGETHER);
        // The last chunk of a row of pixels is read whole.
        self.pitch = MARGIN + (blocks * self.size + CHUNK + 1).next_multiple_of(64);
        let rows = 1 + usize::from(plane.v) * self.size;
        self.samples.resize(rows * self.pitch, 0);
        self.row.resize((columns.len() + 2 * self.times[0]).next_multiple_of(CHUNK) + 2 * CHUNK, 0);
        self.rows = 0..0;
    }

    /// Keeps the last row, and goes on to another band of `v` rows of blocks.
    fn advance(&mut self, band: usize, v: usize) {
        let count = v * self.size;
        self.samples.copy_within(count * self.pitch..(count + 1) * self.pitch, 0);
        self.rows = band * count..(band + 1) * count;
    }

    /// Where a sample of a row is, counted from one before the first that was transformed.
    fn at(&self, column: usize) -> usize {
        MARGIN - 1 + column - self.columns.start * self.size
    }

    /// One more sample at each edge of the image that the strip reaches.
    fn repeat_edges(&mut self) {
        let (first, end) = (self.columns.start == 0, self.at(self.width));
        let reaches = self.columns.end * self.size >= self.width;
        for row in self.samples.chunks_exact_mut(self.pitch).skip(1) {
            if first {
                row[MARGIN - 1] = row[MARGIN];
            }
            if reaches {
                row[end + 1] = row[end];
            }
        }
    }

    /// A row of the component, or the nearest that there is, from one sample before `column` on.
    fn samples(&self, row: usize, column: usize) -> &[u8] {
        let row = row.min(self.height - 1);
        // The row before the band's first is kept as the first of all.
        let slot = row + 1 - self.rows.start;
        &self.samples[slot * self.pitch..][..self.pitch][self.at(column)..]
    }

    /// The row of pixels that `row` is in, stretched into `self.row`; nothing to do where there is one sample for each.
    fn stretch_row(&mut self, row: usize, columns: &Range<usize>, simd: Simd, sums: &mut Vec<u16>) {
        let mut out = std::mem::take(&mut self.row);
        let [across, down] = self.times;
        let (near, first) = (row / down, columns.start / across);
        // Those and a neighbour on each side.
        let count = (columns.end - 1) / across + 1 - first + 2;
        let (far, bias) = if row.is_multiple_of(2) { (near.saturating_sub(1), 1) } else { (near + 1, 2) };
        match self.stretch {
            Stretch::Full => {}
            Stretch::Across => upsample::across(simd, &self.samples(near, first)[..count], &mut out),
            Stretch::Down => {
                let (near, far) = (self.samples(near, first), self.samples(far, first));
                upsample::down(simd, &near[1..count], &far[1..count], bias, &mut out);
            }
            Stretch::Both => {
                sums.resize(count.max(sums.len()), 0);
                let (near, far) = (self.samples(near, first), self.samples(far, first));
                upsample::both(simd, &near[..count], &far[..count], sums, &mut out);
            }
            Stretch::Repeat => {
                upsample::repeat(simd, &self.samples(near, first)[1..count], across, &mut out);
            }
        }
        self.row = out;
    }

    /// The samples for a row of pixels, once stretched, and at least a chunk behind.
    fn pixels(&self, row: usize, columns: &Range<usize>) -> &[u8] {
        if self.stretch == Stretch::Full {
            return &self.samples(row, columns.start)[1..];
        }
        &self.row[columns.start % self.times[0]..]
    }
}

#[cfg(test)]
mod tests;
