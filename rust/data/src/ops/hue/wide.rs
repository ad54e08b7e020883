//! Here: the hue shift of 64 pixels in AVX-512, in whole numbers of 16 bits.
//! Not here: its definition (`hue.rs`), the question what the CPU has (`Simd`).
//!
//! Quotients are looked up: a product with the reciprocal's first 16 bits is one less than the quotient at most,
//! which the remainder tells. So there is nothing to round, but where a hue is a whole level, which single precision
//! may miss by one: then it is one of 85 steps through a sixth of the circle, and a table says whether.
//!
//! The block of intrinsics rests on one promise: `Turn` is called inside `kernel!` only, in functions compiled for,
//! and run on, CPUs with these instructions.

use std::arch::x86_64::*;

use super::{BLOCK, SECTORS, Turn, Values, level};
use crate::ops::simd::Avx512;

/// The first 16 bits of reciprocals, as lower and upper bytes.
const RECIPROCALS: [[u8; 256]; 2] = {
    let mut bytes = [[0; 256]; 2];
    let mut i = 1;
    while i < 256 {
        let reciprocal = if i == 1 { 65_535 } else { 65_536 / i };
        (bytes[0][i], bytes[1][i]) = (reciprocal as u8, (reciprocal >> 8) as u8);
        i += 1;
    }
    bytes
};

/// Steps through a sixth of the circle at which its levels begin; there are 42.5 levels.
const STEPS: u8 = 85;

/// For each step the sectors, as bits, in which single precision misses the level that begins there.
const MISSED: [u8; 128] = {
    let mut missed = [0; 128];
    let mut sector = 0;
    while sector < 6 {
        let (start, falls) = SECTORS[sector];
        let mut step = 1;
        while step < STEPS {
            let whole = sector as u32 * STEPS as u32 + step as u32;
            let below = if falls == 1 { STEPS - step } else { step };
            let found = level(start, falls, below as f32 / STEPS as f32) as u32;
            if whole.is_multiple_of(2) && found < whole / 2 {
                missed[step as usize] |= 1 << sector;
            }
            step += 1;
        }
        sector += 1;
    }
    missed
};

/// For what is known of the order of channels (1: red is highest, 2: green is, 4: blue is lowest, 8: red is), the
/// sector's first level, its bit, and all bits where it is odd.
const ORDERS: [[u8; 16]; 3] = {
    let mut orders = [[0; 16]; 3];
    let mut known = 0;
    while known < 16 {
        let sector = match known {
            _ if known & 1 != 0 => {
                if known & 4 != 0 {
                    0
                } else {
                    5
                }
            }
            _ if known & 2 != 0 => {
                if known & 4 != 0 {
                    1
                } else {
                    2
                }
            }
            _ => {
                if known & 8 != 0 {
                    3
                } else {
                    4
                }
            }
        };
        orders[0][known] = (sector * STEPS as u32 / 2) as u8;
        orders[1][known] = 1 << sector;
        orders[2][known] = if sector % 2 == 1 { 255 } else { 0 };
        known += 1;
    }
    orders
};

/// For each channel in which sectors it is the highest, and in which the middle one.
const PLACES: [[[u8; 16]; 2]; 3] = [
    [in_sectors([0, 5, 6]), in_sectors([1, 4, 4])],
    [in_sectors([1, 2, 2]), in_sectors([0, 3, 6])],
    [in_sectors([3, 4, 4]), in_sectors([2, 5, 5])],
];

const fn in_sectors(sectors: [usize; 3]) -> [u8; 16] {
    let mut places = [0; 16];
    (places[sectors[0]], places[sectors[1]], places[sectors[2]]) = (255, 255, 255);
    places
}

/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn everywhere(table: &[u8; 16]) -> __m512i {
    // SAFETY: as promised; the load is of the whole table.
    unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())) }
}

/// Reciprocals of 64 bytes, in the order of unpacking.
///
/// # Safety
/// The CPU has AVX-512 with VBMI.
#[inline(always)]
unsafe fn reciprocals(of: __m512i) -> [__m512i; 2] {
    // SAFETY: as promised; loads are of quarters of a table.
    unsafe {
        let upper = _mm512_movepi8_mask(of);
        let mut found = [of; 2];
        for (found, table) in found.iter_mut().zip(&RECIPROCALS) {
            let (quarters, _) = table.as_chunks::<64>();
            let low = _mm512_permutex2var_epi8(
                _mm512_loadu_si512(quarters[0].as_ptr().cast()),
                of,
                _mm512_loadu_si512(quarters[1].as_ptr().cast()),
            );
            let high = _mm512_permutex2var_epi8(
                _mm512_loadu_si512(quarters[2].as_ptr().cast()),
                of,
                _mm512_loadu_si512(quarters[3].as_ptr().cast()),
            );
            *found = _mm512_mask_mov_epi8(low, upper, high);
        }
        [_mm512_unpacklo_epi8(found[0], found[1]), _mm512_unpackhi_epi8(found[0], found[1])]
    }
}

/// Quotient, and remainder or that and once more the divisor, of numbers below 2^16 by bytes.
///
/// # Safety
/// The CPU has AVX-512 with BW.
#[inline(always)]
unsafe fn divided(number: __m512i, by: __m512i, reciprocal: __m512i) -> (__m512i, __m512i) {
    // SAFETY: as promised.
    unsafe {
        let quotient = _mm512_mulhi_epu16(number, reciprocal);
        let left = _mm512_sub_epi16(number, _mm512_mullo_epi16(quotient, by));
        let short = _mm512_cmpge_epu16_mask(left, by);
        (_mm512_mask_add_epi16(quotient, short, quotient, _mm512_set1_epi16(1)), left)
    }
}

/// `value * kept / 65025`, rounded; `kept` is 65025 at most.
///
/// # Safety
/// The CPU has AVX-512 with BW.
#[inline(always)]
unsafe fn by_65025(value: __m512i, kept: __m512i) -> __m512i {
    // SAFETY: as promised.
    unsafe {
        // Too much by 1/130 at most: 1/254 for what the first product drops, the rest for 33026 / 2^23. So it is
        // right, or one too large, and then what is left is among the last 511 of 2^16, where else nothing is.
        let product = _mm512_mulhi_epu16(_mm512_slli_epi16::<8>(value), kept);
        let product = _mm512_add_epi16(product, _mm512_set1_epi16(128));
        let whole = _mm512_srli_epi16::<7>(_mm512_mulhi_epu16(product, _mm512_set1_epi16(33_026_u16 as i16)));
        let product = _mm512_add_epi16(_mm512_mullo_epi16(value, kept), _mm512_set1_epi16(32_512));
        let left = _mm512_add_epi16(product, _mm512_mullo_epi16(whole, _mm512_set1_epi16(511)));
        let above = _mm512_cmpge_epu16_mask(left, _mm512_set1_epi16(65_025_u16 as i16));
        _mm512_mask_sub_epi16(whole, above, whole, _mm512_set1_epi16(1))
    }
}

impl Turn for Avx512 {
    #[inline(always)]
    fn turn(red: &mut Values<u8>, green: &mut Values<u8>, blue: &mut Values<u8>, levels: u8) {
        const { assert!(BLOCK == 64) };
        // SAFETY: the CPU has AVX-512 with BW and VBMI (see above); loads and stores are of 64 bytes.
        unsafe {
            let r = _mm512_loadu_si512(red.as_ptr().cast());
            let g = _mm512_loadu_si512(green.as_ptr().cast());
            let b = _mm512_loadu_si512(blue.as_ptr().cast());
            let (higher, lower) = (_mm512_max_epu8(r, g), _mm512_min_epu8(r, g));
            let (most, least) = (_mm512_max_epu8(higher, b), _mm512_min_epu8(lower, b));
            let middle = _mm512_min_epu8(higher, _mm512_max_epu8(lower, b));
            let known = _mm512_maskz_mov_epi8(_mm512_cmpeq_epi8_mask(r, most), _mm512_set1_epi8(1));
            let fact = _mm512_cmpeq_epi8_mask(g, most);
            let known = _mm512_mask_add_epi8(known, fact, known, _mm512_set1_epi8(2));
            let fact = _mm512_cmpeq_epi8_mask(b, least);
            let known = _mm512_mask_add_epi8(known, fact, known, _mm512_set1_epi8(4));
            let fact = _mm512_cmpeq_epi8_mask(r, least);
            let known = _mm512_mask_add_epi8(known, fact, known, _mm512_set1_epi8(8));
            let first = _mm512_shuffle_epi8(everywhere(&ORDERS[0]), known);
            let sector = _mm512_shuffle_epi8(everywhere(&ORDERS[1]), known);
            let odd = _mm512_shuffle_epi8(everywhere(&ORDERS[2]), known);
            let (range, below) = (_mm512_sub_epi8(most, least), _mm512_sub_epi8(most, middle));
            let part = _mm512_ternarylogic_epi32::<0xca>(odd, below, _mm512_sub_epi8(middle, least));
            let zero = _mm512_setzero_si512();
            let parts = [_mm512_unpacklo_epi8(part, zero), _mm512_unpackhi_epi8(part, zero)];
            let ranges = [_mm512_unpacklo_epi8(range, zero), _mm512_unpackhi_epi8(range, zero)];
            let values = [_mm512_unpacklo_epi8(most, zero), _mm512_unpackhi_epi8(most, zero)];
            let (by_range, by_value) = (reciprocals(range), reciprocals(most));
            let (mut steps, mut edges, mut saturations) = ([zero; 2], [zero; 2], [zero; 2]);
            for i in 0..2 {
                let number = _mm512_mullo_epi16(parts[i], _mm512_set1_epi16(STEPS.into()));
                let left;
                (steps[i], left) = divided(number, ranges[i], by_range[i]);
                let edge = _mm512_testn_epi16_mask(left, left) | _mm512_cmpeq_epi16_mask(left, ranges[i]);
                edges[i] = _mm512_movm_epi16(edge);
                let number = _mm512_sub_epi16(_mm512_slli_epi16::<8>(ranges[i]), ranges[i]);
                saturations[i] = divided(number, values[i], by_value[i]).0;
            }
            let step = _mm512_packus_epi16(steps[0], steps[1]);
            let edge = _mm512_packs_epi16(edges[0], edges[1]);
            let (missed, _) = MISSED.as_chunks::<64>();
            let missed = _mm512_permutex2var_epi8(
                _mm512_loadu_si512(missed[0].as_ptr().cast()),
                step,
                _mm512_loadu_si512(missed[1].as_ptr().cast()),
            );
            let missed = _mm512_test_epi8_mask(_mm512_and_si512(missed, sector), edge);
            let step = _mm512_mask_sub_epi8(step, missed, step, _mm512_set1_epi8(1));
            let twice = _mm512_sub_epi8(step, odd);
            let within = _mm512_and_si512(_mm512_srli_epi16::<1>(twice), _mm512_set1_epi8(127));
            let hue = _mm512_add_epi8(_mm512_add_epi8(first, within), _mm512_set1_epi8(levels.cast_signed()));

            let hues = [_mm512_unpacklo_epi8(hue, zero), _mm512_unpackhi_epi8(hue, zero)];
            let (mut sectors, mut lows, mut middles) = ([zero; 2], [zero; 2], [zero; 2]);
            let full = _mm512_set1_epi16(255);
            for i in 0..2 {
                // hue * 1543 >> 16 is hue * 6 / 255 for every hue.
                let whole = _mm512_mulhi_epu16(hues[i], _mm512_set1_epi16(1543));
                let sixths = _mm512_mullo_epi16(hues[i], _mm512_set1_epi16(6));
                let within = _mm512_sub_epi16(sixths, _mm512_mullo_epi16(whole, full));
                let odd = _mm512_test_epi16_mask(whole, _mm512_set1_epi16(1));
                let distance = _mm512_mask_mov_epi16(_mm512_sub_epi16(full, within), odd, within);
                let lost = _mm512_mullo_epi16(saturations[i], distance);
                let kept = _mm512_sub_epi16(_mm512_set1_epi16(65_025_u16 as i16), lost);
                let low = _mm512_mullo_epi16(values[i], _mm512_sub_epi16(full, saturations[i]));
                let low = _mm512_add_epi16(low, _mm512_set1_epi16(128));
                let low = _mm512_add_epi16(low, _mm512_srli_epi16::<8>(low));
                (sectors[i], lows[i]) = (whole, _mm512_srli_epi16::<8>(low));
                middles[i] = by_65025(values[i], kept);
            }
            let sector = _mm512_packus_epi16(sectors[0], sectors[1]);
            let low = _mm512_packus_epi16(lows[0], lows[1]);
            let middle = _mm512_packus_epi16(middles[0], middles[1]);
            for (channel, [highest, between]) in [red, green, blue].into_iter().zip(&PLACES) {
                let between = _mm512_shuffle_epi8(everywhere(between), sector);
                let value = _mm512_ternarylogic_epi32::<0xca>(between, middle, low);
                let highest = _mm512_shuffle_epi8(everywhere(highest), sector);
                let value = _mm512_ternarylogic_epi32::<0xca>(highest, most, value);
                _mm512_storeu_si512(channel.as_mut_ptr().cast(), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::simd::Simd;

    #[target_feature(enable = "avx512f,avx512bw")]
    fn rounded(value: i16, kept: &[u16; 32]) -> [u16; 32] {
        // SAFETY: compiled for AVX-512; the load is of all numbers, and as many come back.
        unsafe {
            let kept = _mm512_loadu_si512(kept.as_ptr().cast());
            std::mem::transmute(by_65025(_mm512_set1_epi16(value), kept))
        }
    }

    #[test]
    fn products_are_divided_and_rounded() {
        if Simd::available().iter().all(|simd| simd.name() != "avx512") {
            return;
        }
        for value in 0..=255u32 {
            for kept in (0..=65_025u16).step_by(32) {
                let kept = std::array::from_fn(|lane| (kept + lane as u16).min(65_025));
                let expected = kept.map(|kept| ((2 * value * u32::from(kept) + 65_025) / 130_050) as u16);
                // SAFETY: the CPU has AVX-512.
                assert_eq!(unsafe { rounded(value as i16, &kept) }, expected, "{value}, {kept:?}");
            }
        }
    }
}
