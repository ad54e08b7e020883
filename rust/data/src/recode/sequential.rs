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
        self.values[self.count & 63] = found.first(bits);
        self.values[(self.count & 63) + 1] = found.second();
        self.count += found.places().count_ones() as usize;
        self.bitmap |= found.places() << (self.place & 63);
        self.place += found.step();
    }
}

/// Reads one block: a bitmap of the places that are not zero, in zigzag order and without the first; the
/// first coefficient; and the others to the front of `values`. `last` is the first coefficient of the component's
/// last block. Whether there were as many bits is not asked.
#[inline(always)]
pub(super) fn read(
    (state, data): (&mut State, &[u8]),
    (dc, ac): (&DcLookup, &AcLookup),
    last: &mut i32,
    values: &mut [i16; ROOM],
) -> Result<(u64, i16), Unusual> {
    state.refill(data);
    let mut found = look_up(&dc.entries, state.bits);
    if found.escapes() {
        found = dc.single(state.bits)?;
    }
    *last += i32::from(found.first(state.bits));
    state.drop(found.bits());
    let first = i16::try_from(*last).map_err(|_| Unusual("a coefficient of more than 16 bits"))?;
    let mut block = Reading { values, count: 0, bitmap: 0, place: 1 };
    let entries = &*ac.entries;
    while block.place <= LAST {
        state.refill(data);
        // 56 bits: three entries.
        for _ in 0..3 {
            let mut found = look_up(entries, state.bits);
            if block.place + found.step() > LAST {
                if !ends(block.place, found.step()) {
                    state.refill(data);
                    found = alone(ac, block.place, state.bits)?;
                }
                block.take(found, state.bits);
                state.drop(found.bits());
                break;
            }
            block.take(found, state.bits);
            state.drop(found.bits());
        }
    }
    Ok((block.bitmap, first))
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
mod tests {
    use super::super::bits::{Bits, Writer};
    use super::super::codes::{Class, Made};
    use super::super::pieces::WIDE_VALUE;
    use super::super::samples::{Random, table};
    use super::*;
    use crate::ops::simd::{Portable, Simd, kernel};

    kernel! {
        fn write_by / write_by_on[V: Steps](queue: &mut Queue, tables: (&Pieces, &Pieces), block: &Coded<'_>) -> () {
            write::<V>(queue, tables, block);
        }
    }

    kernel! {
        fn pieces_by / pieces_by_on[V: Steps](
            bitmap: u64,
            values: &[u8; 64],
            small: &[[Piece; 256]; 16],
            out: &mut [Piece; 64],
        ) -> bool {
            V::pieces(bitmap, values, small, out)
        }
    }

    #[test]
    fn vectors_make_the_pieces_that_the_table_has() {
        let mut random = Random(33);
        let (mut made, mut refused) = (0, 0);
        for case in 0..if cfg!(miri) { 4 } else { 400 } {
            let ac = Pieces::make(&table(&mut random, Class::Ac), Class::Ac).unwrap();
            let mut small = ac.small;
            for _ in 0..case % 3 {
                small[random.below(4)][1 + random.below(3)] = NONE;
            }
            let bits = [4, 10, 30][random.below(3)];
            let bitmap = (1..64).filter(|_| random.below(32) < bits).fold(0, |bitmap, at| bitmap | 1 << at);
            let values: [u8; 64] = std::array::from_fn(|_| 1 + random.below(3) as u8 * (case % 100) as u8);
            let (mut expected, mut last) = (Vec::new(), 0);
            for (place, &value) in (1..64_usize).filter(|place| bitmap >> place & 1 == 1).zip(&values) {
                expected.push(small.get(place - last - 1).map_or(NONE, |pieces| pieces[usize::from(value)]));
                last = place;
            }
            let whole = expected.iter().all(|&piece| piece < NONE);
            for simd in Simd::available() {
                let mut out = [7; 64];
                let done = pieces_by(simd, bitmap, &values, &small, &mut out);
                assert_eq!(done, whole && simd.name() == "avx512", "{} {bitmap:x}", simd.name());
                assert!(!done || out[..expected.len()] == expected, "{} {bitmap:x}", simd.name());
            }
            (made, refused) = (made + usize::from(whole), refused + usize::from(!whole));
        }
        assert!(cfg!(miri) || (made > 50 && refused > 50), "{made} {refused}");
    }

    /// Bitmap, first coefficient, the others.
    type Block = (u64, i16, Vec<i16>);

    fn block(random: &mut Random) -> Block {
        // Full ones, ones with long runs, ones that end with their last place, none.
        let chance = [0, 1, 2, 5, 40][random.below(5)];
        let mut bitmap =
            (1..64).filter(|_| random.below(40) < chance).fold(0, |bits, place| bits | 1 << place);
        bitmap |= u64::from(random.below(4) == 0) << 63;
        let value = |_| {
            let size = [1, 1, 2, 7, 8, 15][random.below(6)];
            let most = (1 << size) - 1;
            let value = 1 + random.below(most) as i16;
            if random.below(2) == 0 { value } else { -value }
        };
        let values = (0..u64::count_ones(bitmap)).map(value).collect();
        (bitmap, random.below(1 << 15) as i16 - (1 << 14), values)
    }

    /// With the small values of all blocks and the wide ones apart, as a band has them.
    fn written(blocks: &[Block], tables: (&Pieces, &Pieces), simd: Simd) -> Vec<u8> {
        let all: Vec<i16> = blocks.iter().flat_map(|block| block.2.clone()).collect();
        let small = |value: i16| i8::try_from(value).map_or(WIDE_VALUE, i8::cast_unsigned);
        let mut values: Vec<u8> =
            all.iter().map(|&value| if value == -128 { WIDE_VALUE } else { small(value) }).collect();
        values.extend([7; 64]);
        let wide = all.iter().enumerate().filter(|(at, _)| values[*at] == WIDE_VALUE);
        let wide: Vec<Wide> = wide.map(|(at, &value)| Wide { at, value }).collect();
        let (mut queue, mut writer, mut last, mut at) = (Queue::default(), Writer::default(), 0, 0);
        writer.begin();
        for (bitmap, first, own) in blocks {
            let difference = i32::from(*first) - std::mem::replace(&mut last, i32::from(*first));
            let window = values[at..].first_chunk().unwrap();
            let block = Coded { bitmap: *bitmap, difference, values: window, wide: (&wide, at) };
            write_by(simd, &mut queue, tables, &block);
            at += own.len();
            if queue.is_full() {
                assert!(writer.append_on(simd, queue.take()));
            }
        }
        assert!(writer.append_on(simd, queue.take()));
        let missing = writer.missing();
        writer.put((1 << missing) - 1, missing);
        let mut bytes = Vec::new();
        writer.end(&mut bytes);
        bytes
    }

    #[test]
    fn blocks_come_back_from_their_codes() {
        let mut random = Random(31);
        for case in 0..if cfg!(miri) { 2 } else { 12 } {
            let tables = [Class::Dc, Class::Ac].map(|class| table(&mut random, class));
            let dc = Pieces::make(&tables[0], Class::Dc).unwrap();
            let ac = Pieces::make(&tables[1], Class::Ac).unwrap();
            let blocks: Vec<Block> = (0..60).map(|_| block(&mut random)).collect();
            let bytes = written(&blocks, (&dc, &ac), Simd::PORTABLE);
            for simd in Simd::available() {
                assert_eq!(written(&blocks, (&dc, &ac), simd), bytes, "{}", simd.name());
            }
            let dc = DcLookup::make(&tables[0], Class::Dc).unwrap();
            let ac = AcLookup::make(&tables[1], Class::Ac).unwrap();
            let (mut bits, mut last, mut values) = (Bits::default(), 0, [0; ROOM]);
            assert_eq!(bits.begin(&bytes, 0), bytes.len());
            for (number, (bitmap, first, own)) in blocks.iter().enumerate() {
                let (state, data) = bits.parts();
                let found = read((state, data), (&dc, &ac), &mut last, &mut values).unwrap();
                assert_eq!(found, (*bitmap, *first), "case {case}, block {number}");
                assert_eq!(values[..own.len()], own[..], "case {case}, block {number}");
            }
            assert!(bits.padding().is_ok() && bits.unread() == 0);
        }
    }

    #[test]
    fn what_has_no_code_is_told() {
        let mut random = Random(32);
        let mut table = table(&mut random, Class::Ac);
        let dc = Pieces::make(&super::super::samples::table(&mut random, Class::Dc), Class::Dc).unwrap();
        let without = table.symbols.iter().position(|&symbol| symbol == 0x21).unwrap();
        table.symbols[without] = 0x31;
        let ac = Pieces::make(&table, Class::Ac).unwrap();
        let told = |bitmap: u64, value: i16| {
            let mut queue = Queue::default();
            let small = i8::try_from(value).map_or(WIDE_VALUE, i8::cast_unsigned);
            let wide = [Wide { at: 5, value }];
            let block = Coded { bitmap, difference: 0, values: &[small; 64], wide: (&wide, 5) };
            write::<Portable>(&mut queue, (&dc, &ac), &block);
            !Writer::default().append(queue.take())
        };
        assert!(!told(1 << 1, 1) && !told(1 << 2, -1) && !told(1 << 4, 1) && !told(1 << 3, 2));
        assert!(told(1 << 3, 1) && told(1 << 3, -1) && !told(1 << 3, 300));
        // A value that needs 16 bits and is zero, or has more of them than a code can say.
        let zero = Coded {
            bitmap: 2,
            difference: 0,
            values: &[WIDE_VALUE; 64],
            wide: (&[Wide { at: 0, value: 0 }], 0),
        };
        let mut queue = Queue::default();
        write::<Portable>(&mut queue, (&dc, &ac), &zero);
        assert!(!Writer::default().append(queue.take()));
        assert!(told(1 << 1, i16::MIN));
    }

    #[test]
    fn a_block_goes_to_its_last_place_and_no_further() {
        // Codes of 1 bit for a value of 1 bit, of 2 for a run of 15 and a value, of 3 for the end.
        let mut table = super::super::codes::Table { counts: [0; 16], symbols: [0; 256] };
        table.counts[..3].copy_from_slice(&[1, 1, 1]);
        table.symbols[..3].copy_from_slice(&[0x01, 0xf1, 0x00]);
        let ac = AcLookup::make(&table, Class::Ac).unwrap();
        let dc = DcLookup::make(&table, Class::Dc);
        assert!(dc.is_err());
        table.symbols[1] = 2;
        let dc = DcLookup::make(&table, Class::Dc).unwrap();
        let run = |bits: &str| {
            let mut bytes: Vec<u8> = Vec::new();
            for eight in bits.as_bytes().chunks(8) {
                let byte = eight.iter().fold(0, |byte, &bit| byte << 1 | u16::from(bit == b'1'));
                bytes.push((byte << (8 - eight.len())) as u8);
                if byte == 0xff {
                    bytes.push(0);
                }
            }
            let (mut input, mut values) = (Bits::default(), [0; ROOM]);
            input.begin(&bytes, 0);
            let (state, data) = input.parts();
            read((state, data), (&dc, &ac), &mut 0, &mut values).map(|found| found.0)
        };
        // A difference of 1; 63 values of 1; whatever follows belongs to the next block.
        let full = format!("01{}", "01".repeat(63));
        for next in ["110", "01", "00", "1110"] {
            assert_eq!(run(&format!("{full}{next}")), Ok(u64::MAX - 1), "{next}");
        }
        assert_eq!(run(&format!("01{}110", "01".repeat(62))), Ok(u64::MAX >> 1 & !1));
        assert_eq!(run("01110"), Ok(0));
        assert!(run(&format!("01{}{}", "101".repeat(3), "01".repeat(14) + "101")).is_err());
        assert_eq!(run(&format!("01{}110", "101".repeat(3))), Ok(1 << 16 | 1 << 32 | 1 << 48));
    }
}
