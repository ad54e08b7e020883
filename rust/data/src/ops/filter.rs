//! Here: the filters of a resize and the weights that they give to pixels.
//! Not here: pixels.
//!
//! The arithmetic is Pillow's, in double precision and in the same order, so that the last bit agrees.

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

/// Fractional bits of a weight: 8 for the value and 2 for overshoot and sign are left of 32.
pub(crate) const WEIGHT_BITS: u32 = 22;

/// Weights of one direction: each output pixel is a weighted sum of some neighbouring source pixels.
#[derive(Debug, Default)]
pub(crate) struct Weights {
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
    pub(crate) fn set(&mut self, source: u32, resized: u32, offset: u32, size: u32, filter: Interpolation) {
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

    /// Output pixels.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// First source pixel and weights of each output pixel.
    #[inline(always)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.fixed.chunks_exact(self.stride);
        self.spans.iter().zip(weights).map(|(&(first, count), weights)| (first, &weights[..count]))
    }

    /// The source pixels that any output pixel looks at: first, and one past the last.
    pub(crate) fn extent(&self) -> (usize, usize) {
        let end = |span: Option<&(usize, usize)>| span.map_or(0, |&(first, count)| first + count);
        (self.spans.first().map_or(0, |span| span.0), end(self.spans.last()))
    }
}
