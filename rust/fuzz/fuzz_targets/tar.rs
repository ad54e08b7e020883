//! Here: any bytes as an archive; what is listed must lie in it, in order, behind headers of files, and must
//! survive being written and listed again.
//! Not here: the comparison with another reader (tests/test_tar_mutants.py).
#![no_main]

use barlow_data::error::Result;
use barlow_data::tar::{BLOCK, END, Member, header_for, members_of, padding};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    examine(data);
    // Random bytes seldom have the right checksum, and behind it begins most of the reader.
    examine(&healed(data));
});

fn examine(archive: &[u8]) {
    let listed: Vec<Result<Member>> = members_of(archive).collect();
    let last = listed.len().saturating_sub(1);
    let mut end = 0;
    let mut found = Vec::new();
    for (number, member) in listed.into_iter().enumerate() {
        let Ok(member) = member else {
            assert_eq!(number, last, "something is listed behind an error");
            return;
        };
        let at = member.offset as usize;
        assert!(at % BLOCK == 0 && at >= end + BLOCK, "out of place");
        end = at + member.length as usize;
        assert!(end <= archive.len(), "outside of the archive");
        assert!(matches!(archive[at - BLOCK + 156], 0 | b'0' | b'7'), "no file's header before the data");
        assert!(!member.name.is_empty() && !member.name.contains(&0) && !member.name.ends_with(b"/"));
        found.push(member);
    }
    assert!(members_of(&rewritten(archive, &found)).map(Result::unwrap).eq(at_home(&found)));
}

/// The members as this crate would archive them.
fn rewritten(archive: &[u8], members: &[Member]) -> Vec<u8> {
    let mut written = Vec::new();
    for member in members {
        written.extend(header_for(&member.name, member.length).unwrap());
        written.extend(&archive[member.offset as usize..][..member.length as usize]);
        written.extend(padding(member.length));
    }
    written.extend(END);
    written
}

/// The same members with the offsets that they have then.
fn at_home(members: &[Member]) -> impl Iterator<Item = Member> {
    let mut at = 0;
    members.iter().map(move |member| {
        at += header_for(&member.name, member.length).unwrap().len() as u64;
        let placed = Member { offset: at, ..member.clone() };
        at += member.length.next_multiple_of(BLOCK as u64);
        placed
    })
}

/// With the right checksum in every block that claims to be a header.
fn healed(data: &[u8]) -> Vec<u8> {
    let mut archive = data.to_vec();
    for block in archive.chunks_exact_mut(BLOCK).filter(|block| block[257..].starts_with(b"ustar")) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive
}
