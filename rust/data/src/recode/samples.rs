//! Here: coefficients for tests. Not here: anything that is not a test's.

use super::codes::{Class, Table};
use super::coefficients::{Coefficients, Component, Transform};

/// A linear congruential generator: tests say the same on every machine.
pub(crate) struct Random(pub(crate) u32);

impl Random {
    pub(crate) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit
    }
}

/// Sampling factors that libjpeg accepts: none, grey with factors of its own, all that it smooths, and others.
pub(crate) const SAMPLINGS: [(Transform, [(u8, u8); 3]); 12] = [
    (Transform::YCbCr, [(2, 2), (1, 1), (1, 1)]),
    (Transform::YCbCr, [(1, 1), (1, 1), (1, 1)]),
    (Transform::YCbCr, [(2, 1), (1, 1), (1, 1)]),
    (Transform::YCbCr, [(1, 2), (1, 1), (1, 1)]),
    (Transform::YCbCr, [(4, 1), (1, 1), (1, 1)]),
    (Transform::YCbCr, [(4, 2), (2, 1), (1, 2)]),
    (Transform::Grey, [(1, 1), (0, 0), (0, 0)]),
    (Transform::Grey, [(2, 2), (0, 0), (0, 0)]),
    (Transform::Rgb, [(1, 1), (1, 1), (1, 1)]),
    (Transform::Rgb, [(2, 1), (2, 1), (1, 1)]),
    (Transform::YCbCr, [(3, 1), (1, 1), (3, 1)]),
    (Transform::YCbCr, [(2, 2), (2, 1), (1, 2)]),
];

/// A small image of noise whose coefficients are as large as an encoder makes them: many small ones, few
/// large, some blocks empty. `case` chooses sampling factors and, with `random`, a size.
pub(crate) fn image(random: &mut Random, case: usize) -> Coefficients {
    let (transform, sampling) = SAMPLINGS[case % SAMPLINGS.len()];
    let sampling = &sampling[..transform.components()];
    // Miri takes a thousand times as long.
    let [most_wide, most_high] = if cfg!(miri) { [24, 18] } else { [80, 60] };
    let (width, height) = (1 + random.below(most_wide) as u32, 1 + random.below(most_high) as u32);
    let most = |of: fn(&(u8, u8)) -> u8| sampling.iter().map(of).max().unwrap();
    let (most_h, most_v) = (most(|&(h, _)| h), most(|&(_, v)| v));
    let component = |(i, &(h, v)): (usize, &(u8, u8))| {
        let columns = width.div_ceil(8 * u32::from(most_h)) * u32::from(h);
        let rows = height.div_ceil(8 * u32::from(most_v)) * u32::from(v);
        let quant = std::array::from_fn(|place| (3 + i + place / 4) as u16);
        let blocks = (0..columns * rows).map(|_| block(random)).collect();
        Component { id: i as u8 + 1, h, v, quant, columns, rows, blocks }
    };
    let components = sampling.iter().enumerate().map(component).collect();
    Coefficients { width, height, components, transform }
}

fn block(random: &mut Random) -> [i16; 64] {
    let reach = [0, 1, 8, 20, 64][random.below(5)];
    let mut block = [0; 64];
    for (place, value) in block.iter_mut().enumerate().take(reach) {
        let size = [0, 0, 1, 2, 3, 9, 20, 130][random.below(8)] >> (place / 16);
        *value = random.below(2 * size + 1) as i16 - size as i16;
    }
    block[0] = random.below(300) as i16 - 150;
    block
}

/// A Huffman table of codes of all lengths, as long ones as those of encoders; never one of ones alone.
pub(super) fn table(random: &mut Random, class: Class) -> Table {
    let mut symbols: Vec<u8> = match class {
        Class::Dc => (0..16).collect(),
        Class::Ac => (0..=255).filter(|symbol| symbol & 15 != 0 || [0, 0xf0].contains(symbol)).collect(),
    };
    for i in (1..symbols.len()).rev() {
        symbols.swap(i, random.below(i + 1));
    }
    let mut table = Table { counts: [0; 16], symbols: [0; 256] };
    table.symbols[..symbols.len()].copy_from_slice(&symbols);
    // Of the codes that are left, as many as leave enough longer ones for the rest.
    let (mut left, mut free) = (symbols.len(), 1);
    for (length, count) in table.counts.iter_mut().enumerate() {
        free *= 2;
        let most = (0..=left.min(free - 1)).rev().find(|&take| (free - take) << (15 - length) > left - take);
        let most = most.unwrap_or(0);
        let take = if length == 15 { most } else { random.below(most.min(1 + most / 2) + 1) };
        *count = take as u8;
        (left, free) = (left - take, free - take);
    }
    table
}
