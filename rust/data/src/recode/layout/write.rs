//! Here: coefficients to the bytes of a layout, and whether they may be kept so.
//! Not here: reading them.

use super::super::coefficients::{Coefficients, Component};
use super::super::order::ZIGZAG;
use super::{DC_WIDE, ESCAPED, LEAST_ESCAPED, LEAST_LARGE, VERSION, WIDE};

/// Largest sum of |coefficient x step| in two columns of a block at which no 16 bits of libjpeg-turbo's SIMD code
/// overflow. The first pass multiplies by at most 1.3871 * 4 (and rounds), the second adds pairs of its results.
const MOST_OF_TWO_COLUMNS: u32 = 5900;

/// Largest |DC x step|: at an eighth of the scale libjpeg looks up an eighth of it in a table that wraps at 512.
const MOST_DC: u32 = 4088;

/// Streams of one band in the making.
#[derive(Default)]
struct Band {
    codes: Nibbles,
    bitmaps: Nibbles,
    signs: Bits,
    large: Bits,
    magnitudes: Nibbles,
    escapes: Vec<u8>,
    wide: Vec<u8>,
    wides: usize,
    dc: Vec<u8>,
    dc_wide: Vec<u8>,
}

/// Four bits at a time, the lower half of a byte first.
#[derive(Default)]
struct Nibbles {
    bytes: Vec<u8>,
    count: usize,
}

impl Nibbles {
    fn push(&mut self, nibble: u8) {
        if self.count.is_multiple_of(2) {
            self.bytes.push(nibble);
        } else if let Some(last) = self.bytes.last_mut() {
            *last |= nibble << 4;
        }
        self.count += 1;
    }
}

/// Single bits, the lowest of a byte first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    count: usize,
}

impl Bits {
    fn push(&mut self, bit: bool) {
        if self.count.is_multiple_of(8) {
            self.bytes.push(0);
        }
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(bit) << (self.count % 8);
        }
        self.count += 1;
    }
}

/// Coefficients as a layout. Those of an image that libjpeg could have read are: width and height below 2^16,
/// sampling factors 1 to 4, as many blocks as that makes.
pub fn write(image: &Coefficients) -> Vec<u8> {
    let mut out = vec![VERSION, image.transform as u8];
    out.extend((image.width as u16).to_le_bytes());
    out.extend((image.height as u16).to_le_bytes());
    head(image, &mut out);
    let bands = image.components.first().map_or(0, |first| first.rows / u32::from(first.v).max(1));
    let bands: Vec<Vec<u8>> = (0..bands as usize).map(|band| write_band(&image.components, band)).collect();
    bands.iter().for_each(|band| number(band.len(), &mut out));
    bands.iter().for_each(|band| out.extend(band));
    out
}

fn head(image: &Coefficients, out: &mut Vec<u8>) {
    let mut tables: Vec<&[u16; 64]> = Vec::new();
    let mut components = Vec::new();
    for component in &image.components {
        let known = tables.iter().position(|table| **table == component.quant);
        let table = known.unwrap_or_else(|| {
            tables.push(&component.quant);
            tables.len() - 1
        });
        components.extend([component.id, component.h << 4 | component.v, table as u8]);
    }
    out.push(tables.len() as u8);
    for table in tables {
        if table.iter().all(|&step| step < 256) {
            out.push(0);
            out.extend(table.iter().map(|&step| step as u8));
        } else {
            out.push(1);
            out.extend(table.iter().flat_map(|step| step.to_le_bytes()));
        }
    }
    out.extend(components);
}

fn number(mut value: usize, out: &mut Vec<u8>) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

fn write_band(components: &[Component], band: usize) -> Vec<u8> {
    let mut streams = Band::default();
    for component in components {
        let (v, columns) = (usize::from(component.v), component.columns as usize);
        let mut above = 0;
        for row in band * v..(band + 1) * v {
            // The first of a row differs from the first of the row above, the others from their left.
            let mut before = above;
            for (column, block) in component.blocks[row * columns..][..columns].iter().enumerate() {
                streams.dc(block[0], before);
                before = block[0];
                above = if column == 0 { before } else { above };
                streams.block(block);
            }
        }
    }
    streams.bytes()
}

impl Band {
    fn dc(&mut self, value: i16, before: i16) {
        let difference = value.wrapping_sub(before);
        match i8::try_from(difference) {
            Ok(small) if small != DC_WIDE => self.dc.push(small as u8),
            _ => {
                self.dc.push(DC_WIDE as u8);
                self.dc_wide.extend(difference.to_le_bytes());
            }
        }
    }

    fn block(&mut self, block: &[i16; 64]) {
        let mut bitmap = 0_u64;
        for (place, &natural) in ZIGZAG.iter().enumerate().skip(1) {
            bitmap |= u64::from(block[usize::from(natural)] != 0) << (place - 1);
        }
        let mut rest = bitmap;
        while rest != 0 {
            let place = rest.trailing_zeros() as usize + 1;
            rest &= rest - 1;
            self.value(block[usize::from(ZIGZAG[place])]);
        }
        let nibbles = (64 - bitmap.leading_zeros()).div_ceil(4);
        let (code, nibbles) = if nibbles < 15 { (nibbles, nibbles) } else { (15, 16) };
        self.codes.push(code as u8);
        (0..nibbles).for_each(|i| self.bitmaps.push((bitmap >> (4 * i)) as u8 & 15));
    }

    fn value(&mut self, value: i16) {
        let magnitude = value.unsigned_abs();
        self.signs.push(value < 0);
        self.large.push(magnitude >= u16::from(LEAST_LARGE));
        if magnitude < u16::from(LEAST_LARGE) {
            return;
        }
        if magnitude < u16::from(LEAST_ESCAPED) {
            self.magnitudes.push(magnitude as u8 - LEAST_LARGE);
            return;
        }
        self.magnitudes.push(ESCAPED);
        if magnitude < u16::from(LEAST_ESCAPED) + u16::from(WIDE) {
            self.escapes.push(magnitude as u8 - LEAST_ESCAPED);
        } else {
            self.escapes.push(WIDE);
            self.wide.extend(value.to_le_bytes());
            self.wides += 1;
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        number(self.bitmaps.count, &mut out);
        number(self.signs.count, &mut out);
        number(self.magnitudes.count, &mut out);
        number(self.escapes.len(), &mut out);
        number(self.wides, &mut out);
        number(self.dc_wide.len() / 2, &mut out);
        for stream in [
            &self.codes.bytes,
            &self.dc,
            &self.dc_wide,
            &self.bitmaps.bytes,
            &self.signs.bytes,
            &self.large.bytes,
            &self.magnitudes.bytes,
            &self.escapes,
            &self.wide,
        ] {
            out.extend(stream);
        }
        out
    }
}

/// Whether these kernels give libjpeg-turbo's pixels for the image, whichever of its own code libjpeg-turbo runs.
/// Only coefficients that no encoder makes of pixels, and sampling factors that libjpeg refuses, are not.
pub fn faithful(image: &Coefficients) -> bool {
    let most = |of: fn(&Component) -> u8| image.components.iter().map(of).max().unwrap_or(1);
    let (h, v) = (most(|component| component.h), most(|component| component.v));
    image.components.iter().all(|component| {
        (1..=4).contains(&component.h)
            && (1..=4).contains(&component.v)
            && h % component.h == 0
            && v % component.v == 0
            && component.blocks.iter().all(|block| tame(block, &component.quant))
    })
}

fn tame(block: &[i16; 64], quant: &[u16; 64]) -> bool {
    let mut columns = [0_u32; 8];
    for (values, steps) in block.as_chunks::<8>().0.iter().zip(quant.as_chunks::<8>().0) {
        for ((column, value), &step) in columns.iter_mut().zip(values).zip(steps) {
            // Below 2^31 each, and 8 in a column: saturation keeps a huge one huge.
            *column = column.saturating_add(u32::from(value.unsigned_abs()) * u32::from(step));
        }
    }
    let (mut first, mut second) = (0, 0);
    for sum in columns {
        second = second.max(sum.min(first));
        first = first.max(sum);
    }
    let dc = u32::from(block[0].unsigned_abs()) * u32::from(quant[0]);
    first.saturating_add(second) <= MOST_OF_TWO_COLUMNS && dc <= MOST_DC
}
