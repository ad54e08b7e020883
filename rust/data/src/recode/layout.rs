//! Here: coefficients as bytes that are quick to expand: their grammar, the bounds of every number in it.
//! Not here: writing them (`layout/write.rs`), values out of them (`expand.rs`), pixels (`pixels.rs`).
//!
//! `docs/recode-format.md` describes every byte. In short: a head (size, components, quantisation steps), the
//! length of each band (a row of coding units), and the bands. A band holds the coefficients of its blocks as
//! separate streams, because streams of one kind of thing expand many at a time: how long each block's bitmap
//! is, the bitmaps of coefficients that are not zero (zigzag order, 4 bits at a time), the signs of those
//! coefficients, a bit for each that is larger than 1, 4 bits for each of these, and rarely a byte or two more.

mod faithful;
mod write;

use super::coefficients::{Coefficients, Component, Transform};
use super::expand::{Expander, natural};
use crate::error::{Fault, Result};
use crate::limits::{MAX_COEFFICIENT_BYTES, MAX_PIXELS, MAX_SIDE_PX};
use crate::ops::simd::Simd;
pub use faithful::faithful;
pub(crate) use faithful::{NOT_FAITHFUL, PairedSteps};
pub(crate) use write::Writing;
pub use write::write;

/// The version of the grammar, its first byte.
pub const VERSION: u8 = 1;

/// A magnitude of 4 bits that says: see the escapes.
pub(crate) const ESCAPED: u8 = 15;

/// The least magnitude in the 4-bit stream, where it is 0.
pub(crate) const LEAST_LARGE: u8 = 2;

/// The least magnitude among the escapes, where it is 0.
pub(crate) const LEAST_ESCAPED: u8 = LEAST_LARGE + ESCAPED;

/// An escape from which on a magnitude is among the wide ones, of 16 bits: the others have room in 8 with a sign.
pub(crate) const WIDE: u8 = 128 - LEAST_ESCAPED;

/// A difference of DC values that says: see the wide ones.
pub(crate) const DC_WIDE: i8 = i8::MIN;

/// How many bits of a bitmap are there, by its code.
pub(crate) const BITMAPS: [u64; 16] = {
    let mut bits = [u64::MAX; 16];
    let mut code = 0;
    while code < 15 {
        bits[code] = (1 << (4 * code)) - 1;
        code += 1;
    }
    bits
};

pub(crate) fn damaged(reason: &str) -> crate::error::Error {
    Fault::Damaged { format: "recoded JPEG", reason: reason.to_owned() }.into()
}

/// What the layout says of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plane {
    pub(crate) id: u8,
    pub(crate) h: u8,
    pub(crate) v: u8,
    pub(crate) quant: [u16; 64],
    /// Blocks across, in whole coding units.
    pub(crate) columns: usize,
}

impl Default for Plane {
    fn default() -> Self {
        Self { id: 0, h: 1, v: 1, quant: [0; 64], columns: 0 }
    }
}

/// A layout whose head has been read and checked; its bands are when they are expanded.
#[derive(Debug, Clone)]
pub struct Layout<'a> {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// The colours.
    pub transform: Transform,
    pub(crate) planes: Vec<Plane>,
    /// Where each band begins in `data`, and where the last ends.
    starts: Vec<u32>,
    data: &'a [u8],
}

/// Bytes that are read from the front, never beyond their end.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| damaged("it ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn short(&mut self) -> Result<u16> {
        let bytes = self.take(2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// Seven bits in each byte, the lowest first, the eighth set while more follow; below 2^28.
    pub(crate) fn number(&mut self) -> Result<usize> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= usize::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(damaged("a number is too long"))
    }
}

impl<'a> Layout<'a> {
    /// Reads the head and the lengths of the bands. All of `bytes` must be a layout.
    ///
    /// # Errors
    /// `Damaged` where the bytes break the grammar, `Limit` where an image is larger than images may be. Nothing
    /// but the message is allocated for them.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader(bytes);
        if reader.byte()? != VERSION {
            return Err(damaged("its coefficients have a version that this build does not read"));
        }
        let transform = match reader.byte()? {
            0 => Transform::Grey,
            1 => Transform::YCbCr,
            2 => Transform::Rgb,
            _ => return Err(damaged("unknown colours")),
        };
        let (width, height) = (u32::from(reader.short()?), u32::from(reader.short()?));
        check_size(width, height)?;
        let mut planes = read_planes(&mut reader, transform)?;
        let planes = &mut planes[..transform.components()];
        let (across, down) = units(planes, width, height)?;
        let mut blocks = 0_u64;
        for plane in &mut *planes {
            plane.columns = across * usize::from(plane.h);
            blocks += plane.columns as u64 * (down * usize::from(plane.v)) as u64;
        }
        let limit = MAX_COEFFICIENT_BYTES;
        if blocks * 128 > limit {
            let what = "size of coefficients in bytes";
            return Err(Fault::Limit { what, found: blocks * 128, limit }.into());
        }
        // A block takes half a byte for its bitmap and one for its DC value at least.
        if blocks * 3 > 2 * bytes.len() as u64 {
            return Err(damaged("fewer bytes than blocks"));
        }
        let starts = read_starts(&mut reader, down)?;
        Ok(Self { width, height, transform, planes: planes.to_vec(), starts, data: reader.0 })
    }

    /// How many bands there are.
    pub(crate) fn bands(&self) -> usize {
        self.starts.len() - 1
    }

    /// The bytes of a band that there is.
    pub(crate) fn band(&self, index: usize) -> &'a [u8] {
        &self.data[self.starts[index] as usize..self.starts[index + 1] as usize]
    }

    /// The coefficients that were written.
    ///
    /// # Errors
    /// `Damaged` where the bytes of a band break the grammar.
    pub fn coefficients(&self) -> Result<Coefficients> {
        let simd = Simd::detect();
        let mut components: Vec<Component> = self.planes.iter().map(|plane| self.component(plane)).collect();
        let (mut expander, mut row) = (Expander::default(), Vec::new());
        for band in 0..self.bands() {
            expander.open(simd, self, band)?;
            for (plane, component) in self.planes.iter().zip(&mut components) {
                expander.component();
                for _ in 0..plane.v {
                    expander.row(simd, plane.columns, 0..plane.columns, &mut row)?;
                    component.blocks.extend(row.iter().take(plane.columns).map(natural));
                }
            }
            expander.close()?;
        }
        Ok(Coefficients { width: self.width, height: self.height, components, transform: self.transform })
    }

    fn component(&self, plane: &Plane) -> Component {
        let rows = self.bands() * usize::from(plane.v);
        Component {
            id: plane.id,
            h: plane.h,
            v: plane.v,
            quant: plane.quant,
            columns: plane.columns as u32,
            rows: rows as u32,
            blocks: Vec::with_capacity(rows * plane.columns),
        }
    }
}

/// Writes what `Reader::number` reads.
pub(crate) fn number(mut value: usize, out: &mut Vec<u8>) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

fn check_size(width: u32, height: u32) -> Result<()> {
    if width == 0 || height == 0 {
        return Err(damaged("zero width or height"));
    }
    for (what, found, limit) in [
        ("image width in pixels", u64::from(width), u64::from(MAX_SIDE_PX)),
        ("image height in pixels", u64::from(height), u64::from(MAX_SIDE_PX)),
        ("number of pixels", u64::from(width) * u64::from(height), MAX_PIXELS),
    ] {
        if found > limit {
            return Err(Fault::Limit { what, found, limit }.into());
        }
    }
    Ok(())
}

/// Tables of quantisation steps, and the components, each with one of them; as many as the colours have.
fn read_planes(reader: &mut Reader<'_>, transform: Transform) -> Result<[Plane; 3]> {
    let count = usize::from(reader.byte()?);
    if !(1..=transform.components()).contains(&count) {
        return Err(damaged("a wrong number of quantisation tables"));
    }
    let mut tables = [[0_u16; 64]; 3];
    for table in &mut tables[..count] {
        match reader.byte()? {
            0 => table.iter_mut().zip(reader.take(64)?).for_each(|(step, &byte)| *step = u16::from(byte)),
            1 => {
                for (step, &bytes) in table.iter_mut().zip(reader.take(128)?.as_chunks::<2>().0) {
                    *step = u16::from_le_bytes(bytes);
                }
            }
            _ => return Err(damaged("a quantisation table of unknown precision")),
        }
    }
    let mut planes = [Plane::default(); 3];
    for plane in &mut planes[..transform.components()] {
        let (id, sampling, table) = (reader.byte()?, reader.byte()?, usize::from(reader.byte()?));
        let (h, v) = (sampling >> 4, sampling & 15);
        if !(1..=4).contains(&h) || !(1..=4).contains(&v) {
            return Err(damaged("a sampling factor that is not 1 to 4"));
        }
        let quant = *tables[..count].get(table).ok_or_else(|| damaged("no such quantisation table"))?;
        *plane = Plane { id, h, v, quant, columns: 0 };
    }
    Ok(planes)
}

/// Where each of `count` bands begins in what follows their lengths, and where the last ends. The lengths are added
/// up before they have memory: a band without bytes costs one byte here and four there.
fn read_starts(reader: &mut Reader<'_>, count: usize) -> Result<Vec<u32>> {
    let mut rest = Reader(reader.0);
    let mut end = 0;
    for _ in 0..count {
        end += rest.number()?;
    }
    if end != rest.0.len() {
        let early = end > rest.0.len();
        return Err(damaged(if early { "it ends early" } else { "bytes behind the last row" }));
    }
    let mut starts = Vec::with_capacity(count + 1);
    let mut start = 0;
    starts.push(0);
    for _ in 0..count {
        start += reader.number()?;
        starts.push(start as u32);
    }
    Ok(starts)
}

/// Coding units across and down.
fn units(planes: &[Plane], width: u32, height: u32) -> Result<(usize, usize)> {
    let most = |of: fn(&Plane) -> u8| planes.iter().map(of).max().unwrap_or(1);
    let (h, v) = (most(|plane| plane.h), most(|plane| plane.v));
    if planes.iter().any(|plane| h % plane.h != 0 || v % plane.v != 0) {
        return Err(damaged("sampling factors that do not divide each other"));
    }
    let across = width.div_ceil(8 * u32::from(h)) as usize;
    let down = height.div_ceil(8 * u32::from(v)) as usize;
    Ok((across, down))
}

#[cfg(test)]
mod tests;
