//! Here: the transformations of blocks, by themselves.
//! Not here: those of images (`pixels/tests.rs`), on which all that follows depends, too.

use super::*;
use crate::ops::simd::Simd;
use crate::recode::order::{BEYOND_CORNER, PAIRED_TO_ZIGZAG};
use crate::recode::samples::Random;

/// Any values at all, those of files that no encoder makes among them, and nothing beyond the corner where asked.
fn block(random: &mut Random, corner: bool) -> Block {
    let size = [1, 30, 1 << 9, 1 << 15][random.below(4)];
    Block(PAIRED_TO_ZIGZAG.map(|place| match BEYOND_CORNER >> place & 1 {
        1 if corner => 0,
        _ => (random.below(2 * size) as i32 - size as i32) as i16,
    }))
}

#[test]
fn corners_have_the_samples_of_the_longer_way() {
    const PITCH: usize = 8 * 40 + 24;
    let mut random = Random(31);
    // Miri takes a thousand times as long: one mixture of both.
    for case in if cfg!(miri) { 1..2 } else { 0..300 } {
        let quant = Quant::new(&std::array::from_fn(|_| 1 + random.below([1, 20, 65_535][case % 3]) as u16));
        let corners: [bool; 40] = std::array::from_fn(|i| random.below(40) > i && case > 0);
        let blocks = corners.map(|corner| block(&mut random, corner));
        let mut expected = [0; 8 * PITCH];
        full(Simd::PORTABLE, &blocks, &[false; 40], &quant, &mut expected, PITCH);
        for simd in Simd::available() {
            let mut found = [0; 8 * PITCH];
            full(simd, &blocks, &corners, &quant, &mut found, PITCH);
            assert!(found == expected, "case {case}, {}: {corners:?}", simd.name());
        }
    }
}
