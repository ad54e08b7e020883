//! Archives built by hand, block by block; the comparison with CPython's `tarfile` is in tests/test_tar.py.

use super::*;
use proptest::prelude::*;

/// A header block with its checksum; `magic` b"" is a v7 archive.
fn block(name: &[u8], size: &[u8], kind: u8, magic: &[u8]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = kind;
    block[257..257 + magic.len()].copy_from_slice(magic);
    checked(block)
}

fn checked(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn part(name: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
    let size = format!("{:011o}\0", data.len());
    [&block(name, size.as_bytes(), kind, b"ustar\x0000"), data, padding(data.len() as u64)].concat()
}

fn list(archive: &[u8]) -> Result<Vec<(String, u64, u64)>> {
    members_of(archive)
        .map(|member| member.map(|m| (String::from_utf8_lossy(&m.name).into_owned(), m.offset, m.length)))
        .collect()
}

fn names(archive: &[u8]) -> Vec<String> {
    list(archive).unwrap().into_iter().map(|(name, ..)| name).collect()
}

fn refused(archive: &[u8]) -> String {
    list(archive).unwrap_err().to_string()
}

#[test]
fn a_pax_size_belongs_to_the_member_and_not_to_a_long_name_between() {
    // The trap of CVE-2025-62518: whoever gives the size to L, or ignores it, sees "evil" as a member.
    let inner = [part(b"evil", b'0', b"x"), END.to_vec()].concat();
    let size = inner.len();
    let record = format!("{} size={size}\n", format!("xx size={size}\n").len());
    for long_first in [false, true] {
        let pax = part(b"pax", b'x', record.as_bytes());
        let long = part(b"././@LongLink", b'L', b"a/long/name\0");
        let member = [block(b"short", b"00000000000\0", b'0', b"ustar\x0000"), inner.clone()].concat();
        let after = part(b"after", b'0', b"yz");
        let headers = if long_first { [long, pax] } else { [pax, long] }.concat();
        let archive = [headers, member, after, END.to_vec()].concat();
        let found = list(&archive).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].0.as_str(), found[0].2), ("a/long/name", size as u64));
        assert_eq!((found[1].0.as_str(), found[1].2), ("after", 2));
    }
}

#[test]
fn names_of_every_dialect() {
    let mut ustar = block(b"name.jpg", b"00000000000\0", b'0', b"ustar\x0000");
    ustar[345..348].copy_from_slice(b"a/b");
    let mut gnu = block(b"gnu.jpg", b"00000000000\0", b'0', b"ustar  \0");
    gnu[345..357].copy_from_slice(b"14700000000\0"); // an access time, no prefix
    let archive = [
        checked(ustar),
        checked(gnu),
        block(b"v7.jpg", b"00000000000\0", 0, b""),
        block(b"v7-folder/", b"00000000000\0", 0, b""),
        part(b"pax", b'x', b"15 path=p\xc3\xa4x/q\n"),
        part(b"ignored", b'0', b"data"),
        part(b"\xff\xfe.jpg", b'7', b"contiguous"),
        END.to_vec(),
    ]
    .concat();
    assert_eq!(names(&archive), ["a/b/name.jpg", "gnu.jpg", "v7.jpg", "päx/q", "\u{fffd}\u{fffd}.jpg"]);
}

#[test]
fn what_is_no_file_is_stepped_over() {
    let mut archive = part(b"pax", b'g', b"16 comment=whole\n"); // a length that lies is refused even here
    assert!(refused(&archive).contains("PAX record"));
    archive = part(b"pax", b'g', b"17 comment=whole\n");
    for kind in b'2'..=b'6' {
        archive.extend(block(b"no-data", b"00000000777\0", kind, b"ustar\x0000"));
    }
    archive.extend(block(b"hard-link", b"00000000000\0", b'1', b"ustar\x0000"));
    archive.extend(part(b"././@LongLink", b'K', b"target\0"));
    archive.extend(part(b"././@LongLink", b'L', b"long name of the link\0"));
    archive.extend(part(b"pax", b'x', b"9 size=8\n"));
    archive.extend(block(b"link", b"00000000000\0", b'2', b"ustar\x0000"));
    archive.extend(part(b"label", b'V', b"volume data"));
    archive.extend(part(b"file", b'0', b"x"));
    // And what was said about the link is not said about the file.
    let length = archive.len() as u64;
    assert_eq!(list(&archive).unwrap(), [("file".to_owned(), length - 512, 1)]);
}

#[test]
fn kinds_that_cannot_be_read_in_place_are_refused() {
    for kind in [b'S', b'M', b'X', b'Z', b'a', 0xff] {
        let archive = [part(b"file", b'0', b"x"), part(b"odd", kind, b"x"), END.to_vec()].concat();
        assert!(refused(&archive).contains("unsupported tar member type"), "{kind}");
    }
    assert!(refused(&part(b"hard-link", b'1', b"with data")).contains("'1'"));
}

#[test]
fn conflicting_or_orphaned_extensions_are_refused() {
    let long = part(b"L", b'L', b"one\0");
    let pax = part(b"x", b'x', b"12 path=two\n");
    let file = part(b"file", b'0', b"");
    for (parts, message) in [
        (vec![&long, &pax, &file], "differ"),
        (vec![&pax, &long, &file], "differ"),
        (vec![&long, &long, &file], "two GNU long names"),
        (vec![&pax, &pax, &file], "two PAX headers"),
        (vec![&file, &pax], "without its member"),
        (vec![&file, &long], "without its member"),
    ] {
        let archive: Vec<u8> = parts.into_iter().flatten().copied().chain(END).collect();
        assert!(refused(&archive).contains(message), "{message}");
    }
    assert!(refused(&part(b"g", b'g', b"12 path=two\n")).contains("global"));
    let mut hidden = [part(b"x", b'x', b"12 path=two\n"), file.clone()].concat();
    hidden[BLOCK + 12..BLOCK + 24].copy_from_slice(b"12 path=six\n");
    assert!(refused(&hidden).contains("text behind its end"));
    assert!(refused(&part(b"folder/", b'0', b"x")).contains("name of a regular file"));
    assert!(refused(&part(b"", b'0', b"x")).contains("name of a regular file"));
}

#[test]
fn the_end_is_a_mark_or_a_whole_member_and_nothing_else() {
    let two = [part(b"a", b'0', b"1"), part(b"b", b'0', &[7; 600])].concat();
    assert_eq!(names(&two), ["a", "b"]);
    for zeros in [1, 511, 512, 1024, 10_240, 70_000] {
        assert_eq!(names(&[two.clone(), vec![0; zeros]].concat()), ["a", "b"], "{zeros} zeros");
    }
    for cut in (1025..two.len()).filter(|cut| cut % 97 == 0) {
        assert!(list(&two[..cut]).is_err(), "cut at {cut} of {}", two.len());
    }
    let joined = [two.clone(), END.to_vec(), two.clone()].concat();
    assert!(refused(&joined).contains("after the end-of-archive mark"));
}

#[test]
fn faults_have_an_address() {
    let mut archive = [part(b"a", b'0', b"1"), part(b"b", b'0', b"2"), END.to_vec()].concat();
    archive[1024 + 3] ^= 0x10;
    let error = list(&archive).unwrap_err();
    assert!(matches!(error.fault(), Fault::TarChecksum { .. }));
    assert_eq!(error.place().offset, Some(1024));

    let lie = block(b"huge.jpg", b"77777777777\0", b'0', b"ustar\x0000");
    let error = list(&lie).unwrap_err();
    assert!(matches!(error.fault(), Fault::TarTruncated { wanted: 0o100_000_000_000, found: 0 }));
    assert_eq!(error.place().member.as_deref(), Some("huge.jpg"));
}

#[test]
fn what_is_no_tar_is_called_so() {
    for bytes in [&b""[..], b"\x1f\x8b\x08", &[b'x'; 2000], &[0; 100]] {
        assert!(matches!(list(bytes).unwrap_err().fault(), Fault::NotATar), "{} bytes", bytes.len());
    }
    assert_eq!(list(&END).unwrap(), []);
}

#[test]
fn a_signed_checksum_is_accepted_and_a_wrong_one_is_not() {
    let mut old = block(b"\xe4.jpg", b"00000000000\0", b'0', b"ustar\x0000");
    old[148..156].fill(b' ');
    let signed: i64 = old.iter().map(|&byte| i64::from(byte as i8)).sum();
    old[148..156].copy_from_slice(format!("{signed:06o}\0 ").as_bytes());
    assert_eq!(names(&old).len(), 1);
    old[148..156].copy_from_slice(format!("{:06o}\0 ", signed + 1).as_bytes());
    assert!(list(&[part(b"a", b'0', b""), old].concat()).is_err());
}

#[test]
fn limits_hold_before_anything_is_read() {
    let name = [b"x".repeat(MAX_NAME_BYTES as usize + 1), vec![0]].concat();
    let archive = [part(b"L", b'L', &name), part(b"a", b'0', b"")].concat();
    assert!(refused(&archive).contains("member name"));
    let huge = block(b"x", b"77777777777\0", b'x', b"ustar\x0000");
    assert!(refused(&huge).contains("extension header"));
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        files in prop::collection::vec((prop::collection::vec(1u8..=255, 1..400), 0usize..1500), 0..8),
    ) {
        let files: Vec<_> = files.into_iter().filter(|(name, _)| !name.ends_with(b"/")).collect();
        let mut archive = Vec::new();
        for (name, length) in &files {
            archive.extend(header_for(name, *length as u64).unwrap());
            archive.extend(vec![0xab; *length]);
            archive.extend(padding(*length as u64));
            prop_assert_eq!(archive.len() % BLOCK, 0);
        }
        archive.extend(END);
        let found: Vec<Member> = members_of(&archive).collect::<Result<_>>().unwrap();
        prop_assert_eq!(found.len(), files.len());
        for (member, (name, length)) in found.iter().zip(&files) {
            prop_assert_eq!(&member.name, name);
            prop_assert_eq!(member.length, *length as u64);
            let data = &archive[member.offset as usize..][..*length];
            prop_assert!(data.iter().all(|&byte| byte == 0xab));
        }
    }

    #[test]
    fn any_bytes_end_in_a_list_or_an_error(
        mut archive in prop::collection::vec(any::<u8>(), 0..4096),
        kinds in prop::collection::vec(prop::sample::select(b"\x000127LKxgSDV".to_vec()), 8),
    ) {
        // Valid checksums, so that the noise reaches the parser behind them.
        for (chunk, kind) in archive.chunks_exact_mut(BLOCK).zip(kinds) {
            chunk[156] = kind;
            chunk[124..136].copy_from_slice(b"00000000020\0");
            chunk[257..265].copy_from_slice(b"ustar\x0000");
            let block = checked(chunk.to_vec());
            chunk.copy_from_slice(&block);
        }
        for member in members_of(&archive).filter_map(Result::ok) {
            prop_assert!(member.offset + member.length <= archive.len() as u64);
        }
    }
}
