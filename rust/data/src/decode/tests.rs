//! Decoding of every format, whole and in part, and what is refused.

use std::io::Cursor;

use proptest::prelude::*;
use turbojpeg_sys::{TJPARAM_TJPARAM_PROGRESSIVE, TJPARAM_TJPARAM_RESTARTROWS, TJPARAM_TJPARAM_SUBSAMP};

use super::*;
use crate::jpeg::samples;

const WIDTH: u32 = 23;
const HEIGHT: u32 = 17;

fn pixels() -> Vec<u8> {
    crate::ops::samples::picture(WIDTH as usize, HEIGHT as usize)
}

fn png() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, WIDTH, HEIGHT);
    encoder.set_color(::png::ColorType::Rgb);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels()));
    assert!(written.is_ok());
    bytes
}

fn webp() -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let encoder = image_webp::WebPEncoder::new(&mut bytes);
    let written = encoder.encode(&pixels(), WIDTH, HEIGHT, image_webp::ColorType::Rgb8);
    assert!(written.is_ok());
    bytes.into_inner()
}

/// Every container, and JPEGs of three structures.
fn files() -> Vec<(Format, Vec<u8>)> {
    let width = WIDTH as usize;
    vec![
        (Format::Jpeg, samples::usual(&pixels(), width, &[])),
        (Format::Jpeg, samples::usual(&pixels(), width, &[(TJPARAM_TJPARAM_PROGRESSIVE, 1)])),
        (Format::Jpeg, samples::usual(&pixels(), width, &[(TJPARAM_TJPARAM_RESTARTROWS, 1)])),
        (Format::Png, png()),
        (Format::WebP, webp()),
    ]
}

fn decode(bytes: &[u8]) -> Result<Image> {
    let mut image = Image::default();
    Decoder::new()?.decode(bytes, &mut image)?;
    Ok(image)
}

/// The part of the file is that part of the whole.
fn assert_part(decoder: &mut Decoder, bytes: &[u8], whole: &Image, part: Part, what: &str) -> Result<Part> {
    let mut image = Image::default();
    decoder.decode_part(bytes, part, &mut image)?;
    let Part { columns, rows, .. } = image.part;
    assert!(columns.0 <= part.columns.0 && part.columns.1 <= columns.1, "{what}");
    assert!(rows.0 <= part.rows.0 && rows.1 == part.rows.1, "{what}");
    for row in 0..image.rows() {
        let of_whole = &whole.row(rows.0 as usize + row)[columns.0 as usize * 3..];
        assert!(image.row(row) == &of_whole[..3 * image.columns()], "{what}, {part:?}, row {row}");
    }
    Ok(image.part)
}

/// Every subsampling, in one scan and in several, divided or not: places before, on and behind the borders of
/// coding units, whose neighbours matter where chroma is smoothed.
#[test]
fn a_part_is_that_part_of_the_whole() -> Result<()> {
    let (width, height) = (131u32, 118u32);
    let picture = crate::ops::samples::picture(width as usize, height as usize);
    let mut decoder = Decoder::new()?;
    let mut whole = Image::default();
    for subsampling in 0..7 {
        for scans in [&[][..], &[(TJPARAM_TJPARAM_PROGRESSIVE, 1)], &[(TJPARAM_TJPARAM_RESTARTROWS, 1)]] {
            let settings = [&[(TJPARAM_TJPARAM_SUBSAMP, subsampling)], scans].concat();
            let bytes = samples::usual(&picture, width as usize, &settings);
            for shrink in [1, 2, 4, 8] {
                decoder.decode_part(&bytes, Part { shrink, ..Part::WHOLE }, &mut whole)?;
                assert_eq!((whole.width, whole.height), (width, height));
                let (w, h) = (width.div_ceil(shrink), height.div_ceil(shrink));
                assert_eq!((whole.columns(), whole.rows()), (w as usize, h as usize));
                let what = format!("{settings:?}");
                let columns = [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65].into_iter().filter(|&x| x < w);
                for (i, left) in columns.enumerate() {
                    let right = [left + 1, w.min(left + 40), w - 1, w][i % 4].max(left + 1);
                    for (j, top) in [0, 1, 16, 33, 47, 64, 81, 99, h - 1].into_iter().enumerate() {
                        if top < h {
                            let bottom = [h, top + 1, h.min(top + 20), h - 1][(i + j) % 4].max(top + 1);
                            let part = Part { shrink, columns: (left, right), rows: (top, bottom) };
                            let held = assert_part(&mut decoder, &bytes, &whole, part, &what)?;
                            // Several scans are decoded at full width; one is not.
                            assert!(held == part || scans.contains(&(TJPARAM_TJPARAM_PROGRESSIVE, 1)));
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn what_lies_below_a_part_may_be_missing() -> Result<()> {
    let mut decoder = Decoder::new()?;
    let mut image = Image::default();
    let bytes = samples::usual(&pixels(), WIDTH as usize, &[(TJPARAM_TJPARAM_RESTARTROWS, 1)]);
    let cut = &bytes[..bytes.len() - 12];
    assert!(decoder.decode(cut, &mut image).is_err());
    decoder.decode_part(cut, Part { rows: (0, 4), ..Part::WHOLE }, &mut image)?;
    for wrong in [
        Part { shrink: 3, ..Part::WHOLE },
        Part { rows: (4, 4), ..Part::WHOLE },
        Part { columns: (WIDTH, WIDTH + 1), ..Part::WHOLE },
    ] {
        assert!(decoder.decode_part(&bytes, wrong, &mut image).is_err(), "{wrong:?}");
    }
    Ok(())
}

#[test]
fn formats_are_told_by_their_bytes_and_decode_to_the_size_they_state() -> Result<()> {
    for (format, bytes) in files() {
        let header = peek(&bytes)?;
        assert_eq!(header, Header { format, width: WIDTH, height: HEIGHT });
        let image = decode(&bytes)?;
        assert_eq!((image.width, image.height), (WIDTH, HEIGHT));
        assert_eq!(image.data.len(), 3 * (image.width * image.height) as usize);
        if format != Format::Jpeg {
            assert_eq!(image.data, pixels(), "{format:?}");
        }
    }
    assert!(matches!(peek(b"GIF89a...").map_err(|e| e.fault().kind()), Err("image")));
    assert!(peek(b"").is_err());
    Ok(())
}

/// Overwrites the size in the header: JPEG 16 bits, PNG 32 bits, WebP (lossless) 14 bits.
#[test]
fn sizes_beyond_the_limits_are_refused_from_the_header() -> Result<()> {
    let mut jpeg = samples::usual(&pixels(), WIDTH as usize, &[]);
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap_or_default();
    for (side, what) in [(65_501u16, "width"), (65_500, "pixels")] {
        jpeg[frame + 5..frame + 7].copy_from_slice(&side.to_be_bytes());
        jpeg[frame + 7..frame + 9].copy_from_slice(&side.to_be_bytes());
        let error = decode(&jpeg).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(what), "{error}");
    }
    jpeg[frame + 5..frame + 7].copy_from_slice(&0u16.to_be_bytes());
    assert!(peek(&jpeg).is_err());
    let mut png = png();
    png[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(peek(&png).map_err(|e| e.fault().kind()), Err("limit")));
    // A header that lies within the limits: the image data has to bear it out.
    let mut png = self::png();
    png[16..20].copy_from_slice(&(WIDTH + 1).to_be_bytes());
    assert!(decode(&png).is_err());
    Ok(())
}

#[test]
fn a_cut_file_is_an_error_or_has_all_of_its_pixels() -> Result<()> {
    for (format, bytes) in files() {
        let whole = decode(&bytes)?;
        for length in 0..bytes.len() {
            match decode(&bytes[..length]) {
                Err(_) => {}
                // Checksums and end marks may be missing after the last pixel.
                Ok(image) => {
                    assert!(format != Format::Jpeg && length + 24 > bytes.len(), "{format:?}: {length}");
                    assert_eq!(image, whole, "{format:?}: {length} of {} bytes", bytes.len());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn harmless_oddities_of_a_jpeg_are_counted_and_change_no_pixel() -> Result<()> {
    let bytes = samples::usual(&pixels(), WIDTH as usize, &[]);
    let expected = decode(&bytes)?;
    let mut odd_revision = bytes.clone();
    odd_revision[11] = 9; // After SOI, APP0, its length and "JFIF".
    let mut padded = bytes.clone();
    // More than the decoder reads ahead.
    padded.splice(bytes.len() - 2..bytes.len() - 2, [0; 50]);
    let mut trailing = bytes.clone();
    trailing.extend([0xff, 0xd8, 1, 2, 3]);
    let mut decoder = Decoder::new()?;
    let mut image = Image::default();
    for (odd, warnings) in [(bytes, 0), (odd_revision, 1), (padded, 1), (trailing, 0)] {
        decoder.decode(&odd, &mut image)?;
        assert_eq!((&image, decoder.tolerated_warnings()), (&expected, warnings));
    }
    Ok(())
}

#[test]
fn a_harmless_oddity_does_not_hide_damage() {
    let mut bytes = samples::usual(&pixels(), WIDTH as usize, &[]);
    bytes[11] = 9;
    let end = bytes.len() - 2;
    bytes.drain(end - 40..end);
    assert!(decode(&bytes).is_err());
}

#[test]
fn a_panic_of_a_library_is_damage() {
    let error = contained("PNG", || panic!("index 3")).err().map(|error| error.to_string());
    let words = "the decoder gave up: internal error (please report): index 3";
    assert_eq!(error.as_deref(), Some(format!("damaged PNG image: {words}").as_str()));
    assert!(contained("PNG", || Ok(())).is_ok());
}

#[test]
fn an_error_leaves_no_pixels_of_another_image_behind() -> Result<()> {
    let mut decoder = Decoder::new()?;
    let mut image = Image::default();
    for (_, bytes) in files() {
        decoder.decode(&bytes, &mut image)?;
        assert!(decoder.decode(&bytes[..bytes.len() / 2], &mut image).is_err());
        assert_eq!(image, Image::default());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_change_of_bytes_makes_the_decoders_panic(
        which in 0usize..5,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut bytes = files().swap_remove(which).1;
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        // Sizes up to the limits are legal, but too much work for a test.
        let small = peek(&bytes).is_ok_and(|header| header.width * header.height < 1 << 22);
        if small && let Ok(image) = decode(&bytes) {
            prop_assert_eq!(image.data.len(), 3 * (image.width * image.height) as usize);
        }
    }
}
