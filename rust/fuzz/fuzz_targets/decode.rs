//! Here: any bytes as an image; success means that the decoder wrote every byte, the same each time.
//! Not here: which pixels are right (tests/test_corpus.py), images too large to be decoded often.
#![no_main]

use std::cell::RefCell;

use barlow_data::decode::{Decoder, Image, peek};
use libfuzzer_sys::{Corpus, fuzz_target};

const MAX_PIXELS: u64 = 1 << 18;

thread_local! {
    // Kept, as a loader's thread keeps its own: what one image leaves behind must not reach the next.
    static DECODER: RefCell<Decoder> = RefCell::new(Decoder::new().unwrap());
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
    Corpus::Keep
});
