//! Here: one 512-byte header block: checksum, numbers, type, name.
//! Not here: the order of headers, extension records, data.

use super::BLOCK;
use crate::error::{Fault, Result};

/// Name of the checksum field; where it is no number the file is likely no archive.
pub(super) const CHECKSUM: &str = "checksum";

/// What a header announces, as far as finding regular files needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file.
    File,
    /// Not a file, but followed by `size` bytes of data (GNU dump folders, volume labels).
    Other,
    /// Not a file and without data: devices, folders. Some writers store a size nonetheless.
    Bare,
    /// A second name, hard or symbolic, of another member; without data as well.
    Link,
    /// GNU `L`: its data are the next member's name.
    LongName,
    /// GNU `K`: its data are the next member's link target, of no interest here.
    LongLink,
    /// PAX `x`: records for the next member.
    Pax,
    /// PAX `g`: records for all following members.
    PaxGlobal,
}

/// The fields that matter.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) name: Vec<u8>,
    pub(super) size: u64,
}

/// Reads a block that is not all zeros.
pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Header> {
    verify_checksum(block)?;
    let size = number(&block[124..136]).ok_or(Fault::TarField("size"))?;
    let name = full_name(block)?;
    let kind = match block[156] {
        // Before POSIX a folder was a file whose name ends in a slash.
        0 if block[..100].split(|&byte| byte == 0).next().is_some_and(|name| name.ends_with(b"/")) => {
            Kind::Bare
        }
        0 | b'0' | b'7' => Kind::File,
        // POSIX lets a hard link carry data, `tarfile` says that it never does.
        b'1' if size != 0 => return Err(Fault::TarType('1').into()),
        b'1' | b'2' => Kind::Link,
        b'3'..=b'6' => Kind::Bare,
        b'D' | b'V' => Kind::Other,
        b'L' => Kind::LongName,
        b'K' => Kind::LongLink,
        b'x' => Kind::Pax,
        b'g' => Kind::PaxGlobal,
        // Sparse files (S), parts of other volumes (M), and what is not known.
        other => return Err(Fault::TarType(char::from(other)).into()),
    };
    Ok(Header { kind, name, size })
}

/// The sum of all bytes with the checksum field as spaces; some old writers summed signed bytes.
fn verify_checksum(block: &[u8; BLOCK]) -> Result<()> {
    let field = 148..156;
    let stored = number(&block[field.clone()]).ok_or(Fault::TarField(CHECKSUM))?;
    let others = || block.iter().enumerate().filter(|(at, _)| !field.contains(at)).map(|(_, &byte)| byte);
    let spaces = 8 * u64::from(b' ');
    let computed = spaces + others().map(u64::from).sum::<u64>();
    let signed = spaces as i64 + others().map(|byte| i64::from(byte as i8)).sum::<i64>();
    if stored != computed && i64::try_from(stored) != Ok(signed) {
        return Err(Fault::TarChecksum { stored, computed }.into());
    }
    Ok(())
}

/// Octal text, or base 256 behind a first byte of 0x80; an empty field is 0. `None`: neither, negative
/// or beyond 64 bits.
fn number(field: &[u8]) -> Option<u64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let start = rest.len().saturating_sub(8);
        let fits = first == 0x80 && rest[..start].iter().all(|&byte| byte == 0);
        return fits.then(|| rest[start..].iter().fold(0, |value, &byte| (value << 8) | u64::from(byte)));
    }
    let text = field.split(|&byte| byte == 0).next()?.trim_ascii();
    text.iter().try_fold(0u64, |value, &byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// Name field, with the prefix field of POSIX archives before it. GNU keeps times where POSIX has the
/// prefix; in v7 archives nothing is there.
fn full_name(block: &[u8; BLOCK]) -> Result<Vec<u8>> {
    let text = |field: &[u8]| field.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
    let name = text(&block[..100]);
    let mut prefix = match &block[257..263] {
        b"ustar\0" => text(&block[345..500]),
        b"ustar " => Vec::new(),
        _ if block[345..500].iter().all(|&byte| byte == 0) => Vec::new(),
        _ => return Err(Fault::TarField("magic").into()),
    };
    if prefix.is_empty() {
        return Ok(name);
    }
    prefix.push(b'/');
    prefix.extend(name);
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_every_notation() {
        assert_eq!(number(b"00000001750\0"), Some(1000));
        assert_eq!(number(b"  1750 \0\0\0\0\0"), Some(1000));
        assert_eq!(number(b"777777777777"), Some(0o777_777_777_777));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x02\0\0\0\x01"), Some(0x2_0000_0001));
        assert_eq!(number(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"), Some(u64::MAX));
    }

    #[test]
    fn numbers_that_are_none() {
        for field in [
            &b"0000000175x\0"[..],
            b"000 0001750\0",
            b"-0000000001\0",
            b"1_000000000\0",
            b"0o000000017\0",
            b"00000000008\0",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x80\0\0\x01\0\0\0\0\0\0\0\0",
            b"\x81\0\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(number(field), None, "{field:?}");
        }
    }
}
