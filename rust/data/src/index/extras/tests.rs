use super::*;
use crate::decode::Format;
use crate::index::{Builder, Sample};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn sample(shard: u32, offset: u64) -> Sample {
    let (length, label, crc32c, proven) = (10, None, 7, false);
    Sample { shard, offset, length, label, width: 32, height: 24, format: Format::Png, crc32c, proven }
}

fn extra(kind: u32, shard: u32, offset: u64) -> Extra {
    Extra { kind, shard, offset, length: 5, crc32c: 0xdead_beef }
}

/// Samples with two extra members, none, and one that is a file of its own.
fn example() -> Vec<u8> {
    let mut builder = Builder::new();
    for (number, kind) in [&b"json"[..], b"left.txt", b"txt"].into_iter().enumerate() {
        assert_eq!(builder.kind(kind).unwrap(), number as u32);
    }
    builder.shard(b"a.tar", 100).unwrap();
    builder.sample(b"d/0.png", &sample(0, 0)).unwrap();
    builder.extras(vec![extra(2, 0, 20), extra(0, 0, 10)]).unwrap();
    builder.sample(b"d/1.png", &sample(0, 30)).unwrap();
    builder.extras(vec![]).unwrap();
    builder.shard(b"2.png", 10).unwrap();
    builder.sample(b"2.png", &sample(1, 0)).unwrap();
    builder.shard(b"2.TXT", 5).unwrap();
    builder.extras(vec![extra(2, 2, 0)]).unwrap();
    builder.sample(b"3.png", &sample(1, 0)).unwrap();
    builder.finish()
}

fn open(bytes: Vec<u8>) -> Result<Index> {
    Index::from_bytes(bytes, Path::new("/data"))
}

fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..124]), &bytes[128..]);
    bytes[124..128].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn a_stem_ends_at_the_first_dot_of_the_last_component() {
    assert_eq!(stem(b"a.b/c.d/0001.left.jpg"), b"a.b/c.d/0001");
    assert_eq!(stem(b"0001.cls"), b"0001");
    assert_eq!(stem(b"a.b/none"), b"a.b/none");
    assert_eq!(extension(b"a.b/c.d/0001.Left.JPG"), b"left.jpg");
    for none in [&b"a.b/none"[..], b"a/0001.", b""] {
        assert_eq!(extension(none), b"");
    }
}

#[test]
fn what_goes_in_comes_out_by_kind() {
    let index = open(example()).unwrap();
    assert_eq!(index.kinds().collect::<Vec<_>>(), [&b"json"[..], b"left.txt", b"txt"]);
    assert_eq!(
        ["json", "left.txt", "txt", "a", "k", "z"].map(|kind| index.kind(kind.as_bytes())),
        [Some(0), Some(1), Some(2), None, None, None]
    );
    assert_eq!(index.extras(0).unwrap(), [extra(0, 0, 10), extra(2, 0, 20)]);
    assert_eq!(index.extras(1).unwrap(), []);
    assert_eq!(index.extras(2).unwrap(), [extra(2, 2, 0)]);
    assert_eq!(index.extras(3).unwrap(), []);
    assert!(index.extras(4).is_err() && index.extras(u32::MAX).is_err());
    assert_eq!(index.extra_name(0, 1), b"d/0.left.txt");
    assert_eq!(index.kinds_of(&["txt", "json"]).unwrap(), [2, 0]);
    let error = index.kinds_of(&["txt", "cls\n"]).unwrap_err().to_string();
    assert_eq!(error, "no sample of the index has a member \"cls\\n\": it has json, left.txt, txt");
}

/// The layout of docs/index-format.md, spelled out once more. A change is a new VERSION.
#[test]
fn golden_bytes() {
    let bytes = example();
    assert_eq!(&bytes[..16], b"BARLOWIX\x02\0\0\0\x80\0\0\0");
    assert_eq!(&bytes[80..96], [3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    let (starts, extras, kinds) = (128 + 4 * 40 + 3 * 24, 5 * 8, 3 * 24);
    let first_bytes: Vec<u8> = bytes[starts..starts + extras].iter().copied().step_by(8).collect();
    assert_eq!(first_bytes, [0, 2, 2, 3, 3]);
    let extras = starts + extras;
    let json = [10, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0xef, 0xbe, 0xad, 0xde, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(&bytes[extras..extras + 24], json);
    assert_eq!(&bytes[extras + 64..extras + 72], [2, 0, 0, 0, 2, 0, 0, 0]);
    let kinds = extras + kinds;
    assert_eq!(&bytes[kinds + 16..kinds + 32], [4, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
    assert!(bytes[kinds + 48..].starts_with(b"jsonleft.txttxta.tard/0.png"));
}

/// Byte 80 and on are zeros without extra members, and the version is that of builds that know none.
#[test]
fn who_has_none_pays_nothing() {
    let mut builder = Builder::new();
    builder.shard(b"a.tar", 100).unwrap();
    builder.sample(b"0.png", &sample(0, 0)).unwrap();
    let plain = builder.finish();
    assert_eq!((plain[8], plain.len()), (1, 128 + 40 + 24 + b"a.tar0.png".len()));
    let index = open(plain).unwrap();
    assert_eq!((index.kinds().count(), index.extras(0).unwrap()), (0, vec![]));
    let error = index.kinds_of(&["json"]).unwrap_err().to_string();
    assert!(error.contains("it knows no extra members"), "{error}");
}

#[test]
fn a_subset_takes_them_along_and_the_digest_leaves_them_out() {
    let index = open(example()).unwrap();
    let part = index.subset(&[2, 1, 0]).unwrap();
    assert_eq!(part.extras(0).unwrap(), [extra(2, 1, 0)]);
    assert_eq!(part.shard_path(1), PathBuf::from("/data/2.TXT"));
    assert_eq!(part.extras(1).unwrap(), []);
    assert_eq!(part.extras(2).unwrap(), [extra(0, 2, 10), extra(2, 2, 20)]);
    assert!(part.kinds().eq(index.kinds()));
    // A part of which no sample has any still knows what others have.
    let none = index.subset(&[1]).unwrap();
    assert_eq!((none.kind(b"txt"), none.extras(0).unwrap()), (Some(2), vec![]));
    let moved = index.moved_to(Path::new("/elsewhere")).unwrap();
    assert_eq!(moved.shard_path(2), PathBuf::from("/data/2.TXT"));
    assert_eq!(moved.extras(2).unwrap(), index.extras(2).unwrap());
    let mut builder = Builder::new();
    builder.shard(b"a.tar", 100).unwrap();
    for (name, offset) in [(&b"d/0.png"[..], 0), (b"d/1.png", 30)] {
        builder.sample(name, &sample(0, offset)).unwrap();
    }
    assert_eq!(open(builder.finish()).unwrap().digest(), index.subset(&[0, 1]).unwrap().digest());
}

#[test]
fn a_lie_behind_a_right_checksum_is_found() {
    let starts = 128 + 4 * 40 + 3 * 24;
    let (extras, kinds) = (starts + 5 * 8, starts + 5 * 8 + 3 * 24);
    let cases: [(usize, &[u8], &str); 15] = [
        (80, &[2], "size"),
        (80, &[0xff; 8], "size"),
        (88, &[0xff; 8], "size"),
        (88, &[2], "size"),
        (96, &[1], "header"),
        (starts + 32, &[2], "number of extra members"),
        (starts + 8, &[4], "number of extra members"),
        (starts, &[3], "number of extra members"),
        (extras, &[96], "outside of its shard"),
        (extras, &[0xff; 8], "outside of its shard"),
        (extras + 8, &[0xff; 4], "outside of its shard"),
        (extras + 16, &[3], "shard number"),
        (extras + 20, &[3], "extra member extension"),
        (extras + 20, &[2], "two extra members of one extension"),
        (kinds, &[12], "order of extra member extensions"),
    ];
    for (at, lie, message) in cases {
        let mut bytes = example();
        bytes[at..at + lie.len()].copy_from_slice(lie);
        let found =
            open(signed(bytes)).and_then(|index| (0..4).try_for_each(|id| index.extras(id).map(drop)));
        let error = found.unwrap_err().to_string();
        assert!(error.contains(message), "{at}: {error}, not {message}");
    }
}

#[test]
fn limits_hold_when_building() {
    let with = |extras: Vec<Extra>| {
        let mut builder = Builder::new();
        (0..300u32).try_for_each(|kind| builder.kind(format!("{kind:03}").as_bytes()).map(drop))?;
        builder.shard(b"a.tar", u64::MAX)?;
        builder.sample(b"0.png", &sample(0, 0))?;
        builder.extras(extras)?;
        open(builder.finish())
    };
    let many = |count: u32| (0..count).map(|kind| extra(kind, 0, 0)).collect::<Vec<_>>();
    assert_eq!(with(many(256)).unwrap().extras(0).unwrap().len(), 256);
    assert!(with(many(257)).err().unwrap().to_string().contains("limit is 256"));
    let large = |length| vec![Extra { length, ..extra(0, 0, 0) }, Extra { length: 1, ..extra(1, 0, 0) }];
    assert_eq!(with(large((64 << 20) - 1)).unwrap().extras(0).unwrap().len(), 2);
    assert!(with(large(64 << 20)).err().unwrap().to_string().contains("limit is 67108864"));
    let twice = vec![extra(4, 0, 0), extra(1, 0, 0), extra(4, 0, 9)];
    assert!(with(twice).err().unwrap().to_string().contains("two extra members"));
    let mut builder = Builder::new();
    assert!(builder.kind(&[b'x'; 4097]).is_err());
}

proptest! {
    /// Noise anywhere, checksum right: an error, or an index whose every access is in bounds.
    #[test]
    fn hostile_records_never_panic(
        noise in prop::collection::vec((8usize..600, any::<u8>()), 1..6), id: u32,
    ) {
        let mut bytes = example();
        for (at, byte) in noise {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(index) = open(signed(bytes)) {
            for id in (0..index.len().min(10) as u32).chain([id]) {
                for extra in index.extras(id).unwrap_or_default() {
                    let end = extra.offset + u64::from(extra.length);
                    prop_assert!(end <= index.shard_bytes(extra.shard));
                    prop_assert!(index.kinds().nth(extra.kind as usize).is_some());
                    let _ = index.extra_name(id, extra.kind);
                }
            }
            let _ = (index.kind(b"txt"), index.subset(&[0, id]).is_ok());
        }
    }
}
