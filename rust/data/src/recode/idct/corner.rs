//! Here: the full-size transformation of blocks that have nothing beyond their first four rows and columns, as four of
//! ten blocks of photographs.
//! Not here: who tells (`expand.rs`); the transformation of any block, of which this leaves out what is zero.
//!
//! Four columns are all that the first pass has to look at, and no word of its results needs a second: all are in one
//! vector where others take two.

use super::{EVEN, FACTOR_BITS, FIRST_BITS, Factors, SECOND_BITS, crossed, factors};
use crate::recode::order::Block;
use crate::recode::simd::Steps;

/// What blocks of a component need.
pub(super) struct Corner<V: Steps> {
    steps: [V::Words; 3],
    /// The factors of the inputs 0 and 2, without those of 4 and 6.
    even: [V::Words; 3],
}

/// The columns 0, 2, 1 and 3 of the rows (0, 4), (2, 6) and (1, 3), from both halves.
#[inline(always)]
fn corner<V: Steps>(left: &[V::Words; 4], right: &[V::Words; 4]) -> [V::Words; 3] {
    [V::corner(left[0], right[0]), V::corner(left[1], right[1]), V::corner(left[2], right[2])]
}

impl<V: Steps> Corner<V> {
    /// From the quantisation steps of both halves.
    #[inline(always)]
    pub(super) fn new([left, right]: &[[V::Words; 4]; 2]) -> Self {
        let factors = [[1 << FACTOR_BITS, 0], [EVEN[2][0], 0], [EVEN[3][0], 0]];
        let mut even = [left[0]; 3];
        for (even, factors) in even.iter_mut().zip(factors) {
            *even = V::kept(self::factors::<V>(factors));
        }
        Self { steps: corner::<V>(left, right), even }
    }

    /// `outputs` where the inputs 4 to 7 are zero; what stands in the places of 4 and 6 is ignored.
    #[inline(always)]
    fn outputs(&self, inputs: [V::Words; 3], factors: &Factors<V>, pass: usize) -> [V::Words; 8] {
        let zero = V::word(0);
        let flat = V::dot(factors.rounding[pass], inputs[0], self.even[0]);
        let outer = V::dot(zero, inputs[1], self.even[1]);
        let inner = V::dot(zero, inputs[1], self.even[2]);
        let mut odd = [zero; 4];
        for (odd, factors) in odd.iter_mut().zip(&factors.odd) {
            *odd = V::dot(zero, inputs[2], factors[0]);
        }
        crossed::<V>([flat, flat], [outer, inner], odd)
    }

    /// The first pass.
    #[inline(always)]
    pub(super) fn first(&self, blocks: &[Block], factors: &Factors<V>) -> [V::Words; 8] {
        let mut inputs = corner::<V>(&V::load(blocks, 0), &V::load(blocks, 1));
        for (input, &step) in inputs.iter_mut().zip(&self.steps) {
            *input = V::multiply(*input, step);
        }
        self.outputs(inputs, factors, 0)
    }

    /// The second pass.
    #[inline(always)]
    pub(super) fn second(&self, rows: &[V::Words; 8], factors: &Factors<V>, out: &mut [u8], pitch: usize) {
        for (half, &rows) in rows.as_chunks::<4>().0.iter().enumerate() {
            let [zeroth, second, first, third] = V::transpose(rows);
            // Beside the inputs 0 and 2 their signs are left, and ignored.
            let inputs = [
                V::shift::<FIRST_BITS>(zeroth),
                V::shift::<FIRST_BITS>(second),
                V::join::<FIRST_BITS>(first, third),
            ];
            V::store::<SECOND_BITS>(self.outputs(inputs, factors, 1), &mut out[4 * half * pitch..], pitch);
        }
    }
}
