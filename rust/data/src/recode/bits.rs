//! Here: the bits of one segment of entropy-coded data, read and written; its stuffed zeros, taken out and put in.
//! Not here: what the bits mean.

use super::Unusual;
use crate::jpeg::find_ff;

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
        self.data.clear();
        let mut at = at.min(raw.len());
        let end = loop {
            let rest = &raw[at..];
            let Some(ff) = find_ff(rest) else {
                self.data.extend_from_slice(rest);
                break raw.len();
            };
            if rest.get(ff + 1) != Some(&0) {
                self.data.extend_from_slice(&rest[..ff]);
                break at + ff;
            }
            self.data.extend_from_slice(&rest[..=ff]);
            at += ff + 2;
        };
        self.length = self.data.len();
        self.data.resize(self.length + BEHIND, 0);
        self.state = State::default();
        end
    }

    /// The bytes behind the state.
    #[inline(always)]
    pub(super) fn data(&self) -> &[u8] {
        &self.data
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

    /// Where in `raw` the bytes end that have been read, of a segment that began at `raw[at]`.
    pub(super) fn end(&self, at: usize) -> usize {
        let read = self.length - self.unread();
        at + read + self.data[..read].iter().filter(|&&byte| byte == 0xff).count()
    }
}

/// Most bits of one block: each coefficient a code of 16 bits and a value of 15, and one code more.
const BLOCK_BYTES: usize = 64 * 31 / 8 + 8 + 16;

/// Writes a segment's bits.
#[derive(Default)]
pub(super) struct Writer {
    data: Vec<u8>,
    at: usize,
    bits: u64,
    used: u32,
}

/// The end of what is written, in registers while a block is. At most 7 bits are in use between two puts.
pub(super) struct Tail<'a> {
    room: &'a mut [u8; BLOCK_BYTES],
    at: usize,
    bits: u64,
    used: u32,
}

impl Tail<'_> {
    /// The lowest `count` bits of a number that has no others; at most 48.
    #[inline(always)]
    pub(super) fn put(&mut self, value: u64, count: u32) {
        self.bits |= value << ((64 - self.used - count) & 63);
        self.used += count;
        if let Some(room) = self.room.get_mut(self.at..self.at + 8) {
            room.copy_from_slice(&self.bits.to_be_bytes());
        }
        self.at += (self.used >> 3) as usize;
        self.bits <<= self.used & 56;
        self.used &= 7;
    }

    /// For [`Writer::keep`].
    #[inline(always)]
    pub(super) fn done(self) -> (usize, u64, u32) {
        (self.at, self.bits, self.used)
    }
}

impl Writer {
    /// Begins a segment.
    pub(super) fn begin(&mut self) {
        (self.at, self.bits, self.used) = (0, 0, 0);
    }

    /// The end, to write one block or less; [`keep`](Self::keep) what it says when that is done.
    #[inline(always)]
    pub(super) fn tail(&mut self) -> Option<Tail<'_>> {
        if self.data.len() < self.at + BLOCK_BYTES {
            self.grow();
        }
        let room = self.data.get_mut(self.at..)?.first_chunk_mut()?;
        Some(Tail { room, at: 0, bits: self.bits, used: self.used })
    }

    #[cold]
    fn grow(&mut self) {
        self.data.resize(2 * self.data.len() + 4 * BLOCK_BYTES, 0);
    }

    /// Goes on where a tail ended.
    #[inline(always)]
    pub(super) fn keep(&mut self, (at, bits, used): (usize, u64, u32)) {
        self.at += at;
        (self.bits, self.used) = (bits, used);
    }

    /// The lowest `count` bits of a number that has no others; at most 48.
    pub(super) fn put(&mut self, value: u64, count: u32) {
        if let Some(mut tail) = self.tail() {
            tail.put(value, count);
            let done = tail.done();
            self.keep(done);
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
        let mut rest = &self.data[..self.at];
        while let Some(ff) = find_ff(rest) {
            out.extend_from_slice(&rest[..=ff]);
            out.push(0);
            rest = &rest[ff + 1..];
        }
        out.extend_from_slice(rest);
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!((bits.unread(), bits.end(3)), (0, end));
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
        assert_eq!((bits.unread(), bits.end(0)), (2, 5));
    }
}
