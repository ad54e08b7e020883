//! Here: the filters of a resize and the weights that they give to pixels.
//! Not here: pixels.
//!
//! The arithmetic is Pillow's, in double precision and in the same order, so that the last bit agrees.

use super::simd::{Packed, Simd, WEIGHT_BITS};

/// Filters of a resize; both widen when an image shrinks (antialiasing), as Pillow's do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// Triangle.
    Bilinear,
    /// Cubic with a = -0.5.
    Bicubic,
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
    pub(crate) fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Self::Bicubic => 0.0,
        }
    }
}

/// Weights of one direction: each output pixel is a weighted sum of some neighbouring source pixels.
///
/// Source pixels are taken four at a time, counted from the first that any output pixel looks at; weights
/// of 0 fill the fours up.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    /// First four and number of fours, for each output pixel.
    spans: Vec<(usize, usize)>,
    /// `stride` packed fours for each output pixel.
    packed: Vec<Packed>,
    stride: usize,
    extent: (usize, usize),
    exact: Vec<f64>,
}

/// What a side of an image becomes: `source` pixels are resized to `resized`, of which those from `offset`
/// on are wanted, last first if `mirrored`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side {
    pub(crate) source: u32,
    pub(crate) resized: u32,
    pub(crate) offset: u32,
    pub(crate) mirrored: bool,
}

impl Weights {
    /// For `size` pixels of a side, in the form that the instruction set takes. Pixels beyond the ends of the side
    /// are left out, and the others weigh more.
    pub(crate) fn set(&mut self, side: Side, size: u32, filter: Interpolation, simd: Simd) {
        let scale = f64::from(side.source) / f64::from(side.resized);
        // A filter widens with the step between output pixels, but never narrows: antialiasing.
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let span = |position: u32| {
            let centre = (f64::from(position) + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as u32;
            (centre, first, ((centre + support + 0.5) as u32).min(side.source))
        };
        let (start, end) = (side.offset, side.offset + size);
        let (_, left, _) = span(start);
        let (_, _, right) = span(end - 1);
        self.extent = (left as usize, right as usize);
        // Three more than the filter's width: it may begin with the last pixel of a four.
        self.stride = (support.ceil() as usize * 2 + 1 + 3).div_ceil(4);
        self.spans.clear();
        self.packed.clear();
        for i in 0..size {
            let (centre, first, last) = span(if side.mirrored { end - 1 - i } else { start + i });
            self.exact.clear();
            self.exact.extend(
                (first..last).map(|pixel| filter.weight((f64::from(pixel) - centre + 0.5) * (1.0 / stretch))),
            );
            let sum: f64 = self.exact.iter().sum();
            let lead = (first - left) as usize % 4;
            let fours = (lead + self.exact.len()).div_ceil(4);
            self.spans.push(((first - left) as usize / 4, fours));
            let fixed = |place: usize| {
                let weight = place.checked_sub(lead).and_then(|k| self.exact.get(k)).copied().unwrap_or(0.0);
                let weight = if sum == 0.0 { weight } else { weight / sum };
                (weight * f64::from(1 << WEIGHT_BITS) + 0.5_f64.copysign(weight)) as i32
            };
            self.packed.extend((0..fours).map(|four| simd.pack([0, 1, 2, 3].map(|k| fixed(4 * four + k)))));
            self.packed.resize(self.spans.len() * self.stride, Packed::default());
        }
    }

    /// Output pixels.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// First four and packed weights of output pixel `i`.
    #[inline(always)]
    pub(crate) fn of(&self, i: usize) -> (usize, &[Packed]) {
        let (first, count) = self.spans[i];
        (first, &self.packed[i * self.stride..][..count])
    }

    /// The source pixels that any output pixel looks at: first, and one past the last.
    pub(crate) fn extent(&self) -> (usize, usize) {
        self.extent
    }
}
