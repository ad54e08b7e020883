//! Here: coefficients to the bytes of a layout.
//! Not here: reading them, whether they may be kept so.

use super::super::coefficients::Coefficients;
use super::super::compress::{Compressor, compress};
use super::super::sparse::Sparse;
use super::{VERSION, number};
use crate::ops::simd::Simd;

/// Writes layouts. Made to be reused.
#[derive(Default)]
pub(crate) struct Writing {
    compressor: Compressor,
    /// What stands before the bands.
    head: Vec<u8>,
    bands: Vec<u8>,
}

impl Writing {
    /// Coefficients as a layout, in two parts. Those of an image that libjpeg could have read are: width and height
    /// below 2^16, sampling factors 1 to 4, as many blocks as that makes.
    pub(crate) fn write(&mut self, image: &Sparse) -> [&[u8]; 2] {
        let Self { compressor, head, bands } = self;
        head.clear();
        bands.clear();
        head.extend([VERSION, image.transform as u8]);
        head.extend([image.width as u16, image.height as u16].map(u16::to_le_bytes).as_flattened());
        planes(image, head);
        let count = image.planes.first().map_or(0, |first| first.rows / usize::from(first.plane.v).max(1));
        for band in 0..count {
            let start = bands.len();
            compress(Simd::detect(), compressor, &image.planes, band, bands);
            number(bands.len() - start, head);
        }
        [head, bands]
    }
}

/// Coefficients as a layout.
pub fn write(image: &Coefficients) -> Vec<u8> {
    let mut sparse = Sparse::default();
    sparse.take(image);
    Writing::default().write(&sparse).concat()
}

/// Quantisation tables and components.
fn planes(image: &Sparse, out: &mut Vec<u8>) {
    let mut tables: Vec<&[u16; 64]> = Vec::new();
    let mut components = Vec::new();
    for blocks in &image.planes {
        let plane = &blocks.plane;
        let known = tables.iter().position(|table| **table == plane.quant);
        let table = known.unwrap_or_else(|| {
            tables.push(&plane.quant);
            tables.len() - 1
        });
        components.extend([plane.id, plane.h << 4 | plane.v, table as u8]);
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
