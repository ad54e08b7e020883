//! Pixels of every instruction set and of every part, against each other and against a transformation in floats.
//! That they are libjpeg-turbo's is tested where there are files.

use super::*;
use crate::recode::samples::{Random, image};
use crate::recode::{Coefficients, layout};

fn whole(shrink: u32) -> Part {
    Part { shrink, ..Part::WHOLE }
}

#[test]
fn all_instruction_sets_give_the_same_pixels() {
    let mut random = Random(11);
    let (mut scratch, mut expected, mut found) = (Scratch::default(), Vec::new(), Vec::new());
    for case in 0..if cfg!(miri) { 3 } else { 48 } {
        let bytes = layout::write(&image(&mut random, case));
        let layout = Layout::parse(&bytes).unwrap();
        for shrink in [1, 2, 4, 8] {
            layout.pixels(whole(shrink), Simd::PORTABLE, &mut scratch, &mut expected).unwrap();
            for simd in Simd::available() {
                layout.pixels(whole(shrink), simd, &mut scratch, &mut found).unwrap();
                assert!(found == expected, "case {case}, 1/{shrink}, {}", simd.name());
            }
        }
    }
}

#[test]
fn a_part_is_cut_out_of_the_whole() {
    let mut random = Random(12);
    let (mut scratch, mut expected, mut found) = (Scratch::default(), Vec::new(), Vec::new());
    // One of each scale under miri, which is slow.
    for case in (0..96).step_by(if cfg!(miri) { 13 } else { 1 }) {
        let image = image(&mut random, case);
        let bytes = layout::write(&image);
        let layout = Layout::parse(&bytes).unwrap();
        let shrink = [1, 2, 4, 8][case / 12 % 4];
        let simd = Simd::available()[case % Simd::available().len()];
        layout.pixels(whole(shrink), simd, &mut scratch, &mut expected).unwrap();
        let (width, height) = (image.width.div_ceil(shrink) as usize, image.height.div_ceil(shrink) as usize);
        assert_eq!(expected.len(), 3 * width * height);
        for _ in 0..if cfg!(miri) { 2 } else { 8 } {
            let mut range = |side: usize| {
                let from = random.below(side);
                (from, from + 1 + random.below(side - from))
            };
            let ((left, right), (top, bottom)) = (range(width), range(height));
            let (columns, rows) = ((left as u32, right as u32), (top as u32, bottom as u32));
            layout.pixels(Part { shrink, columns, rows }, simd, &mut scratch, &mut found).unwrap();
            assert_eq!(found.len(), 3 * (right - left) * (bottom - top));
            for (row, found) in (top..bottom).zip(found.chunks_exact(3 * (right - left))) {
                let expected = &expected[3 * (row * width + left)..][..found.len()];
                assert!(found == expected, "case {case}, 1/{shrink}, {columns:?} {rows:?}, row {row}");
            }
        }
    }
}

#[test]
fn parts_without_pixels_are_refused() {
    let bytes = layout::write(&image(&mut Random(13), 0));
    let layout = Layout::parse(&bytes).unwrap();
    let (mut scratch, mut rgb) = (Scratch::default(), Vec::new());
    for (shrink, columns) in [(3, (0, 1)), (1, (0, 0)), (1, (5, 5)), (1, (90, 100))] {
        let part = Part { shrink, columns, rows: (0, 1) };
        assert!(layout.pixels(part, Simd::PORTABLE, &mut scratch, &mut rgb).is_err(), "{part:?}");
    }
}

/// The definition, in floats: samples of one block. libjpeg's own differ by rounding alone.
fn transformed(block: &[i16; 64], quant: &[u16; 64]) -> [[f64; 8]; 8] {
    let scale = |k: usize| if k == 0 { 0.5_f64.sqrt() } else { 1.0 };
    let wave =
        |x: usize, k: usize| ((2 * x + 1) as f64 * k as f64 * std::f64::consts::PI / 16.0).cos() * scale(k);
    let level = |y: usize, x: usize| {
        let terms =
            (0..64).map(|i| f64::from(block[i]) * f64::from(quant[i]) * wave(y, i / 8) * wave(x, i % 8));
        (terms.sum::<f64>() / 4.0 + 128.0).clamp(0.0, 255.0)
    };
    std::array::from_fn(|y| std::array::from_fn(|x| level(y, x)))
}

#[test]
fn grey_pixels_are_those_of_the_definition() {
    let mut random = Random(14);
    let (mut scratch, mut rgb) = (Scratch::default(), Vec::new());
    for _ in 0..if cfg!(miri) { 1 } else { 10 } {
        let image: Coefficients = image(&mut random, 6);
        let component = &image.components[0];
        let bytes = layout::write(&image);
        Layout::parse(&bytes).unwrap().pixels(Part::WHOLE, Simd::detect(), &mut scratch, &mut rgb).unwrap();
        for (i, block) in component.blocks.iter().enumerate() {
            let (top, left) = (8 * (i / component.columns as usize), 8 * (i % component.columns as usize));
            for (y, row) in transformed(block, &component.quant).iter().enumerate() {
                for (x, expected) in row.iter().enumerate() {
                    if left + x < image.width as usize && top + y < image.height as usize {
                        let pixel = &rgb[3 * ((top + y) * image.width as usize + left + x)..][..3];
                        assert!((f64::from(pixel[0]) - expected).abs() < 1.01, "block {i}, {x}, {y}");
                        assert_eq!([pixel[0]; 3], pixel);
                    }
                }
            }
        }
    }
}
