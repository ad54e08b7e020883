//! Here: the blocks of a scan in the order in which they are coded, and where restarts stand between them.
//! Not here: how a block is coded.

use std::ops::Range;

use super::Unusual;
use super::coefficients::Component;
use super::segments::{Frame, Scan};

/// Reads or writes blocks one after the other.
pub(super) trait Coder {
    /// A row of coding units begins.
    fn band(&mut self, _band: usize) -> Result<(), Unusual> {
        Ok(())
    }

    /// Blocks side by side; `slot` is the place of their component in the scan.
    fn blocks(&mut self, slot: usize, row: usize, columns: Range<usize>) -> Result<(), Unusual>;

    /// All blocks of some coding units side by side; `factors` are those of the scan's components.
    #[inline(always)]
    fn units(&mut self, band: usize, units: Range<usize>, factors: &[(usize, usize)]) -> Result<(), Unusual> {
        for across in units {
            for (slot, &(h, v)) in factors.iter().enumerate() {
                for row in band * v..band * v + v {
                    self.blocks(slot, row, across * h..across * h + h)?;
                }
            }
        }
        Ok(())
    }

    /// A restart interval is complete, and another one follows. `number` is that of the marker, 0 to 7.
    fn restart(&mut self, number: u8) -> Result<(), Unusual>;
}

/// Blocks that a coder is passed, of all coefficients.
pub(super) fn blocks<'a>(
    components: &'a mut [Component],
    scan: &Scan,
    slot: usize,
    row: usize,
    columns: Range<usize>,
) -> Result<&'a mut [[i16; 64]], Unusual> {
    let component = scan.parts.get(slot).and_then(|part| components.get_mut(part.component));
    let row = component.and_then(|component| {
        let from = row * component.columns as usize;
        component.blocks.get_mut(from + columns.start..from + columns.end)
    });
    row.ok_or(Unusual("blocks that are not there"))
}

/// Coding units, counted between restarts.
struct Units {
    every: u32,
    left: u32,
    number: u8,
}

impl Units {
    /// How many of the next `most` units come without a restart between them; at least one.
    #[inline(always)]
    fn next(&mut self, most: usize, coder: &mut impl Coder) -> Result<usize, Unusual> {
        if self.every == 0 {
            return Ok(most);
        }
        if self.left == 0 {
            coder.restart(self.number)?;
            self.number = (self.number + 1) & 7;
            self.left = self.every;
        }
        let count = most.min(self.left as usize);
        self.left -= count as u32;
        Ok(count)
    }
}

/// Passes every block of a scan to a coder.
#[inline(always)]
pub(super) fn walk(frame: &Frame, scan: &Scan, coder: &mut impl Coder) -> Result<(), Unusual> {
    let mut units = Units { every: scan.restart, left: scan.restart, number: 0 };
    let missing = Unusual("blocks that are not there");
    if let [part] = scan.parts[..] {
        // Alone in its scan a component has only the blocks that its pixels need.
        let (wide, high) = frame.needed(part.component);
        let v = frame.parts.get(part.component).ok_or(missing)?.v;
        for row in 0..high as usize {
            if row.is_multiple_of(v.into()) {
                coder.band(row / usize::from(v))?;
            }
            let mut column = 0;
            while column < wide as usize {
                let count = units.next(wide as usize - column, coder)?;
                coder.blocks(0, row, column..column + count)?;
                column += count;
            }
        }
        return Ok(());
    }
    let mut factors = [(0, 0); 4];
    for (factors, part) in factors.iter_mut().zip(&scan.parts) {
        let part = frame.parts.get(part.component).ok_or(missing)?;
        *factors = (part.h.into(), part.v.into());
    }
    let factors = factors.get(..scan.parts.len()).ok_or(missing)?;
    for down in 0..frame.units_down as usize {
        coder.band(down)?;
        let (mut across, end) = (0, frame.units_across as usize);
        while across < end {
            let count = units.next(end - across, coder)?;
            coder.units(down, across..across + count, factors)?;
            across += count;
        }
    }
    Ok(())
}
