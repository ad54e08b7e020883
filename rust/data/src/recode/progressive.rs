//! Here: blocks of progressive scans: first bits of coefficients and later ones, runs of blocks that end early;
//! read and written.
//! Not here: which blocks, sequential scans.
//!
//! An encoder is free in one thing: where it ends a run of such blocks although the next block could be part of
//! it (libjpeg does after 32,767 blocks, and when it has put off some 900 bits). Those blocks are listed.

use super::Unusual;
use super::bits::{Bits, Writer};
use super::codes::{Codes, extend};
use super::order::ZIGZAG;
use super::segments::Scan;

/// The bits of coefficients that a scan is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    from: usize,
    to: usize,
    low: u32,
    refines: bool,
}

impl Band {
    pub(super) fn of(scan: &Scan) -> Self {
        let Scan { from, to, high, low, .. } = *scan;
        Self { from: from.into(), to: usize::from(to) + 1, low: low.into(), refines: high != 0 }
    }

    /// Places of the band in natural order.
    fn places(self) -> &'static [u8] {
        ZIGZAG.get(self.from..self.to).unwrap_or_default()
    }
}

/// Blocks whose end begins another run although the run before could have gone on, by their number among all
/// blocks of all such scans.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    pub(super) at: Vec<u32>,
    block: u32,
    /// While writing: how many of `at` have been met.
    met: usize,
}

impl Cuts {
    pub(super) fn new(at: Vec<u32>) -> Self {
        Self { at, ..Self::default() }
    }

    fn is_next(&mut self) -> bool {
        let cut = self.at.get(self.met) == Some(&self.block);
        self.met += usize::from(cut);
        self.block = self.block.wrapping_add(1);
        cut
    }
}

/// Reads the blocks of one scan.
pub(super) struct Reading {
    pub(super) band: Band,
    last: [i32; 4],
    /// Blocks that are still to end as the last one did.
    run: u32,
    /// The last block was the last of a run.
    ended: bool,
}

const NO_CODE: Unusual = Unusual("a Huffman code that does not exist");

impl Reading {
    pub(super) fn new(band: Band) -> Self {
        Self { band, last: [0; 4], run: 0, ended: false }
    }

    /// What a restart interval begins with.
    pub(super) fn restart(&mut self) {
        *self = Self::new(self.band);
    }

    fn symbol(input: &mut Bits, codes: &Codes) -> Result<(u32, u32), Unusual> {
        let mut state = input.state;
        state.refill(input.data());
        let (symbol, bits) = codes.look_up(state.bits).ok_or(NO_CODE)?;
        if input.overrun() {
            return Err(NO_CODE);
        }
        state.drop(bits);
        input.state = state;
        Ok((symbol >> 4, symbol & 15))
    }

    /// The first coefficient of a block.
    pub(super) fn dc(
        &mut self,
        input: &mut Bits,
        codes: Option<&Codes>,
        slot: usize,
        block: &mut [i16; 64],
    ) -> Result<(), Unusual> {
        let low = self.band.low;
        if self.band.refines {
            block[0] |= (input.take(1) << low) as i16;
            return Ok(());
        }
        let (run, size) = Self::symbol(input, codes.ok_or(NO_CODE)?)?;
        if run != 0 {
            return Err(NO_CODE);
        }
        let last = self.last.get_mut(slot).ok_or(NO_CODE)?;
        *last = last.wrapping_add(extend(input.take(size), size));
        let value = i16::try_from(*last).ok().filter(|value| value << low >> low == *value);
        block[0] = value.ok_or(Unusual("a coefficient of more than 16 bits"))? << low;
        Ok(())
    }

    /// Coefficients of the band.
    pub(super) fn ac(
        &mut self,
        input: &mut Bits,
        codes: &Codes,
        cuts: &mut Cuts,
        block: &mut [i16; 64],
    ) -> Result<(), Unusual> {
        let number = cuts.block;
        cuts.block = cuts.block.wrapping_add(1);
        let mut places = self.band.places().iter().map(|&place| usize::from(place) & 63);
        let ended = std::mem::replace(&mut self.ended, false);
        let mut first = true;
        let plus = 1i16 << self.band.low;
        while self.run == 0 {
            if places.len() == 0 {
                return Ok(());
            }
            let (run, size) = Self::symbol(input, codes)?;
            if size == 0 && run < 15 {
                self.run = (1 << run) + input.take(run);
                if first && ended {
                    cuts.at.push(number);
                }
                break;
            }
            first = false;
            let mut value = 0;
            if size > 0 {
                value = extend(input.take(size), size);
                if (self.band.refines && size != 1) || value.abs() >= 1 << (15 - self.band.low) {
                    return Err(Unusual("a coefficient of more bits than its scan may have"));
                }
            }
            if let Some(place) = self.pass(input, &mut places, run, block) {
                block[place] = (value as i16) << self.band.low;
            } else {
                return Err(Unusual("a block of more than 64 coefficients"));
            }
        }
        if self.band.refines {
            places.for_each(|place| refine(input, &mut block[place], plus));
        }
        self.run -= 1;
        self.ended = self.run == 0;
        Ok(())
    }

    /// Passes over `run` coefficients that are zero so far, and corrects the others; gives the next zero.
    fn pass(
        &self,
        input: &mut Bits,
        places: &mut impl Iterator<Item = usize>,
        run: u32,
        block: &mut [i16; 64],
    ) -> Option<usize> {
        if !self.band.refines {
            return places.nth(run as usize);
        }
        let mut run = run;
        places.find(|&place| {
            if block[place] != 0 {
                refine(input, &mut block[place], 1 << self.band.low);
                return false;
            }
            let found = run == 0;
            run = run.saturating_sub(1);
            found
        })
    }
}

/// Reads one more bit of a coefficient that is not zero.
fn refine(input: &mut Bits, value: &mut i16, plus: i16) {
    if *value != 0 && input.take(1) == 1 && *value & plus == 0 {
        *value = if *value > 0 { value.wrapping_add(plus) } else { value.wrapping_sub(plus) };
    }
}

/// Places of a band by what a scan knows of them, the lowest bit the band's first.
struct Masks {
    /// Not zero by now.
    known: u64,
    /// Not zero for the first time.
    fresh: u64,
}

impl Masks {
    fn of(block: &[i16; 64], band: Band) -> Self {
        let (mut known, mut ones) = (0, 0);
        for (at, &place) in band.places().iter().enumerate() {
            let magnitude = block[usize::from(place) & 63].unsigned_abs() >> band.low;
            known |= u64::from(magnitude != 0) << at;
            ones |= u64::from(magnitude == 1) << at;
        }
        Self { known, fresh: if band.refines { ones } else { known } }
    }
}

/// Writes the blocks of one scan.
pub(super) struct Writing {
    pub(super) band: Band,
    last: [i32; 4],
    run: u32,
    /// Bits that correct coefficients of the run's blocks, put off to its end.
    put_off: Vec<u8>,
    /// The same of this block up to the next symbol.
    own: Vec<u8>,
}

const NO_SYMBOL: Unusual = Unusual("a symbol without a Huffman code");

impl Writing {
    pub(super) fn new(band: Band) -> Self {
        Self { band, last: [0; 4], run: 0, put_off: Vec::new(), own: Vec::new() }
    }

    /// The end of a restart interval, or of the scan.
    pub(super) fn restart(&mut self, output: &mut Writer, codes: Option<&Codes>) -> Result<(), Unusual> {
        if let Some(codes) = codes {
            self.end_run(output, codes)?;
        }
        *self = Self::new(self.band);
        Ok(())
    }

    fn symbol(
        output: &mut Writer,
        codes: &Codes,
        symbol: u32,
        (value, bits): (u32, u32),
    ) -> Result<(), Unusual> {
        let code = codes.code(symbol);
        if code == 0 {
            return Err(NO_SYMBOL);
        }
        let low = u64::from(value) & ((1 << bits) - 1);
        output.put(u64::from(code >> 8) << bits | low, (code & 0xff) + bits);
        Ok(())
    }

    fn correct(output: &mut Writer, put_off: &mut Vec<u8>) {
        for bit in put_off.drain(..) {
            output.put(bit.into(), 1);
        }
    }

    fn end_run(&mut self, output: &mut Writer, codes: &Codes) -> Result<(), Unusual> {
        if self.run > 0 {
            let bits = self.run.ilog2();
            if bits > 14 {
                return Err(NO_SYMBOL);
            }
            Self::symbol(output, codes, bits << 4, (self.run, bits))?;
            Self::correct(output, &mut self.put_off);
            self.run = 0;
        }
        Ok(())
    }

    /// The first coefficient of a block.
    pub(super) fn dc(
        &mut self,
        output: &mut Writer,
        codes: Option<&Codes>,
        slot: usize,
        block: &[i16; 64],
    ) -> Result<(), Unusual> {
        let value = i32::from(block[0] >> self.band.low);
        if self.band.refines {
            output.put(value as u64 & 1, 1);
            return Ok(());
        }
        let last = self.last.get_mut(slot).ok_or(NO_SYMBOL)?;
        let difference = value - std::mem::replace(last, value);
        let size = 32 - difference.unsigned_abs().leading_zeros();
        let low = if difference < 0 { difference - 1 } else { difference };
        if size > 15 {
            return Err(NO_SYMBOL);
        }
        Self::symbol(output, codes.ok_or(NO_SYMBOL)?, size, (low as u32, size))
    }

    /// Coefficients of the band.
    pub(super) fn ac(
        &mut self,
        output: &mut Writer,
        codes: &Codes,
        cuts: &mut Cuts,
        block: &[i16; 64],
    ) -> Result<(), Unusual> {
        let low = self.band.low;
        let cut = cuts.is_next();
        let places = self.band.places();
        let Masks { known, fresh } = Masks::of(block, self.band);
        let end = 64 - fresh.leading_zeros() as usize;
        // Where the run of zeros begins that is going on.
        let mut from = 0;
        let mut left = known;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            left &= left - 1;
            let Some(&place) = places.get(at) else { break };
            let value = block[usize::from(place) & 63];
            while at - from > 15 && at < end {
                self.end_run(output, codes)?;
                Self::symbol(output, codes, 0xf0, (0, 0))?;
                Self::correct(output, &mut self.own);
                from += 16;
            }
            let known = value.unsigned_abs() >> low;
            if fresh >> at & 1 == 0 {
                // One more place that no run of zeros counts.
                self.own.push((known & 1) as u8);
                from += 1;
                continue;
            }
            self.end_run(output, codes)?;
            let size = 16 - known.leading_zeros();
            let number = i32::from(known);
            let number = if self.band.refines {
                i32::from(value > 0)
            } else if value < 0 {
                !number
            } else {
                number
            };
            if size > 15 {
                return Err(NO_SYMBOL);
            }
            Self::symbol(output, codes, ((at - from) as u32) << 4 | size, (number as u32, size))?;
            Self::correct(output, &mut self.own);
            from = at + 1;
        }
        if from < places.len() || !self.own.is_empty() {
            if cut {
                self.end_run(output, codes)?;
            }
            self.run += 1;
            self.put_off.append(&mut self.own);
        }
        Ok(())
    }
}
