//! Here: the filters of a resize and the weights that they give to pixels.
//! Not here: pixels.
//!
//! The arithmetic is Pillow's, in double precision and in the same order, so that the last bit agrees.

use super::room;
use super::simd::{Packed, Simd, Vector, WEIGHT_BITS, kernel};

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
    pub(crate) fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// Weight at a distance; in the order of operations of Pillow, so that the last bit agrees. Without
    /// branches, since distances follow each other across every border.
    #[inline(always)]
    pub(crate) fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic => {
                let near = (1.5 * x - 2.5) * x * x + 1.0;
                let far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
                let outer = if x < 2.0 { far } else { 0.0 };
                if x < 1.0 { near } else { outer }
            }
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
    /// The weights of `TOGETHER` output pixels, place by place.
    exact: Vec<[f64; TOGETHER]>,
}

/// Output pixels whose weights are computed together, one a lane: Pillow adds the weights of one up in
/// order, which would keep a sum of neighbours from being vectorised.
const TOGETHER: usize = 8;

/// What a side of an image becomes: of its `source` pixels, the `length` from `start` on (which need not be
/// whole) are resized to `resized`, of which those from `offset` on are wanted, last first if `mirrored`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side {
    pub(crate) source: u32,
    pub(crate) start: f64,
    pub(crate) length: f64,
    pub(crate) resized: u32,
    pub(crate) offset: u32,
    pub(crate) mirrored: bool,
}

impl Weights {
    /// For `size` pixels of a side, in the form that the instruction set takes. Pixels beyond the ends of the
    /// side are left out, and the others weigh more.
    pub(crate) fn set(&mut self, side: Side, size: u32, filter: Interpolation, simd: Simd) {
        match filter {
            Interpolation::Bilinear => fill_bilinear(simd, self, side, size),
            Interpolation::Bicubic => fill_bicubic(simd, self, side, size),
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

kernel! {
    fn fill_bilinear / fill_bilinear_by[V](weights: &mut Weights, side: Side, size: u32) {
        fill::<V>(weights, side, size, Interpolation::Bilinear);
    }
}

kernel! {
    fn fill_bicubic / fill_bicubic_by[V](weights: &mut Weights, side: Side, size: u32) {
        fill::<V>(weights, side, size, Interpolation::Bicubic);
    }
}

#[inline(always)]
fn fill<V: Vector>(weights: &mut Weights, side: Side, size: u32, filter: Interpolation) {
    let scale = side.length / f64::from(side.resized);
    // A filter widens with the step between output pixels, but never narrows: antialiasing.
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let span = |position: f64| {
        let centre = side.start + (position + 0.5) * scale;
        // SAFETY: a side has fewer than 2^16 pixels, and the filter reaches no further than a few times that.
        let [first, last]: [i32; 2] = unsafe {
            [
                (centre - support + 0.5).max(0.0).to_int_unchecked(),
                (centre + support + 0.5).to_int_unchecked(),
            ]
        };
        (centre, first, last.min(side.source.cast_signed()))
    };
    let (start, end) = (f64::from(side.offset), f64::from(side.offset + size));
    let (left, right) = (span(start).1, span(end - 1.0).2);
    weights.extent = (left as usize, right as usize);
    // Three more than the filter's width: it may begin with the last pixel of a four.
    weights.stride = (support.ceil() as usize * 2 + 1 + 3).div_ceil(4);
    weights.spans.clear();
    room(&mut weights.packed, size as usize * weights.stride, Packed::default());
    let all_places = room(&mut weights.exact, 4 * weights.stride, [0.0; TOGETHER]);
    for group in (0..size).step_by(TOGETHER) {
        let mut centres = [0.0; TOGETHER];
        // Places of the first weight and after the last; the first place of all.
        let (mut leads, mut ends, mut firsts) = ([0; TOGETHER], [0; TOGETHER], [0; TOGETHER]);
        for lane in 0..TOGETHER {
            // The last group may have fewer pixels; what others get is not used.
            let i = f64::from(group + lane as u32);
            let (centre, first, last) =
                span(if side.mirrored { (end - 1.0 - i).max(start) } else { start + i });
            let lead = (first - left) % 4;
            (leads[lane], ends[lane]) = (lead, lead + last - first);
            (centres[lane], firsts[lane]) = (centre, first - lead);
        }
        for lane in 0..TOGETHER.min((size - group) as usize) {
            let four = (firsts[lane] - left) / 4;
            weights.spans.push((four as usize, (ends[lane] as usize).div_ceil(4)));
        }
        // Most output pixels look at fewer fours than the filter's width allows for.
        let fours = ends.iter().max().map_or(0, |&end: &i32| (end as usize).div_ceil(4));
        let exacts = &mut all_places[..4 * fours];
        // Three loops, and bits for a choice: compilers make vectors of these, but would branch for every weight
        // of a single one.
        for (place, exact) in (0..).zip(exacts.iter_mut()) {
            for lane in 0..TOGETHER {
                exact[lane] = (f64::from(firsts[lane] + place) - centres[lane] + 0.5) * (1.0 / stretch);
            }
        }
        for weight in exacts.as_flattened_mut() {
            *weight = filter.weight(*weight);
        }
        let mut sums = [0.0; TOGETHER];
        for (place, exact) in (0..).zip(exacts.iter_mut()) {
            for lane in 0..TOGETHER {
                // All ones inside, zeros outside.
                let inside = ((place - ends[lane]) & !(place - leads[lane])) >> 31;
                exact[lane] = f64::from_bits(exact[lane].to_bits() & i64::from(inside).cast_unsigned());
                sums[lane] += exact[lane];
            }
        }
        let first = group as usize * weights.stride;
        pack::<V>(exacts, sums, &mut weights.packed[first..], weights.stride);
    }
}

/// Divides weights by their sums and packs those of each output pixel, `stride` fours apart.
#[inline(always)]
fn pack<V: Vector>(exact: &[[f64; TOGETHER]], sums: [f64; TOGETHER], packed: &mut [Packed], stride: usize) {
    let sums = sums.map(|sum| if sum == 0.0 { 1.0 } else { sum });
    let reciprocals = sums.map(|sum| 1.0 / sum);
    for (four, exact) in exact.as_chunks::<4>().0.iter().enumerate() {
        let mut fixed = [[0; TOGETHER]; 4];
        for (fixed, exact) in fixed.iter_mut().zip(exact) {
            let weights = V::shares(*exact, sums, reciprocals);
            for lane in 0..TOGETHER {
                let weight = weights[lane];
                let rounded = weight * f64::from(1 << WEIGHT_BITS) + 0.5_f64.copysign(weight);
                // SAFETY: no weight of these filters exceeds 2 in size: their sum is 1, and what is
                // negative in them is a small part of it; pixels that are left out do not change that.
                fixed[lane] = unsafe { rounded.to_int_unchecked() };
            }
        }
        // The last group may have fewer pixels.
        for (fours, packed) in packed.chunks_exact_mut(stride).zip(V::pack(&fixed)) {
            fours[four] = packed;
        }
    }
}
