//! Here: any bytes as an image; success means that the decoder wrote every byte, the same each time, and
//! the same as with libjpeg-turbo's own reading of Huffman codes.
//! Not here: which pixels are right (tests/test_corpus.py), images too large to be decoded often.
#![no_main]

use std::cell::RefCell;

use barlow_data::decode::{Codes, Decoder, Header, Image, Part, peek};
use libfuzzer_sys::{Corpus, fuzz_target};

const MAX_PIXELS: u64 = 1 << 18;

thread_local! {
    // Kept, as a loader's thread keeps its own: what one image leaves behind must not reach the next.
    static DECODER: RefCell<Decoder> = RefCell::new(Decoder::new().unwrap());
    static LIBRARY: RefCell<Decoder> = RefCell::new(Decoder::with(Codes::Library).unwrap());
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(header) = peek(data) else { return Corpus::Keep };
    let pixels = u64::from(header.width) * u64::from(header.height);
    if pixels > MAX_PIXELS {
        return Corpus::Reject;
    }
    let bytes = 3 * pixels as usize;
    let [first, second] = [0xab, 0x54].map(|poison| {
        let mut image = Image { data: vec![poison; bytes], ..Image::default() };
        let decoded = DECODER.with_borrow_mut(|decoder| decoder.decode(data, &mut image));
        let (width, height) = (image.width, image.height);
        match &decoded {
            Ok(()) => assert_eq!((width, height, image.data.len()), (header.width, header.height, bytes)),
            Err(_) => assert_eq!(image, Image::default()),
        }
        (decoded.is_ok(), image.data)
    });
    assert_eq!(first, second, "poison shows, or the outcome changes");
    check_codes(data, &first);
    check_part(data, &header, &first);
    Corpus::Keep
});

/// What decodes has the pixels that it has when libjpeg-turbo reads the codes, and never decodes here alone.
fn check_codes(data: &[u8], (whole, pixels): &(bool, Vec<u8>)) {
    let mut image = Image::default();
    let library = LIBRARY.with_borrow_mut(|decoder| decoder.decode(data, &mut image));
    if *whole {
        assert!(library.is_ok(), "libjpeg-turbo refuses what is decoded here");
        assert!(*pixels == image.data, "other pixels than libjpeg-turbo's");
    }
}

/// A part of the image, which the input's last bytes choose, against poison and against the whole.
fn check_part(data: &[u8], header: &Header, (whole, pixels): &(bool, Vec<u8>)) {
    let mut choice = data.iter().rev().take(8).fold(0u64, |choice, &byte| choice << 8 | u64::from(byte));
    let mut below = |bound: u32| {
        let chosen = (choice % u64::from(bound)) as u32;
        choice /= u64::from(bound);
        chosen
    };
    let shrink = 1 << below(4);
    let mut range = |side: u32| {
        let from = below(side);
        (from, from + 1 + below(side - from))
    };
    let columns = range(header.width.div_ceil(shrink));
    let part = Part { shrink, columns, rows: range(header.height.div_ceil(shrink)) };
    let [first, second] = [0xab, 0x54].map(|poison| {
        let mut image = Image { data: vec![poison; pixels.len()], ..Image::default() };
        let decoded = DECODER.with_borrow_mut(|decoder| decoder.decode_part(data, part, &mut image));
        let rows = (0..image.rows()).map(|row| image.row(row).to_vec()).collect::<Vec<_>>();
        (decoded.is_ok(), image.part, rows)
    });
    assert_eq!(first, second, "poison shows in a part, or the outcome changes");
    assert!(first.0 || !whole, "a part is damaged, the whole is not");
    if *whole && shrink == 1 {
        let width = header.width as usize * 3;
        for (y, row) in first.2.iter().enumerate() {
            let from = (first.1.rows.0 as usize + y) * width + first.1.columns.0 as usize * 3;
            assert!(pixels[from..].starts_with(row), "a part is not what it is of the whole");
        }
    }
}
