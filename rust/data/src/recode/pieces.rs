//! Here: what stands for the values of a sequential scan: codes with the bits of their values, as pieces that are
//! put together to bytes many at a time.
//! Not here: which values a block has (`sequential.rs`), the bytes (`bits.rs`).

use super::Unusual;
use super::codes::{Class, Made, Prefixes, Table, Words};

/// Bits to be written, at most 23 of them, and below them in 6 bits how many they are.
pub(super) type Piece = u32;

/// The bits of a piece that say how many its bits are.
pub(super) const COUNT: u32 = 63;

/// Most bits that are put together before they are appended to what has at most 7 bits in no whole byte.
#[cfg(target_arch = "x86_64")]
pub(super) const MOST_JOINED: u32 = 56;

/// Set in what is no piece: a symbol without a code, or a value that the table of small ones does not have.
pub(super) const NONE: Piece = 1 << 31;

/// A small value that is not in the table, because it stands for one that needs 16 bits.
pub(crate) const WIDE_VALUE: u8 = 0x80;

/// A Huffman table and the pieces it makes of small values.
pub(super) struct Pieces {
    words: Words,
    /// By run and value, of those coefficients that have 8 bits; `NONE` for the others.
    pub(super) small: [[Piece; 256]; 16],
    /// Ends a block.
    pub(super) end: Piece,
    /// Sixteen zeros.
    pub(super) zeros: Piece,
}

fn piece(word: u32) -> Piece {
    if word == 0 { NONE } else { word >> 8 << 6 | word & 0xff }
}

/// How many bits a value has, and these.
#[inline(always)]
fn bits_of(value: i32) -> (u32, u32) {
    let size = 32 - value.unsigned_abs().leading_zeros();
    (size, (value - i32::from(value < 0)) as u32 & ((1 << (size & 31)) - 1))
}

impl Pieces {
    /// Of any other coefficient, or of a difference: code and value apart.
    #[inline(always)]
    pub(super) fn wide(&self, run: u32, value: i32) -> [Piece; 2] {
        let (size, bits) = bits_of(value);
        if size > 15 { [NONE; 2] } else { [piece(self.words.of(run << 4 | size)), bits << 6 | size] }
    }
}

impl Made for Pieces {
    fn empty() -> Self {
        Self { words: Words::NONE, small: [[NONE; 256]; 16], end: NONE, zeros: NONE }
    }

    fn make(&mut self, table: &Table, class: Class) -> Result<(), Unusual> {
        let Self { words, small, end, zeros } = self;
        *words = Words::NONE;
        small.as_flattened_mut().fill(NONE);
        Prefixes::new(table, class, |code, length, symbol| words.enter(code, length, symbol))?;
        if class == Class::Ac {
            for (run, pieces) in (0..).zip(small.iter_mut()) {
                for magnitude in 1..128 {
                    let size = 32 - u32::leading_zeros(magnitude);
                    let word = words.of(run << 4 | size);
                    if word != 0 {
                        let piece = ((word >> 8 << size) << 6) | ((word & 0xff) + size);
                        pieces[magnitude as usize] = piece | magnitude << 6;
                        // The bits of -1 are those of 1, inverted.
                        pieces[256 - magnitude as usize] = piece | (magnitude ^ ((1 << size) - 1)) << 6;
                    }
                }
            }
        }
        (*end, *zeros) = (piece(words.of(0)), piece(words.of(0xf0)));
        Ok(())
    }
}
