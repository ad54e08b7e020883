//! Here: which coefficients libjpeg-turbo's own arithmetic is up to, so that all of its code gives the same pixels.
//! Not here: what becomes of the others (they stay in files as they are).

use super::super::coefficients::{Coefficients, Component};
use super::super::expand::natural;
use super::super::order::{Block, PAIRED, ZIGZAG};
use super::super::simd::Steps;
use crate::ops::simd::{Simd, Vector, kernel};

/// Largest sum of |coefficient x step| in two columns of a block at which no 16 bits of libjpeg-turbo's SIMD code
/// overflow. The first pass multiplies by at most 1.3871 * 4 (and rounds), the second adds pairs of its results.
const MOST_OF_TWO_COLUMNS: u32 = 5900;

/// Largest |DC x step|: at an eighth of the scale libjpeg looks up an eighth of it in a table that wraps at 512.
const MOST_DC: u32 = 4088;

/// Of coefficients that are not.
pub(crate) const NOT_FAITHFUL: &str = "coefficients with which libjpeg's own arithmetic overflows";

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

/// The quantisation steps of a component, to ask the same of blocks in paired order.
pub(crate) struct PairedSteps {
    natural: [u16; 64],
    /// `None` if a step is too large for [`allow`](Self::allow) to be quick.
    paired: Option<[i16; 64]>,
    /// The same in zigzag order, for [`plainly_allow`](Self::plainly_allow).
    zigzag: Option<[u8; 64]>,
}

impl PairedSteps {
    pub(crate) fn new(natural: &[u16; 64]) -> Self {
        let small = natural.iter().all(|&step| step < 256);
        Self {
            natural: *natural,
            paired: small.then(|| PAIRED.map(|place| natural[usize::from(place)] as i16)),
            zigzag: small.then(|| ZIGZAG.map(|place| natural[usize::from(place)] as u8)),
        }
    }

    /// Whether a block is tame beyond doubt, as nearly all are, told without the block: from the places and values of
    /// all but the first coefficient, none of which is wide. [`allow`](Self::allow) knows of the others.
    #[inline(always)]
    pub(crate) fn plainly_allow<V: Steps>(&self, (bitmap, values): (u64, &[u8; 64]), dc: i16) -> bool {
        let first = u32::from(dc.unsigned_abs()) * u32::from(self.natural[0]);
        let all = self.zigzag.as_ref().and_then(|steps| V::weigh(bitmap, values, steps));
        // Behind the values that a damaged band has there may be any: their sum, below zero, is a huge one.
        first <= MOST_DC && all.is_some_and(|all| all <= MOST_OF_TWO_COLUMNS - first)
    }

    /// Whether a block is tame. Its first coefficient is `dc`, whatever the block has there; the others have 8
    /// bits, unless `is_wide`. (It is not written into the block before, because vectors of what has just been written
    /// in parts are slow to load.)
    #[inline(always)]
    pub(crate) fn allow(&self, block: &Block, dc: i16, is_wide: bool) -> bool {
        let first = u32::from(dc.unsigned_abs()) * u32::from(self.natural[0]);
        // Of the least number the magnitude has no room in 16 bits.
        let Some(steps) = self.paired.as_ref().filter(|_| !is_wide || !block.0.contains(&i16::MIN)) else {
            return self.allow_any(block, dc);
        };
        let mut all = 0;
        for (&value, &step) in block.0.iter().zip(steps) {
            // Of 16 bits each: one instruction multiplies and adds pairs.
            all += i32::from(value.wrapping_abs()) * i32::from(step);
        }
        // Nearly all blocks are; of the others two columns may be.
        first <= MOST_DC && (first + all.cast_unsigned() <= MOST_OF_TWO_COLUMNS || self.allow_any(block, dc))
    }

    #[cold]
    fn allow_any(&self, block: &Block, dc: i16) -> bool {
        let mut block = natural(block);
        block[0] = dc;
        tame(&block, &self.natural)
    }
}
