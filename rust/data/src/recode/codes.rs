//! Here: Huffman tables in both directions: what the next bits stand for, and which bits stand for a symbol.
//! Not here: where tables come from, blocks.

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
pub(super) enum Kind {
    /// Sizes of differences.
    Dc,
    /// Runs and sizes of a sequential scan, of which lookups also give the value.
    Ac,
    /// Sizes of differences in a progressive scan.
    PlainDc,
    /// Runs and sizes of a progressive scan, whose values depend on more than the symbol.
    PlainAc,
}

/// Bits that one lookup sees: most codes, and for [`Kind::Dc`] and [`Kind::Ac`] the value behind them.
const LOOKAHEAD: u32 = 11;

/// An entry whose code or value does not fit into the lookahead, and is looked up again in [`Codes::further`].
const ESCAPE: u32 = 0x80;

/// Added to the step of the code that ends a block.
pub(super) const END_OF_BLOCK: u32 = 128;

/// A code with what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found(u32);

impl Found {
    /// Bits of the code, and of its value if it has one; 0: there is no such code.
    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        self.0 & 0x3f
    }

    /// Places from the last coefficient to this one.
    #[inline(always)]
    pub(super) fn step(self) -> u32 {
        self.0 >> 8 & 0xff
    }

    /// The coefficient, or the difference.
    #[inline(always)]
    pub(super) fn value(self) -> i16 {
        (self.0 >> 16) as i16
    }

    /// Of [`Kind::PlainDc`] and [`Kind::PlainAc`].
    #[inline(always)]
    pub(super) fn symbol(self) -> u8 {
        (self.0 >> 8) as u8
    }

    #[inline(always)]
    pub(super) fn escapes(self) -> bool {
        self.0 & ESCAPE != 0
    }
}

/// A table, ready for use.
pub(super) struct Codes {
    table: Table,
    kind: Kind,
    first: Box<[u32; 1 << LOOKAHEAD]>,
    /// By length: the first 16-bit prefix beyond the codes of that length.
    bound: [u32; 17],
    /// By length: index of the symbol of the code 0.
    offset: [i32; 17],
    /// By symbol: code << 8 | bits; 0 for one that has none.
    code: [u32; 256],
}

/// The number that `size` bits stand for (ITU-T T.81, figure F.12).
#[inline(always)]
pub(super) fn extend(bits: u32, size: u32) -> i32 {
    if size == 0 || bits >> (size - 1) != 0 { bits as i32 } else { bits as i32 - (1 << size) + 1 }
}

/// How far a symbol of a sequential scan goes.
fn step_of(symbol: u32) -> u32 {
    if symbol & 15 != 0 || symbol >> 4 == 15 { (symbol >> 4) + 1 } else { 1 + END_OF_BLOCK }
}

impl Codes {
    /// Refuses what libjpeg refuses: lengths that no prefix code has, a code of ones alone, differences of
    /// more than 15 bits.
    pub(super) fn new(table: &Table, kind: Kind) -> Result<Self, Unusual> {
        let mut codes = Self {
            table: *table,
            kind,
            first: Box::new([ESCAPE; 1 << LOOKAHEAD]),
            bound: [0; 17],
            offset: [0; 17],
            code: [0; 256],
        };
        let (mut code, mut index) = (0u32, 0usize);
        for length in 1..=16u32 {
            codes.offset[length as usize] = index as i32 - code as i32;
            for _ in 0..table.counts[length as usize - 1] {
                let symbol = *table.symbols.get(index).ok_or(Unusual("a Huffman table of too many codes"))?;
                if code + 1 >= 1 << length || (symbol > 15 && matches!(kind, Kind::Dc | Kind::PlainDc)) {
                    return Err(Unusual("an impossible Huffman table"));
                }
                // Of two codes for one symbol encoders take the first, if any has such a table.
                let place = &mut codes.code[usize::from(symbol)];
                *place = if *place == 0 { code << 8 | length } else { *place };
                if length <= LOOKAHEAD {
                    codes.enter(code << (LOOKAHEAD - length), length, symbol.into());
                }
                code += 1;
                index += 1;
            }
            codes.bound[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(codes)
    }

    pub(super) fn is(&self, table: &Table, kind: Kind) -> bool {
        self.kind == kind && self.table == *table
    }

    /// Whether values are left to the caller.
    fn is_plain(&self) -> bool {
        matches!(self.kind, Kind::PlainDc | Kind::PlainAc)
    }

    /// Entries for a code of `length` bits, from the first index that begins with it.
    fn enter(&mut self, from: u32, length: u32, symbol: u32) {
        let spare = LOOKAHEAD - length;
        let (from, size) = (from as usize, symbol & 15);
        if self.is_plain() {
            self.first[from..from + (1 << spare)].fill(symbol << 8 | length);
        } else if size > spare {
            let entry = size << 16 | step_of(symbol) << 8 | ESCAPE | length;
            self.first[from..from + (1 << spare)].fill(entry);
        } else {
            for bits in 0..1u32 << size {
                let entry = (extend(bits, size) as u32) << 16 | step_of(symbol) << 8 | (length + size);
                let from = from + ((bits as usize) << (spare - size));
                self.first[from..from + (1 << (spare - size))].fill(entry);
            }
        }
    }

    /// What the bits begin with, the next bit the highest. One that [`escapes`](Found::escapes) is to be
    /// passed to [`further`](Self::further) with at least 31 bits.
    #[inline(always)]
    pub(super) fn look_up(&self, bits: u64) -> Found {
        Found(self.first[(bits >> (64 - LOOKAHEAD)) as usize])
    }

    /// The rest of a lookup; one of 0 bits: there is no such code.
    #[inline(never)]
    pub(super) fn further(&self, bits: u64, found: Found) -> Found {
        let mut entry = found.0 & !ESCAPE;
        if entry == 0 {
            let prefix = (bits >> 48) as u32;
            let Some(length) = (LOOKAHEAD + 1..=16).find(|&length| prefix < self.bound[length as usize])
            else {
                return Found(0);
            };
            let index = (prefix >> (16 - length)) as i32 + self.offset[length as usize];
            let symbol = u32::from(self.table.symbols[(index & 0xff) as usize]);
            if self.is_plain() {
                return Found(symbol << 8 | length);
            }
            entry = (symbol & 15) << 16 | step_of(symbol) << 8 | length;
        }
        let (size, length) = (entry >> 16, entry & 0x3f);
        if size == 0 {
            return Found(entry);
        }
        let value = extend((bits << length >> (64 - size)) as u32, size) as u32;
        Found(value << 16 | (entry & 0xff00) | (length + size))
    }

    /// Code << 8 | bits of a symbol; 0 if it has none.
    #[inline(always)]
    pub(super) fn code(&self, symbol: u32) -> u32 {
        self.code[(symbol & 0xff) as usize]
    }
}

/// Tables that have been made ready: the same few come up in file after file.
#[derive(Default)]
pub(super) struct Cache {
    made: Vec<Codes>,
}

/// More than a file that encoders write has at a time; a table of 256 codes takes about 5 microseconds.
const CACHED: usize = 16;

impl Cache {
    /// Makes room for the tables of one scan, whose numbers then stay valid until the next one.
    pub(super) fn begin_scan(&mut self) {
        if self.made.len() > CACHED {
            self.made.clear();
        }
    }

    /// The number of a table.
    pub(super) fn number(&mut self, table: &Table, kind: Kind) -> Result<usize, Unusual> {
        if let Some(number) = self.made.iter().position(|codes| codes.is(table, kind)) {
            return Ok(number);
        }
        self.made.push(Codes::new(table, kind)?);
        Ok(self.made.len() - 1)
    }

    pub(super) fn get(&self, number: usize) -> Option<&Codes> {
        self.made.get(number)
    }
}
