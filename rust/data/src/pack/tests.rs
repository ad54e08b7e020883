//! The way of one data set through the crate; the many ways that it can go wrong are in
//! tests/test_pack.py, where real encoders are at hand.

use super::*;
use crate::scan::scan;
use crate::store::Store;
use std::sync::Arc;

fn png(shade: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 4, 3);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&[shade; 12]).unwrap();
    bytes
}

#[test]
fn images_go_to_shards_and_back() {
    let base = std::env::temp_dir().join(format!("barlow-pack-{}", std::process::id()));
    let (source, out) = (base.join("source"), base.join("out"));
    for class in ["a", "b"] {
        fs::create_dir_all(source.join(class)).unwrap();
        for shade in 0..10 {
            fs::write(source.join(class).join(format!("{shade}.png")), png(shade)).unwrap();
        }
    }
    let mut seen = Vec::new();
    let options = Options { min_shards: 3, threads: 2, ..Options::default() };
    let report = pack(&source, &out, &options, &mut |done, total| {
        seen.push((done, total));
        Ok(())
    })
    .unwrap();
    assert_eq!((report.images, report.shards, report.classes), (20, 3, 2));
    assert_eq!(seen.last(), Some(&(20, 20)));

    let index = Arc::new(Index::open(&out).unwrap());
    assert_eq!(index.digest(), scan(&source, 1, true, &mut |_, _| Ok(())).unwrap().index.digest());
    let store = Store::new(Arc::clone(&index));
    let mut bytes = Vec::new();
    for id in 0..20 {
        store.read(id, &mut bytes).unwrap();
        assert_eq!(bytes, png((id % 10) as u8));
        let sample = index.sample(id).unwrap();
        assert_eq!((sample.label, sample.width, sample.height), (Some(id / 10), 4, 3));
    }

    let back = base.join("back");
    assert_eq!(unpack(&out, &back, OnError::Raise, &mut |_, _| Ok(())).unwrap().files, 20);
    assert_eq!(fs::read(back.join("b/7.png")).unwrap(), png(7));

    // A cancelled packing leaves what was there.
    let again = Options { overwrite: true, ..options };
    let cancelled = pack(&source, &out, &again, &mut |done, _| match done {
        0 => Ok(()),
        _ => Err(Fault::Cancelled.into()),
    });
    assert!(matches!(cancelled.unwrap_err().fault(), Fault::Cancelled));
    assert_eq!(Index::open(&out).unwrap().len(), 20);
    assert_eq!(fs::read_dir(&base).unwrap().count(), 3);
    fs::remove_dir_all(&base).unwrap();
}
