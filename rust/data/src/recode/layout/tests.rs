//! Coefficients there and back, and what becomes of bytes that are no layout.

use super::super::order::{Block, PAIRED};
use super::super::samples::{Random, image};
use super::*;
use crate::jpeg::Part;
use crate::recode::Scratch;

#[test]
fn every_coefficient_comes_back() {
    let mut random = Random(1);
    for case in 0..if cfg!(miri) { 3 } else { 60 } {
        let original = image(&mut random, case);
        let bytes = write(&original);
        let found = Layout::parse(&bytes).unwrap().coefficients().unwrap();
        assert!(found == original, "case {case}: {}x{}", original.width, original.height);
    }
}

#[test]
fn the_extremes_come_back() {
    let mut original = image(&mut Random(2), 0);
    let component = &mut original.components[0];
    component.quant = std::array::from_fn(|i| [1, 255, 256, u16::MAX][i % 4]);
    let values = [i16::MIN, i16::MAX, -1, 1, 2, -16, 17, -127, 127, 128, -128, -129, 0, 16, -2, 3];
    for (i, block) in component.blocks.iter_mut().enumerate() {
        // Every value in every place, blocks without any, and ones whose last coefficient is their only one.
        *block = match i % 5 {
            3 => [0; 64],
            4 => std::array::from_fn(|place| if place == 63 { values[i / 5 % 16] } else { 0 }),
            _ => std::array::from_fn(|place| values[(place + i) % 16]),
        };
    }
    let bytes = write(&original);
    assert!(Layout::parse(&bytes).unwrap().coefficients().unwrap() == original);
}

#[test]
fn bytes_that_end_early_are_errors() {
    let bytes = write(&image(&mut Random(3), 2));
    for length in (0..bytes.len()).step_by(if cfg!(miri) { 29 } else { 1 }) {
        assert!(Layout::parse(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(Layout::parse(&longer).is_err());
}

#[test]
fn another_version_is_refused_by_name() {
    let mut bytes = write(&image(&mut Random(3), 2));
    bytes[0] = VERSION + 1;
    let error = Layout::parse(&bytes).unwrap_err().to_string();
    assert!(error.contains("version"), "{error}");
}

#[test]
fn a_small_layout_claims_no_large_image() {
    let mut bytes = write(&image(&mut Random(4), 1));
    for (side, error) in [([255, 255], "limit"), ([0, 0], "zero"), ([0, 32], "bytes")] {
        bytes[2..4].copy_from_slice(&side);
        bytes[4..6].copy_from_slice(&side);
        let found = Layout::parse(&bytes).unwrap_err().to_string();
        assert!(found.contains(error), "{side:?}: {found}");
    }
}

/// Mutated layouts give an error, or the same pixels with every instruction set; never a panic. The long
/// run is `cargo fuzz`'s.
#[test]
fn mutated_bytes_are_an_error_or_the_same_for_all() {
    let mut random = Random(5);
    let (mut scratch, mut expected, mut found) = (Scratch::default(), Vec::new(), Vec::new());
    let mut readable = 0;
    let cases = if cfg!(miri) { 6 } else { 1500 };
    for case in 0..cases {
        let mut bytes = write(&image(&mut random, case % 12));
        for _ in 0..1 + random.below(3) {
            // Mostly behind the head, where a change is not noticed at once.
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.below(256) as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes[at] = bytes[random.below(at + 1)],
                _ => bytes[at] = 255,
            }
        }
        let Ok(layout) = Layout::parse(&bytes) else { continue };
        let first = layout.pixels(Part::WHOLE, Simd::PORTABLE, &mut scratch, &mut expected).is_ok();
        assert_eq!(layout.coefficients().is_ok(), first, "case {case}");
        readable += usize::from(first);
        for simd in Simd::available() {
            let status = layout.pixels(Part::WHOLE, simd, &mut scratch, &mut found).is_ok();
            assert_eq!(status, first, "case {case}, {}", simd.name());
            assert!(!first || found == expected, "case {case}, {}", simd.name());
        }
    }
    assert!(cfg!(miri) || readable > 100, "only {readable} were read at all");
}

#[test]
fn absurd_coefficients_are_not_faithful() {
    let mut image = image(&mut Random(6), 1);
    for component in &mut image.components {
        component.quant = [16; 64];
        (component.columns, component.rows, component.blocks) = (2, 1, vec![[0; 64]; 2]);
    }
    assert!(faithful(&image));
    let set =
        |image: &mut Coefficients, place: usize, value: i16| image.components[0].blocks[0][place] = value;
    // 255 * 16 is the largest DC value that an eighth of the scale shows; 368 * 16 the most of two columns.
    for (place, most) in [(0, 255), (9, 368), (63, 368)] {
        for sign in [1, -1] {
            set(&mut image, place, sign * most);
            assert!(faithful(&image), "{place} {most}");
            set(&mut image, place, sign * (most + 1));
            assert!(!faithful(&image), "{place} {most}");
            set(&mut image, place, 0);
        }
    }
    // Two columns together, whichever they are; a third does not count.
    set(&mut image, 3, 200);
    set(&mut image, 14, 168);
    assert!(faithful(&image));
    set(&mut image, 16, 168);
    assert!(faithful(&image));
    set(&mut image, 22, 1);
    assert!(!faithful(&image));
    set(&mut image, 22, 0);
    image.components[0].h = 3;
    image.components[0].v = 5;
    assert!(!faithful(&image));
}

/// What `faithful` says of one block, which blocks in paired order are told, too.
fn judged(block: &[i16; 64], quant: &[u16; 64]) -> bool {
    let component = Component { id: 1, h: 1, v: 1, quant: *quant, columns: 1, rows: 1, blocks: vec![*block] };
    let image = Coefficients { width: 8, height: 8, components: vec![component], transform: Transform::Grey };
    let expected = faithful(&image);
    let mut paired = Block(PAIRED.map(|place| block[usize::from(place)]));
    paired.0[0] = 0;
    let is_wide = block[1..].iter().any(|&value| i8::try_from(value).is_err());
    assert_eq!(PairedSteps::new(quant).allow(&paired, block[0], is_wide), expected, "{block:?} {quant:?}");
    expected
}

#[test]
fn blocks_in_paired_order_are_judged_alike() {
    let mut random = Random(7);
    let mut allowed = [0; 2];
    let cases = if cfg!(miri) { 40 } else { 3000 };
    for case in 0..cases {
        let steps = if case % 7 == 0 { 1 << 16 } else { 256 };
        let quant = std::array::from_fn(|_| random.below(steps) as u16);
        let mut block = [0_i16; 64];
        for _ in 0..random.below(12) {
            let size = random.below(16);
            block[random.below(64)] = (random.below(1 << (size + 1)) as i32 - (1 << size)) as i16;
        }
        allowed[usize::from(judged(&block, &quant))] += 1;
    }
    assert!(allowed.iter().all(|&count| count > cases / 10), "{allowed:?}");
    // The first coefficient counts with the others, and the magnitude of the least number is no negative one.
    let with = |values: &[(usize, i16)]| {
        let mut block = [0; 64];
        values.iter().for_each(|&(place, value)| block[place] = value);
        block
    };
    let mut quant = [1; 64];
    quant[9] = 100;
    assert!(judged(&with(&[(0, 4000), (9, 19)]), &quant));
    assert!(!judged(&with(&[(0, 4000), (9, 20)]), &quant));
    assert!(!judged(&with(&[(1, i16::MIN), (2, i16::MAX), (3, 2)]), &quant));
}
