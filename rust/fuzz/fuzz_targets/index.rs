//! Here: any bytes as an index, and any change to a good one; opening never panics, and what opens is in
//! bounds wherever it is asked.
//! Not here: reading shards.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use barlow_data::decode::Format;
use barlow_data::index::{Builder, Extra, Index, Sample};
use libfuzzer_sys::fuzz_target;

static EXAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut builder = Builder::new();
    for class in [&b"cat"[..], b"dog"] {
        builder.class(class).unwrap();
    }
    for kind in [&b"json"[..], b"txt"] {
        builder.kind(kind).unwrap();
    }
    for shard in 0..2 {
        builder.shard(format!("{shard}.tar").as_bytes(), 1000).unwrap();
        for number in 0..4 {
            let sample = Sample {
                shard,
                offset: 100 * u64::from(number),
                length: 50,
                label: (number > 0).then_some(number % 2),
                width: 32,
                height: 24,
                format: Format::Png,
                crc32c: number,
                proven: number % 3 == 0,
            };
            builder.sample(format!("{number}.png").as_bytes(), &sample).unwrap();
            let extra = |kind| Extra { kind, shard, offset: sample.offset + 50, length: number, crc32c: 0 };
            builder.extras((0..number % 3).map(extra).collect()).unwrap();
        }
    }
    builder.finish()
});

fuzz_target!(|data: &[u8]| {
    examine(data.to_vec());
    // Three bytes are a change: where (two) and what. A right checksum leads to the checks behind it.
    let mut changed = EXAMPLE.clone();
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % changed.len();
        changed[at] = change[2];
    }
    changed.truncate(changed.len() - data.len() % 3);
    let sum = crc32c::crc32c_append(crc32c::crc32c(&changed[..124]), &changed[128..]);
    changed[124..128].copy_from_slice(&sum.to_le_bytes());
    examine(changed);
});

fn examine(bytes: Vec<u8>) {
    let Ok(index) = Index::from_bytes(bytes, Path::new("/data")) else { return };
    let classes = index.class_names().len();
    for id in (0..index.len().min(100) as u32).chain([index.len() as u32, u32::MAX]) {
        let name = index.name(id).to_vec();
        let Ok(sample) = index.sample(id) else {
            assert!(id as usize >= index.len(), "an index that opened has a bad sample");
            assert!(name.is_empty());
            continue;
        };
        assert!(sample.offset + u64::from(sample.length) <= index.shard_bytes(sample.shard));
        assert!((sample.shard as usize) < index.num_shards());
        assert!(sample.label.is_none_or(|label| (label as usize) < classes));
        assert!(sample.length > 0 && sample.width > 0 && sample.height > 0);
        let _ = index.shard_path(sample.shard);
        let extras = index.extras(id);
        for extra in extras.iter().flatten() {
            assert!(extra.offset + u64::from(extra.length) <= index.shard_bytes(extra.shard));
            assert_eq!(index.kind(index.kind_name(extra.kind)), Some(extra.kind));
        }
        // Extra members are checked when they are asked for, and this asks for them.
        let Ok(extras) = extras else {
            assert!(index.subset(&[id]).is_err());
            continue;
        };
        let part = index.subset(&[id]).unwrap();
        assert_eq!((part.name(0), part.sample(0).unwrap().offset), (&name[..], sample.offset));
        assert_eq!(part.extras(0).unwrap().len(), extras.len());
    }
    let moved = index.moved_to(Path::new("/elsewhere"));
    // A path that becomes too long, or a bad extra member, is the only reason to refuse.
    assert!(moved.is_err() || moved.is_ok_and(|moved| moved.len() == index.len()));
}
