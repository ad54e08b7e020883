//! Here: PAX records ("LENGTH KEY=VALUE\n") that name or size a member, read and written.
//! Not here: which member they belong to.

use crate::error::{Fault, Result};

/// The records that matter; all others (times, owners, comments) are read over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
}

impl Records {
    pub(super) fn names_or_sizes(&self) -> bool {
        self.path.is_some() || self.size.is_some()
    }
}

/// Reads the data of an `x` or `g` header, to the letter: a lie about a record's length could hide
/// records from one reader and show them to another.
pub(super) fn parse(mut data: &[u8]) -> Result<Records> {
    let malformed = || Fault::TarField("PAX record");
    let mut records = Records::default();
    while !data.is_empty() && data.iter().any(|&byte| byte != 0) {
        let space = data.iter().position(|&byte| byte == b' ').ok_or_else(malformed)?;
        let length = decimal(&data[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(malformed)?;
        let (record, rest) = data.split_at_checked(length).ok_or_else(malformed)?;
        let body = record.get(space + 1..).and_then(|body| body.strip_suffix(b"\n")).ok_or_else(malformed)?;
        let equals = body.iter().position(|&byte| byte == b'=').ok_or_else(malformed)?;
        let (key, value) = (&body[..equals], &body[equals + 1..]);
        match key {
            b"path" if value.is_empty() || value.contains(&0) => {
                return Err(Fault::TarField("PAX path").into());
            }
            b"path" => records.path = Some(value.to_vec()),
            b"size" => records.size = Some(decimal(value).ok_or(Fault::TarField("PAX size"))?),
            b"" => return Err(malformed().into()),
            // The data of a sparse member begin with a map of its holes.
            _ if key.starts_with(b"GNU.sparse.") => return Err(Fault::TarType('S').into()),
            _ => {}
        }
        data = rest;
    }
    Ok(records)
}

/// Digits only, within 64 bits.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The data of an `x` header that names the next member.
pub(super) fn path_record(path: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    if std::str::from_utf8(path).is_err() {
        // PAX text is UTF-8 unless this is said.
        data.extend(record(b"hdrcharset", b"BINARY"));
    }
    data.extend(record(b"path", path));
    data
}

/// The length counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_digits() {
        for length in [1, 2, 88, 89, 90, 91, 92, 985, 990, 991, 992, 4096] {
            let path = vec![b'x'; length];
            let data = path_record(&path);
            let records = parse(&data).unwrap();
            assert_eq!(records, Records { path: Some(path), size: None });
        }
        assert_eq!(record(b"path", b"a"), b"9 path=a\n");
        assert_eq!(record(b"path", b"ab"), b"11 path=ab\n");
    }

    #[test]
    fn the_last_record_of_a_key_counts_and_others_are_read_over() {
        let data = b"9 size=1\n9 size=2\n22 comment=\n9 size=3\n\n\0\0\0";
        assert_eq!(parse(data).unwrap(), Records { path: None, size: Some(2) });
    }

    #[test]
    fn records_that_lie_are_refused() {
        for data in [
            &b"11 size=1\n"[..],
            b"8 size=1\n",
            b"0 size=1\n",
            b"99 size=1\n",
            b"9 size=1 ",
            b"+9 size=1\n",
            b"10 size 1\n",
            b"7 =ize\n",
            b"10 size=-1\n",
            b"8 size=\n",
            b"8 path=\n",
            b"11 path=a\0\n",
            b"28 size=99999999999999999999\n",
            b"22 GNU.sparse.major=1\n",
            b"9 size=1\n\0\0x",
            b"18446744073709551616 size=1\n",
        ] {
            assert!(parse(data).is_err(), "{}", data.escape_ascii());
        }
    }
}
