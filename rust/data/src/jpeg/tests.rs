//! Tests of the decoder against libjpeg-turbo's own reader of codes, and of its limits.

use super::*;
use crate::limits::MAX_SCANS;

#[test]
fn libjpeg_turbo_is_new_enough_and_has_simd() {
    let (version, simd) = library();
    assert!(version >= 3_001_000, "{version}");
    assert!(simd);
}

#[test]
fn scan_bombs_are_refused_before_they_burn() -> Result<()> {
    let progressive = [(turbojpeg_sys::TJPARAM_TJPARAM_PROGRESSIVE, 1)];
    let bytes = samples::usual(&[90; 40 * 30 * 3], 40, &progressive);
    let frame = header(&bytes)?;
    // Many copies of the last scan, its header and its data.
    let last = bytes.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap_or_default();
    let scan = &bytes[last..bytes.len() - 2];
    let mut bomb = bytes[..last].to_vec();
    (0..MAX_SCANS).for_each(|_| bomb.extend(scan));
    bomb.extend([0xff, 0xd9]);
    let mut jpeg = Jpeg::new(Codes::Own)?;
    let mut rgb = Vec::new();
    let refusal = check(&bomb, &frame).err().map(|error| error.fault().kind());
    assert_eq!(refusal, Some("limit"));
    // The second guard, inside libjpeg-turbo, on a file that is well within the first.
    assert!(jpeg.rows(&bytes, &frame, Part::WHOLE, 20, 3, &mut rgb).is_ok());
    let refusal = jpeg.rows(&bytes, &frame, Part::WHOLE, 3, 3, &mut rgb).err().map(|error| error.to_string());
    assert_eq!(refusal.as_deref(), Some("damaged JPEG image: more than 3 scans"));
    jpeg.decode(&bytes, &frame, Part::WHOLE, &mut rgb)?;
    assert!(check(&bytes, &frame).is_ok());
    // The larger the image, the fewer scans.
    assert_eq!(scan_limit(&frame), MAX_SCANS);
    assert_eq!(scan_limit(&Frame { width: 13_000, height: 13_000, ..frame }), 11);
    Ok(())
}

/// Pixels by name: noise needs the longest codes and values, flat areas the shortest.
fn pictures(width: usize, height: usize) -> [(&'static str, Vec<u8>); 3] {
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let smooth = |i: usize| ((i / 3 % width) * 3 + (i / 3 / width) * (i % 3 + 1)) as u8;
    [
        ("noise", (0..width * height * 3).map(|_| noise()).collect()),
        ("smooth", (0..width * height * 3).map(smooth).collect()),
        ("flat", vec![137; width * height * 3]),
    ]
}

fn decoded(codes: Codes, bytes: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let read = || -> Result<Vec<u8>> {
        let frame = header(bytes)?;
        let mut rgb = Vec::new();
        Jpeg::new(codes)?.decode(bytes, &frame, Part::WHOLE, &mut rgb)?;
        Ok(rgb)
    };
    read().map_err(|error| error.to_string())
}

const BAD_CODE: &str = "damaged JPEG image: Corrupt JPEG data: bad Huffman code";

#[test]
fn own_codes_are_the_librarys_on_every_kind_of_file() {
    use turbojpeg_sys::{
        TJPARAM_TJPARAM_OPTIMIZE as OPTIMIZE, TJPARAM_TJPARAM_QUALITY as QUALITY,
        TJPARAM_TJPARAM_RESTARTBLOCKS as RESTART, TJPARAM_TJPARAM_SUBSAMP as SUBSAMP,
    };
    let mut files = 0;
    for (width, height) in [(1, 1), (8, 8), (17, 33), (100, 75), (203, 41)] {
        for (name, rgb) in pictures(width, height) {
            // TurboJPEG's subsamplings: 4:4:4, 4:2:2, 4:2:0, grey, 4:4:0, 4:1:1, 4:4:1.
            for (subsampling, quality) in (0..7).flat_map(|s| [1, 30, 75, 95, 100].map(|q| (s, q))) {
                for (optimize, restart) in [(0, 0), (1, 0), (0, 1), (1, 7)] {
                    let settings = [
                        (SUBSAMP, subsampling),
                        (QUALITY, quality),
                        (OPTIMIZE, optimize),
                        (RESTART, restart),
                    ];
                    let bytes = samples::encode(&rgb, width, &settings);
                    let what = format!("{width}x{height} {name} {settings:?}");
                    assert_eq!(decoded(Codes::Own, &bytes), decoded(Codes::Library, &bytes), "{what}");
                    files += 1;
                }
            }
        }
    }
    assert_eq!(files, 5 * 3 * 7 * 5 * 4);
}

#[test]
fn files_that_end_early_end_alike() {
    for restart in [0, 2] {
        let settings = [(turbojpeg_sys::TJPARAM_TJPARAM_RESTARTBLOCKS, restart)];
        let whole = samples::usual(&pictures(67, 50)[0].1, 67, &settings);
        let mut refused = 0;
        for length in 0..whole.len() {
            let own = decoded(Codes::Own, &whole[..length]);
            assert_eq!(own, decoded(Codes::Library, &whole[..length]), "{length} bytes, {restart}");
            refused += usize::from(own.is_err());
        }
        assert!(refused > whole.len() - 4, "{refused} of {}", whole.len());
    }
}

#[test]
fn damaged_files_give_the_librarys_pixels_or_an_error() {
    // Large enough for libjpeg-turbo's fast reader, which takes codes that do not exist for ends of blocks.
    let whole = samples::usual(&pictures(128, 96)[0].1, 128, &[]);
    let (mut equal, mut stricter) = (0, 0);
    for at in (0..whole.len()).step_by(2) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let (own, library) = (decoded(Codes::Own, &bytes), decoded(Codes::Library, &bytes));
        if own == library {
            equal += usize::from(own.is_ok());
        } else {
            assert_eq!(own, Err(BAD_CODE.to_owned()), "byte {at}: {:?}", library.map(|_| "pixels"));
            stricter += 1;
        }
    }
    // Were the codes not read by huffman.c, nothing would be stricter.
    assert!(equal > 100 && stricter > 0, "{equal} {stricter}");
}
