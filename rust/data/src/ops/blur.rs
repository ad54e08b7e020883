//! Here: Pillow's GaussianBlur: three passes of an extended box filter along rows, three along columns.
//! Not here: drawing of sigma.
//!
//! The box has whole weights within `radius` pixels and a fractional one at either end, so that three
//! passes have exactly the variance sigma^2 (Gwosdek et al., "Theoretical foundations of Gaussian
//! convolution by extended box filtering", 2011). Pixels beyond the border repeat the border's. Each pass
//! rounds to 8 bits; weights are 24-bit fixed point, bit for bit Pillow's.

mod narrow;

use self::narrow::Narrow;
use super::simd::{Line, Simd, Vector, kernel};
use super::{planes, room};

/// Passes in each direction.
const PASSES: usize = 3;

/// Pixels that are filtered together.
const BLOCK: usize = size_of::<Line>() / size_of::<u16>();

/// Largest radius whose sums `Vector::weigh` takes.
const MAX_NARROW_RADIUS: usize = 63;

/// One extended box filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taps {
    /// Pixels of full weight on either side of the centre.
    radius: usize,
    /// Full weight, times 2^24.
    full: u32,
    /// Weight of the two pixels at distance radius + 1, times 2^24.
    end: u32,
}

impl Taps {
    /// False if `Portable::weigh` alone takes its sums and weights.
    fn is_narrow(self) -> bool {
        self.radius <= MAX_NARROW_RADIUS && self.full <= 1 << 24 && self.end <= 1 << 24
    }
}

/// The filter whose three passes have standard deviation `sigma`. Pillow rounds to single precision where
/// this does.
fn taps(sigma: f32) -> Taps {
    let variance = sigma * sigma / PASSES as f32;
    let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
    let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
    let mut part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
    part /= 6.0 * (variance - (whole + 1.0) * (whole + 1.0));
    let extent = whole + part;
    let radius = extent as usize;
    let full = ((1u32 << 24) as f32 / (extent * 2.0 + 1.0)) as u32;
    // A quotient rounded up can exceed 2^24 by a hair; Pillow's unsigned arithmetic wraps there, too.
    let end = (1u32 << 24).wrapping_sub((radius as u32 * 2 + 1) * full) / 2;
    Taps { radius, full, end }
}

/// The weights of one of the passes of a blur, for who does them elsewhere: in the middle of `out`, whose
/// length is odd, zeros around. 1 at the centre alone for a sigma of 0. False if they do not fit.
pub fn kernel(sigma: f64, out: &mut [f32]) -> bool {
    let sigma = sigma as f32;
    let middle = out.len() / 2;
    out.fill(0.0);
    if sigma <= 0.0 {
        out.iter_mut().skip(middle).take(1).for_each(|weight| *weight = 1.0);
        return !out.is_empty();
    }
    let Taps { radius, full, end } = taps(sigma);
    if middle < radius + 1 || out.len().is_multiple_of(2) {
        return false;
    }
    let weight = |fixed: u32| fixed as f32 / (1u32 << 24) as f32;
    out[middle - radius..=middle + radius].fill(weight(full));
    (out[middle - radius - 1], out[middle + radius + 1]) = (weight(end), weight(end));
    true
}

/// A row of a strip of columns. Aligned, since a load of 64 bytes takes twice as long where it meets two
/// lines of the cache, which without it was left to the allocator.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Across(Line);

/// Buffers that are reused from picture to picture.
pub(crate) struct Blur {
    simd: Simd,
    line: Vec<u16>,
    strip: Vec<Across>,
}

impl Blur {
    pub(crate) fn new(simd: Simd) -> Self {
        Self { simd, line: Vec::new(), strip: Vec::new() }
    }

    /// Blurs every plane of a picture whose rows have `width` pixels; `sigma` in pixels, 0 changes nothing.
    pub(crate) fn blur(&mut self, picture: &mut [u8], width: usize, sigma: f64) {
        let sigma = sigma as f32;
        if sigma <= 0.0 || width == 0 {
            return;
        }
        let taps = taps(sigma);
        let simd = if taps.is_narrow() { self.simd } else { Simd::PORTABLE };
        let narrow = Narrow::of(simd, taps);
        for plane in planes(picture) {
            if let Some(narrow) = &narrow {
                narrow.rows(simd, plane, width, &mut self.line);
                narrow.columns(simd, plane, width, &mut self.strip);
                continue;
            }
            rows(simd, plane, width, taps, &mut self.line);
            columns(simd, plane, width, taps, &mut self.strip);
        }
    }
}

/// One filter of `BLOCK` pixels: `source(k)` are those at distance k - radius - 1.
macro_rules! filter {
    ($V:ident, $taps:ident, $source:expr) => {{
        let last = 2 * ($taps.radius + 1);
        // 16 bits suffice up to radius 128.
        let mut sums = $V::load($source(1));
        for k in 2..last {
            sums = $V::add(sums, $V::load($source(k)));
        }
        let ends = $V::add($V::load($source(0)), $V::load($source(last)));
        $V::weigh(sums, ends, $taps.full, $taps.end)
    }};
}

/// Calls with a radius that is known when compiling, for blurs as training has them: up to sigma 2.4.
macro_rules! by_radius {
    ($pass:ident::<$V:ident>($from:expr, $to:expr, $taps:expr)) => {
        match $taps.radius {
            0 => $pass::<$V>($from, $to, Taps { radius: 0, ..$taps }),
            1 => $pass::<$V>($from, $to, Taps { radius: 1, ..$taps }),
            _ => $pass::<$V>($from, $to, $taps),
        }
    };
}

/// Passes along a row.
trait Along {
    /// Pixels that a pass looks at on either side of one.
    fn margin(&self) -> usize;

    /// One pass; `from` begins so many pixels before the first.
    fn pass<V: Vector>(&self, from: &[u16], to: &mut [Line]);
}

impl Along for Taps {
    fn margin(&self) -> usize {
        self.radius + 1
    }

    #[inline(always)]
    fn pass<V: Vector>(&self, from: &[u16], to: &mut [Line]) {
        let taps = *self;
        by_radius!(pass_along::<V>(from, to, taps));
    }
}

/// Rows that are filtered by turns: what one pass has stored is loaded with an offset by the next, which takes
/// long if it comes too soon.
const TURNS: usize = 8;

/// All passes along every row, in place. `lines` becomes two buffers of some rows with their margins, in whole
/// blocks.
#[inline(always)]
fn along_rows<V: Vector, A: Along>(plane: &mut [u8], width: usize, filter: &A, lines: &mut Vec<u16>) {
    let margin = filter.margin();
    let before = margin.next_multiple_of(BLOCK);
    let length = before + width.next_multiple_of(BLOCK) + margin.next_multiple_of(BLOCK);
    let lines = room(lines, 2 * TURNS * length + BLOCK, 0);
    // Where blocks begin with a line of the cache.
    let aligned = lines.as_ptr().align_offset(align_of::<Across>()).min(BLOCK);
    let (mut from, mut to) = lines[aligned..][..2 * TURNS * length].split_at_mut(TURNS * length);
    for rows in plane.chunks_mut(TURNS * width) {
        for (row, line) in rows.chunks_exact(width).zip(from.chunks_exact_mut(length)) {
            let (whole, rest) = row.as_chunks();
            let blocks = &mut line[before..].as_chunks_mut().0;
            for (bytes, line) in whole.iter().zip(blocks.iter_mut()) {
                V::store(V::widen(bytes), line);
            }
            for (value, &level) in line[before + BLOCK * whole.len()..].iter_mut().zip(rest) {
                *value = u16::from(level);
            }
        }
        for _ in 0..PASSES {
            for (from, to) in from.chunks_exact_mut(length).zip(to.chunks_exact_mut(length)) {
                let (first, last) = (from[before], from[before + width - 1]);
                from[before - margin..before].fill(first);
                from[before + width..][..margin].fill(last);
                let to = &mut to[before..].as_chunks_mut().0[..width.div_ceil(BLOCK)];
                filter.pass::<V>(&from[before - margin..], to);
            }
            (from, to) = (to, from);
        }
        for (row, line) in rows.chunks_exact_mut(width).zip(from.chunks_exact(length)) {
            let (whole, rest) = row.as_chunks_mut();
            let blocks = line[before..].as_chunks().0;
            for (bytes, line) in whole.iter_mut().zip(blocks) {
                *bytes = V::bytes(V::load(line));
            }
            for (level, &value) in rest.iter_mut().zip(&line[before + BLOCK * whole.len()..]) {
                *level = value as u8;
            }
        }
    }
}

kernel! {
    /// All passes along every row, in place.
    fn rows / rows_by[V](plane: &mut [u8], width: usize, taps: Taps, lines: &mut Vec<u16>) {
        along_rows::<V, Taps>(plane, width, &taps, lines);
    }
}

/// One pass along a row with its margins.
#[inline(always)]
fn pass_along<V: Vector>(from: &[u16], to: &mut [Line], taps: Taps) {
    for (i, to) in to.iter_mut().enumerate() {
        let window = &from[i * BLOCK..][..BLOCK + 2 * (taps.radius + 1)];
        let source = |k: usize| window[k..].first_chunk().unwrap_or(&[0; BLOCK]);
        V::store(filter!(V, taps, source), to);
    }
}

kernel! {
    /// All passes along every column, in place, `BLOCK` columns at a time. `strip` is two buffers of such
    /// columns with their margins of radius + 1.
    fn columns / columns_by[V](plane: &mut [u8], width: usize, taps: Taps, strip: &mut Vec<Across>) {
        let height = plane.len() / width;
        let margin = taps.radius + 1;
        let length = height + 2 * margin;
        let strip = room(strip, 2 * length, Across([0; BLOCK]));
        let (mut from, mut to) = strip.split_at_mut(length);
        for start in (0..width).step_by(BLOCK) {
            let count = BLOCK.min(width - start);
            for (Across(line), row) in from[margin..].iter_mut().zip(plane.chunks_exact(width)) {
                match row[start..].first_chunk::<BLOCK>() {
                    Some(levels) => *line = levels.map(u16::from),
                    None => line.iter_mut().zip(&row[start..]).for_each(|(value, &level)| *value = level.into()),
                }
            }
            for _ in 0..PASSES {
                let (first, last) = (from[margin], from[margin + height - 1]);
                from[..margin].fill(first);
                from[margin + height..].fill(last);
                by_radius!(pass_down::<V>(from, &mut to[margin..margin + height], taps));
                (from, to) = (to, from);
            }
            for (Across(line), row) in from[margin..].iter().zip(plane.chunks_exact_mut(width)) {
                match row[start..].first_chunk_mut::<BLOCK>() {
                    Some(levels) => *levels = line.map(|value| value as u8),
                    None => row[start..start + count].iter_mut().zip(line).for_each(|(level, &value)| *level = value as u8),
                }
            }
        }
    }
}

/// One pass along columns with their margins.
#[inline(always)]
fn pass_down<V: Vector>(from: &[Across], to: &mut [Across], taps: Taps) {
    for (window, to) in from.windows(2 * (taps.radius + 1) + 1).zip(to) {
        let source = |k: usize| &window[k].0;
        V::store(filter!(V, taps, source), &mut to.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::samples;

    /// One pass along a line by its definition, in exact integers.
    fn pass(line: &[u8], taps: Taps) -> Vec<u8> {
        let at = |x: isize| u64::from(line[x.clamp(0, line.len() as isize - 1) as usize]);
        let radius = taps.radius as isize;
        (0..line.len() as isize)
            .map(|x| {
                let sum: u64 = (x - radius..=x + radius).map(at).sum();
                let ends = at(x - radius - 1) + at(x + radius + 1);
                ((sum * u64::from(taps.full) + ends * u64::from(taps.end) + (1 << 23)) >> 24) as u8
            })
            .collect()
    }

    fn slow(plane: &[u8], width: usize, taps: Taps) -> Vec<u8> {
        let thrice = |line: Vec<u8>| (0..PASSES).fold(line, |line, _| pass(&line, taps));
        let rows: Vec<u8> = plane.chunks(width).flat_map(|row| thrice(row.to_vec())).collect();
        let mut out = rows.clone();
        for x in 0..width {
            let column = thrice(rows.iter().skip(x).step_by(width).copied().collect());
            out.iter_mut().skip(x).step_by(width).zip(column).for_each(|(out, value)| *out = value);
        }
        out
    }

    #[test]
    fn every_size_and_sigma_gives_the_definition() {
        for (width, height) in [(1, 1), (1, 9), (9, 1), (33, 20), (70, 3)] {
            for sigma in [0.1, 0.4, 0.7, 0.9, 1.1, 1.3, 1.4, 1.5, 2.0, 2.6, 3.5, 9.0, 40.0, 90.0] {
                let picture = samples::picture(width, height);
                let taps = taps(sigma);
                let expected: Vec<u8> =
                    picture.chunks(width * height).flat_map(|plane| slow(plane, width, taps)).collect();
                for simd in Simd::available() {
                    let mut found = picture.clone();
                    Blur::new(simd).blur(&mut found, width, f64::from(sigma));
                    assert_eq!(found, expected, "{}, {width}x{height}, sigma {sigma}", simd.name());
                }
            }
        }
    }

    #[test]
    fn the_weights_of_a_pass_are_those_of_its_taps() {
        let mut out = [7.0; 5];
        assert!(kernel(0.0, &mut out));
        assert_eq!(out, [0.0, 0.0, 1.0, 0.0, 0.0]);
        assert!(kernel(2.0, &mut out));
        let Taps { radius, full, end } = taps(2.0);
        assert_eq!(radius, 1);
        let fixed = out.map(|weight| (weight * (1 << 24) as f32) as u32);
        assert_eq!(fixed, [end, full, full, full, end]);
        assert!(!kernel(2.0, &mut [0.0; 3]) && !kernel(2.0, &mut [0.0; 6]) && !kernel(0.0, &mut []));
    }

    /// Variance of a box with weights `full` and `end`, three times: sigma squared, up to fixed point.
    #[test]
    fn three_passes_have_the_variance_of_the_gaussian() {
        for sigma in [0.1, 0.5, 1.0, 1.5, 2.0, 5.0, 20.0] {
            let taps = taps(sigma);
            let weights = (2 * taps.radius + 1) as f64 * f64::from(taps.full) + 2.0 * f64::from(taps.end);
            let squares: f64 = (1..=taps.radius).map(|x| 2.0 * (x * x) as f64).sum();
            let end = 2.0 * ((taps.radius + 1) as f64).powi(2);
            let variance = (squares * f64::from(taps.full) + end * f64::from(taps.end)) / weights;
            let expected = f64::from(sigma).powi(2) / 3.0;
            assert!((variance - expected).abs() < 1e-4 * expected.max(0.1), "{sigma}: {variance} {expected}");
            assert!((weights / f64::from(1 << 24) - 1.0).abs() < 1e-6);
        }
    }
}
