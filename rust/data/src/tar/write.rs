//! Here: the header and padding of one archived file: ustar, with a PAX path where a name is too long.
//! Not here: data, files. The bytes depend on name and length alone: no time, no owner, no machine.

use super::{BLOCK, BLOCK_BYTES, pax};
use crate::error::{Fault, Result};
use crate::limits::MAX_MEMBER_BYTES;

/// The end-of-archive mark.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// The zeros behind `length` bytes of data.
pub fn padding(length: u64) -> &'static [u8] {
    let count = length.next_multiple_of(BLOCK_BYTES) - length;
    &ZEROS[..count as usize]
}

/// The header blocks of a regular file of `length` bytes.
pub fn header_for(name: &[u8], length: u64) -> Result<Vec<u8>> {
    if length > MAX_MEMBER_BYTES {
        return Err(Fault::Limit { what: "member, bytes,", found: length, limit: MAX_MEMBER_BYTES }.into());
    }
    if name.is_empty() || name.ends_with(b"/") || name.contains(&0) {
        return Err(Fault::TarField("name of a regular file").into());
    }
    if let Some((prefix, rest)) = split(name) {
        return Ok(block(prefix, rest, length, b'0').to_vec());
    }
    let records = pax::path_record(name);
    let records_bytes = records.len() as u64;
    let mut blocks = block(b"", b"PaxHeaders/path", records_bytes, b'x').to_vec();
    blocks.extend(&records);
    blocks.extend(padding(records_bytes));
    // Readers that know no PAX see this instead; it must not look like a folder.
    blocks.extend(block(b"", b"long-name", length, b'0'));
    Ok(blocks)
}

/// Prefix (at most 155 bytes) and name (at most 100) that a slash joins, if the name has such a place.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    let at = name
        .iter()
        .enumerate()
        .position(|(at, &byte)| byte == b'/' && at > 0 && name.len() - at - 1 <= 100)?;
    (at <= 155).then(|| (&name[..at], &name[at + 1..]))
}

fn block(prefix: &[u8], name: &[u8], length: u64, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{length:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(329, b"0000000\0");
    put(337, b"0000000\0");
    put(345, prefix);
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
