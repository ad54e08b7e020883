//! Here: coefficients to the bytes of a layout, and whether they may be kept so.
//! Not here: reading them.

use super::super::coefficients::{Coefficients, Component};
use super::super::compress::Compressor;
use super::{VERSION, number};
use crate::ops::simd::{Simd, Vector, kernel};

/// Largest sum of |coefficient x step| in two columns of a block at which no 16 bits of libjpeg-turbo's SIMD code
/// overflow. The first pass multiplies by at most 1.3871 * 4 (and rounds), the second adds pairs of its results.
const MOST_OF_TWO_COLUMNS: u32 = 5900;

/// Largest |DC x step|: at an eighth of the scale libjpeg looks up an eighth of it in a table that wraps at 512.
const MOST_DC: u32 = 4088;

/// Coefficients as a layout. Those of an image that libjpeg could have read are: width and height below 2^16,
/// sampling factors 1 to 4, as many blocks as that makes.
pub fn write(image: &Coefficients) -> Vec<u8> {
    let mut out = vec![VERSION, image.transform as u8];
    out.extend((image.width as u16).to_le_bytes());
    out.extend((image.height as u16).to_le_bytes());
    head(image, &mut out);
    let bands = image.components.first().map_or(0, |first| first.rows / u32::from(first.v).max(1));
    let (mut packed, mut compressor) = (Vec::new(), Compressor::default());
    for band in 0..bands as usize {
        let start = packed.len();
        compressor.band(Simd::detect(), &image.components, band, &mut packed);
        number(packed.len() - start, &mut out);
    }
    out.extend_from_slice(&packed);
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
            && all_tame(Simd::detect(), &component.blocks, &component.quant)
    })
}

kernel! {
    fn all_tame / all_tame_on[V: Vector](blocks: &[[i16; 64]], quant: &[u16; 64]) -> bool {
        for block in blocks {
            if !tame(block, quant) {
                return false;
            }
        }
        true
    }
}

/// Far beyond what is allowed; eight of them still have room in 32 bits.
const HUGE: u32 = 1 << 24;

#[inline(always)]
fn tame(block: &[i16; 64], quant: &[u16; 64]) -> bool {
    let mut columns = [0_u32; 8];
    for (values, steps) in block.as_chunks::<8>().0.iter().zip(quant.as_chunks::<8>().0) {
        for ((column, value), &step) in columns.iter_mut().zip(values).zip(steps) {
            *column += (u32::from(value.unsigned_abs()) * u32::from(step)).min(HUGE);
        }
    }
    let dc = u32::from(block[0].unsigned_abs()) * u32::from(quant[0]);
    if dc > MOST_DC {
        return false;
    }
    let mut all = 0;
    for sum in columns {
        all += sum;
    }
    all <= MOST_OF_TWO_COLUMNS || two_largest(columns) <= MOST_OF_TWO_COLUMNS
}

/// Their sum.
fn two_largest(columns: [u32; 8]) -> u32 {
    let (mut first, mut second) = (0, 0);
    for sum in columns {
        second = second.max(sum.min(first));
        first = first.max(sum);
    }
    first + second
}
