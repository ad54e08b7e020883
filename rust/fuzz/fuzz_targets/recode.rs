//! Here: any bytes as a recoded image, and as the parts of one with right checksums: pixels and restored file are
//! there or refused, and where both are there, the file decodes to the pixels or to none. Any bytes as a JPEG to
//! be recoded, which is proven by then.
//! Not here: images too large to be decoded often.
#![no_main]

use std::cell::RefCell;

use barlow_data::decode::{Decoder, Image, peek};
use barlow_data::recode::Recoder;
use libfuzzer_sys::{Corpus, fuzz_target};

const MAX_PIXELS: u64 = 1 << 18;

thread_local! {
    static TOOLS: RefCell<(Decoder, Recoder)> = RefCell::new((Decoder::new().unwrap(), Recoder::new()));
}

fuzz_target!(|data: &[u8]| -> Corpus {
    if peek(data).is_ok_and(|header| u64::from(header.width) * u64::from(header.height) > MAX_PIXELS) {
        return Corpus::Reject;
    }
    TOOLS.with_borrow_mut(|(decoder, recoder)| {
        if let Ok(member) = recoder.recode(data) {
            let shown = decoded(decoder, &member);
            assert!(shown.is_some() && shown == decoded(decoder, data), "recoded to other pixels");
            self::member(decoder, recoder, &damaged(&member, data));
        }
        member(decoder, recoder, data);
        if let Some((size, skeleton, layout)) = parts(data) {
            member(decoder, recoder, &assembled(size, skeleton, layout));
        }
    });
    Corpus::Keep
});

fn decoded(decoder: &mut Decoder, bytes: &[u8]) -> Option<Image> {
    let mut image = Image::default();
    decoder.decode(bytes, &mut image).ok()?;
    let rows = (0..image.rows()).flat_map(|row| image.row(row).to_vec()).collect();
    Some(Image::new(image.width, image.height, rows))
}

/// What a member gives, against what the file gives that it stands for.
fn member(decoder: &mut Decoder, recoder: &mut Recoder, bytes: &[u8]) {
    let shown = decoded(decoder, bytes);
    let Ok(file) = recoder.rebuild(bytes) else { return };
    if let (Some(shown), Some(plain)) = (shown, decoded(decoder, &file)) {
        assert!(shown == plain, "other pixels than the file's");
    }
    if let Ok(restored) = recoder.restore(bytes) {
        assert_eq!(restored, file);
    }
}

/// Parts of the input: two bytes say how long the skeleton is, four how large the image, the rest is skeleton and
/// coefficients.
fn parts(data: &[u8]) -> Option<([u8; 4], &[u8], &[u8])> {
    let (&[low, high, a, b, c, d], rest) = data.split_first_chunk::<6>()?;
    let (skeleton, layout) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
    let pixels = u64::from(u16::from_le_bytes([a, b])) * u64::from(u16::from_le_bytes([c, d]));
    (pixels <= MAX_PIXELS).then_some(([a, b, c, d], skeleton, layout))
}

/// A member with right checksums, which the fuzzer cannot guess.
fn assembled(size: [u8; 4], skeleton: &[u8], layout: &[u8]) -> Vec<u8> {
    let numbers = |part: &[u8]| [part.len() as u32, crc32c::crc32c(part)].map(u32::to_le_bytes).concat();
    let mut bytes =
        [&b"BARLOWJC"[..], &1u32.to_le_bytes(), &(1u32 << 20).to_le_bytes(), &[0; 4], &size].concat();
    bytes.extend([numbers(skeleton), numbers(layout)].concat());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    [&bytes, skeleton, layout].concat()
}

/// A member with a few bytes of its parts changed, as the last bytes of the input say: they may stand behind the
/// end of a JPEG.
fn damaged(member: &[u8], data: &[u8]) -> Vec<u8> {
    let length = u32::from_le_bytes([member[24], member[25], member[26], member[27]]) as usize;
    let mut parts = member[44..].to_vec();
    for change in data.rchunks_exact(3).take(4) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % parts.len();
        parts[at] ^= change[2];
    }
    assembled([member[20], member[21], member[22], member[23]], &parts[..length], &parts[length..])
}
