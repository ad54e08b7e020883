//! Here: blocks of sequential scans: codes to values in the order in which they are coded, and back to pieces.
//! Not here: which blocks, progressive scans, the tables (`lookup.rs`, `pieces.rs`).

use super::Unusual;
use super::bits::State;
use super::expand::Wide;
use super::lookup::{AcLookup, DcLookup, END_OF_BLOCK, Found, look_up};
use super::pieces::{NONE, Piece, Pieces};
use super::simd::Steps;

/// Room for the values of a block, and one behind them.
pub(super) const ROOM: usize = 66;

/// The last place of a block.
const LAST: u32 = 63;

/// A block that is being read.
struct Reading<'a> {
    values: &'a mut [i16; ROOM],
    count: usize,
    bitmap: u64,
    /// The next place.
    place: u32,
}

impl Reading<'_> {
    /// Takes what was found in these bits.
    #[inline(always)]
    fn take(&mut self, found: Found, bits: u64) {
        // Both are written whether there are two or none: quicker than to ask.
        self.values[self.count & 63..][..2].copy_from_slice(&found.values(bits));
        self.count += found.places().count_ones() as usize;
        self.bitmap |= found.places() << (self.place & 63);
        self.place += found.step();
    }

    /// Reads what the next entry stands for; gives whether it ends the block.
    #[inline(always)]
    fn next(&mut self, (state, data): (&mut State, &[u8]), ac: &AcLookup) -> Result<bool, Unusual> {
        let mut found = look_up(&ac.entries, state.bits);
        let ended = self.place + found.step() > LAST;
        if ended && !ends(self.place, found.step()) {
            state.refill(data);
            found = alone(ac, self.place, state.bits)?;
            self.take(found, state.bits);
            state.drop(found.bits());
            state.refill(data);
            return Ok(self.place > LAST);
        }
        self.take(found, state.bits);
        state.drop(found.bits());
        Ok(ended)
    }
}

/// What was read of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// The places that are not zero, in zigzag order and without the first.
    pub(super) bitmap: u64,
    /// Zeros that were coded behind the last value, the end of the block apart: [`write`] codes none.
    pub(super) behind: u32,
}

/// Reads the difference of a block's first coefficient.
#[inline(always)]
pub(super) fn first((state, data): (&mut State, &[u8]), dc: &DcLookup) -> Result<i16, Unusual> {
    state.refill(data);
    let mut found = look_up(&dc.entries, state.bits);
    if found.escapes() {
        found = dc.single(state.bits)?;
    }
    let [difference, _] = found.values(state.bits);
    state.drop(found.bits());
    Ok(difference)
}

/// Reads what is left of a block then, its values to the front of `values`. Whether there were as many bits is not
/// asked.
#[inline(always)]
pub(super) fn rest(
    (state, data): (&mut State, &[u8]),
    ac: &AcLookup,
    values: &mut [i16; ROOM],
) -> Result<Taken, Unusual> {
    let mut block = Reading { values, count: 0, bitmap: 0, place: 1 };
    // Behind the first code there are still the bits of an entry.
    let mut ended = block.next((state, data), ac)?;
    while !ended {
        state.refill(data);
        // 56 bits: three entries.
        ended = block.next((state, data), ac)?
            || block.next((state, data), ac)?
            || block.next((state, data), ac)?;
    }
    // The end of a block counts as 64 places, of which its last place is none.
    let read = block.place.wrapping_sub(LAST + 2) & LAST;
    let behind = read ^ (LAST - (block.bitmap | 1).leading_zeros());
    Ok(Taken { bitmap: block.bitmap, behind })
}

/// Whether what was found ends a block just so: with its last place, or with the code for its end before that.
/// Otherwise the last of two codes belongs to the next block, or there is none.
#[inline(always)]
fn ends(place: u32, step: u32) -> bool {
    let next = place + step;
    next == LAST + 1 || (step >= END_OF_BLOCK.into() && next <= LAST + u32::from(END_OF_BLOCK))
}

/// One code, which may end the block or not. Everything is passed by value, so that it stays in registers.
#[cold]
fn alone(codes: &AcLookup, place: u32, bits: u64) -> Result<Found, Unusual> {
    let found = codes.single(bits)?;
    if place + found.step() > LAST + 1 && found.step() < END_OF_BLOCK.into() {
        return Err(Unusual("a block of more than 64 coefficients"));
    }
    Ok(found)
}

/// Most pieces of a block: a difference in two, so each coefficient if it is wide, runs, the end; a power of two.
pub(super) const BLOCK_PIECES: usize = 256;

/// The pieces of blocks in the order in which they are coded. Made to be reused.
pub(super) struct Queue {
    pieces: Box<[Piece; Queue::ROOM]>,
    count: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self { pieces: Box::new([0; Self::ROOM]), count: 0 }
    }
}

impl Queue {
    /// Pieces that are put together at once, so that they are still in the cache; and a block.
    const ROOM: usize = 4096 + BLOCK_PIECES;

    /// All pieces, an even number of them; the queue is empty then.
    pub(super) fn take(&mut self) -> &[Piece] {
        let count = std::mem::take(&mut self.count);
        if let Some(piece) = self.pieces.get_mut(count) {
            // One of no bits.
            *piece = 0;
        }
        self.pieces.get(..count.next_multiple_of(2)).unwrap_or_default()
    }

    /// Whether there is no room for another block.
    #[inline(always)]
    pub(super) fn is_full(&self) -> bool {
        self.count > Self::ROOM - BLOCK_PIECES
    }
}

/// What sequential scans code of a block.
pub(super) struct Coded<'a> {
    /// Without the first coefficient.
    pub(super) bitmap: u64,
    /// The difference of the first one.
    pub(super) difference: i32,
    /// The values of the bitmap and more.
    pub(super) values: &'a [u8; 64],
    /// Those that are wide, and what they count from.
    pub(super) wide: (&'a [Wide], usize),
}

/// Writes one block to a queue that is not full. What has no code becomes `NONE`.
#[inline(always)]
pub(super) fn write<V: Steps>(queue: &mut Queue, (dc, ac): (&Pieces, &Pieces), block: &Coded<'_>) {
    let room = queue.pieces.get_mut(queue.count..).and_then(|room| room.first_chunk_mut());
    let Some(out): Option<&mut [Piece; BLOCK_PIECES]> = room else { return };
    [out[0], out[1]] = dc.wide(0, block.difference);
    let mut count = 2 + block.bitmap.count_ones() as usize;
    let pieces = out[2..].first_chunk_mut::<64>();
    if !pieces.is_some_and(|pieces| V::pieces(block.bitmap, block.values, &ac.small, pieces)) {
        count = one_by_one(ac, block, out);
    }
    out[count & (BLOCK_PIECES - 1)] = ac.end;
    queue.count += count + usize::from(block.bitmap.leading_zeros() > 0);
}

/// The pieces of all values behind the first two; gives how many there are then.
#[inline(always)]
fn one_by_one(ac: &Pieces, block: &Coded<'_>, out: &mut [Piece; BLOCK_PIECES]) -> usize {
    let (mut count, mut left, mut index) = (2, block.bitmap, 0);
    // Of the last value.
    let mut last = 0;
    while left != 0 {
        let place = left.trailing_zeros();
        left &= left - 1;
        let mut run = place - last - 1;
        last = place;
        while run > 15 {
            out[count & (BLOCK_PIECES - 1)] = ac.zeros;
            count += 1;
            run -= 16;
        }
        let mut piece = ac.small[run as usize & 15][usize::from(block.values[index & 63])];
        if piece >= NONE {
            let [code, bits] = wide(ac, run, block.wide, index);
            out[count & (BLOCK_PIECES - 1)] = code;
            count += 1;
            piece = bits;
        }
        out[count & (BLOCK_PIECES - 1)] = piece;
        count += 1;
        index += 1;
    }
    count
}

/// The pieces of a value that is not small, or has no code.
#[cold]
fn wide(codes: &Pieces, run: u32, (wide, first): (&[Wide], usize), index: usize) -> [Piece; 2] {
    match wide.binary_search_by_key(&(first + index), |one| one.at) {
        Ok(at) if wide[at].value != 0 => codes.wide(run, wide[at].value.into()),
        _ => [NONE; 2],
    }
}

#[cfg(test)]
mod tests;
