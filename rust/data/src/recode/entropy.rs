//! Here: what reading and writing the scans of a JPEG have in common.
//! Not here: either (`reading.rs`, `writing.rs`), the codes of one block, what is kept besides the coefficients.

use super::Unusual;
use super::bits::{Bits, Writer};
use super::codes::{Cache, Class, Codes, Made, Table};
use super::expand::{Expander, Heads};
use super::lookup::{AcLookup, DcLookup};
use super::pieces::Pieces;
use super::progressive::Cuts;
use super::segments::{Frame, Scan, ScanPart};
use super::sequential::Queue;
use super::skeleton::Padding;

/// What reading and writing need again and again.
#[derive(Default)]
pub(super) struct Tools {
    pub(super) bits: Bits,
    pub(super) writer: Writer,
    pub(super) heads: Heads,
    pub(super) expander: Expander,
    pub(super) queue: Queue,
    pub(super) dc: Cache<DcLookup>,
    pub(super) ac: Cache<AcLookup>,
    pub(super) pieces: Cache<Pieces>,
    pub(super) codes: Cache<Codes>,
}

/// What else there is to know of entropy-coded data.
#[derive(Default)]
pub(super) struct Choices {
    /// Of the bits that fill up the last byte of each segment.
    pub(super) padding: Padding,
    /// Of where runs end.
    pub(super) cuts: Cuts,
}

const MISSING: Unusual = Unusual("a missing Huffman table");

/// A scan's tables by its components, made ready; the first one's where there are fewer than four.
pub(super) fn ready<'a, T: Made>(
    cache: &'a mut Cache<T>,
    scan: &Scan,
    class: Class,
) -> Result<[&'a T; 4], Unusual> {
    let [numbers] = numbers(cache, scan, [class])?;
    numbered(cache, numbers)
}

/// The same for both tables of each component.
pub(super) fn both<'a, T: Made>(cache: &'a mut Cache<T>, scan: &Scan) -> Result<[[&'a T; 4]; 2], Unusual> {
    let [dc, ac] = numbers(cache, scan, [Class::Dc, Class::Ac])?;
    Ok([numbered(cache, dc)?, numbered(cache, ac)?])
}

fn numbers<T: Made, const CLASSES: usize>(
    cache: &mut Cache<T>,
    scan: &Scan,
    classes: [Class; CLASSES],
) -> Result<[[usize; 4]; CLASSES], Unusual> {
    cache.begin_scan();
    let mut numbers = [[0; 4]; CLASSES];
    for (numbers, class) in numbers.iter_mut().zip(classes) {
        for (slot, number) in numbers.iter_mut().enumerate() {
            let part = scan.parts.get(slot).or(scan.parts.first()).ok_or(MISSING)?;
            *number = cache.number(table(part, class).ok_or(MISSING)?, class)?;
        }
    }
    Ok(numbers)
}

fn numbered<T: Made>(cache: &Cache<T>, numbers: [usize; 4]) -> Result<[&T; 4], Unusual> {
    let first = cache.get(numbers[0]).ok_or(MISSING)?;
    Ok(numbers.map(|number| cache.get(number).unwrap_or(first)))
}

fn table(part: &ScanPart, class: Class) -> Option<&Table> {
    match class {
        Class::Dc => part.dc.as_ref(),
        Class::Ac => part.ac.as_ref(),
    }
}

/// The tables of a progressive scan by its components: those for DC, or those for AC, or none.
pub(super) fn progressive<'a>(
    cache: &'a mut Cache<Codes>,
    frame: &Frame,
    scan: &Scan,
) -> Result<Option<(Class, [&'a Codes; 4])>, Unusual> {
    debug_assert!(frame.progressive);
    let class = match (scan.from, scan.high) {
        (0, 0) => Class::Dc,
        (0, _) => return Ok(None),
        _ => Class::Ac,
    };
    Ok(Some((class, ready(cache, scan, class)?)))
}
