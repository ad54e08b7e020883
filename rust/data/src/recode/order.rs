//! Here: the orders in which the 64 coefficients of a block are kept.
//! Not here: the coefficients.
//!
//! Three orders: natural (row by row), zigzag (as JPEG codes them and the layout stores them) and paired, in
//! which the inverse transform wants them. A paired block is eight chunks of 16 bytes: four for the columns of
//! `LEFT`, four for those of `RIGHT`. A chunk has two of the rows, side by side for each of its four columns,
//! as multiplications of pairs take them. The two columns at one place of `LEFT` and `RIGHT` are the same pair
//! as the rows of the chunk with that number: so the second pass, after a transposition, is like the first.

/// Which rows the four chunks of each half have, and which columns meet in the second pass.
pub(crate) const PAIRS: [[usize; 2]; 4] = [[0, 4], [2, 6], [1, 3], [5, 7]];

/// A block in paired order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(align(64))]
pub(crate) struct Block(pub(crate) [i16; 64]);

impl Block {
    pub(crate) const ZERO: Self = Self([0; 64]);
}

/// Of each place in zigzag order, the natural one.
pub(crate) const ZIGZAG: [u8; 64] = {
    let mut order = [0; 64];
    let (mut row, mut column, mut place) = (0_usize, 0_usize, 0);
    while place < 64 {
        order[place] = (8 * row + column) as u8;
        // Up and to the right on even diagonals, down and to the left on odd ones; along the edges between.
        if (row + column) % 2 == 0 {
            if column == 7 {
                row += 1;
            } else {
                column += 1;
                row = row.saturating_sub(1);
            }
        } else if row == 7 {
            column += 1;
        } else {
            row += 1;
            column = column.saturating_sub(1);
        }
        place += 1;
    }
    order
};

/// Of each place in paired order, the natural one.
pub(crate) const PAIRED: [u8; 64] = {
    let mut order = [0; 64];
    let mut place = 0;
    while place < 64 {
        let (half, chunk, lane, which) = (place / 32, place / 8 % 4, place / 2 % 4, place % 2);
        order[place] = (8 * PAIRS[chunk][which] + PAIRS[lane][half]) as u8;
        place += 1;
    }
    order
};

/// The places in zigzag order, a bit for each, that are beyond the first four rows and the first four columns.
pub(crate) const BEYOND_CORNER: u64 = {
    let (mut places, mut place) = (0, 0);
    while place < 64 {
        if ZIGZAG[place] / 8 >= 4 || ZIGZAG[place] % 8 >= 4 {
            places |= 1 << place;
        }
        place += 1;
    }
    places
};

/// Of each place in one order, the place in another, both given by their natural places.
const fn between(from: &[u8; 64], to: &[u8; 64]) -> [u8; 64] {
    let mut natural = [0; 64];
    let mut place = 0;
    while place < 64 {
        natural[to[place] as usize] = place as u8;
        place += 1;
    }
    let mut order = [0; 64];
    place = 0;
    while place < 64 {
        order[place] = natural[from[place] as usize];
        place += 1;
    }
    order
}

/// Of each place in paired order, the one in zigzag order.
pub(crate) const PAIRED_TO_ZIGZAG: [u8; 64] = between(&PAIRED, &ZIGZAG);

/// Of each place in zigzag order, the one in paired order.
pub(crate) const ZIGZAG_TO_PAIRED: [u8; 64] = between(&ZIGZAG, &PAIRED);

/// Of each natural place, the one in paired order.
pub(crate) const NATURAL_TO_PAIRED: [u8; 64] = {
    let mut order = [0; 64];
    let mut place = 0;
    while place < 64 {
        order[PAIRED[place] as usize] = place as u8;
        place += 1;
    }
    order
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zigzag_is_that_of_the_standard() {
        // ITU-T T.81, figure 5, row by row: the place of each natural position.
        let figure = [
            [0, 1, 5, 6, 14, 15, 27, 28],
            [2, 4, 7, 13, 16, 26, 29, 42],
            [3, 8, 12, 17, 25, 30, 41, 43],
            [9, 11, 18, 24, 31, 40, 44, 53],
            [10, 19, 23, 32, 39, 45, 52, 54],
            [20, 22, 33, 38, 46, 51, 55, 60],
            [21, 34, 37, 47, 50, 56, 59, 61],
            [35, 36, 48, 49, 57, 58, 62, 63],
        ];
        for (natural, &place) in figure.as_flattened().iter().enumerate() {
            assert_eq!(usize::from(ZIGZAG[place]), natural);
        }
    }

    #[test]
    fn orders_lead_to_each_other_and_back() {
        for place in 0..64 {
            assert_eq!(usize::from(ZIGZAG_TO_PAIRED[usize::from(PAIRED_TO_ZIGZAG[place])]), place);
            assert_eq!(usize::from(NATURAL_TO_PAIRED[usize::from(PAIRED[place])]), place);
            assert_eq!(PAIRED[place], ZIGZAG[usize::from(PAIRED_TO_ZIGZAG[place])]);
        }
        assert_eq!(PAIRED[0], 0);
    }
}
