//! Here: dequantisation and inverse transformation, bit for bit libjpeg's accurate ones, at four sizes.
//! Not here: where blocks come from, what samples become.
//!
//! The transformations are fixed: sums of products of integers, rounded once behind each of their two passes. So
//! any order of those sums gives the same samples, as long as none overflows (`layout::faithful`). At full
//! size the first pass has columns in its lanes, four of each block at a time, the second has rows. The two
//! outputs of the first that the second multiplies together end in the same lane (`order.rs`), so a 4 x 4
//! transposition is all that lies between.

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

/// Both passes' inner part: eight outputs of the inputs (0, 4), (2, 6), (1, 3) and (5, 7), with rounding added.
#[inline(always)]
fn outputs<V: Steps>(inputs: [V::Words; 4], rounding: i32) -> [V::Words; 8] {
    let (rounding, zero) = (V::word(rounding), V::word(0));
    let sum = V::dot(rounding, inputs[0], factors::<V>(EVEN[0]));
    let difference = V::dot(rounding, inputs[0], factors::<V>(EVEN[1]));
    let outer = V::dot(zero, inputs[1], factors::<V>(EVEN[2]));
    let inner = V::dot(zero, inputs[1], factors::<V>(EVEN[3]));
    let even = [
        V::add(sum, outer),
        V::add(difference, inner),
        V::subtract(difference, inner),
        V::subtract(sum, outer),
    ];
    let mut out = [zero; 8];
    for i in 0..4 {
        let odd = V::dot(zero, inputs[2], factors::<V>(ODD[i][0]));
        let odd = V::dot(odd, inputs[3], factors::<V>(ODD[i][1]));
        out[i] = V::add(even[i], odd);
        out[7 - i] = V::subtract(even[i], odd);
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

kernel! {
    /// Blocks side by side to 8 rows of samples, from the start of `out` on, `pitch` apart. Their number is
    /// a multiple of `TOGETHER`.
    pub(crate) fn full / full_of[V: Steps](blocks: &[Block], quant: &Quant, out: &mut [u8], pitch: usize) {
        let (left, right) = (steps::<V>(quant, 0), steps::<V>(quant, 1));
        for (i, blocks) in blocks.chunks_exact(V::BLOCKS).enumerate() {
            let out = &mut out[8 * V::BLOCKS * i..];
            let low = outputs::<V>(inputs::<V>(blocks, &left, 0), 1 << (FIRST_BITS - 1));
            let high = outputs::<V>(inputs::<V>(blocks, &right, 1), 1 << (FIRST_BITS - 1));
            for half in 0..2 {
                let mut rows = [low[0]; 4];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = V::join::<FIRST_BITS>(low[4 * half + i], high[4 * half + i]);
                }
                let mut columns = outputs::<V>(V::transpose(rows), 1 << (SECOND_BITS - 1));
                for column in &mut columns {
                    *column = V::shift::<SECOND_BITS>(*column);
                }
                V::store(columns, &mut out[4 * half * pitch..], pitch);
            }
        }
    }
}

mod reduced;

pub(crate) use reduced::{half, quarter, whole};
