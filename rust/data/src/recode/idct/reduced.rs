//! Here: the transformations to 4 x 4, 2 x 2 and 1 x 1 samples: libjpeg's, bit for bit.
//! Not here: the choice among them (`pixels.rs`).
//!
//! As at full size, all that differs is which sums there are: those of the smaller transformation are of the
//! inputs of the larger, less those that hardly matter.

use super::{FACTOR_BITS, FIRST_BITS, Quant, SECOND_BITS, factor, factors, inputs, rounding, steps};
use crate::ops::simd::kernel;
use crate::recode::order::Block;
use crate::recode::simd::Steps;

const F_0_211: i32 = factor(0.211_164_243);
const F_0_509: i32 = factor(0.509_795_579);
const F_0_601: i32 = factor(0.601_344_887);
const F_0_720: i32 = factor(0.720_959_822);
const F_0_765: i32 = factor(0.765_366_865);
const F_0_850: i32 = factor(0.850_430_095);
const F_0_899: i32 = factor(0.899_976_223);
const F_1_061: i32 = factor(1.061_594_337);
const F_1_272: i32 = factor(1.272_758_580);
const F_1_451: i32 = factor(1.451_774_981);
const F_1_847: i32 = factor(1.847_759_065);
const F_2_172: i32 = factor(2.172_734_803);
const F_2_562: i32 = factor(2.562_915_447);
const F_3_624: i32 = factor(3.624_509_785);

/// Most samples that blocks transformed together have in a row.
const MOST: usize = 32;

/// Four outputs of the inputs (0, 4), (2, 6), (1, 3) and (5, 7), twice too large; 4 has no part in them.
#[inline(always)]
fn four<V: Steps>(inputs: [V::Words; 4], rounding: i32) -> [V::Words; 4] {
    let zero = V::word(0);
    let flat = V::dot(V::word(rounding), inputs[0], factors::<V>([2 << FACTOR_BITS, 0]));
    let even = V::dot(zero, inputs[1], factors::<V>([F_1_847, -F_0_765]));
    let outer = V::dot(zero, inputs[2], factors::<V>([F_2_562, F_0_899]));
    let outer = V::dot(outer, inputs[3], factors::<V>([-F_0_601, -F_0_509]));
    let inner = V::dot(zero, inputs[2], factors::<V>([F_1_061, -F_2_172]));
    let inner = V::dot(inner, inputs[3], factors::<V>([F_1_451, -F_0_211]));
    let (sum, difference) = (V::add(flat, even), V::subtract(flat, even));
    [V::add(sum, outer), V::add(difference, inner), V::subtract(difference, inner), V::subtract(sum, outer)]
}

/// Two outputs of the same inputs, four times too large; 2, 4 and 6 have no part in them.
#[inline(always)]
fn two<V: Steps>(inputs: [V::Words; 4], rounding: i32) -> [V::Words; 2] {
    // Four times 2^13 is no 16-bit factor: twice the half of it.
    let half = factors::<V>([2 << FACTOR_BITS, 0]);
    let flat = V::dot(V::dot(V::word(rounding), inputs[0], half), inputs[0], half);
    let odd = V::dot(V::word(0), inputs[2], factors::<V>([F_3_624, -F_1_272]));
    let odd = V::dot(odd, inputs[3], factors::<V>([F_0_850, -F_0_720]));
    [V::add(flat, odd), V::subtract(flat, odd)]
}

/// The first `SIZE` rows and columns of each block, side by side.
#[inline(always)]
fn store<V: Steps, const SIZE: usize, const BITS: u32>(columns: [V::Words; 8], out: &mut [u8], pitch: usize) {
    let mut rows = [[0; MOST]; 4];
    V::store::<BITS>(columns, rows.as_flattened_mut(), MOST);
    for (row, samples) in rows.iter().take(SIZE).enumerate() {
        let blocks = samples.as_chunks::<8>().0;
        let out = out[row * pitch..].as_chunks_mut::<SIZE>().0;
        for (out, samples) in out.iter_mut().zip(&blocks[..V::BLOCKS]) {
            out.copy_from_slice(&samples[..SIZE]);
        }
    }
}

kernel! {
    /// As `full`, to 4 rows of 4 samples for each block.
    pub(crate) fn half / half_of[V: Steps](blocks: &[Block], quant: &Quant, out: &mut [u8], pitch: usize) {
        const FIRST: u32 = FIRST_BITS + 1;
        const SECOND: u32 = SECOND_BITS + 1;
        let (left, right) = (steps::<V>(quant, 0), steps::<V>(quant, 1));
        for (i, blocks) in blocks.chunks_exact(V::BLOCKS).enumerate() {
            let low = four::<V>(inputs::<V>(blocks, &left, 0), 1 << (FIRST - 1));
            let high = four::<V>(inputs::<V>(blocks, &right, 1), 1 << (FIRST - 1));
            let mut rows = low;
            for (row, &high) in rows.iter_mut().zip(&high) {
                *row = V::join::<FIRST>(*row, high);
            }
            let four = four::<V>(V::transpose(rows), rounding(SECOND));
            let mut columns = [V::word(0); 8];
            columns[..4].copy_from_slice(&four);
            store::<V, 4, SECOND>(columns, &mut out[4 * V::BLOCKS * i..], pitch);
        }
    }
}

kernel! {
    /// As `full`, to 2 rows of 2 samples for each block.
    pub(crate) fn quarter / quarter_of[V: Steps](blocks: &[Block], quant: &Quant, out: &mut [u8], pitch: usize) {
        const FIRST: u32 = FIRST_BITS + 2;
        const SECOND: u32 = SECOND_BITS + 2;
        let (left, right) = (steps::<V>(quant, 0), steps::<V>(quant, 1));
        for (i, blocks) in blocks.chunks_exact(V::BLOCKS).enumerate() {
            let low = two::<V>(inputs::<V>(blocks, &left, 0), 1 << (FIRST - 1));
            let high = two::<V>(inputs::<V>(blocks, &right, 1), 1 << (FIRST - 1));
            let mut rows = [V::word(0); 4];
            for (row, (&low, &high)) in rows.iter_mut().zip(low.iter().zip(&high)) {
                *row = V::join::<FIRST>(low, high);
            }
            let two = two::<V>(V::transpose(rows), rounding(SECOND));
            let mut columns = [V::word(0); 8];
            columns[..2].copy_from_slice(&two);
            store::<V, 2, SECOND>(columns, &mut out[2 * V::BLOCKS * i..], pitch);
        }
    }
}

/// As `full`, to one sample for each block: an eighth of its DC coefficient.
pub(crate) fn whole(blocks: &[Block], quant: &Quant, out: &mut [u8]) {
    for (out, block) in out.iter_mut().zip(blocks) {
        let level = i32::from(block.0[0].wrapping_mul(quant.0.0[0]));
        *out = (((level + 4) >> 3) + 128).clamp(0, 255) as u8;
    }
}
