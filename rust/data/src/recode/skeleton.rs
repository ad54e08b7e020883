//! Here: what is kept of a JPEG besides its coefficients: every byte outside of entropy-coded data, and the choices
//! that encoders have inside of them; as bytes and back.
//! Not here: the coefficients, the member that both lie in.

use super::Unusual;
use super::entropy::Choices;
use super::progressive::Cuts;

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
    pub(super) fn next(&mut self, count: u32) -> Result<u8, Unusual> {
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

fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn number(bytes: &mut &[u8]) -> Result<u64, Unusual> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(DAMAGED)?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(DAMAGED)
}

const DAMAGED: Unusual = Unusual("a list that ends early");

/// How many things follow, of which each takes a byte at least.
fn count(bytes: &mut &[u8]) -> Result<usize, Unusual> {
    let count = number(bytes)?;
    usize::try_from(count).ok().filter(|&count| count <= bytes.len()).ok_or(DAMAGED)
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
                put_number(padding.listed.len() as u64, out);
                out.extend_from_slice(&padding.listed);
            }
        }
        put_number(cuts.at.len() as u64, out);
        let mut before = 0;
        for &at in &cuts.at {
            put_number(u64::from(at - before), out);
            before = at;
        }
        out.extend_from_slice(&self.outside);
    }

    /// From those bytes; nothing is allocated beyond four times their number.
    pub(super) fn parse(mut bytes: &'a [u8]) -> Result<Self, Unusual> {
        let (&kind, rest) = bytes.split_first().ok_or(DAMAGED)?;
        bytes = rest;
        let mut padding = Padding::default();
        match kind {
            ONES => {}
            ZEROS => padding.all = [true, false],
            LISTED => {
                let count = count(&mut bytes)?;
                let (listed, rest) = bytes.split_at(count);
                padding = Padding { all: [false; 2], listed: listed.to_vec(), used: 0 };
                bytes = rest;
            }
            _ => return Err(Unusual("an unknown kind of padding")),
        }
        let count = count(&mut bytes)?;
        let mut cuts = Vec::with_capacity(count);
        let mut at = 0u32;
        for _ in 0..count {
            let step = u32::try_from(number(&mut bytes)?).ok();
            at = step.and_then(|step| at.checked_add(step)).ok_or(DAMAGED)?;
            cuts.push(at);
        }
        let choices = Choices { padding, cuts: Cuts::new(cuts) };
        Ok(Self { choices, outside: bytes.into() })
    }
}
