//! Here: the members of a tar archive, found by reading headers only (v7, ustar, GNU and PAX), and
//! the headers that `pack` writes.
//! Not here: I/O (the caller's closure reads), extraction, paths of the file system, what a member means.
//!
//! The rule is *agree or raise*: a list that this module returns is the list that CPython's `tarfile`
//! returns, and whatever two readers could understand differently is an error. In three places
//! `tarfile` ends silently where something was lost; here these are errors too: a damaged header in
//! the middle, a header cut short, and members after the end-of-archive mark.

mod header;
mod pax;
mod write;

use crate::error::{Error, Fault, Result};
use crate::limits::{MAX_NAME_BYTES, MAX_PAX_BYTES};
use header::{Header, Kind};

pub use write::{END, header_for, padding};

/// Everything in an archive is a multiple of this many bytes.
pub const BLOCK: usize = 512;

const BLOCK_BYTES: u64 = BLOCK as u64;

/// A regular file inside an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Full name as stored: opaque bytes without NUL, never a path to write to.
    pub name: Vec<u8>,
    /// Where its data begin, in bytes from the start of the archive.
    pub offset: u64,
    /// Length of its data in bytes.
    pub length: u64,
}

/// Iterator over the regular files of an archive; ends after the first error.
pub struct Members<R> {
    read: R,
    position: u64,
    end: u64,
    done: bool,
    links: u64,
}

/// What extension headers said about the next real member.
#[derive(Default)]
struct Pending {
    any: bool,
    long_name: Option<Vec<u8>>,
    pax: Option<pax::Records>,
}

/// Lists an archive of `archive_bytes` bytes; `read(offset, buffer)` fills the buffer or fails.
pub fn members<R: FnMut(u64, &mut [u8]) -> Result<()>>(archive_bytes: u64, read: R) -> Members<R> {
    Members { read, position: 0, end: archive_bytes, done: false, links: 0 }
}

/// The members of an archive in memory.
pub fn members_of(archive: &[u8]) -> impl Iterator<Item = Result<Member>> + '_ {
    members(archive.len() as u64, |offset, buffer| {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = archive.get(from..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(there.ok_or(Fault::TarTruncated { wanted: buffer.len() as u64, found: 0 })?);
        Ok(())
    })
}

impl<R: FnMut(u64, &mut [u8]) -> Result<()>> Iterator for Members<R> {
    type Item = Result<Member>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.advance().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

impl<R: FnMut(u64, &mut [u8]) -> Result<()>> Members<R> {
    /// How many members so far were links, hard or symbolic: they have no data and are passed over.
    pub fn links(&self) -> u64 {
        self.links
    }

    fn advance(&mut self) -> Result<Option<Member>> {
        let mut pending = Pending::default();
        loop {
            let at = self.position;
            let Some(header) = self.header().map_err(|error| error.at(at))? else {
                if pending.any {
                    return Err(
                        Error::from(Fault::TarField("end: an extension header without its member")).at(at)
                    );
                }
                return Ok(None);
            };
            match header.kind {
                Kind::LongName | Kind::LongLink | Kind::Pax | Kind::PaxGlobal => {
                    self.extension(&header, &mut pending).map_err(|error| error.at(at))?;
                }
                Kind::File | Kind::Other | Kind::Bare | Kind::Link => {
                    if let Some(member) = self.member(&header, &pending).map_err(|error| error.at(at))? {
                        return Ok(Some(member));
                    }
                    pending = Pending::default();
                }
            }
        }
    }

    /// The next header; `None` at a proper end: an end mark with nothing but zeros after it, or the
    /// end of the file right after a whole member.
    fn header(&mut self) -> Result<Option<Header>> {
        let left = self.end - self.position;
        let first = self.position == 0;
        if left < BLOCK_BYTES {
            return match (first, self.only_zeros()?) {
                (true, _) => Err(Fault::NotATar.into()),
                (false, true) => Ok(None),
                (false, false) => Err(Fault::TarTruncated { wanted: BLOCK_BYTES, found: left }.into()),
            };
        }
        let mut block = [0; BLOCK];
        (self.read)(self.position, &mut block)?;
        if block.iter().all(|&byte| byte == 0) {
            return match self.only_zeros()? {
                true => Ok(None),
                false => Err(Fault::TarField("end: data after the end-of-archive mark").into()),
            };
        }
        let header = header::parse(&block).map_err(|error| match error.fault() {
            Fault::TarChecksum { .. } | Fault::TarField(header::CHECKSUM) if first => Fault::NotATar.into(),
            _ => error,
        })?;
        self.position += BLOCK_BYTES;
        Ok(Some(header))
    }

    /// Whether the rest of the archive is zeros. Concatenated archives would otherwise lose their tail.
    fn only_zeros(&mut self) -> Result<bool> {
        let mut buffer = vec![0; 1 << 16];
        let mut at = self.position;
        while at < self.end {
            let count = (self.end - at).min(buffer.len() as u64);
            let piece = &mut buffer[..count as usize];
            (self.read)(at, piece)?;
            if piece.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            at += count;
        }
        Ok(true)
    }

    /// Reads the data of an `L`, `K`, `x` or `g` header. Its size is its own header's and never a
    /// pending PAX size: that one belongs to the real member (mixing them up is CVE-2025-62518).
    fn extension(&mut self, header: &Header, pending: &mut Pending) -> Result<()> {
        if header.size > MAX_PAX_BYTES {
            return Err(Fault::Limit {
                what: "tar extension header, bytes,",
                found: header.size,
                limit: MAX_PAX_BYTES,
            }
            .into());
        }
        let at = self.data(header.size)?;
        let mut data = vec![0; (self.position - at) as usize];
        (self.read)(at, &mut data)?;
        // Some readers go by the size, others read on to the end of the block: both must see the same.
        if data.split_off(header.size as usize).iter().any(|&byte| byte != 0) {
            return Err(Fault::TarField("extension header: text behind its end").into());
        }
        pending.any |= header.kind != Kind::PaxGlobal;
        match header.kind {
            Kind::LongName => {
                data.truncate(data.iter().position(|&byte| byte == 0).unwrap_or(data.len()));
                let earlier = pending.long_name.replace(data);
                if earlier.is_some() {
                    return Err(Fault::TarField("name: two GNU long names for one member").into());
                }
            }
            Kind::Pax => {
                let earlier = pending.pax.replace(pax::parse(&data)?);
                if earlier.is_some() {
                    return Err(Fault::TarField("name: two PAX headers for one member").into());
                }
            }
            // A global name or size would give all members the same one; readers disagree about it.
            Kind::PaxGlobal if pax::parse(&data)?.names_or_sizes() => {
                return Err(Fault::TarField("PAX header: a global path or size").into());
            }
            _ => {}
        }
        Ok(())
    }

    /// Steps over a real member; `None` if it is no regular file.
    fn member(&mut self, header: &Header, pending: &Pending) -> Result<Option<Member>> {
        let pax = pending.pax.as_ref();
        let name = match (&pending.long_name, pax.and_then(|records| records.path.as_ref())) {
            (Some(long), Some(path)) if long != path => {
                return Err(Fault::TarField("name: GNU long name and PAX path differ").into());
            }
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => &header.name,
        };
        if name.len() as u64 > MAX_NAME_BYTES {
            return Err(Fault::Limit {
                what: "member name, bytes,",
                found: name.len() as u64,
                limit: MAX_NAME_BYTES,
            }
            .into());
        }
        if matches!(header.kind, Kind::Bare | Kind::Link) {
            self.links += u64::from(header.kind == Kind::Link);
            return Ok(None);
        }
        let length = pax.and_then(|records| records.size).unwrap_or(header.size);
        let offset = self.data(length).map_err(|error| error.in_member(name))?;
        if header.kind == Kind::Other {
            return Ok(None);
        }
        if name.is_empty() || name.ends_with(b"/") {
            // Readers differ: a file, a folder, or a file of the shortened name.
            return Err(Error::from(Fault::TarField("name of a regular file")).in_member(name));
        }
        Ok(Some(Member { name: name.clone(), offset, length }))
    }

    /// Where data of `length` bytes begin; moves behind them and their padding.
    fn data(&mut self, length: u64) -> Result<u64> {
        let offset = self.position;
        let found = self.end - offset;
        let wanted = length.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX);
        if wanted > found {
            return Err(Fault::TarTruncated { wanted, found }.into());
        }
        self.position += wanted;
        Ok(offset)
    }
}

#[cfg(test)]
mod tests;
