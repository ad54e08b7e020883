//! Here: image bytes of any supported format to RGB; which format, the limits on its size.
//! Not here: the formats themselves, I/O, what is done with the pixels.

use crate::error::{Error, Fault, Result};
pub use crate::jpeg::{Codes, Part};
use crate::limits::{MAX_MEMBER_BYTES, MAX_PIXELS, MAX_SIDE_PX};
use crate::ops::simd::Simd;
use crate::recode::{self, Layout, Member, Scratch};
use crate::{jpeg, png, webp};

/// Image formats, told apart by their first bytes, never by a name: ImageNet has a PNG among its JPEGs.
/// The number is the one stored in an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Format {
    /// ISO 10918.
    Jpeg = 1,
    /// Portable Network Graphics.
    Png = 2,
    /// Lossy or lossless WebP.
    WebP = 3,
    /// A JPEG whose entropy coding was undone when it was packed (`docs/recode-format.md`).
    Recoded = 4,
}

impl Format {
    /// The format that the bytes begin as.
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        if jpeg::sniff(bytes) {
            Some(Self::Jpeg)
        } else if png::sniff(bytes) {
            Some(Self::Png)
        } else if webp::sniff(bytes) {
            Some(Self::WebP)
        } else if recode::sniff(bytes) {
            Some(Self::Recoded)
        } else {
            None
        }
    }

    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Recoded => "recoded",
        }
    }
}

/// What an image says of itself before its pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// By the first bytes.
    pub format: Format,
    /// In pixels, within the limits.
    pub width: u32,
    /// In pixels, within the limits.
    pub height: u32,
}

/// Format and size from the header alone, checked against the limits; allocates nothing.
pub fn peek(bytes: &[u8]) -> Result<Header> {
    Ok(read_header(bytes)?.0)
}

fn read_header(bytes: &[u8]) -> Result<(Header, Option<jpeg::Frame>)> {
    let format = Format::sniff(bytes).ok_or(Fault::UnknownFormat)?;
    let (width, height, frame) = match format {
        Format::Jpeg => {
            let frame = jpeg::header(bytes)?;
            (frame.width, frame.height, Some(frame))
        }
        Format::Png => {
            let (width, height) = png::header(bytes)?;
            (width, height, None)
        }
        Format::WebP => {
            let (width, height) = webp::header(bytes)?;
            (width, height, None)
        }
        Format::Recoded => {
            let member = Member::parse(bytes)?;
            (member.width, member.height, None)
        }
    };
    let limit = |what, found: u64, limit: u64| {
        if found > limit { Err(Fault::Limit { what, found, limit }) } else { Ok(()) }
    };
    limit("image file size in bytes", bytes.len() as u64, MAX_MEMBER_BYTES)?;
    limit("image width in pixels", u64::from(width), u64::from(MAX_SIDE_PX))?;
    limit("image height in pixels", u64::from(height), u64::from(MAX_SIDE_PX))?;
    limit("number of pixels", u64::from(width) * u64::from(height), MAX_PIXELS)?;
    if width == 0 || height == 0 {
        let format = match format {
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::WebP => "WebP",
            Format::Recoded => "recoded JPEG",
        };
        return Err(Fault::Damaged { format, reason: "zero width or height".to_owned() }.into());
    }
    Ok((Header { format, width, height }, frame))
}

/// A decoded image: 8-bit RGB, interleaved. Made to be reused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Of the file, in pixels.
    pub width: u32,
    /// Of the file, in pixels.
    pub height: u32,
    /// What of it was decoded, within it: what was asked for, or more.
    pub part: Part,
    /// Pixels from one row to the next.
    pub pitch: usize,
    /// Pixels before the part's first in each row; they, and those behind its last, mean nothing.
    pub before: usize,
    /// `rows() * pitch * 3` bytes.
    pub data: Vec<u8>,
}

impl Default for Image {
    fn default() -> Self {
        Self { width: 0, height: 0, part: Part::WHOLE.within(0, 0), pitch: 0, before: 0, data: Vec::new() }
    }
}

impl Image {
    /// A whole image from its pixels, rows without padding.
    pub fn new(width: u32, height: u32, data: Vec<u8>) -> Self {
        let part = Part::WHOLE.within(width, height);
        Self { width, height, part, pitch: width as usize, before: 0, data }
    }

    /// Pixels of a row that was decoded.
    pub fn columns(&self) -> usize {
        (self.part.columns.1 - self.part.columns.0) as usize
    }

    /// Rows that were decoded.
    pub fn rows(&self) -> usize {
        (self.part.rows.1 - self.part.rows.0) as usize
    }

    /// The `index`th row that was decoded; 3 bytes for each of its columns.
    pub fn row(&self, index: usize) -> &[u8] {
        &self.data[(index * self.pitch + self.before) * 3..][..self.columns() * 3]
    }
}

/// Decodes images of every format; one per thread, reused so that its buffers are.
pub struct Decoder {
    jpeg: jpeg::Jpeg,
    recoded: Scratch,
    simd: Simd,
    scratch: Vec<u8>,
}

impl Decoder {
    /// Sets up libjpeg-turbo.
    pub fn new() -> Result<Self> {
        Self::with(Codes::Own)
    }

    /// As [`new`](Self::new), with a choice of who reads Huffman codes.
    pub fn with(codes: Codes) -> Result<Self> {
        Ok(Self {
            jpeg: jpeg::Jpeg::new(codes)?,
            recoded: Scratch::default(),
            simd: Simd::detect(),
            scratch: Vec::new(),
        })
    }

    /// Decodes `bytes` into `image`, as Pillow's `Image.open(...).convert("RGB")` does: bit for bit for
    /// JPEG and PNG up to 8 bits. On an error the image is empty.
    pub fn decode(&mut self, bytes: &[u8], image: &mut Image) -> Result<()> {
        self.decode_part(bytes, Part::WHOLE, image)
    }

    /// As [`decode`](Self::decode), but only `part` of it: the pixels of Pillow's `draft` at that scale.
    pub fn decode_part(&mut self, bytes: &[u8], part: Part, image: &mut Image) -> Result<()> {
        self.decode_some(bytes, part, false, image)
    }

    /// As [`decode_part`](Self::decode_part), of bytes that have been decoded in full before, and whose checksum says
    /// that they are the same: those of recoded images are not summed up again.
    pub fn decode_proven_part(&mut self, bytes: &[u8], part: Part, image: &mut Image) -> Result<()> {
        self.decode_some(bytes, part, true, image)
    }

    fn decode_some(&mut self, bytes: &[u8], part: Part, proven: bool, image: &mut Image) -> Result<()> {
        let decoded = self.decode_into(bytes, part, proven, image);
        if decoded.is_err() {
            *image = Image { data: std::mem::take(&mut image.data), ..Image::default() };
            image.data.clear();
        }
        decoded
    }

    fn decode_into(&mut self, bytes: &[u8], part: Part, proven: bool, image: &mut Image) -> Result<()> {
        let (header, frame) = read_header(bytes)?;
        match (header.format, &frame) {
            (Format::Jpeg, Some(frame)) => jpeg::check(bytes, frame)?,
            (Format::Png, _) => png::check(bytes, header.width, header.height)?,
            _ => {}
        }
        if !matches!(part.shrink, 1 | 2 | 4 | 8) {
            return Err(Fault::Setting(format!("images shrink by 1, 2, 4 or 8, not {}", part.shrink)).into());
        }
        let (width, height) = (header.width, header.height);
        if header.format == Format::Recoded {
            return self.expand(bytes, part, proven, image);
        }
        if let Some(frame) = frame {
            let mut part = part.within(width, height);
            if part.columns.0 >= part.columns.1 || part.rows.0 >= part.rows.1 {
                return Err(
                    Fault::Setting(format!("{part:?} holds nothing of {width}x{height} pixels")).into()
                );
            }
            if frame.lossless {
                // libjpeg can neither shrink nor cut them.
                part = Part::WHOLE.within(width, height);
            } else if frame.many_scans {
                // Over scans that are missing libjpeg smooths far and wide, and the borders of a cut would show.
                part.columns = (0, part.of(width));
                part.rows.0 = 0;
            }
            let layout = self.jpeg.decode(bytes, &frame, part, &mut image.data)?;
            (image.width, image.height, image.part) = (width, height, part);
            (image.pitch, image.before) = (layout.pitch, layout.before);
            return Ok(());
        }
        let mut data = std::mem::take(&mut image.data);
        data.resize(width as usize * height as usize * 3, 0);
        *image = Image::new(width, height, data);
        let (scratch, data) = (&mut self.scratch, &mut image.data);
        if header.format == Format::Png {
            contained("PNG", || png::decode(bytes, scratch, data))
        } else {
            contained("WebP", || webp::decode(bytes, scratch, data))
        }
    }

    /// A recoded image, whose entropy coding is undone already.
    fn expand(&mut self, bytes: &[u8], part: Part, proven: bool, image: &mut Image) -> Result<()> {
        let member = Member::parse(bytes)?;
        let layout = Layout::parse(member.layout(proven)?)?;
        if (layout.width, layout.height) != (member.width, member.height) {
            return Err(recode::other_size());
        }
        let part = part.within(layout.width, layout.height);
        layout.pixels(part, self.simd, &mut self.recoded, &mut image.data)?;
        (image.width, image.height, image.part) = (layout.width, layout.height, part);
        (image.pitch, image.before) = (image.columns(), 0);
        Ok(())
    }

    /// Warnings of the last JPEG that left all of its pixels intact, such as padding between its
    /// segments. Files that have them deserve a line in a report.
    pub fn tolerated_warnings(&self) -> u32 {
        self.jpeg.tolerated()
    }
}

/// A panic of a decoder that is not ours, on a file that it did not expect: damage like any other. The only
/// state that is shared with it is buffers, which the next image overwrites.
fn contained(format: &'static str, decode: impl FnOnce() -> Result<()>) -> Result<()> {
    let decoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode));
    decoded.unwrap_or_else(|panic| {
        let reason = format!("the decoder gave up: {}", Error::from_panic(panic.as_ref()).fault());
        Err(Fault::Damaged { format, reason }.into())
    })
}

#[cfg(test)]
mod recoded;
#[cfg(test)]
mod tests;
