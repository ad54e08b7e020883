//! Here: what is kept of a JPEG besides its coefficients: every byte outside of entropy-coded data, and the choices
//! that encoders have inside of them; as bytes and back.
//! Not here: the coefficients, the member that both lie in.

use super::Unusual;
use super::entropy::Choices;
use super::layout::{Reader, damaged, number};
use super::progressive::Cuts;
use crate::error::Result;

/// The bits that fill up the last byte of each segment: ones in nearly every file.
#[derive(Debug)]
pub(super) struct Padding {
    all: [bool; 2],
    /// Of each segment.
    listed: Vec<u8>,
    /// While writing: how many of `listed` have been used.
    used: usize,
}

impl Default for Padding {
    fn default() -> Self {
        Self { all: [true; 2], listed: Vec::new(), used: 0 }
    }
}

impl Padding {
    /// Of the next segment.
    pub(super) fn push(&mut self, (count, value): (u32, u8)) {
        self.all[0] &= value == 0;
        self.all[1] &= u32::from(value) == (1 << count) - 1;
        self.listed.push(value);
    }

    /// The bits, of so many, of the next segment.
    pub(super) fn next(&mut self, count: u32) -> std::result::Result<u8, Unusual> {
        let ones = ((1u32 << count) - 1) as u8;
        match self.all {
            [_, true] => Ok(ones),
            [true, _] => Ok(0),
            _ => {
                let value = self.listed.get(self.used).copied().filter(|value| value & !ones == 0);
                self.used += 1;
                value.ok_or(Unusual("padding of bits that are not there"))
            }
        }
    }
}

/// What is kept.
pub(super) struct Skeleton<'a> {
    pub(super) choices: Choices,
    /// The file without its entropy-coded data.
    pub(super) outside: std::borrow::Cow<'a, [u8]>,
}

const ONES: u8 = 0;
const ZEROS: u8 = 1;
const LISTED: u8 = 2;

/// How many things follow, of which each takes a byte at least.
fn count(bytes: &mut Reader<'_>) -> Result<usize> {
    let count = bytes.number()?;
    if count > bytes.0.len() { Err(damaged("a list that ends early")) } else { Ok(count) }
}

impl<'a> Skeleton<'a> {
    /// The bytes of `docs/recode-format.md`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let Choices { padding, cuts } = &self.choices;
        match padding.all {
            [_, true] => out.push(ONES),
            [true, _] => out.push(ZEROS),
            _ => {
                out.push(LISTED);
                number(padding.listed.len(), out);
                out.extend_from_slice(&padding.listed);
            }
        }
        number(cuts.at.len(), out);
        let mut before = 0;
        for &at in &cuts.at {
            number((at - before) as usize, out);
            before = at;
        }
        out.extend_from_slice(&self.outside);
    }

    /// From those bytes; nothing is allocated beyond four times their number.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut bytes = Reader(bytes);
        let mut padding = Padding::default();
        match bytes.take(1)? {
            [ONES] => {}
            [ZEROS] => padding.all = [true, false],
            [LISTED] => {
                let count = count(&mut bytes)?;
                padding = Padding { all: [false; 2], listed: bytes.take(count)?.to_vec(), used: 0 };
            }
            _ => return Err(damaged("an unknown kind of padding")),
        }
        let count = count(&mut bytes)?;
        let mut cuts = Vec::with_capacity(count);
        let mut at = 0u32;
        for _ in 0..count {
            // A step has 28 bits.
            at = at.checked_add(bytes.number()? as u32).ok_or_else(|| damaged("blocks beyond the last"))?;
            cuts.push(at);
        }
        let choices = Choices { padding, cuts: Cuts::new(cuts) };
        Ok(Self { choices, outside: bytes.0.into() })
    }
}
