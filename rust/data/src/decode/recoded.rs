//! Here: tests of recoded images: the plain path's pixels whatever the JPEG is, and of mutants those or an error.
//! Not here: files of other encoders (tests/test_recode.py).

use turbojpeg_sys::{
    TJPARAM, TJPARAM_TJPARAM_ARITHMETIC as ARITHMETIC, TJPARAM_TJPARAM_OPTIMIZE as OPTIMIZE,
    TJPARAM_TJPARAM_PROGRESSIVE as PROGRESSIVE, TJPARAM_TJPARAM_QUALITY as QUALITY,
    TJPARAM_TJPARAM_RESTARTBLOCKS as RESTART, TJPARAM_TJPARAM_SUBSAMP as SUBSAMP,
};

use super::*;
use crate::jpeg::samples;
use crate::recode::Recoder;

/// Numbers that look random, the same ones every time.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound.max(1)
    }
}

/// Smooth on its left, noise on its right: short codes and long ones.
fn picture(width: usize, height: usize) -> Vec<u8> {
    let mut draws = Draws(width as u64);
    let mut value = |i: usize| {
        let (x, y, channel) = (i / 3 % width, i / 3 / width, i % 3);
        if x < width / 2 { (x * (channel + 1) + 2 * y) as u8 } else { draws.below(256) as u8 }
    };
    (0..width * height * 3).map(&mut value).collect()
}

fn decoded(bytes: &[u8], part: Part) -> Result<(Part, Vec<u8>)> {
    let mut image = Image::default();
    Decoder::new()?.decode_part(bytes, part, &mut image)?;
    Ok((image.part, (0..image.rows()).flat_map(|row| image.row(row).to_vec()).collect()))
}

#[test]
fn every_kind_of_file_comes_back_and_has_its_pixels() {
    let mut recoder = Recoder::new();
    let mut files = 0;
    for (width, height) in [(1, 1), (17, 33), (100, 75)] {
        let rgb = picture(width, height);
        // TurboJPEG's subsamplings: 4:4:4, 4:2:2, 4:2:0, grey, 4:4:0, 4:1:1, 4:4:1.
        for (subsampling, quality) in (0..7).flat_map(|s| [1, 75, 100].map(|q| (s, q))) {
            for (progressive, optimize, restart) in [(0, 0, 0), (0, 1, 3), (1, 0, 0), (1, 0, 5)] {
                let settings: [(TJPARAM, i32); 5] = [
                    (SUBSAMP, subsampling),
                    (QUALITY, quality),
                    (PROGRESSIVE, progressive),
                    (OPTIMIZE, optimize),
                    (RESTART, restart),
                ];
                let bytes = samples::encode(&rgb, width, &settings);
                let what = format!("{width}x{height} {settings:?}");
                let member = recoder.recode(&bytes).unwrap_or_else(|reason| panic!("{what}: {reason}"));
                assert_eq!(recoder.restore(&member).unwrap(), bytes, "{what}");
                for shrink in [1, 2, 4, 8] {
                    let part = Part { shrink, ..Part::WHOLE };
                    assert_eq!(
                        decoded(&member, part).unwrap(),
                        decoded(&bytes, part).unwrap(),
                        "{what} 1/{shrink}"
                    );
                }
                files += 1;
            }
        }
    }
    assert_eq!(files, 3 * 7 * 3 * 4);
}

#[test]
fn arithmetic_codes_stay_as_they_are() {
    let bytes = samples::usual(&picture(40, 30), 40, &[(ARITHMETIC, 1)]);
    assert!(decoded(&bytes, Part::WHOLE).is_ok());
    assert!(Recoder::new().recode(&bytes).is_err());
}

/// The header of docs/recode-format.md, spelled out once more: lengths and checksums for two parts.
fn assembled(header: &[u8], skeleton: &[u8], layout: &[u8]) -> Vec<u8> {
    let numbers = |part: &[u8]| [part.len() as u32, crc32c::crc32c(part)].map(u32::to_le_bytes).concat();
    let mut member = [&header[..24], &numbers(skeleton), &numbers(layout)].concat();
    member.extend(crc32c::crc32c(&member).to_le_bytes());
    [&member, skeleton, layout].concat()
}

fn parts(member: &[u8]) -> [&[u8]; 3] {
    let skeleton = u32::from_le_bytes(member[24..28].try_into().unwrap()) as usize;
    [&member[..44], &member[44..44 + skeleton], &member[44 + skeleton..]]
}

#[test]
fn a_member_is_what_its_description_says() {
    let bytes = samples::usual(&picture(40, 30), 40, &[]);
    let member = Recoder::new().recode(&bytes).unwrap();
    let [header, skeleton, layout] = parts(&member);
    assert_eq!(assembled(header, skeleton, layout), member);
    assert_eq!((&header[..8], &header[8..12]), (&b"BARLOWJC"[..], &[1, 0, 0, 0][..]));
    assert_eq!(header[12..16], (bytes.len() as u32).to_le_bytes());
    assert_eq!(header[16..20], crc32c::crc32c(&bytes).to_le_bytes());
    assert_eq!(header[20..24], [40, 0, 30, 0]);
    // Ones fill up the last byte, no run is cut, and the rest is the file up to its data, and its last marker.
    let (outside, end) = (&skeleton[2..], bytes.len() - 2);
    assert_eq!(&skeleton[..2], [0, 0]);
    assert!(bytes.starts_with(&outside[..outside.len() - 2]) && outside.ends_with(&bytes[end..]));
    // The next version is refused by its number, before anything else is believed.
    let mut newer = member.clone();
    newer[8] = 2;
    let error = decoded(&newer, Part::WHOLE).unwrap_err();
    assert!(error.to_string().contains("version 2") && error.to_string().contains("upgrade"), "{error}");
    assert!(!error.fault().is_damage());
    // Each byte is under one of the checksums, but for those of the file itself, which pixels do not need.
    for at in 0..member.len() {
        let mut damaged = member.clone();
        damaged[at] ^= 0x20;
        assert!(Recoder::new().restore(&damaged).is_err(), "byte {at}");
        let seen = decoded(&damaged, Part::WHOLE).is_err();
        assert_eq!(seen, !(44..44 + skeleton.len()).contains(&at), "byte {at}");
    }
}

#[test]
fn what_is_proven_is_not_summed_up_again() {
    let mut member = Recoder::new().recode(&samples::usual(&picture(40, 30), 40, &[])).unwrap();
    let (mut expected, mut found) = (Image::default(), Image::default());
    let mut decoder = Decoder::new().unwrap();
    decoder.decode(&member, &mut expected).unwrap();
    // Another checksum of the coefficients, the header's own put right.
    member[36] ^= 1;
    let header = crc32c::crc32c(&member[..40]).to_le_bytes();
    member[40..44].copy_from_slice(&header);
    assert!(decoder.decode_part(&member, Part::WHOLE, &mut found).is_err());
    decoder.decode_proven_part(&member, Part::WHOLE, &mut found).unwrap();
    assert!(found == expected);
}

fn mutated(draws: &mut Draws, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=draws.below(3) {
        let at = draws.below(bytes.len());
        let to = (at + 1 + draws.below(8)).min(bytes.len());
        match draws.below(8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << draws.below(8),
            2 | 3 if at < bytes.len() => bytes[at] = draws.below(256) as u8,
            4 if at < bytes.len() => bytes[at] = [0, 1, 127, 128, 255][draws.below(5)],
            5 => drop(bytes.drain(at..to)),
            6 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let from = draws.below(other.len());
                let piece = &other[from..(from + 1 + draws.below(40)).min(other.len())];
                let to = (at + piece.len()).min(bytes.len());
                bytes.splice(at..to, piece.iter().copied());
            }
        }
    }
    bytes
}

/// BARLOW_MUTANTS asks for more of them (100,000 take some minutes).
#[test]
fn mutants_have_the_plain_paths_pixels_or_are_refused() {
    let count = std::env::var("BARLOW_MUTANTS").ok().and_then(|count| count.parse().ok()).unwrap_or(4000);
    let mut recoder = Recoder::new();
    let mut members = Vec::new();
    for (width, height) in [(8, 8), (33, 25), (50, 18)] {
        let rgb = picture(width, height);
        for subsampling in [0, 1, 2, 3, 5] {
            for (progressive, restart) in [(0, 0), (1, 0), (0, 2), (1, 3)] {
                let settings = [(SUBSAMP, subsampling), (PROGRESSIVE, progressive), (RESTART, restart)];
                let bytes = samples::usual(&rgb, width, &settings);
                members.push(recoder.recode(&bytes).unwrap());
            }
        }
    }
    let mut draws = Draws(1);
    let (mut pixels, mut rebuilt, mut agreed) = (0, 0, 0);
    for number in 0..count {
        let member = &members[draws.below(members.len())];
        let [header, skeleton, layout] = parts(member);
        let others = parts(&members[draws.below(members.len())]);
        let mut header = header.to_vec();
        // Room for a file that is longer than it was: were it refused for that, less would be compared.
        header[14] = 1;
        let mutant = match draws.below(4) {
            0 => mutated(&mut draws, member, others[2]),
            1 => assembled(&header, &mutated(&mut draws, skeleton, others[1]), layout),
            2 => assembled(&header, skeleton, &mutated(&mut draws, layout, others[2])),
            _ => {
                let skeleton = mutated(&mut draws, skeleton, others[1]);
                assembled(&header, &skeleton, &mutated(&mut draws, layout, others[2]))
            }
        };
        let shown = decoded(&mutant, Part::WHOLE);
        let file = recoder.rebuild(&mutant);
        let plain = file.as_ref().ok().and_then(|file| decoded(file, Part::WHOLE).ok());
        pixels += usize::from(shown.is_ok());
        rebuilt += usize::from(file.is_ok());
        if let (Ok(shown), Some(plain)) = (&shown, &plain) {
            assert!(shown == plain, "mutant {number} has other pixels than the file that it stands for");
            agreed += 1;
        }
    }
    // Were all of them refused at once, nothing would be tested.
    assert!(agreed * 20 > count && pixels > agreed && rebuilt >= agreed, "{pixels} {rebuilt} {agreed}");
}
