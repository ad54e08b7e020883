use super::*;
use proptest::prelude::*;

fn sample(shard: u32, offset: u64, label: Option<u32>) -> Sample {
    Sample {
        shard,
        offset,
        length: 10,
        label,
        width: 32,
        height: 24,
        format: Format::Png,
        crc32c: 0xdead_beef,
        proven: offset > 0,
    }
}

fn example() -> Vec<u8> {
    let mut builder = Builder::new();
    assert_eq!(builder.class(b"cat").unwrap(), 0);
    assert_eq!(builder.class(b"dog").unwrap(), 1);
    assert_eq!(builder.shard(b"a.tar", 100).unwrap(), 0);
    builder.sample(b"cat/0.png", &sample(0, 0, Some(0))).unwrap();
    builder.sample(b"dog/\xff.png", &sample(0, 10, Some(1))).unwrap();
    assert_eq!(builder.shard(b"loose.png", 10).unwrap(), 1);
    builder.sample(b"loose.png", &sample(1, 0, None)).unwrap();
    builder.finish()
}

fn open(bytes: Vec<u8>) -> Result<Index> {
    Index::from_bytes(bytes, Path::new("/data"))
}

/// The checksum made right again: what remains is for the checks behind it to find.
fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..124]), &bytes[128..]);
    bytes[124..128].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn refused(bytes: Vec<u8>) -> String {
    open(signed(bytes)).err().unwrap().to_string()
}

#[test]
fn what_goes_in_comes_out() {
    let index = open(example()).unwrap();
    assert_eq!((index.len(), index.num_shards()), (3, 2));
    assert_eq!(index.class_names(), ["cat", "dog"]);
    assert_eq!(index.sample(1).unwrap(), sample(0, 10, Some(1)));
    assert_eq!(index.sample(2).unwrap(), sample(1, 0, None));
    assert_eq!(index.name(1), b"dog/\xff.png");
    assert_eq!(index.name(2), b"loose.png");
    assert_eq!((index.shard_path(1), index.shard_bytes(1)), (PathBuf::from("/data/loose.png"), 10));
    assert!(index.sample(3).is_err() && index.record(3).is_none());
    assert_eq!(index.name(3), b"");
    assert_eq!(index.shard_bytes(2), 0);
}

/// The layout of docs/index-format.md, spelled out once more. A change is a new VERSION.
#[test]
fn golden_bytes() {
    let bytes = example();
    assert_eq!(bytes.len(), 128 + 3 * 40 + 2 * 24 + 2 * 16 + b"catdoga.tarcat/0.pngdog/_.pngloose.png".len());
    assert_eq!(&bytes[..16], b"BARLOWIX\x01\0\0\0\x80\0\0\0");
    assert_eq!(&bytes[16..20], [3, 0, 0, 0]);
    let second = &bytes[168..208];
    assert_eq!(&second[..16], [10, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&second[16..32], [10, 0, 0, 0, 0xef, 0xbe, 0xad, 0xde, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(&second[32..], [32, 0, 24, 0, 9, 0, 2, 1]);
    assert_eq!(&bytes[248..272], [100, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert!(bytes.ends_with(b"catdoga.tarcat/0.pngdog/\xff.pngloose.png"));
}

#[test]
fn a_subset_keeps_order_classes_and_needed_shards() {
    let index = open(example()).unwrap();
    let part = index.subset(&[2, 1]).unwrap();
    assert_eq!(part.len(), 2);
    assert_eq!(part.sample(0).unwrap(), sample(0, 0, None));
    assert_eq!(part.shard_path(0), index.shard_path(1));
    assert_eq!(part.sample(1).unwrap(), sample(1, 10, Some(1)));
    assert_eq!(part.class_names(), index.class_names());
    assert_eq!(index.subset(&[1]).unwrap().num_shards(), 1);
    assert_eq!(index.subset(&[0, 1, 2]).unwrap().digest(), index.digest());
    assert_ne!(part.digest(), index.digest());
    assert!(index.subset(&[]).is_err());
    assert!(index.subset(&[3]).err().unwrap().to_string().contains("no sample 3: there are 3"));
}

#[test]
fn the_digest_is_of_the_content_and_not_of_its_place() {
    let index = open(example()).unwrap();
    let moved = index.moved_to(Path::new("/elsewhere")).unwrap();
    assert_eq!(moved.shard_path(0), PathBuf::from("/data/a.tar"));
    assert_eq!(moved.digest(), index.digest());
    let with = |change: fn(&mut Sample)| {
        let mut builder = Builder::new();
        builder.class(b"cat").unwrap();
        builder.shard(b"a.tar", 100).unwrap();
        let mut changed = sample(0, 0, Some(0));
        change(&mut changed);
        builder.sample(b"x", &changed).unwrap();
        open(builder.finish()).unwrap().digest()
    };
    let base = with(|_| {});
    assert_eq!(base, with(|sample| sample.offset = 5));
    let changes: [fn(&mut Sample); 4] = [
        |sample| sample.label = None,
        |sample| sample.length = 11,
        |sample| sample.crc32c = 0,
        |sample| sample.width = 33,
    ];
    for change in changes {
        assert_ne!(base, with(change));
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn an_index_file_is_found_mapped_and_rooted() {
    let folder = std::env::temp_dir().join(format!("barlow-index-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(FILE_NAME), example()).unwrap();
    std::fs::write(folder.join("x.tar.index"), example()).unwrap();
    for name in ["", FILE_NAME, "x.tar", "x.tar.index"] {
        let index = Index::open(&folder.join(name)).unwrap();
        assert_eq!(index.len(), 3);
        assert_eq!(index.shard_path(0), folder.join("a.tar"));
    }
    std::fs::write(folder.join("short.index"), b"BARLOWIX").unwrap();
    for (name, kind) in [("short", "index"), ("absent", "io")] {
        let error = Index::open(&folder.join(format!("{name}.index"))).err().unwrap();
        assert_eq!(error.to_string(), Index::open(&folder.join(name)).err().unwrap().to_string());
        assert_eq!(error.fault().kind(), kind);
        assert!(error.place().shard.as_ref().unwrap().ends_with(&format!("{name}.index")));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_lie_behind_a_right_checksum_is_found() {
    let with = |at: usize, bytes: &[u8]| {
        let mut file = example();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let first = 128;
    for (file, message) in [
        (with(8, &[0]), "format version 0"),
        (with(8, &[4]), "format version 4, this build reads versions up to 3"),
        (with(12, &[127]), "header"),
        (with(100, &[1]), "header"),
        (with(80, &[1]), "header"),
        (with(88, &[1]), "header"),
        (with(16, &[4]), "size"),
        (with(16, &[0xff; 8]), "size"),
        (with(24, &[0xff; 8]), "size"),
        (with(first, &[0xff; 8]), "outside of its shard"),
        (with(first, &[91]), "outside of its shard"),
        (with(first, &[5]), "overlapping"),
        (with(first + 8, &[0xff; 8]), "string out of bounds"),
        (with(first + 16, &[0; 4]), "sample length"),
        (with(first + 24, &[2]), "shard number"),
        (with(first + 28, &[2]), "label"),
        (with(first + 32, &[0, 0]), "image size"),
        (with(first + 38, &[4]), "image format"),
        (with(first + 120 + 8, &[0xff; 8]), "string out of bounds"),
        (with(first + 168 + 8, &[0xff; 4]), "string out of bounds"),
    ] {
        let error = refused(file);
        assert!(error.contains(message), "{error}, not {message}");
    }
    assert!(matches!(open(b"no index at all".repeat(20)).err().unwrap().fault(), Fault::NotAnIndex));
}

#[test]
fn every_flipped_bit_is_found() {
    let bytes = example();
    // Miri is a thousand times slower.
    for bit in (0..bytes.len() * 8).step_by(if cfg!(miri) { 101 } else { 1 }) {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(open(flipped).is_err(), "bit {bit}");
    }
    for length in (0..bytes.len()).step_by(if cfg!(miri) { 31 } else { 1 }) {
        assert!(open(bytes[..length].to_vec()).is_err(), "cut at {length}");
    }
}

#[test]
fn recoded_images_make_a_version_of_their_own() {
    let versions = [Format::Jpeg, Format::Recoded].map(|format| {
        let mut builder = Builder::new();
        builder.shard(b"x.tar", 100).unwrap();
        builder.sample(b"a", &Sample { format, ..sample(0, 0, None) }).unwrap();
        let bytes = builder.finish();
        assert_eq!(open(bytes.clone()).unwrap().sample(0).unwrap().format, format);
        bytes[8]
    });
    assert_eq!(versions, [1, 3]);
}

#[test]
fn limits_hold_when_building() {
    let mut builder = Builder::new();
    assert!(builder.shard(&[b'x'; 4097], 1).is_err());
    assert!(builder.sample(b"x", &Sample { width: 70_000, ..sample(0, 0, None) }).is_err());
}

proptest! {
    /// Noise in the records, checksum right: an error, or an index whose every access is in bounds.
    #[test]
    fn hostile_records_never_panic(noise in prop::collection::vec((8usize..300, any::<u8>()), 1..6), id: u32) {
        let mut bytes = example();
        for (at, byte) in noise {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(index) = open(signed(bytes)) {
            for id in (0..index.len().min(10) as u32).chain([id]) {
                let _ = (index.sample(id).is_ok(), index.name(id).len());
            }
            let _ = (index.class_names(), index.shard_path(id), index.subset(&[0, id]).is_ok());
        }
    }
}
