//! Files of the corpus taken apart and put together again, and what becomes of members that are damaged and whose
//! checksums are right all the same: in Rust alone, so that miri sees every step.

use super::samples::Random;
use super::*;
use crate::jpeg::Part;
use crate::ops::simd::Simd;

/// One of each way of coding; miri has time for the first of them.
const FILES: [&str; 8] = [
    "progressive-420",
    "sampling-420",
    "restart-7",
    "progressive-grey",
    "sampling-411",
    "extended",
    "progressive-444",
    "exif-6",
];

fn files() -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpus/images");
    FILES.into_iter().take(if cfg!(miri) { 3 } else { FILES.len() }).map(move |name| {
        let path = format!("{folder}/{name}.jpg");
        (name, std::fs::read(path).unwrap())
    })
}

fn pixels(member: &[u8], simd: Simd) -> Result<Vec<u8>> {
    let member = Member::parse(member)?;
    let mut rgb = Vec::new();
    Layout::parse(member.layout(false)?)?.pixels(Part::WHOLE, simd, &mut Scratch::default(), &mut rgb)?;
    Ok(rgb)
}

/// The member of other parts, with the checksums that belong to them.
fn sealed(of: &Member<'_>, skeleton: &[u8], layout: &[u8]) -> Vec<u8> {
    // What is rebuilt may be longer than the file was.
    member::write((of.width, of.height), &[0; 1 << 14], skeleton, [layout, &[]])
}

#[test]
fn files_come_back_with_tools_that_others_have_used() {
    let mut recoder = Recoder::new();
    for (name, file) in files() {
        let member = recoder.recode(&file).unwrap();
        assert_eq!(recoder.restore(&member).unwrap(), file, "{name}");
        let expected = pixels(&member, Simd::PORTABLE).unwrap();
        for simd in Simd::available() {
            assert!(pixels(&member, simd).unwrap() == expected, "{name}, {}", simd.name());
        }
    }
}

#[test]
fn parts_that_are_damaged_under_right_checksums_do_no_harm() {
    let (mut recoder, mut random) = (Recoder::new(), Random(9));
    let (mut rebuilt, mut refused) = (0, 0);
    for (name, file) in files() {
        let bytes = recoder.recode(&file).unwrap();
        let member = Member::parse(&bytes).unwrap();
        let whole = [member.skeleton().unwrap(), member.layout(false).unwrap()];
        for case in 0..if cfg!(miri) { 8 } else { 400 } {
            let mut parts = whole.map(<[u8]>::to_vec);
            // In turn behind the tables of the layout, anywhere in it, in the skeleton.
            let part = &mut parts[usize::from(case % 4 < 3)];
            let from = if case % 4 < 2 { part.len() / 2 } else { 0 };
            let at = from + random.below(part.len() - from);
            part[at] ^= 1 << random.below(8);
            let mutant = sealed(&member, &parts[0], &parts[1]);
            match recoder.rebuild(&mutant) {
                Ok(other) => {
                    rebuilt += 1;
                    assert!(recoder.restore(&mutant).is_err(), "{name} {case}: another file's checksum");
                    assert!(other.starts_with(&[0xff, 0xd8]) || parts[0] != whole[0], "{name} {case}");
                }
                Err(_) => refused += 1,
            }
            let expected = pixels(&mutant, Simd::PORTABLE).ok();
            for simd in Simd::available() {
                assert!(pixels(&mutant, simd).ok() == expected, "{name} {case}, {}", simd.name());
            }
        }
    }
    assert!(rebuilt > 0 && refused > 0, "{rebuilt} {refused}");
}

#[test]
fn scans_beyond_the_plain_paths_limit_are_refused_before_the_first_is_written() {
    let (_, file) = files().next().unwrap();
    let bytes = Recoder::new().recode(&file).unwrap();
    let member = Member::parse(&bytes).unwrap();
    let mut skeleton = member.skeleton().unwrap().to_vec();
    let frame = skeleton.windows(2).position(|marker| marker == [0xff, 0xc2]).unwrap();
    skeleton[frame + 5..frame + 9].copy_from_slice(&[13_000_u16.to_be_bytes(); 2].concat());
    let from = skeleton.windows(2).rposition(|marker| marker == [0xff, 0xda]).unwrap();
    let scan = skeleton[from..skeleton.len() - 2].to_vec();
    let scans = skeleton.windows(2).filter(|marker| marker == &[0xff, 0xda]).count();
    for more in [11, 12] {
        let mut many = skeleton.clone();
        (scans..more).for_each(|_| drop(many.splice(from..from, scan.iter().copied())));
        let error =
            Recoder::new().restore(&sealed(&member, &many, member.layout(false).unwrap())).unwrap_err();
        // 2 * 10^9 pixels of scans, of which an image of 13,000 squared has 169 million each.
        assert_eq!(
            error.to_string().contains("number of JPEG scans is 12, the limit is 11"),
            more == 12,
            "{error}"
        );
    }
}
