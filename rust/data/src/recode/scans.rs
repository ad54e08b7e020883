//! Here: the blocks of a scan in the order in which they are coded, and where restarts stand between them.
//! Not here: how a block is coded.

use super::Unusual;
use super::coefficients::Component;
use super::segments::{Frame, Scan};

/// Reads or writes blocks one after the other.
pub(super) trait Coder {
    /// One block; `slot` is the place of its component in the scan.
    fn block(&mut self, slot: usize, block: &mut [i16; 64]) -> Result<(), Unusual>;

    /// A restart interval is complete, and another one follows. `number` is that of the marker, 0 to 7.
    fn restart(&mut self, number: u8) -> Result<(), Unusual>;
}

/// Coding units, counted between restarts.
struct Units {
    every: u32,
    left: u32,
    number: u8,
}

impl Units {
    /// Before each unit.
    #[inline(always)]
    fn next(&mut self, coder: &mut impl Coder) -> Result<(), Unusual> {
        if self.every > 0 {
            if self.left == 0 {
                coder.restart(self.number)?;
                self.number = (self.number + 1) & 7;
                self.left = self.every;
            }
            self.left -= 1;
        }
        Ok(())
    }
}

/// Passes every block of a scan to a coder.
#[inline(always)]
pub(super) fn walk(
    frame: &Frame,
    scan: &Scan,
    components: &mut [Component],
    coder: &mut impl Coder,
) -> Result<(), Unusual> {
    let mut units = Units { every: scan.restart, left: scan.restart, number: 0 };
    let missing = Unusual("blocks that are not there");
    if let [part] = scan.parts[..] {
        // Alone in its scan a component has only the blocks that its pixels need.
        let component = components.get_mut(part.component).ok_or(missing)?;
        let (wide, high) = frame.needed(part.component);
        let columns = component.columns as usize;
        for row in 0..high as usize {
            let blocks =
                component.blocks.get_mut(row * columns..).and_then(|row| row.get_mut(..wide as usize));
            for block in blocks.ok_or(missing)? {
                units.next(coder)?;
                coder.block(0, block)?;
            }
        }
        return Ok(());
    }
    for down in 0..frame.units_down as usize {
        for across in 0..frame.units_across as usize {
            units.next(coder)?;
            for (slot, part) in scan.parts.iter().enumerate() {
                let component = components.get_mut(part.component).ok_or(missing)?;
                let (h, v) = (usize::from(component.h), usize::from(component.v));
                for row in down * v..down * v + v {
                    let first = row * component.columns as usize + across * h;
                    let blocks = component.blocks.get_mut(first..first + h).ok_or(missing)?;
                    for block in blocks {
                        coder.block(slot, block)?;
                    }
                }
            }
        }
    }
    Ok(())
}
