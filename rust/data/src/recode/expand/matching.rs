//! Here: whether the streams of a layout expand to the coefficients of an image, and libjpeg's arithmetic is up to them.
//! Not here: coefficients that nobody knows yet (`expand.rs`, `heads.rs`).
//!
//! What is expected is known, so that nothing is put together first: each stream is held against it.

use super::super::layout::{BITMAPS, DC_WIDE, Layout, Plane};
use super::super::pieces::WIDE_VALUE;
use super::super::sparse::{Blocks, Row, Sparse};
use super::{Block, Cursor, Expander, PairedSteps, Steps, Wide, widen, window};
use crate::ops::simd::{Simd, kernel};

/// Whether all of a layout's coefficients are those of an image, and libjpeg's arithmetic is up to them.
pub(crate) fn same(simd: Simd, band: &mut Expander, layout: &Layout<'_>, image: &Sparse) -> bool {
    let sizes = |(one, other): (&Plane, &Blocks)| {
        one.columns == other.plane.columns && layout.bands() * usize::from(one.v) == other.rows
    };
    let planes = || layout.planes.iter().zip(&image.planes);
    let steps: Vec<PairedSteps> = layout.planes.iter().map(|plane| PairedSteps::new(&plane.quant)).collect();
    layout.planes.len() == image.planes.len()
        && planes().all(sizes)
        && (0..layout.bands()).all(|number| {
            let opened = band.open(simd, layout, number).is_ok();
            let same = planes().zip(&steps).all(|((plane, blocks), steps)| {
                band.component();
                let v = usize::from(plane.v);
                let mut rows = (number * v..(number + 1) * v).map(|row| blocks.row(row));
                opened && rows.all(|row| same_row(simd, band, steps, &row))
            });
            same && band.close().is_ok()
        })
}

kernel! {
    /// Whether the next row of blocks is this one.
    fn same_row / same_row_in[V: Steps](band: &mut Expander, steps: &PairedSteps, row: &Row<'_>) -> bool {
        let before = band.cursor;
        let mut cursor = before;
        let same = same_firsts(band, &mut cursor, row.dc).is_some()
            && same_places::<V>(band, &mut cursor, row.bitmaps).is_some()
            && same_values(band, &mut cursor, row)
            && tame::<V>(band, before, steps, row).is_some();
        band.cursor = cursor;
        same
    }
}

/// Whether the first coefficients are the same.
#[inline(always)]
fn same_firsts(band: &Expander, cursor: &mut Cursor, firsts: &[i16]) -> Option<()> {
    let streams = band.streams;
    let differences = band.bytes[streams.dc..streams.dc_wide].get(cursor.block..)?.get(..firsts.len())?;
    let (&first, &found) = firsts.first().zip(differences.first())?;
    // Bits by which they differ, and any that are far: numbers and no branch, so that it is done with vectors.
    let differ = |before: i16, value: i16, found: u8| {
        let near = if found == FAR { 0 } else { -1 };
        (value.wrapping_sub(before) ^ i16::from(found.cast_signed())) & near
    };
    let (mut other, mut far) = (differ(cursor.above, first, found), u8::from(found == FAR));
    for ((&before, &value), &found) in firsts.iter().zip(&firsts[1..]).zip(&differences[1..]) {
        other |= differ(before, value, found);
        far |= u8::from(found == FAR);
    }
    let mut same = other == 0;
    if far != 0 {
        let mut before = cursor.above;
        for (&value, &found) in firsts.iter().zip(differences) {
            if found == FAR {
                let from = streams.dc_wide + 2 * cursor.dc_wide;
                let wide = band.bytes[..streams.bitmaps].get(from..)?.first_chunk()?;
                same &= before.wrapping_add(i16::from_le_bytes(*wide)) == value;
                cursor.dc_wide += 1;
            }
            before = value;
        }
    }
    cursor.above = first;
    same.then_some(())
}

/// A difference of first coefficients that is among the wide ones.
const FAR: u8 = DC_WIDE.cast_unsigned();

/// Whether the bitmaps are the same.
#[inline(always)]
fn same_places<V: Steps>(band: &Expander, cursor: &mut Cursor, bitmaps: &[u64]) -> Option<()> {
    if cursor.block + bitmaps.len() > band.counts.blocks {
        return None;
    }
    let (eights, rest) = bitmaps.as_chunks::<8>();
    let mut other = 0;
    for eight in eights {
        other |= eight_places::<V>(band, cursor, eight, 8)?;
    }
    if !rest.is_empty() {
        let mut eight = [0; 8];
        eight[..rest.len()].copy_from_slice(rest);
        other |= eight_places::<V>(band, cursor, &eight, rest.len())?;
    }
    (other == 0).then_some(())
}

/// Bits by which the next `count` blocks' bitmaps differ from these.
#[inline(always)]
fn eight_places<V: Steps>(
    band: &Expander,
    cursor: &mut Cursor,
    bitmaps: &[u64; 8],
    count: usize,
) -> Option<u64> {
    const ONES: u64 = u64::MAX / 255;
    let bytes = &band.bytes[..];
    // The codes, each in a byte; how many 4 bits they stand for; how many there are up to each.
    let codes = u64::from_le_bytes(*bytes.get(cursor.block / 2..)?.first_chunk()?);
    let codes = codes >> (4 * (cursor.block % 2)) & (u64::from(u32::MAX) >> (32 - 4 * count));
    let codes = (codes | codes << 16) & 0x0000_ffff_0000_ffff;
    let codes = (codes | codes << 8) & 0x00ff_00ff_00ff_00ff;
    let codes = (codes | codes << 4) & (ONES * 0x0f);
    let counts = codes + ((codes + ONES) >> 4 & ONES);
    let ends = counts.wrapping_mul(ONES);
    let around: &[u8; 80] = bytes.get(band.streams.bitmaps + cursor.bitmap / 2..)?.first_chunk()?;
    let begins = ends << 8;
    let odd = cursor.bitmap % 2;
    let other = match V::same_bitmaps(around, begins, counts, odd as u64, bitmaps) {
        Some(same) => u64::from(!same),
        None => bitmaps.iter().enumerate().try_fold(0, |other, (i, &bitmap)| {
            let at = (begins >> (8 * i)) as usize % 256 + odd;
            let code = (codes >> (8 * i)) as usize % 16;
            let sixteen = around[at / 2 % 64..].first_chunk::<16>()?;
            let found = (u128::from_le_bytes(*sixteen) >> (4 * (at % 2))) as u64 & BITMAPS[code];
            Some(other | (found << 1 ^ bitmap))
        })?,
    };
    cursor.block += count;
    cursor.bitmap += (ends >> 56) as usize;
    Some(other)
}

/// Whether the values are the same, of which there are as many where the bitmaps are.
#[inline(always)]
fn same_values(band: &Expander, cursor: &mut Cursor, row: &Row<'_>) -> bool {
    let first = cursor.value;
    cursor.value += row.values.len();
    let Some(small) = band.values.get(first..cursor.value) else { return false };
    let mut other = false;
    for (&small, &value) in small.iter().zip(row.values) {
        other |= (small != WIDE_VALUE) & (i16::from(small.cast_signed()) != value);
    }
    let mut same = !other && cursor.value <= band.counts.values;
    while let Some(&Wide { at, value }) = band.wide.get(cursor.wide).filter(|wide| wide.at < cursor.value) {
        same &= row.values[at - first] == value;
        cursor.wide += 1;
    }
    same
}

/// Whether libjpeg's arithmetic is up to the blocks.
#[inline(always)]
fn tame<V: Steps>(band: &Expander, cursor: Cursor, steps: &PairedSteps, row: &Row<'_>) -> Option<()> {
    let mut wide = &band.wide[cursor.wide..];
    let mut next_wide = wide.first().map_or(usize::MAX, |wide| wide.at);
    let (mut value, mut block) = (cursor.value, Block::ZERO);
    for (&bitmap, &dc) in row.bitmaps.iter().zip(row.dc) {
        let (values, first) = (window(&band.values, value)?, value);
        value += bitmap.count_ones() as usize;
        let is_wide = next_wide < value;
        if !is_wide && steps.plainly_allow::<V>((bitmap, values), dc) {
            continue;
        }
        V::block(bitmap, values, &mut block);
        if is_wide {
            widen(wide, bitmap, first, &mut block);
            wide = &wide[wide.iter().take_while(|wide| wide.at < value).count()..];
            next_wide = wide.first().map_or(usize::MAX, |wide| wide.at);
        }
        steps.allow(&block, dc, is_wide).then_some(())?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::super::coefficients::Coefficients;
    use super::super::super::layout::{faithful, write};
    use super::super::super::samples::{Random, image};
    use super::*;

    /// Small and large values, and those around which it is told apart how they are stored.
    const VALUES: [i16; 12] = [0, 1, -1, 2, 17, -127, 127, 128, -128, 129, 300, i16::MIN];

    fn change(random: &mut Random, image: &mut Coefficients) {
        let blocks = &mut image.components[0].blocks;
        let at = random.below(blocks.len());
        blocks[at][[0, 0, 1, 8, 63, random.below(64)][random.below(6)]] = VALUES[random.below(VALUES.len())];
    }

    kernel! {
        fn allow_on / allow_in[V: Steps](steps: &PairedSteps, bitmap: u64, values: &[u8; 64], dc: i16) -> bool {
            steps.plainly_allow::<V>((bitmap, values), dc)
        }
    }

    #[test]
    fn values_of_nobody_are_weighed_without_overflow() {
        // A damaged band may name more values than it has; behind them are those of another image.
        let steps = PairedSteps::new(&[1; 64]);
        for simd in Simd::available() {
            assert!(!allow_on(simd, &steps, 2, &[WIDE_VALUE; 64], 4000), "{}", simd.name());
        }
    }

    #[test]
    fn a_layout_is_that_of_its_own_image_alone() {
        let mut random = Random(71);
        let (mut band, mut sparse) = (Expander::default(), Sparse::default());
        let (mut same_ones, mut others, mut wild) = (0, 0, 0);
        for case in 0..if cfg!(miri) { 6 } else { 1200 } {
            let mut original = image(&mut random, case % 12);
            (0..case % 5).for_each(|_| change(&mut random, &mut original));
            // Of four layouts one has another byte, and of four images one another value.
            let mut bytes = write(&original);
            if case % 4 == 1 {
                let from = if random.below(4) == 0 { 0 } else { bytes.len() / 4 };
                let at = from + random.below(bytes.len() - from);
                bytes[at] ^= 1 << random.below(8);
            } else if case % 4 == 3 {
                change(&mut random, &mut original);
            }
            let Ok(layout) = Layout::parse(&bytes) else { continue };
            let found = layout.coefficients();
            let blocks = |image: &Coefficients| -> Vec<_> {
                image.components.iter().map(|one| (one.h, one.v, one.quant, one.blocks.clone())).collect()
            };
            let equal = found.as_ref().is_ok_and(|found| blocks(found) == blocks(&original));
            let expected = equal && faithful(&original);
            sparse.take(&original);
            for simd in Simd::available() {
                let steps_differ = found.as_ref().is_ok_and(|found| {
                    found
                        .components
                        .iter()
                        .zip(&original.components)
                        .any(|(one, other)| one.quant != other.quant)
                });
                // Quantisation is not asked for here.
                let same = same(simd, &mut band, &layout, &sparse);
                assert!(same == expected || steps_differ, "{} {case}", simd.name());
            }
            same_ones += usize::from(expected);
            others += usize::from(!equal);
            wild += usize::from(equal && !expected);
        }
        assert!(cfg!(miri) || (same_ones > 300 && others > 300 && wild > 20), "{same_ones} {others} {wild}");
    }
}
