//! Here: the segments of a JPEG between its scans: frame, tables, scan headers; what of them is unusual.
//! Not here: entropy-coded data, pixels, limits on size (`jpeg/header.rs` has those).
//!
//! Stricter than libjpeg wherever the two could differ: what is refused here is stored as it is, and what is not
//! must mean the same there.

use super::Unusual;
use super::codes::Table;
use super::coefficients::{Component, Transform};
use super::layout::{Layout, Plane};
use super::sparse::Blocks;

/// What the frame header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) progressive: bool,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) parts: Vec<FramePart>,
    /// Coding units: the blocks that hold one of each component, or more.
    pub(super) units_across: u32,
    pub(super) units_down: u32,
}

/// A component in the frame header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FramePart {
    pub(super) id: u8,
    pub(super) h: u8,
    pub(super) v: u8,
    /// Number of its quantisation table.
    table: usize,
    /// That table, as it is when the first scan of the component begins.
    quant: Option<[u16; 64]>,
    /// For each coefficient, how many low bits are still to come; `None`: all.
    missing: [Option<u8>; 64],
}

impl Frame {
    /// Blocks across and down that the pixels of a component need.
    pub(super) fn needed(&self, component: usize) -> (u32, u32) {
        let most = |factor: fn(&FramePart) -> u8| {
            self.parts.iter().map(|part| u32::from(factor(part))).max().unwrap_or(1)
        };
        let (h, v) = self.parts.get(component).map_or((1, 1), |part| (part.h.into(), part.v.into()));
        let needed = |side: u32, factor: u32, most: u32| (side * factor).div_ceil(8 * most);
        (needed(self.width, h, most(|part| part.h)), needed(self.height, v, most(|part| part.v)))
    }

    /// Blocks of a component, up to whole coding units.
    pub(super) fn blocks(&self, part: &FramePart) -> (u32, u32) {
        (self.units_across * u32::from(part.h), self.units_down * u32::from(part.v))
    }

    /// Of all components together.
    pub(super) fn coefficient_bytes(&self) -> u64 {
        let blocks = |part| Some(self.blocks(part)).map(|(x, y)| u64::from(x) * u64::from(y));
        128 * self.parts.iter().filter_map(blocks).sum::<u64>()
    }

    /// The components without any coefficient or step yet, in the memory of earlier ones.
    pub(super) fn components(&self, old: &mut Vec<Component>) -> Vec<Component> {
        let mut blocks = old.drain(..).map(|component| component.blocks).collect::<Vec<_>>().into_iter();
        let component = |part: &FramePart| {
            let (columns, rows) = self.blocks(part);
            let mut blocks = blocks.next().unwrap_or_default();
            blocks.clear();
            blocks.resize(columns as usize * rows as usize, [0; 64]);
            Component { id: part.id, h: part.h, v: part.v, quant: [0; 64], columns, rows, blocks }
        };
        self.parts.iter().map(component).collect()
    }

    /// The same as blocks that are zero, in the memory of earlier ones.
    pub(super) fn begin(&self, planes: &mut Vec<Blocks>) {
        planes.resize_with(self.parts.len(), Blocks::default);
        for (blocks, part) in planes.iter_mut().zip(&self.parts) {
            let ((columns, rows), &FramePart { id, h, v, .. }) = (self.blocks(part), part);
            blocks.begin(Plane { id, h, v, quant: [0; 64], columns: columns as usize }, rows as usize);
        }
    }

    /// Whether a layout has this size and these components.
    pub(super) fn is_of(&self, layout: &Layout<'_>) -> bool {
        let same = |(part, plane): (&FramePart, &Plane)| {
            let ((columns, rows), v) = (self.blocks(part), usize::from(plane.v));
            (part.id, part.h, part.v) == (plane.id, plane.h, plane.v)
                && (columns as usize, rows as usize) == (plane.columns, layout.bands() * v)
        };
        (self.width, self.height, self.parts.len()) == (layout.width, layout.height, layout.planes.len())
            && self.parts.iter().zip(&layout.planes).all(same)
    }

    /// The quantisation steps of each component; zeros if it is in no scan so far.
    pub(super) fn quants(&self) -> impl Iterator<Item = [u16; 64]> {
        self.parts.iter().map(|part| part.quant.unwrap_or([0; 64]))
    }
}

/// One scan, with the tables in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scan {
    pub(super) parts: Vec<ScanPart>,
    /// First and last coefficient in zigzag order.
    pub(super) from: u8,
    pub(super) to: u8,
    /// Low bits that were still missing before, and that are missing behind it.
    pub(super) high: u8,
    pub(super) low: u8,
    /// Coding units between two restart markers; 0: there are none.
    pub(super) restart: u32,
}

/// A component in a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ScanPart {
    /// Its place in the frame.
    pub(super) component: usize,
    pub(super) dc: Option<Table>,
    pub(super) ac: Option<Table>,
}

/// What follows in a file.
pub(super) enum Next {
    /// Entropy-coded data begin behind the header.
    Scan(Scan),
    /// The image is complete.
    End,
}

/// What the segments have said so far.
#[derive(Default)]
pub(super) struct Segments {
    pub(super) frame: Option<Frame>,
    quant: [Option<[u16; 64]>; 4],
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    restart: u32,
    jfif: bool,
    adobe: Option<u8>,
    transform: Option<Transform>,
}

impl Segments {
    /// Reads on at `bytes[*at]`, up to the next scan's data or behind the end of the image.
    pub(super) fn next(&mut self, bytes: &[u8], at: &mut usize) -> Result<Next, Unusual> {
        loop {
            let rest = bytes.get(*at..).unwrap_or_default();
            let (code, begin) = marker(rest).ok_or(Unusual("a file that ends without its end marker"))?;
            *at += begin;
            match code {
                0xd9 => return self.complete().map(|()| Next::End),
                0xd8 => return Err(Unusual("a second image begins")),
                // Restart markers that follow no scan, and TEM.
                0x01 | 0xd0..=0xd7 => continue,
                _ => {}
            }
            let length = bytes.get(*at..*at + 2).ok_or(Unusual("a segment that ends early"))?;
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            let payload = bytes.get(*at + 2..*at + length).ok_or(Unusual("a segment that ends early"))?;
            *at += length;
            match code {
                0xc0..=0xc2 => self.frame(code == 0xc2, payload)?,
                0xc4 => self.huffman(payload)?,
                0xda => return self.scan(payload).map(Next::Scan),
                0xdb => self.quantisation(payload)?,
                0xdd => match *payload {
                    [high, low] => self.restart = u16::from_be_bytes([high, low]).into(),
                    _ => return Err(Unusual("a restart interval that is no number")),
                },
                0xe0 => self.jfif |= payload.len() >= 14 && payload.starts_with(b"JFIF\0"),
                0xee if payload.len() >= 12 && payload.starts_with(b"Adobe") => {
                    self.adobe = payload.get(11).copied();
                }
                0xe1..=0xef | 0xfe => {}
                _ => return Err(Unusual("an unusual marker")),
            }
        }
    }

    fn frame(&mut self, progressive: bool, payload: &[u8]) -> Result<(), Unusual> {
        let impossible = Unusual("an unusual frame header");
        let &[8, h1, h0, w1, w0, count @ (1 | 3), ref parts @ ..] = payload else { return Err(impossible) };
        let (parts, rest) = parts.as_chunks::<3>();
        if self.frame.is_some() || parts.len() != usize::from(count) || !rest.is_empty() {
            return Err(impossible);
        }
        let mut frame = Frame {
            progressive,
            width: u16::from_be_bytes([w1, w0]).into(),
            height: u16::from_be_bytes([h1, h0]).into(),
            parts: Vec::new(),
            units_across: 0,
            units_down: 0,
        };
        for &[id, factors, table] in parts {
            let (h, v) = (factors >> 4, factors & 15);
            let known = frame.parts.iter().any(|part| part.id == id);
            if known || !(1..=4).contains(&h) || !(1..=4).contains(&v) || table > 3 {
                return Err(impossible);
            }
            let table = table.into();
            frame.parts.push(FramePart { id, h, v, table, quant: None, missing: [None; 64] });
        }
        let most = |factor: fn(&FramePart) -> u8| frame.parts.iter().map(factor).max().unwrap_or(1);
        let (h, v) = (u32::from(most(|part| part.h)), u32::from(most(|part| part.v)));
        (frame.units_across, frame.units_down) = (frame.width.div_ceil(8 * h), frame.height.div_ceil(8 * v));
        if frame.width == 0 || frame.height == 0 {
            return Err(impossible);
        }
        self.frame = Some(frame);
        Ok(())
    }

    fn huffman(&mut self, mut payload: &[u8]) -> Result<(), Unusual> {
        let impossible = Unusual("an impossible Huffman table");
        while let Some((&[class, ref counts @ ..], rest)) = payload.split_first_chunk::<17>() {
            let total = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
            let (listed, rest) = rest.split_at_checked(total).ok_or(impossible)?;
            let mut table = Table { counts: *counts, symbols: [0; 256] };
            table.symbols.get_mut(..total).ok_or(impossible)?.copy_from_slice(listed);
            let tables = if class >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(usize::from(class & !0x10)).ok_or(impossible)? = Some(table);
            payload = rest;
        }
        if payload.is_empty() { Ok(()) } else { Err(impossible) }
    }

    fn quantisation(&mut self, mut payload: &[u8]) -> Result<(), Unusual> {
        let impossible = Unusual("an impossible quantisation table");
        while let Some((&class, rest)) = payload.split_first() {
            let wide = match class >> 4 {
                0 => 1,
                1 => 2,
                _ => return Err(impossible),
            };
            let (listed, rest) = rest.split_at_checked(64 * wide).ok_or(impossible)?;
            let mut steps = [0; 64];
            for (step, &place) in listed.chunks_exact(wide).zip(&super::order::ZIGZAG) {
                steps[usize::from(place)] = step.iter().fold(0, |step, &byte| step << 8 | u16::from(byte));
            }
            *self.quant.get_mut(usize::from(class & 15)).ok_or(impossible)? = Some(steps);
            payload = rest;
        }
        Ok(())
    }

    fn scan(&mut self, payload: &[u8]) -> Result<Scan, Unusual> {
        let impossible = Unusual("an unusual scan header");
        let transform = self.colours()?;
        self.transform.get_or_insert(transform);
        let frame = self.frame.as_mut().ok_or(impossible)?;
        let (&count, rest) = payload.split_first().ok_or(impossible)?;
        let (listed, rest) = rest.split_at_checked(2 * usize::from(count)).ok_or(impossible)?;
        let &[from, to, bits] = rest else { return Err(impossible) };
        let mut parts: Vec<ScanPart> = Vec::new();
        for &[id, tables] in listed.as_chunks::<2>().0 {
            let component = frame.parts.iter().position(|part| part.id == id).ok_or(impossible)?;
            if parts.last().is_some_and(|last| last.component >= component) {
                return Err(impossible);
            }
            let part = &mut frame.parts[component];
            part.quant = part.quant.or(*self.quant.get(part.table).ok_or(impossible)?);
            part.quant.ok_or(Unusual("a missing quantisation table"))?;
            let table = |tables: &[Option<Table>; 4], number: u8| {
                tables.get(usize::from(number)).copied().ok_or(impossible)
            };
            parts.push(ScanPart {
                component,
                dc: table(&self.dc, tables >> 4)?,
                ac: table(&self.ac, tables & 15)?,
            });
        }
        let units =
            parts.iter().map(|part| &frame.parts[part.component]).map(|part| part.h * part.v).sum::<u8>();
        if parts.is_empty() || (parts.len() > 1 && units > 10) {
            return Err(impossible);
        }
        let mut scan = Scan { parts, from, to, high: bits >> 4, low: bits & 15, restart: self.restart };
        if !frame.progressive {
            // These numbers mean nothing here, and libjpeg passes over odd ones.
            (scan.from, scan.to, scan.high, scan.low) = (0, 63, 0, 0);
        }
        progress(frame, &scan)?;
        Ok(scan)
    }

    /// Which colours the components are, as libjpeg tells it.
    fn colours(&self) -> Result<Transform, Unusual> {
        let frame = self.frame.as_ref().ok_or(Unusual("a scan before the frame header"))?;
        let ids = frame.parts.iter().map(|part| part.id).collect::<Vec<_>>();
        Ok(match (ids.as_slice(), self.jfif, self.adobe) {
            ([_], ..) => Transform::Grey,
            (_, true, _) => Transform::YCbCr,
            (_, false, Some(0)) => Transform::Rgb,
            (b"RGB", false, None) => Transform::Rgb,
            _ => Transform::YCbCr,
        })
    }

    /// At the end: every bit of every coefficient has been in a scan.
    fn complete(&self) -> Result<(), Unusual> {
        let frame = self.frame.as_ref().ok_or(Unusual("a file without an image"))?;
        let whole = frame.parts.iter().all(|part| part.missing == [Some(0); 64]);
        if whole { Ok(()) } else { Err(Unusual("scans that are missing")) }
    }

    /// Known from the first scan on.
    pub(super) fn transform(&self) -> Option<Transform> {
        self.transform
    }
}

/// The next marker and where what follows it begins; junk before it is passed over, as libjpeg does.
fn marker(bytes: &[u8]) -> Option<(u8, usize)> {
    let mut at = 0;
    loop {
        at += crate::jpeg::find_ff(bytes.get(at..)?)?;
        match *bytes.get(at + 1)? {
            // A fill byte: the next one may be the marker.
            0xff => at += 1,
            0 => at += 2,
            code => return Some((code, at + 2)),
        }
    }
}

/// Whether a scan brings bits that are due, once each, and which those are.
fn progress(frame: &mut Frame, scan: &Scan) -> Result<(), Unusual> {
    let out_of_order = Unusual("scans that come twice or out of order");
    let Scan { from, to, high, low, ref parts, .. } = *scan;
    if frame.progressive {
        let band = if from == 0 { to == 0 } else { to >= from && to < 64 && parts.len() == 1 };
        if !band || low > 13 || (high != 0 && low + 1 != high) {
            return Err(out_of_order);
        }
    }
    for part in parts {
        let missing = &mut frame.parts[part.component].missing;
        if from > 0 && missing[0].is_none() {
            return Err(out_of_order);
        }
        for missing in missing.get_mut(from.into()..=to.into()).ok_or(out_of_order)? {
            if *missing != (high != 0).then_some(high) {
                return Err(out_of_order);
            }
            *missing = Some(low);
        }
    }
    Ok(())
}
