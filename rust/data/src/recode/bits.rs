//! Here: the bits of one segment of entropy-coded data, read and written.
//! Not here: what the bits mean, stuffed zeros (`stuffing.rs`).

use super::Unusual;
use super::pieces::{COUNT, NONE, Piece};
use super::simd::Steps;
use super::stuffing::{CHUNK, count_ff, stuff, unstuff};
use crate::ops::simd::{Simd, kernel};

/// Zeros behind the data, so that eight bytes can be read wherever a block may begin or end.
const BEHIND: usize = 8;

/// Reads a segment's bits; behind its end there are zeros.
#[derive(Default)]
pub(super) struct Bits {
    data: Vec<u8>,
    length: usize,
    /// What is read, in registers while a block is.
    pub(super) state: State,
}

/// The next bits: the next one the highest, those below `left` nothing, or what will be read next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State {
    pub(super) bits: u64,
    left: u32,
    at: usize,
}

impl State {
    /// At least 56 bits.
    #[inline(always)]
    pub(super) fn refill(&mut self, data: &[u8]) {
        let eight = data.get(self.at..self.at + 8).and_then(|eight| <[u8; 8]>::try_from(eight).ok());
        self.bits |= u64::from_be_bytes(eight.unwrap_or_default()) >> (self.left & 63);
        self.at += ((63 - self.left) >> 3) as usize;
        self.left |= 56;
    }

    #[inline(always)]
    pub(super) fn drop(&mut self, count: u32) {
        self.bits <<= count & 63;
        self.left = self.left.wrapping_sub(count) & 63;
    }
}

impl Bits {
    /// Begins the segment at `raw[at]`, which goes up to the next marker; gives the place of that marker.
    /// A 0xFF at the very end counts as one.
    pub(super) fn begin(&mut self, raw: &[u8], at: usize) -> usize {
        let raw = &raw[at.min(raw.len())..];
        let room = raw.len() + CHUNK + BEHIND;
        self.data.resize(self.data.len().max(room), 0);
        let (length, end) = unstuff(Simd::detect(), raw, &mut self.data);
        self.length = length;
        self.data[length..length + BEHIND].fill(0);
        self.state = State::default();
        at + end
    }

    /// The bytes behind the state.
    #[inline(always)]
    pub(super) fn data(&self) -> &[u8] {
        &self.data[..self.length + BEHIND]
    }

    /// Both, to be used together.
    #[inline(always)]
    pub(super) fn parts(&mut self) -> (&mut State, &[u8]) {
        (&mut self.state, &self.data[..self.length + BEHIND])
    }

    fn read_bits(&self) -> usize {
        self.state.at * 8 - self.state.left as usize
    }

    /// Whether more bits have been read than there are.
    #[inline(always)]
    pub(super) fn overrun(&self) -> bool {
        self.read_bits() > self.length * 8
    }

    /// The number that the next `count` bits are, at most 16.
    #[inline(always)]
    pub(super) fn take(&mut self, count: u32) -> u32 {
        if count == 0 {
            return 0;
        }
        self.state.refill(&self.data);
        let value = (self.state.bits >> (64 - count)) as u32;
        self.state.drop(count);
        value
    }

    /// The bits up to the next whole byte: how many, and their value.
    pub(super) fn padding(&mut self) -> Result<(u32, u8), Unusual> {
        if self.overrun() {
            return Err(Unusual("entropy-coded data that end early"));
        }
        let count = (self.read_bits() as u32).wrapping_neg() & 7;
        Ok((count, self.take(count) as u8))
    }

    /// Whole bytes of the segment that nobody has read.
    pub(super) fn unread(&self) -> usize {
        self.length - self.read_bits().div_ceil(8).min(self.length)
    }

    /// Where in `raw` the bytes end that have been read, of a segment from `raw[at]` to `raw[end]`.
    pub(super) fn end(&self, at: usize, end: usize) -> usize {
        if self.unread() == 0 {
            return end;
        }
        let read = self.length - self.unread();
        at + read + self.data[..read].iter().filter(|&&byte| byte == 0xff).count()
    }
}

/// Writes a segment's bits.
#[derive(Default)]
pub(super) struct Writer {
    data: Vec<u8>,
    at: usize,
    /// The last bits, the last one the lowest; above those that are not yet in whole bytes is what was before.
    bits: u64,
    /// How many are not: at most 7.
    used: u32,
}

impl Writer {
    /// Begins a segment.
    pub(super) fn begin(&mut self) {
        (self.at, self.bits, self.used) = (0, 0, 0);
    }

    /// The lowest `count` bits of a number that has no others; at most 48.
    pub(super) fn put(&mut self, value: u64, count: u32) {
        self.make_room(0);
        let mut end = End { data: &mut self.data, at: self.at, bits: self.bits, used: self.used };
        end.bits = end.bits << count | value;
        end.used += count;
        end.store();
        (self.at, self.bits, self.used) = (end.at, end.bits, end.used);
    }

    /// Pieces, an even number of them; false if one of them is none.
    pub(super) fn append(&mut self, pieces: &[Piece]) -> bool {
        self.append_on(Simd::detect(), pieces)
    }

    pub(super) fn append_on(&mut self, simd: Simd, pieces: &[Piece]) -> bool {
        self.make_room(4 * pieces.len());
        append(simd, self, pieces)
    }

    /// For so many bytes more, and a store behind them.
    fn make_room(&mut self, bytes: usize) {
        if self.data.len() < self.at + bytes + 8 {
            self.data.resize(2 * (self.at + bytes + 8), 0);
        }
    }

    /// How many bits are missing to a whole byte.
    pub(super) fn missing(&self) -> u32 {
        self.used.wrapping_neg() & 7
    }

    /// Whole bytes so far.
    pub(super) fn length(&self) -> usize {
        self.at
    }

    /// Appends the segment, with a zero behind each 0xFF, to `out`.
    pub(super) fn end(&self, out: &mut Vec<u8>) {
        let data = &self.data[..self.at];
        let begin = out.len();
        let zeros = count_ff(Simd::detect(), data);
        out.resize(begin + data.len() + zeros + CHUNK, 0);
        stuff(Simd::detect(), data, &mut out[begin..]);
        out.truncate(begin + data.len() + zeros);
    }
}

/// The end of what is written, in registers while it grows.
struct End<'a> {
    data: &'a mut [u8],
    at: usize,
    bits: u64,
    used: u32,
}

impl End<'_> {
    /// Stores up to 56 bits that have been added, and keeps those of no whole byte.
    #[inline(always)]
    fn store(&mut self) {
        if let Some(room) = self.data.get_mut(self.at..self.at + 8) {
            room.copy_from_slice(&(self.bits << (self.used.wrapping_neg() & 63)).to_be_bytes());
        }
        self.at += (self.used >> 3) as usize;
        self.used &= 7;
    }

    /// An even number of pieces; gives all their bits in one.
    #[inline(always)]
    fn append(&mut self, pieces: &[Piece]) -> Piece {
        let mut all = 0;
        for pair in pieces.as_chunks::<2>().0 {
            for piece in pair {
                all |= piece;
                self.bits = self.bits << (piece & COUNT) | u64::from(piece >> 6);
            }
            self.used += (pair[0] & COUNT) + (pair[1] & COUNT);
            self.store();
        }
        all
    }
}

kernel! {
    fn append / append_in[V: Steps](writer: &mut Writer, pieces: &[Piece]) -> bool {
        let mut end = End { data: &mut writer.data, at: writer.at, bits: writer.bits, used: writer.used };
        let mut all = 0;
        let (chunks, rest) = pieces.as_chunks::<16>();
        for chunk in chunks {
            let Some(joined) = V::join_pieces(chunk) else {
                all |= end.append(chunk);
                continue;
            };
            for (bits, count) in joined {
                end.bits = end.bits << (count & 63) | bits;
                end.used += count as u32;
                end.store();
            }
        }
        all |= end.append(rest);
        (writer.at, writer.bits, writer.used) = (end.at, end.bits, end.used);
        all < NONE
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::Random;
    use super::*;

    #[test]
    fn what_is_written_is_read_and_stuffed_zeros_come_and_go() {
        let mut writer = Writer::default();
        writer.begin();
        let numbers: Vec<(u32, u32)> =
            (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> (31 - i % 16), i % 16 + 1)).collect();
        for &(value, count) in &numbers {
            writer.put(u64::from(value & ((1 << count) - 1)), count);
        }
        let missing = writer.missing();
        writer.put((1 << missing) - 1, missing);
        let mut raw = vec![1, 2, 3];
        writer.end(&mut raw);
        assert!(raw.windows(2).any(|pair| pair == [0xff, 0]));
        let end = raw.len();
        raw.extend([0xff, 0xd0, 9]);
        let mut bits = Bits::default();
        assert_eq!(bits.begin(&raw, 3), end);
        for &(value, count) in &numbers {
            assert_eq!(bits.take(count), value & ((1 << count) - 1));
        }
        assert_eq!(bits.padding().unwrap(), (missing, ((1u32 << missing) - 1) as u8));
        assert_eq!((bits.unread(), bits.end(3, end)), (0, end));
        assert_eq!(bits.take(16), 0);
        assert!(bits.overrun() && bits.padding().is_err());
    }

    #[test]
    fn bytes_that_nobody_reads_are_told() {
        let raw = [0xff, 0, 0x12, 0xff, 0, 7, 7, 0xff, 0xff, 0xd9];
        let mut bits = Bits::default();
        assert_eq!(bits.begin(&raw, 0), 7);
        assert_eq!(bits.take(16), 0xff12);
        assert_eq!(bits.take(3), 7);
        assert_eq!(bits.padding().unwrap(), (5, 31));
        assert_eq!((bits.unread(), bits.end(0, 7)), (2, 5));
    }

    #[test]
    fn pieces_are_put_together_as_one_by_one() {
        let mut random = Random(61);
        for case in 0..if cfg!(miri) { 4 } else { 60 } {
            // Of four that are long not all have room in a word.
            let most = [2, 8, 14, 23][case % 4];
            let mut piece = || {
                let count = random.below(most + 1) as u32;
                (random.next() & ((1 << count) - 1)) << 6 | count
            };
            let mut pieces: Vec<Piece> = (0..2 * (case + 3)).map(|_| piece()).collect();
            let mut expected = Writer::default();
            for piece in &pieces {
                expected.put(u64::from(piece >> 6), piece & COUNT);
            }
            let none = case % pieces.len();
            for simd in Simd::available() {
                let mut writer = Writer::default();
                assert!(writer.append_on(simd, &pieces));
                assert_eq!(writer.missing(), expected.missing(), "{}", simd.name());
                assert_eq!(writer.data[..writer.at], expected.data[..expected.at], "{}", simd.name());
                let last = std::mem::replace(&mut pieces[none], NONE);
                assert!(!writer.append_on(simd, &pieces), "{}", simd.name());
                pieces[none] = last;
            }
        }
    }
}
