//! Here: the steps of expansion on every instruction set, each against its definition.
//! Not here: those of the transformation (`idct.rs`), what they are put together to (`pixels/tests.rs`).

use super::*;
use crate::ops::simd::{Simd, kernel};
use crate::recode::layout::{ESCAPED, WIDE};
use crate::recode::samples::Random;

kernel! {
    fn block_on / block_in[V: Steps](bitmap: u64, values: &[u8; 64], out: &mut Block) {
        V::block(bitmap, values, out);
    }
}

kernel! {
    fn values_on / values_in[V: Steps](masks: [u64; 2], magnitudes: &[u8; 64], out: &mut [u8; 64]) -> u64 {
        V::values(masks[0], masks[1], magnitudes, out)
    }
}

kernel! {
    fn magnitudes_on / magnitudes_in[V: Steps](chunk: &mut [u8; 64], escapes: &[u8; 64]) -> usize {
        V::magnitudes(chunk, escapes)
    }
}

/// Bitmaps of all densities, each ending anywhere.
fn bitmap(random: &mut Random) -> u64 {
    let mut bits = || (0..3).fold(0_u64, |bits, _| bits << 24 ^ u64::from(random.next()));
    let (one, other, third) = (bits(), bits(), bits());
    let dense = [one & other & third, one & other, one, one | other, !0][random.below(5)];
    dense >> random.below(64)
}

fn bytes(random: &mut Random) -> [u8; 64] {
    std::array::from_fn(|_| random.next() as u8)
}

#[test]
fn expansion_is_that_of_the_definitions() {
    let mut random = Random(21);
    for case in 0..if cfg!(miri) { 12 } else { 4000 } {
        let values = bytes(&mut random);
        // Every place alone, then any.
        let places = if case < 64 && !cfg!(miri) { 1 << case } else { bitmap(&mut random) };
        let masks = [bitmap(&mut random), places];
        let four = values.map(|byte| if byte & 64 == 0 { ESCAPED } else { byte & 15 });
        // Large magnitudes are 2 at least.
        let large = values.map(|byte| byte.max(2));
        let escapes = bytes(&mut random).map(|byte| if byte < 40 { WIDE + byte } else { byte });
        let (mut block, mut out, mut chunk) = (Block::ZERO, [0; 64], four);
        expand::block(places, &values, &mut block);
        let wide = expand::values(masks[0], masks[1], &large, &mut out);
        let taken = expand::magnitudes(&mut chunk, &escapes);
        for simd in Simd::available() {
            let name = simd.name();
            let mut found = Block([99; 64]);
            block_on(simd, places, &values, &mut found);
            assert_eq!(found, block, "{name}: {places:x}");
            let mut found = [99; 64];
            assert_eq!(values_on(simd, masks, &large, &mut found), wide, "{name}: {masks:x?}");
            assert_eq!(found, out, "{name}: {masks:x?}");
            let mut found = four;
            assert_eq!(magnitudes_on(simd, &mut found, &escapes), taken, "{name}: {four:?}");
            assert_eq!(found, chunk, "{name}: {four:?}");
        }
    }
}
