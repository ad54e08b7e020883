//! Here: dequantisation and inverse transformation, bit for bit libjpeg's accurate ones, at four sizes.
//! Not here: where blocks come from, what samples become.
//!
//! The transformations are fixed: sums of products of integers, rounded once behind each of their two passes. So
//! any order of those sums gives the same samples, as long as none overflows (`layout::faithful`). At full
//! size the first pass has columns in its lanes, four of each block at a time, the second has rows. The two
//! outputs of the first that the second multiplies together end in the same lane (`order.rs`), so a 4 x 4
//! transposition is all that lies between. Blocks that have nothing beyond a corner go a shorter way (`corner.rs`).

use super::order::{Block, PAIRED};
use super::simd::Steps;
use crate::ops::simd::kernel;

/// Fractional bits of the factors.
const FACTOR_BITS: u32 = 13;

/// Fractional bits that are kept between the passes.
const KEPT_BITS: u32 = 2;

const FIRST_BITS: u32 = FACTOR_BITS - KEPT_BITS;

/// The transformation as written here is 8 times too large in all.
const SECOND_BITS: u32 = FACTOR_BITS + KEPT_BITS + 3;

/// A factor with 13 fractional bits, rounded.
const fn factor(value: f64) -> i32 {
    (value * (1 << FACTOR_BITS) as f64 + 0.5) as i32
}

const F_0_298: i32 = factor(0.298_631_336);
const F_0_390: i32 = factor(0.390_180_644);
const F_0_541: i32 = factor(0.541_196_100);
const F_0_765: i32 = factor(0.765_366_865);
const F_0_899: i32 = factor(0.899_976_223);
const F_1_175: i32 = factor(1.175_875_602);
const F_1_501: i32 = factor(1.501_321_110);
const F_1_847: i32 = factor(1.847_759_065);
const F_1_961: i32 = factor(1.961_570_560);
const F_2_053: i32 = factor(2.053_119_869);
const F_2_562: i32 = factor(2.562_915_447);
const F_3_072: i32 = factor(3.072_711_026);

/// Of the inputs 0 and 4, 2 and 6, their parts in the even outputs.
const EVEN: [[i32; 2]; 4] = [
    [1 << FACTOR_BITS, 1 << FACTOR_BITS],
    [1 << FACTOR_BITS, -(1 << FACTOR_BITS)],
    [F_0_541 + F_0_765, F_0_541],
    [F_0_541, F_0_541 - F_1_847],
];

/// Of the inputs 1 and 3, then 5 and 7, their parts in the odd outputs 0 to 3: libjpeg's graph, multiplied out.
const ODD: [[[i32; 2]; 2]; 4] = [
    [[F_1_501 - F_0_899 - F_0_390 + F_1_175, F_1_175], [F_1_175 - F_0_390, F_1_175 - F_0_899]],
    [[F_1_175, F_3_072 - F_2_562 - F_1_961 + F_1_175], [F_1_175 - F_2_562, F_1_175 - F_1_961]],
    [[F_1_175 - F_0_390, F_1_175 - F_2_562], [F_2_053 - F_2_562 - F_0_390 + F_1_175, F_1_175]],
    [[F_1_175 - F_0_899, F_1_175 - F_1_961], [F_1_175, F_0_298 - F_0_899 - F_1_961 + F_1_175]],
];

/// Quantisation steps in paired order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quant(Block);

impl Quant {
    /// From natural order. Steps of 2^15 and more wrap, as in libjpeg's tables.
    pub(crate) fn new(steps: &[u16; 64]) -> Self {
        Self(Block(PAIRED.map(|place| steps[usize::from(place)].cast_signed())))
    }
}

/// A factor for each of a pair of inputs. No closures from here on: they would be compiled without the
/// instructions.
#[inline(always)]
fn factors<V: Steps>([low, high]: [i32; 2]) -> V::Words {
    V::pair(low as i16, high as i16)
}

/// What rounds the results of the second pass, and makes levels from 0 on of those around it.
const fn rounding(bits: u32) -> i32 {
    (1 << (bits - 1)) + (128 << bits)
}

/// All factors, and the roundings of both passes.
struct Factors<V: Steps> {
    even: [V::Words; 4],
    odd: [[V::Words; 2]; 4],
    rounding: [V::Words; 2],
}

impl<V: Steps> Factors<V> {
    #[inline(always)]
    fn new() -> Self {
        let zero = V::word(0);
        let (mut even, mut odd) = ([zero; 4], [[zero; 2]; 4]);
        for i in 0..4 {
            even[i] = V::kept(factors::<V>(EVEN[i]));
            for j in 0..2 {
                odd[i][j] = V::kept(factors::<V>(ODD[i][j]));
            }
        }
        let rounding = [1 << (FIRST_BITS - 1), rounding(SECOND_BITS)];
        Self { even, odd, rounding: [V::kept(V::word(rounding[0])), V::kept(V::word(rounding[1]))] }
    }
}

/// The inner part of pass 0 or 1: eight outputs of the inputs (0, 4), (2, 6), (1, 3) and (5, 7), with rounding added.
#[inline(always)]
fn outputs<V: Steps>(inputs: [V::Words; 4], factors: &Factors<V>, pass: usize) -> [V::Words; 8] {
    let (rounding, zero) = (factors.rounding[pass], V::word(0));
    let sum = V::dot(rounding, inputs[0], factors.even[0]);
    let difference = V::dot(rounding, inputs[0], factors.even[1]);
    let outer = V::dot(zero, inputs[1], factors.even[2]);
    let inner = V::dot(zero, inputs[1], factors.even[3]);
    let mut odd = [zero; 4];
    for (odd, factors) in odd.iter_mut().zip(&factors.odd) {
        *odd = V::dot(V::dot(zero, inputs[2], factors[0]), inputs[3], factors[1]);
    }
    crossed::<V>([sum, difference], [outer, inner], odd)
}

/// The outputs from their parts: of the inputs 0 and 4, of 2 and 6, of the odd ones.
#[inline(always)]
fn crossed<V: Steps>(
    [sum, difference]: [V::Words; 2],
    [outer, inner]: [V::Words; 2],
    odd: [V::Words; 4],
) -> [V::Words; 8] {
    let even = [
        V::add(sum, outer),
        V::add(difference, inner),
        V::subtract(difference, inner),
        V::subtract(sum, outer),
    ];
    let mut out = [sum; 8];
    for i in 0..4 {
        out[i] = V::add(even[i], odd[i]);
        out[7 - i] = V::subtract(even[i], odd[i]);
    }
    out
}

/// The quantisation steps of one half, for every block.
#[inline(always)]
fn steps<V: Steps>(quant: &Quant, half: usize) -> [V::Words; 4] {
    let mut steps = [V::word(0); 4];
    for (i, step) in steps.iter_mut().enumerate() {
        *step = V::repeat(&quant.0.0.as_chunks::<8>().0[4 * half + i]);
    }
    steps
}

/// Half of each block's coefficients, dequantised: the inputs of four of its columns.
#[inline(always)]
fn inputs<V: Steps>(blocks: &[Block], steps: &[V::Words; 4], half: usize) -> [V::Words; 4] {
    let mut chunks = V::load(blocks, half);
    for (chunk, &step) in chunks.iter_mut().zip(steps) {
        *chunk = V::multiply(*chunk, step);
    }
    chunks
}

/// The first pass of blocks that are transformed together: its results as the second takes them.
#[inline(always)]
fn first<V: Steps>(blocks: &[Block], steps: &[[V::Words; 4]; 2], factors: &Factors<V>) -> [V::Words; 8] {
    let mut rows = outputs::<V>(inputs::<V>(blocks, &steps[0], 0), factors, 0);
    let high = outputs::<V>(inputs::<V>(blocks, &steps[1], 1), factors, 0);
    for (row, &high) in rows.iter_mut().zip(&high) {
        *row = V::join::<FIRST_BITS>(*row, high);
    }
    rows
}

/// The second pass.
#[inline(always)]
fn second<V: Steps>(rows: &[V::Words; 8], factors: &Factors<V>, out: &mut [u8], pitch: usize) {
    for (half, &rows) in rows.as_chunks::<4>().0.iter().enumerate() {
        let columns = outputs::<V>(V::transpose(rows), factors, 1);
        V::store::<SECOND_BITS>(columns, &mut out[4 * half * pitch..], pitch);
    }
}

/// Groups of blocks whose passes follow each other: so many are sorted by whether they are corners, that no branch is
/// guessed wrongly, and so many are between the passes, that none waits for itself.
const IN_TURN: usize = 8;

/// Those of the groups that are not all corners and those that are, and how many of each.
#[inline(always)]
fn sorted<V: Steps>(corners: &[bool]) -> ([[u8; IN_TURN]; 2], [usize; 2]) {
    let (mut groups, mut others, mut count) = ([[0; IN_TURN]; 2], 0, 0);
    for corners in corners.chunks_exact(V::BLOCKS).take(IN_TURN) {
        let mut all = true;
        for &corner in corners {
            all &= corner;
        }
        // Written to both lists, and left in one.
        groups[0][others] = count as u8;
        groups[1][count - others] = count as u8;
        others += usize::from(!all);
        count += 1;
    }
    (groups, [others, count - others])
}

kernel! {
    /// Blocks side by side to 8 rows of samples, from the start of `out` on, `pitch` apart. Their number is
    /// a multiple of `TOGETHER`; `corners` says of each whether it has nothing beyond its corner (`BEYOND_CORNER`).
    pub(crate) fn full / full_of[V: Steps](
        blocks: &[Block],
        corners: &[bool],
        quant: &Quant,
        out: &mut [u8],
        pitch: usize,
    ) {
        let steps = [steps::<V>(quant, 0), steps::<V>(quant, 1)];
        let (factors, corner) = (Factors::<V>::new(), Corner::<V>::new(&steps));
        let mut rows = [[V::word(0); 8]; IN_TURN];
        let together = V::BLOCKS * IN_TURN;
        for (i, (blocks, corners)) in blocks.chunks(together).zip(corners.chunks(together)).enumerate() {
            let out = &mut out[8 * together * i..];
            let (groups, counts) = sorted::<V>(corners);
            let (others, corners) = (&groups[0][..counts[0]], &groups[1][..counts[1]]);
            for (&i, rows) in corners.iter().zip(&mut rows) {
                *rows = corner.first(&blocks[V::BLOCKS * usize::from(i)..][..V::BLOCKS], &factors);
            }
            for (&i, rows) in corners.iter().zip(&rows) {
                corner.second(rows, &factors, &mut out[8 * V::BLOCKS * usize::from(i)..], pitch);
            }
            for (&i, rows) in others.iter().zip(&mut rows) {
                *rows = first::<V>(&blocks[V::BLOCKS * usize::from(i)..][..V::BLOCKS], &steps, &factors);
            }
            for (&i, rows) in others.iter().zip(&rows) {
                second::<V>(rows, &factors, &mut out[8 * V::BLOCKS * usize::from(i)..], pitch);
            }
        }
    }
}

mod corner;
mod reduced;

use corner::Corner;
pub(crate) use reduced::{half, quarter, whole};

#[cfg(test)]
mod tests;
