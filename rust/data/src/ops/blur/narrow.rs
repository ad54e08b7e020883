//! Here: blurs whose box is narrower than three pixels, up to a sigma of 1.41: three weights a pass.
//! Not here: their weights, wider boxes.
//!
//! With weights `end`, `full` and `end`, whose sum is 2^24, a pass adds to a level the rounded part `end / 2^24` of
//! how much its two neighbours exceed it together. That difference has 1021 values at most. So it is enough to
//! multiply it by 15 bits of the weight, if the few differences for which these give another level are known and
//! put right. There is a sum of 2^24 - 1, too, which changes hardly anything; a box for which it does is left to
//! the arithmetic of all others.

use super::{Across, Along, BLOCK, PASSES, Taps, along_rows};
use crate::ops::room;
use crate::ops::simd::{Line, Simd, Vector, kernel};

/// Largest difference of two levels together from twice a third.
const MOST: i32 = 2 * 255;

/// Differences that can be put right.
const CORRECTIONS: usize = 4;

/// A difference that there is not.
const NONE: (i16, i16) = (i16::MAX, 0);

/// A box as this file takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Narrow {
    /// The weight of a neighbour, times 2^15.
    factor: i16,
    /// For which differences that gives another level, and what is to be added.
    corrections: [(i16, i16); CORRECTIONS],
    count: usize,
}

impl Narrow {
    /// `None` for a wider box, and for one of which too many differences would have to be put right.
    pub(super) fn of(simd: Simd, taps: Taps) -> Option<Self> {
        let missing = (1u32 << 24).checked_sub(taps.full)?.checked_sub(2 * taps.end)?;
        if taps.radius != 0 || missing > 1 {
            return None;
        }
        let down = (taps.end >> 9) as i16;
        let attempts = [down, down + 1].map(|factor| {
            let mut wrong = [0; 2 * MOST as usize + 1];
            let same = differences(simd, taps.end, missing, factor, &mut wrong);
            let mut found = Self { factor, corrections: [NONE; CORRECTIONS], count: 0 };
            for (difference, &by) in (-MOST..).zip(&wrong).filter(|&(_, &by)| by != 0) {
                *found.corrections.get_mut(found.count)? = (difference as i16, by);
                found.count += 1;
            }
            same.then_some(found)
        });
        attempts.into_iter().flatten().min_by_key(|found| found.count)
    }

    /// All passes along every row, in place.
    pub(super) fn rows(&self, simd: Simd, plane: &mut [u8], width: usize, lines: &mut Vec<u16>) {
        match self.count {
            0 => rows_0(simd, plane, width, self, lines),
            1 | 2 => rows_2(simd, plane, width, self, lines),
            _ => rows_4(simd, plane, width, self, lines),
        }
    }

    /// All passes along every column, in place.
    pub(super) fn columns(&self, simd: Simd, plane: &mut [u8], width: usize, strip: &mut Vec<Across>) {
        match self.count {
            0 => columns_0(simd, plane, width, self, strip),
            1 | 2 => columns_2(simd, plane, width, self, strip),
            _ => columns_4(simd, plane, width, self, strip),
        }
    }
}

kernel! {
    /// How much `factor` gives too little for each difference; false if a missing 2^-24 matters for some level.
    fn differences / differences_by[_V: Vector](end: u32, missing: u32, factor: i16, wrong: &mut [i16]) -> bool {
        let mut same = true;
        for (difference, wrong) in (-MOST..).zip(wrong) {
            let exact = i64::from(difference) * i64::from(end) + (1 << 23);
            same &= exact >> 24 == (exact - 255 * i64::from(missing)) >> 24;
            let found = (difference * i32::from(factor) + (1 << 14)) >> 15;
            *wrong = ((exact >> 24) as i32 - found) as i16;
        }
        same
    }
}

/// What a pass adds to levels for their differences.
#[inline(always)]
fn part<V: Vector, const COUNT: usize>(differences: V::Levels, narrow: &Narrow) -> V::Levels {
    let mut part = V::scale(differences, narrow.factor);
    for i in 0..COUNT {
        let (difference, by) = narrow.corrections[i];
        part = V::correct(part, differences, difference, by);
    }
    part
}

/// The kernels for so many corrections at most.
macro_rules! kernels {
    ($rows:ident / $rows_by:ident, $columns:ident / $columns_by:ident, $count:literal) => {
        kernel! {
            fn $rows / $rows_by[V: Vector](plane: &mut [u8], width: usize, narrow: &Narrow, lines: &mut Vec<u16>) {
                along_rows::<V, _>(plane, width, &Corrected::<$count>(narrow), lines);
            }
        }

        kernel! {
            fn $columns / $columns_by[V: Vector](plane: &mut [u8], width: usize, narrow: &Narrow, strip: &mut Vec<Across>) {
                columns_of::<V, $count>(plane, width, narrow, strip);
            }
        }
    };
}

kernels!(rows_0 / rows_0_by, columns_0 / columns_0_by, 0);
kernels!(rows_2 / rows_2_by, columns_2 / columns_2_by, 2);
kernels!(rows_4 / rows_4_by, columns_4 / columns_4_by, 4);

/// A box with so many corrections at most.
struct Corrected<'a, const COUNT: usize>(&'a Narrow);

impl<const COUNT: usize> Along for Corrected<'_, COUNT> {
    fn margin(&self) -> usize {
        1
    }

    #[inline(always)]
    fn pass<V: Vector>(&self, from: &[u16], to: &mut [Line]) {
        for (i, to) in to.iter_mut().enumerate() {
            let window = &from[i * BLOCK..][..BLOCK + 2];
            let source = |k: usize| window[k..].first_chunk().unwrap_or(&[0; BLOCK]);
            let here = V::load(source(1));
            let around = V::add(V::load(source(0)), V::load(source(2)));
            let differences = V::subtract(around, V::add(here, here));
            V::store(V::add(here, part::<V, COUNT>(differences, self.0)), to);
        }
    }
}

#[inline(always)]
fn columns_of<V: Vector, const COUNT: usize>(
    plane: &mut [u8],
    width: usize,
    narrow: &Narrow,
    strip: &mut Vec<Across>,
) {
    let strip = room(strip, plane.len() / width, Across([0; BLOCK]));
    for start in (0..width).step_by(BLOCK) {
        for (Across(line), row) in strip.iter_mut().zip(plane.chunks_exact(width)) {
            match row[start..].first_chunk() {
                Some(bytes) => V::store(V::widen(bytes), line),
                None => line.iter_mut().zip(&row[start..]).for_each(|(value, &level)| *value = level.into()),
            }
        }
        for _ in 0..PASSES {
            pass_down::<V, COUNT>(strip, narrow);
        }
        for (Across(line), row) in strip.iter().zip(plane.chunks_exact_mut(width)) {
            let row = &mut row[start..];
            match row.first_chunk_mut() {
                Some(bytes) => *bytes = V::bytes(V::load(line)),
                None => row.iter_mut().zip(line).for_each(|(level, &value)| *level = value as u8),
            }
        }
    }
}

/// One pass along columns, in place. A difference is that of two slopes, one of which was known before.
#[inline(always)]
fn pass_down<V: Vector, const COUNT: usize>(strip: &mut [Across], narrow: &Narrow) {
    let flat = V::load(&[0; BLOCK]);
    let (mut here, mut slope) = (flat, flat);
    for i in 0..strip.len() {
        let next = V::load(&strip[i].0);
        if i > 0 {
            let steeper = V::subtract(next, here);
            let differences = V::subtract(steeper, slope);
            V::store(V::add(here, part::<V, COUNT>(differences, narrow)), &mut strip[i - 1].0);
            slope = steeper;
        }
        here = next;
    }
    if let Some(Across(last)) = strip.last_mut() {
        V::store(V::add(here, part::<V, COUNT>(V::subtract(flat, slope), narrow)), last);
    }
}

#[cfg(test)]
mod tests {
    use super::super::taps;
    use super::*;

    /// Every level with every difference, by the definition.
    #[test]
    fn a_level_and_its_neighbours_give_what_their_weights_say() {
        let mut counts = [0; CORRECTIONS + 1];
        let (mut none, mut missing) = (0, 0);
        for i in 0..130 {
            let taps = taps(0.1 + 0.01 * i as f32);
            let Some(narrow) = Narrow::of(Simd::detect(), taps) else {
                none += 1;
                continue;
            };
            counts[narrow.count] += 1;
            missing += usize::from((1 << 24) - taps.full - 2 * taps.end == 1);
            for level in (0..=255i32).step_by(if i % 10 == 0 { 1 } else { 85 }) {
                for around in 0..=510i32 {
                    let sum = level as u32 * taps.full + around as u32 * taps.end;
                    let exact = (sum.wrapping_add(1 << 23) >> 24) as u16;
                    let difference = (around - 2 * level) as i16;
                    let line = [difference.cast_unsigned(); BLOCK];
                    let part = part::<crate::ops::simd::Portable, CORRECTIONS>(line, &narrow)[0];
                    assert_eq!(part.wrapping_add(level as u16), exact, "{taps:?}, {level}, {around}");
                }
            }
        }
        // Every kind was there: without it, less would have been tested.
        assert!(
            counts[0] > 9 && counts[2] > 9 && counts[4] > 3 && missing > 9 && none < 20,
            "{counts:?} {missing}"
        );
    }

    #[test]
    fn wider_boxes_are_not_narrow() {
        assert_eq!(Narrow::of(Simd::PORTABLE, taps(1.5)), None);
        let heavy = Taps { radius: 0, full: (1 << 24) + 2, end: u32::MAX };
        assert_eq!(Narrow::of(Simd::PORTABLE, heavy), None);
    }
}
