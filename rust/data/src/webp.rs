//! Here: WebP bytes to RGB as Pillow's `convert("RGB")` reads them.
//! Not here: other formats, I/O, animation (the first frame is taken), metadata (ignored).
//!
//! Alpha is dropped, not blended.

use std::io::Cursor;

use image_webp::WebPDecoder;

use crate::error::{Error, Fault, Result};
use crate::limits::{MAX_PIXELS, MAX_WEBP_BLANK_PIXELS, MAX_WEBP_PIXELS_PER_BYTE};

fn damaged(reason: impl ToString) -> Error {
    Fault::Damaged { format: "WebP", reason: reason.to_string() }.into()
}

/// True if the bytes begin as a WebP does.
pub(crate) fn sniff(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP")
}

/// Width and height from the first chunk: lossy, lossless or extended. More pixels than the file can mean are
/// refused here, before memory is taken for them.
pub(crate) fn header(bytes: &[u8]) -> Result<(u32, u32)> {
    let (width, height) = claimed(bytes)?;
    let pixels = u64::from(width) * u64::from(height);
    let blank = if is_lossy(bytes) { 0 } else { MAX_WEBP_BLANK_PIXELS };
    let limit = blank + MAX_WEBP_PIXELS_PER_BYTE * bytes.len() as u64;
    // A size beyond all limits is refused in the words that it has for all formats.
    match pixels > limit && pixels <= MAX_PIXELS {
        true => {
            Err(Fault::Limit { what: "number of pixels of a WebP of its size", found: pixels, limit }.into())
        }
        false => Ok((width, height)),
    }
}

/// True for a lossy image without further chunks.
fn is_lossy(bytes: &[u8]) -> bool {
    bytes.get(12..16) == Some(b"VP8 ")
}

fn claimed(bytes: &[u8]) -> Result<(u32, u32)> {
    let chunk: Option<&[u8; 18]> = bytes.get(12..).and_then(|rest| rest.first_chunk());
    match chunk {
        // Three bytes of frame tag, a start code, then 14 bits each (two more are a scaling hint).
        Some(&[b'V', b'P', b'8', b' ', _, _, _, _, _, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1]) => {
            let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            Ok((side(w0, w1), side(h0, h1)))
        }
        // A signature byte, then 14 bits each, less one.
        Some(&[b'V', b'P', b'8', b'L', _, _, _, _, 0x2f, b0, b1, b2, b3, ..]) => {
            let bits = u32::from_le_bytes([b0, b1, b2, b3]);
            Ok(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        // Flags and three reserved bytes, then 24 bits each, less one.
        Some(&[b'V', b'P', b'8', b'X', _, _, _, _, _, _, _, _, w0, w1, w2, h0, h1, h2]) => {
            let side = |bytes: [u8; 3]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]) + 1;
            Ok((side([w0, w1, w2]), side([h0, h1, h2])))
        }
        _ => Err(damaged("no image header")),
    }
}

/// Decodes into `rgb`, which holds width x height x 3 bytes of the header; `scratch` is reused.
pub(crate) fn decode(bytes: &[u8], scratch: &mut Vec<u8>, rgb: &mut [u8]) -> Result<()> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    if decoder.output_buffer_size() != Some(rgb.len() / 3 * channels) {
        return Err(damaged("header and image data disagree"));
    }
    // read_image gives an animation's first frame on a transparent canvas.
    if channels == 3 {
        return decoder.read_image(rgb).map_err(damaged);
    }
    scratch.clear();
    scratch.resize(rgb.len() / 3 * 4, 0);
    decoder.read_image(scratch).map_err(damaged)?;
    for (&[r, g, b, _], out) in scratch.as_chunks::<4>().0.iter().zip(rgb.as_chunks_mut::<3>().0) {
        *out = [r, g, b];
    }
    Ok(())
}
