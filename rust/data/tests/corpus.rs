//! Every file of `tests/corpus` has the outcome that `outcomes.txt` pins for it, here without any Python; and
//! an archive of a million members.

use std::path::{Path, PathBuf};

use barlow_data::decode::{Decoder, Image, Part};
use barlow_data::error::{Error, Result};
use barlow_data::tar::{self, BLOCK, Member, header_for};
use sha2::{Digest, Sha256};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus")
}

/// Path, `ok` or the kind of the error, and the detail, of every line of the table.
fn table() -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(corpus().join("outcomes.txt")).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut fields = line.split(" | ").map(|field| field.trim().to_owned());
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
        .collect()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Decodes over a poison; what the decoder left of it would show in the hash, which is that of clean memory.
fn image(decoder: &mut Decoder, bytes: &[u8], poison: u8) -> Result<String> {
    let mut image = Image { data: vec![poison; 1 << 20], ..Image::default() };
    let decoded = decoder.decode(bytes, &mut image);
    if decoded.is_err() {
        assert_eq!(image, Image::default(), "pixels behind an error");
    }
    decoded.map(|()| format!("{} x {} {}", image.width, image.height, hash(&image.data)))
}

fn archive(bytes: &[u8]) -> Result<String> {
    let members: Vec<Member> = tar::members_of(bytes).collect::<Result<_>>()?;
    let mut lines = Vec::new();
    for Member { name, offset, length } in &members {
        lines.extend([name, &b"\0"[..], format!("{offset}\0{length}\n").as_bytes()].concat());
    }
    Ok(format!("{} members {}", members.len(), hash(&lines)))
}

#[test]
fn every_file_has_its_outcome() {
    let table = table();
    assert!(table.len() >= 120, "{} files", table.len());
    let mut decoder = Decoder::new().unwrap();
    for (path, kind, detail) in table {
        let bytes = std::fs::read(corpus().join(&path)).unwrap();
        let outcomes: Vec<std::result::Result<String, Error>> = match path.starts_with("images/") {
            // One decoder for all of them: no image may leave anything behind for the next.
            true => [0xab, 0x54].map(|poison| image(&mut decoder, &bytes, poison)).into(),
            false => vec![archive(&bytes)],
        };
        for outcome in outcomes {
            let (found, text) = match &outcome {
                Ok(text) => ("ok", text.clone()),
                Err(error) => (error.fault().kind(), error.to_string()),
            };
            assert_eq!(found, kind, "{path}: {text}");
            assert!(text.contains(&detail), "{path}: {text}");
        }
    }
}

#[test]
fn a_million_members_are_listed() {
    const COUNT: u64 = 1_000_000;
    // No file of 512 MB: headers come into being where they are read.
    let mut reads = 0;
    let members = tar::members(COUNT * BLOCK as u64, |offset, buffer| {
        reads += 1;
        buffer.copy_from_slice(&header_for(format!("{:07}.jpg", offset / BLOCK as u64).as_bytes(), 0)?);
        Ok(())
    });
    let mut count = 0;
    for member in members {
        let member = member.unwrap();
        assert_eq!(member.offset, (count + 1) * BLOCK as u64);
        assert_eq!(member.name, format!("{count:07}.jpg").as_bytes());
        count += 1;
    }
    assert_eq!((count, reads), (COUNT, COUNT));
}

/// Nothing decodes whole and fails in part, and no part has other pixels.
#[test]
fn every_part_of_an_image_is_that_of_the_whole() {
    let mut decoder = Decoder::new().unwrap();
    let (mut whole, mut image) = (Image::default(), Image::default());
    let mut files = 0;
    for (path, kind, _) in table() {
        if !path.starts_with("images/") || kind != "ok" {
            continue;
        }
        let bytes = std::fs::read(corpus().join(&path)).unwrap();
        decoder.decode(&bytes, &mut whole).unwrap();
        let (w, h) = (whole.width, whole.height);
        for columns in [(0, w), (w / 2, w), (w / 3, w - w / 3), (w - 1, w)] {
            for rows in [(0, h), (h / 2, h), (h / 3, h - h / 3), (h - 1, h)] {
                decoder.decode_part(&bytes, Part { shrink: 1, columns, rows }, &mut image).unwrap();
                let Part { columns: held, rows: lines, .. } = image.part;
                assert!(held.0 <= columns.0 && columns.1 <= held.1, "{path}");
                assert!(lines.0 <= rows.0 && rows.1 <= lines.1, "{path}");
                for row in 0..image.rows() {
                    let of_whole = whole.row(lines.0 as usize + row);
                    let expected = &of_whole[held.0 as usize * 3..held.1 as usize * 3];
                    assert!(image.row(row) == expected, "{path}: {columns:?} {rows:?} row {row}");
                }
            }
        }
        files += 1;
    }
    assert!(files >= 60, "{files} files");
}
