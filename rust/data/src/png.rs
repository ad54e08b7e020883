//! Here: PNG bytes to RGB as Pillow's `convert("RGB")` reads them.
//! Not here: other formats, I/O, animation (the default image is taken), gamma and profiles (ignored).
//!
//! Alpha and tRNS transparency are dropped, not blended; 16-bit samples keep their high byte.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, Limits, Transformations};

use crate::error::{Error, Fault, Result};

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Most bytes that one byte of deflate can become: 258 for two bits.
const DEFLATE_RATIO: u64 = 1032;

fn damaged(reason: impl ToString) -> Error {
    Fault::Damaged { format: "PNG", reason: reason.to_string() }.into()
}

/// True if the bytes begin as a PNG does.
pub(crate) fn sniff(bytes: &[u8]) -> bool {
    bytes.starts_with(SIGNATURE)
}

/// Width and height from the header chunk, which is always the first.
pub(crate) fn header(bytes: &[u8]) -> Result<(u32, u32)> {
    let Some(&[_, _, _, 13, b'I', b'H', b'D', b'R', w3, w2, w1, w0, h3, h2, h1, h0]) =
        bytes.get(8..).and_then(|rest| rest.first_chunk())
    else {
        return Err(damaged("no header chunk"));
    };
    Ok((u32::from_be_bytes([w3, w2, w1, w0]), u32::from_be_bytes([h3, h2, h1, h0])))
}

/// Refuses a header that claims more pixels than the file can hold, before memory is taken for them.
pub(crate) fn check(bytes: &[u8], width: u32, height: u32) -> Result<()> {
    let Some(&[depth, colour]) = bytes.get(24..26) else {
        return Err(damaged("no header chunk"));
    };
    let samples = match colour {
        2 => 3,
        4 => 2,
        6 => 4,
        _ => 1,
    };
    let bits = u64::from(width) * u64::from(height) * samples * u64::from(depth);
    if bits / 8 > DEFLATE_RATIO * bytes.len() as u64 {
        return Err(damaged("more pixels than the file has room for"));
    }
    Ok(())
}

/// Decodes into `rgb`, which holds width x height x 3 bytes of the header; `scratch` is reused.
pub(crate) fn decode(bytes: &[u8], scratch: &mut Vec<u8>, rgb: &mut [u8]) -> Result<()> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits::default());
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(damaged)?;
    // The library counts on whole colours, and panics.
    if reader.info().palette.as_ref().is_some_and(|palette| palette.len() % 3 != 0) {
        return Err(damaged("a palette that ends inside a colour"));
    }
    let (colour, depth) = reader.output_color_type();
    let channels = colour.samples();
    if depth != BitDepth::Eight || reader.output_buffer_size() != Some(rgb.len() / 3 * channels) {
        return Err(damaged("header and image data disagree"));
    }
    if colour == ColorType::Rgb {
        return reader.next_frame(rgb).map(|_| ()).map_err(damaged);
    }
    scratch.clear();
    scratch.resize(rgb.len() / 3 * channels, 0);
    reader.next_frame(scratch).map_err(damaged)?;
    let colour_of: fn(&[u8]) -> [u8; 3] = match colour {
        ColorType::Rgba => |pixel| [pixel[0], pixel[1], pixel[2]],
        _ => |pixel| [pixel[0]; 3],
    };
    for (pixel, out) in scratch.chunks_exact(channels).zip(rgb.as_chunks_mut::<3>().0) {
        *out = colour_of(pixel);
    }
    Ok(())
}
