//! Here: what the next bits of a sequential scan stand for: a code with its value, often two at once.
//! Not here: reading the bits, blocks.
//!
//! A chain of lookups is what reading takes its time for: each tells where the next one begins. So an entry says
//! as much as it can. Of a value that reaches beyond the bits that a lookup sees, it says what those bits alone
//! decide, and how many are to be added.

use super::Unusual;
use super::codes::{Class, Made, Prefixes, Table, extend};
use crate::ops::simd::{Simd, kernel};

/// Entries for DC codes: few, because they are used once in a block and share the cache with the others.
pub(super) type DcLookup = Lookup<{ 1 << 8 }>;

/// Entries for AC codes.
pub(super) type AcLookup = Lookup<AC_ENTRIES>;

const AC_ENTRIES: usize = 1 << 11;

/// Most bits that an entry may stand for; between two refills there are three times as many.
const MOST_BITS: u32 = 18;

/// Added to the step of a code that ends a block.
pub(super) const END_OF_BLOCK: u8 = 64;

/// The step of an entry that says nothing: beyond the end of any block.
const ESCAPE: u8 = 127;

/// Most places that an entry of two codes goes on, so that both have a bit in it.
const MOST_STEPS: u8 = 16;

/// What bits stand for, in one word: its loading is all that the next lookup waits for, and the lowest bits are
/// the count by which it shifts. From there on: 8 bits: how many bits of codes and values; 8: places from the last
/// coefficient to the last of these, and more at the end of the block; 16: a bit for each place that this goes on,
/// set where there is a value, the lowest the next place; 32: two values of 16 bits, less all of the bits as a number:
/// with them the first is complete, whatever was not seen of it. A second one is seen whole; where there is none, it
/// means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found(u64);

impl Found {
    fn new(bits: u8, step: u8, places: u16, values: [i16; 2], seen: u32) -> Self {
        let [first, second] = values.map(|value| u32::from(value.cast_unsigned()));
        let values = (first | second << 16).wrapping_sub(seen);
        Self(u64::from(bits) | u64::from(step) << 8 | u64::from(places) << 16 | u64::from(values) << 32)
    }

    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        self.0 as u32 & 63
    }

    #[inline(always)]
    pub(super) fn step(self) -> u32 {
        u32::from((self.0 >> 8) as u8)
    }

    #[inline(always)]
    pub(super) fn places(self) -> u64 {
        u64::from((self.0 >> 16) as u16)
    }

    /// The values of what was found in these bits, the next bit the highest.
    #[inline(always)]
    pub(super) fn values(self, bits: u64) -> [i16; 2] {
        let both = ((self.0 >> 32) as u32).wrapping_add((bits >> (self.0.wrapping_neg() & 63)) as u32);
        [both as i16, (both >> 16) as i16]
    }

    #[inline(always)]
    pub(super) fn escapes(self) -> bool {
        self.step() == ESCAPE.into()
    }
}

/// One code and its value, in the fields of [`Found`]: its value, with zeros for the bits that are not seen, is the
/// lower one. No bits: none begins so, or it is a longer one.
#[derive(Debug, Clone, Copy)]
struct Single(u64);

impl Single {
    const NONE: Self = Self((ESCAPE as u64) << 8);

    fn new(bits: u32, step: u8, value: i16) -> Self {
        // The end of a block has no place, nor has a run of zeros.
        let places = if value == 0 { 0 } else { 1 << (step - 1) };
        Self(Found::new(bits as u8, step, places, [value, 0], 0).0)
    }

    #[inline(always)]
    fn bits(self) -> u32 {
        Found(self.0).bits()
    }

    /// What an entry says; `seen` are as many bits as it stands for.
    #[inline(always)]
    fn found(self, seen: u64) -> Found {
        Found(self.0.wrapping_sub(seen << 32))
    }
}

/// Of [`Found`]: where its places are.
const PLACES: u64 = 0xffff << 16;

kernel! {
    /// What entries say for a code with a value and for whatever is behind it: what that begins with, too, if there is
    /// room for both. Each has as many bits behind the code as make up their number, `index` is the first of them.
    fn pairs / pairs_in(singles: &[Single; AC_ENTRIES], single: Single, index: usize, entries: &mut [Found]) {
        let Single(one) = single;
        let (left, goes) = (u64::from(entries.len().trailing_zeros()), one >> 8 & 0xff);
        for (behind, entry) in entries.iter_mut().enumerate() {
            // What is not seen are zeros here; a code that needs none of it is right.
            let Single(next) = singles[(behind << (one & 63)) & (AC_ENTRIES - 1)];
            let bits = next & 63;
            let step = goes + (next >> 8 & 0xff);
            // Numbers and no branch: whether there is room is a guess each time.
            let fits = (bits != 0) & (bits <= left) & (step % u64::from(END_OF_BLOCK) <= MOST_STEPS.into());
            let places = ((next & PLACES) << (goes & 63)) & PLACES;
            let both = one + (next & 0xffff) + places + (next >> 32 << 48);
            let (found, rest) = if fits { (both, left.wrapping_sub(bits)) } else { (one, left) };
            *entry = Single(found).found((index + behind) as u64 >> (rest & 63));
        }
    }
}

/// A table with an entry for whatever the next bits are.
pub(super) struct Lookup<const ENTRIES: usize> {
    prefixes: Prefixes,
    /// Whether no two of its codes stand for the same, so that who writes has no choice: each symbol has one
    /// code, and of the AC symbols without a value there are none but the end of a block and 16 zeros.
    pub(super) one_way: bool,
    pub(super) entries: [Found; ENTRIES],
    /// The lower 16 bits of each: all that the next lookup waits for, so small that it stays in the nearest cache.
    steps: [u16; ENTRIES],
}

impl<const ENTRIES: usize> Lookup<ENTRIES> {
    /// Bits that one lookup sees.
    const SEEN: u32 = ENTRIES.trailing_zeros();

    /// One code alone, whatever its length, of at least 31 bits.
    #[cold]
    pub(super) fn single(&self, bits: u64) -> Result<Found, Unusual> {
        let no_code = Unusual("a Huffman code that does not exist");
        let (symbol, length) = self.prefixes.find(bits).ok_or(no_code)?;
        let size = symbol & 15;
        let value = extend((bits << length >> 1 >> (63 - size)) as u32, size) as i16;
        Ok(Single::new(length + size, step_of(symbol), value).found(bits >> (64 - length - size)))
    }

    /// Where the entry is for what the bits begin with, the next bit the highest.
    #[inline(always)]
    pub(super) fn index(bits: u64) -> usize {
        (bits >> (64 - Self::SEEN)) as usize
    }

    /// Of an entry [`Found::step`] in the upper 8 bits and, above two others, [`Found::bits`]: sooner than the entry.
    #[inline(always)]
    pub(super) fn step(&self, index: usize) -> u16 {
        self.steps[index]
    }

    /// Enters a code wherever it is what an index begins with, if that shows as much of it as an entry needs.
    fn enter(singles: &mut [Single; ENTRIES], (code, length, symbol): (u32, u32, u8)) {
        let size = u32::from(symbol) & 15;
        let Some(spare) = Self::SEEN.checked_sub(length) else { return };
        // The first bit of a value is its sign.
        if (size > 0 && spare == 0) || length + size > MOST_BITS {
            return;
        }
        let seen = size.min(spare);
        for bits in 0..1u32 << seen {
            let value = extend(bits << (size - seen), size) as i16;
            let from = ((code << spare) + (bits << (spare - seen))) as usize;
            let all = singles.get_mut(from..from + (1 << (spare - seen))).unwrap_or_default();
            all.fill(Single::new(length + size, step_of(symbol.into()), value));
        }
    }

    /// Makes all entries of what they begin with.
    fn fill(&mut self, singles: &[Single; ENTRIES], class: Class) {
        let simd = Simd::detect();
        let mut index = 0;
        while let Some(&single) = singles.get(index) {
            let first = single.bits();
            // All that is seen, and zeros for what is not; or nothing.
            let (mut count, mut seen) = (1, index << first.saturating_sub(Self::SEEN));
            if let Some(left) = Self::SEEN.checked_sub(first).filter(|_| first > 0) {
                (count, seen) = (1 << left, index >> left);
            }
            let entries = self.entries.get_mut(index..index + count).unwrap_or_default();
            match singles.first_chunk() {
                Some(singles) if count > 1 && class == Class::Ac && Found(single.0).places() != 0 => {
                    pairs(simd, singles, single, index, entries);
                }
                _ => entries.fill(single.found(seen as u64)),
            }
            index += count;
        }
        for (step, entry) in self.steps.iter_mut().zip(&self.entries) {
            *step = entry.0 as u16;
        }
    }
}

/// How far a symbol of a sequential scan goes.
fn step_of(symbol: u32) -> u8 {
    if symbol & 15 != 0 || symbol >> 4 == 15 { (symbol >> 4) as u8 + 1 } else { END_OF_BLOCK }
}

impl<const ENTRIES: usize> Made for Lookup<ENTRIES> {
    fn empty() -> Self {
        let entries = [Single::NONE.found(0); ENTRIES];
        Self { prefixes: Prefixes::NONE, one_way: false, entries, steps: [0; ENTRIES] }
    }

    fn make(&mut self, table: &Table, class: Class) -> Result<(), Unusual> {
        let mut singles = [Single::NONE; ENTRIES];
        let (mut one_way, mut met) = (true, [false; 256]);
        self.prefixes = Prefixes::new(table, class, |code, length, symbol| {
            let odd = class == Class::Ac && symbol & 15 == 0 && ![0, 0xf0].contains(&symbol);
            one_way &= !odd && !std::mem::replace(&mut met[usize::from(symbol)], true);
            Self::enter(&mut singles, (code, length, symbol));
        })?;
        self.one_way = one_way;
        self.fill(&singles, class);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Random, table};
    use super::*;

    /// One code after the other, as the standard describes it: bits, step, value.
    fn one(prefixes: &Prefixes, bits: u64) -> Option<(u32, u32, i32)> {
        let (symbol, length) = prefixes.find(bits)?;
        let size = symbol & 15;
        let value = if size == 0 { 0 } else { extend((bits << length >> (64 - size)) as u32, size) };
        Some((length + size, step_of(symbol).into(), value))
    }

    #[test]
    fn an_entry_says_what_its_codes_say_one_by_one() {
        let mut random = Random(21);
        let (mut pairs, mut ends, mut partly, mut escapes) = (0, 0, 0, 0);
        for case in 0..if cfg!(miri) { 2 } else { 40 } {
            let class = [Class::Dc, Class::Ac][case % 2];
            let table = table(&mut random, class);
            let lookup = AcLookup::made(&table, class).unwrap();
            // Every entry, with any bits behind what it sees.
            for index in (0..AC_ENTRIES as u64).step_by(if cfg!(miri) { 16 } else { 1 }) {
                let behind = (0..3).fold(0, |bits, _| bits << 24 | u64::from(random.next()));
                let bits = index << (64 - AcLookup::SEEN) | behind >> AcLookup::SEEN;
                let found = lookup.entries[AcLookup::index(bits)];
                let first = one(&lookup.prefixes, bits);
                if found.escapes() {
                    escapes += 1;
                    let single = lookup.single(bits).ok();
                    assert_eq!(
                        single.map(|found| (found.bits(), found.step())),
                        first.map(|one| (one.0, one.1))
                    );
                    assert_eq!(single.map(|found| i32::from(found.values(bits)[0])), first.map(|one| one.2));
                    continue;
                }
                let first = first.unwrap();
                let mut expected = (first.0, first.1, u64::from(first.2 != 0) << (first.1 - 1), first.2, 0);
                if found.bits() != first.0 {
                    let second = one(&lookup.prefixes, bits << first.0).unwrap();
                    expected.0 += second.0;
                    expected.1 += second.1;
                    if second.2 == 0 {
                        assert_eq!(second.1, END_OF_BLOCK.into(), "zeros are never a second code");
                        ends += 1;
                    } else {
                        expected.2 |= 1 << (expected.1 - 1);
                    }
                    expected.4 = second.2;
                    pairs += 1;
                }
                partly += usize::from(first.0 > AcLookup::SEEN);
                let mut values = found.values(bits).map(i32::from);
                if found.bits() == first.0 {
                    values[1] = 0;
                }
                assert_eq!(
                    (found.bits(), found.step(), found.places(), values[0], values[1]),
                    expected,
                    "case {case}"
                );
                assert!(found.bits() <= MOST_BITS && (class == Class::Ac || expected.4 == 0));
            }
        }
        let enough = pairs > 100 && ends > 20 && partly > 100 && escapes > 100;
        assert!(cfg!(miri) || enough, "{pairs} {ends} {partly} {escapes}");
    }
}
