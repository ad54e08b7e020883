//! Here: Huffman tables in both directions: what the next bits stand for, and which bits stand for a symbol.
//! Not here: where tables come from, blocks, the larger tables of sequential scans (`lookup.rs`, `pieces.rs`).

use super::Unusual;

/// A table as a DHT segment has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// How many codes there are of 1 to 16 bits.
    pub(super) counts: [u8; 16],
    /// What they stand for; zeros behind the last.
    pub(super) symbols: [u8; 256],
}

/// What the symbols of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Sizes of differences.
    Dc,
    /// Runs and sizes.
    Ac,
}

/// The number that `size` bits stand for (ITU-T T.81, figure F.12).
#[inline(always)]
pub(super) fn extend(bits: u32, size: u32) -> i32 {
    if size == 0 || bits >> (size - 1) != 0 { bits as i32 } else { bits as i32 - (1 << size) + 1 }
}

/// The codes of a table by their lengths: finds any of them, slowly.
pub(super) struct Prefixes {
    symbols: [u8; 256],
    /// By length: the first 16-bit prefix beyond the codes of that length.
    bound: [u32; 17],
    /// By length: index of the symbol of the code 0.
    offset: [i32; 17],
}

impl Prefixes {
    pub(super) const NONE: Self = Self { symbols: [0; 256], bound: [0; 17], offset: [0; 17] };

    /// Passes each code, its length and its symbol to `each`. Refuses what libjpeg refuses: lengths that no
    /// prefix code has, a code of ones alone, differences of more than 15 bits.
    pub(super) fn new(
        table: &Table,
        class: Class,
        mut each: impl FnMut(u32, u32, u8),
    ) -> Result<Self, Unusual> {
        let mut prefixes = Self { symbols: table.symbols, bound: [0; 17], offset: [0; 17] };
        let (mut code, mut index) = (0u32, 0usize);
        for length in 1..=16u32 {
            prefixes.offset[length as usize] = index as i32 - code as i32;
            for _ in 0..table.counts[length as usize - 1] {
                let symbol = *table.symbols.get(index).ok_or(Unusual("a Huffman table of too many codes"))?;
                if code + 1 >= 1 << length || (symbol > 15 && class == Class::Dc) {
                    return Err(Unusual("an impossible Huffman table"));
                }
                each(code, length, symbol);
                code += 1;
                index += 1;
            }
            prefixes.bound[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(prefixes)
    }

    /// The symbol that the bits begin with, the next bit the highest, and the length of its code.
    pub(super) fn find(&self, bits: u64) -> Option<(u32, u32)> {
        let prefix = (bits >> 48) as u32;
        // Bounds grow with the length: that of the code is 1 more than there are bounds it does not keep. Asked all at
        // once, because where to stop would be a guess.
        let length = 1 + self.bound[1..].iter().map(|&bound| u32::from(prefix >= bound)).sum::<u32>();
        if length > 16 {
            return None;
        }
        let index = (prefix >> (16 - length)) as i32 + self.offset[length as usize];
        Some((self.symbols[(index & 0xff) as usize].into(), length))
    }
}

/// Of each symbol: code << 8 | bits; 0 for one that has none.
pub(super) struct Words([u32; 256]);

impl Words {
    pub(super) const NONE: Self = Self([0; 256]);

    pub(super) fn enter(&mut self, code: u32, length: u32, symbol: u8) {
        // Of two codes for one symbol encoders take the first, if any has such a table.
        let place = &mut self.0[usize::from(symbol)];
        *place = if *place == 0 { code << 8 | length } else { *place };
    }

    #[inline(always)]
    pub(super) fn of(&self, symbol: u32) -> u32 {
        self.0[(symbol & 0xff) as usize]
    }
}

/// Bits that one lookup sees: most codes.
const LOOKAHEAD: u32 = 11;

/// A table of a progressive scan, whose values depend on more than the symbol.
pub(super) struct Codes {
    prefixes: Prefixes,
    words: Words,
    /// Symbol << 8 | bits of the code; 0: a longer one.
    first: [u32; 1 << LOOKAHEAD],
}

impl Codes {
    /// The symbol that the bits begin with, the next bit the highest, and the length of its code.
    #[inline(always)]
    pub(super) fn look_up(&self, bits: u64) -> Option<(u32, u32)> {
        match self.first[(bits >> (64 - LOOKAHEAD)) as usize] {
            0 => self.prefixes.find(bits),
            found => Some((found >> 8, found & 0xff)),
        }
    }

    /// Code << 8 | bits of a symbol; 0 if it has none.
    #[inline(always)]
    pub(super) fn code(&self, symbol: u32) -> u32 {
        self.words.of(symbol)
    }
}

/// What is made of a table to use it.
pub(super) trait Made: Sized {
    /// What nothing has been made of yet.
    fn empty() -> Self;

    /// Makes it of a table, in the place of what it was of; if that fails, it is of none.
    fn make(&mut self, table: &Table, class: Class) -> Result<(), Unusual>;

    /// The same in new memory.
    #[cfg(test)]
    fn made(table: &Table, class: Class) -> Result<Box<Self>, Unusual> {
        let mut made = Box::new(Self::empty());
        made.make(table, class).map(|()| made)
    }
}

impl Made for Codes {
    fn empty() -> Self {
        Self { prefixes: Prefixes::NONE, words: Words::NONE, first: [0; 1 << LOOKAHEAD] }
    }

    fn make(&mut self, table: &Table, class: Class) -> Result<(), Unusual> {
        let Self { prefixes, words, first } = self;
        *words = Words::NONE;
        first.fill(0);
        *prefixes = Prefixes::new(table, class, |code, length, symbol| {
            words.enter(code, length, symbol);
            if let Some(spare) = LOOKAHEAD.checked_sub(length) {
                let from = (code << spare) as usize;
                first[from..from + (1 << spare)].fill(u32::from(symbol) << 8 | length);
            }
        })?;
        Ok(())
    }
}

/// Tables that have been made ready: the same few come up in file after file, or each file has its own.
pub(super) struct Cache<T> {
    made: Vec<(Class, Table, Box<T>)>,
    /// Those of no table, whose memory is for the next ones.
    spare: Vec<Box<T>>,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { made: Vec::new(), spare: Vec::new() }
    }
}

/// More than a file that encoders write has at a time; to make a table takes some microseconds.
const CACHED: usize = 16;

impl<T: Made> Cache<T> {
    /// Makes room for the tables of one scan, whose numbers then stay valid until the next one.
    pub(super) fn begin_scan(&mut self) {
        if self.made.len() > CACHED {
            self.spare.extend(self.made.drain(..).map(|(_, _, made)| made));
        }
    }

    /// The number of a table.
    pub(super) fn number(&mut self, table: &Table, class: Class) -> Result<usize, Unusual> {
        if let Some(number) = self.made.iter().position(|made| made.0 == class && made.1 == *table) {
            return Ok(number);
        }
        let mut made = self.spare.pop().unwrap_or_else(|| Box::new(T::empty()));
        made.make(table, class)?;
        self.made.push((class, *table, made));
        Ok(self.made.len() - 1)
    }

    pub(super) fn get(&self, number: usize) -> Option<&T> {
        self.made.get(number).map(|made| &*made.2)
    }
}
