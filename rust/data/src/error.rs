//! Here: the one error type of the crate; what went wrong, and where.
//! Not here: handling, printing, retrying; free-text errors (each way of being wrong has a variant).

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Shorthand for a result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong ([`Fault`]) and where ([`Place`]).
///
/// Two pointers wide: results travel through the hot path by value.
#[derive(Debug)]
pub struct Error(Box<(Fault, Place)>);

/// The address of a fault: every part is filled in by the floor that knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Path of the shard, archive, image or index file, as the user gave it.
    pub shard: Option<String>,
    /// Name of the member inside the shard, control bytes escaped.
    pub member: Option<String>,
    /// Byte offset in the shard.
    pub offset: Option<u64>,
}

/// One variant for each way of being wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The operating system refused.
    #[error("{0}")]
    Io(#[from] io::Error),

    // Archives.
    /// A header that is neither a tar header nor the end of an archive.
    #[error("not a tar archive")]
    NotATar,
    /// The header's checksum does not match its bytes.
    #[error("tar header checksum mismatch (stored {stored}, computed {computed})")]
    TarChecksum {
        /// As the header says.
        stored: u64,
        /// As the bytes say.
        computed: u64,
    },
    /// A numeric field or a PAX record that cannot be read.
    #[error("malformed tar {0}")]
    TarField(&'static str),
    /// The archive ends inside a header, a member or its padding.
    #[error("archive ends early: {wanted} bytes wanted, {found} there")]
    TarTruncated {
        /// Bytes the header promised.
        wanted: u64,
        /// Bytes the file still has.
        found: u64,
    },
    /// A kind of member whose data cannot be read in place (sparse files, multi-volume parts).
    #[error("unsupported tar member type {0:?}")]
    TarType(char),

    // Images.
    /// The bytes are no JPEG, PNG or WebP.
    #[error("not a JPEG, PNG or WebP image")]
    UnknownFormat,
    /// The decoder refused; its own words.
    #[error("damaged {format} image: {reason}")]
    Damaged {
        /// "JPEG", "PNG" or "WebP".
        format: &'static str,
        /// The decoder's message.
        reason: String,
    },
    /// An image kind that is valid but has no agreed 8-bit RGB reading.
    #[error("unsupported {format} image: {reason}")]
    Unsupported {
        /// "JPEG", "PNG" or "WebP".
        format: &'static str,
        /// What is unusual about it.
        reason: String,
    },

    /// A recoded image of another version of the format.
    #[error(
        "recoded image of format version {found}, this build reads versions up to {supported}: upgrade barlow, or give the original back with the newer one's `barlow unpack`"
    )]
    RecodedVersion {
        /// As stored.
        found: u32,
        /// The newest that is understood here.
        supported: u32,
    },

    /// A damaged sample that could not be replaced: the others that were drawn are damaged too.
    #[error("{fault}; {tries} samples drawn to replace it are damaged too")]
    Irreplaceable {
        /// What is wrong with the sample itself.
        fault: Box<Fault>,
        /// How many others were tried.
        tries: usize,
    },

    // Limits (see `limits.rs` for the reason of each).
    /// A number in the input is beyond its bound.
    #[error("{what} is {found}, the limit is {limit}")]
    Limit {
        /// What was counted, with its unit.
        what: &'static str,
        /// The input's number.
        found: u64,
        /// The bound.
        limit: u64,
    },

    // Index.
    /// The file is no barlow index.
    #[error("not a barlow index")]
    NotAnIndex,
    /// An index of another version of the format.
    #[error(
        "index format version {found}, this build reads versions up to {supported}; write it anew with `barlow index`"
    )]
    IndexVersion {
        /// As stored.
        found: u32,
        /// The newest that is understood here.
        supported: u32,
    },
    /// The index contradicts itself or its checksum.
    #[error("damaged index: {0}")]
    IndexDamaged(&'static str),
    /// The shard is not the one that was indexed.
    #[error("shard has {found} bytes, the index was made for {indexed}; index it again")]
    ShardChanged {
        /// Size now.
        found: u64,
        /// Size when indexed.
        indexed: u64,
    },
    /// The bytes read are not the bytes indexed.
    #[error("checksum mismatch (index {indexed:08x}, data {found:08x})")]
    Checksum {
        /// crc32c in the index.
        indexed: u32,
        /// crc32c of the bytes read.
        found: u32,
    },
    /// Nothing to load.
    #[error("no images found{0}")]
    Empty(&'static str),
    /// A source whose parts contradict each other, such as a `.cls` member that is no number.
    #[error("inconsistent source: {0}")]
    Source(String),

    // Use.
    /// A setting that cannot work; the message names it.
    #[error("{0}")]
    Setting(String),
    /// The caller's progress callback asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A bug in this crate: a worker thread panicked.
    #[error("internal error (please report): {0}")]
    Bug(String),
}

impl Fault {
    /// A stable lower-case word for the kind, for programs (`DataError.kind` in Python).
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::NotATar
            | Self::TarChecksum { .. }
            | Self::TarField(_)
            | Self::TarTruncated { .. }
            | Self::TarType(_) => "archive",
            Self::UnknownFormat | Self::Damaged { .. } | Self::Unsupported { .. } => "image",
            Self::RecodedVersion { .. } => "version",
            Self::Irreplaceable { fault, .. } => fault.kind(),
            Self::Limit { .. } => "limit",
            Self::NotAnIndex
            | Self::IndexVersion { .. }
            | Self::IndexDamaged(_)
            | Self::ShardChanged { .. } => "index",
            Self::Checksum { .. } => "checksum",
            Self::Empty(_) => "empty",
            Self::Source(_) => "source",
            Self::Setting(_) => "setting",
            Self::Cancelled => "cancelled",
            Self::Bug(_) => "bug",
        }
    }
}

impl Fault {
    /// Whether the bytes of one sample are at fault, so that another can stand in for it. The machine, an
    /// index that is out of date and our own bugs are not: they would fail in other places tomorrow.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::UnknownFormat
                | Self::Damaged { .. }
                | Self::Unsupported { .. }
                | Self::Limit { .. }
                | Self::Checksum { .. }
        )
    }
}

/// A panic as an error. What `step` has changed must not be used again after one.
pub(crate) fn contained<T>(step: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| Err(Error::from_panic(&*panic)))
}

impl Error {
    /// A panic, caught at the edge of a thread, as an error with its message.
    pub(crate) fn from_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Fault::Bug(text.unwrap_or("a worker panicked").to_owned()).into()
    }

    /// Makes something else of what went wrong; where it did stays.
    #[must_use]
    pub(crate) fn map(mut self, change: impl FnOnce(Fault) -> Fault) -> Self {
        let fault = std::mem::replace(&mut self.0.0, Fault::Cancelled);
        self.0.0 = change(fault);
        self
    }

    /// What went wrong.
    pub fn fault(&self) -> &Fault {
        &self.0.0
    }

    /// Where.
    pub fn place(&self) -> &Place {
        &self.0.1
    }

    /// Adds the shard, unless a deeper floor already named one.
    #[must_use]
    pub fn in_shard(mut self, shard: impl fmt::Display) -> Self {
        self.0.1.shard.get_or_insert_with(|| shard.to_string());
        self
    }

    /// Adds the member, unless a deeper floor already named one. Names are untrusted bytes: control
    /// characters and invalid UTF-8 are escaped before anything can print them.
    #[must_use]
    pub fn in_member(mut self, member: &[u8]) -> Self {
        self.0.1.member.get_or_insert_with(|| printable(member));
        self
    }

    /// Adds the offset, unless a deeper floor already named one.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.1.offset.get_or_insert(offset);
        self
    }
}

/// Untrusted bytes as text that is safe to print: control characters and invalid UTF-8 escaped.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

impl<F: Into<Fault>> From<F> for Error {
    fn from(fault: F) -> Self {
        Self(Box::new((fault.into(), Place::default())))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { shard, member, offset } = self.place();
        if let Some(shard) = shard {
            write!(f, "{shard}: ")?;
        }
        if let Some(member) = member {
            write!(f, "{member}: ")?;
        }
        write!(f, "{}", self.fault())?;
        if let Some(offset) = offset {
            write!(f, " (at byte {offset})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.fault().source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_place_wins_and_is_printed_in_full() {
        let error = Error::from(Fault::NotATar).at(512).in_member(b"a/b.jpg").at(0).in_shard("s.tar");
        assert_eq!(error.to_string(), "s.tar: a/b.jpg: not a tar archive (at byte 512)");
        assert_eq!(error.place().offset, Some(512));
    }

    #[test]
    fn hostile_names_are_escaped() {
        assert_eq!(printable(b"a\x1b[2J\n\xff.jpg"), "a\\u{1b}[2J\\n\\xff.jpg");
    }
}
