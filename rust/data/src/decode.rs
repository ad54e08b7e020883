//! Here: image bytes of any supported format to RGB; which format, the limits on its size.
//! Not here: the formats themselves, I/O, what is done with the pixels.

use crate::error::{Fault, Result};
use crate::limits::{MAX_MEMBER_BYTES, MAX_PIXELS, MAX_SIDE_PX};
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
    };
    let limit = |what, found: u64, limit: u64| {
        if found > limit { Err(Fault::Limit { what, found, limit }) } else { Ok(()) }
    };
    limit("image file size in bytes", bytes.len() as u64, MAX_MEMBER_BYTES)?;
    limit("image width in pixels", u64::from(width), u64::from(MAX_SIDE_PX))?;
    limit("image height in pixels", u64::from(height), u64::from(MAX_SIDE_PX))?;
    limit("number of pixels", u64::from(width) * u64::from(height), MAX_PIXELS)?;
    if width == 0 || height == 0 {
        let format = format.name();
        return Err(Fault::Damaged { format, reason: "zero width or height".to_owned() }.into());
    }
    Ok((Header { format, width, height }, frame))
}

/// A decoded image: 8-bit RGB, interleaved, row after row without padding. Made to be reused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// `height * width * 3` bytes.
    pub data: Vec<u8>,
}

/// Decodes images of every format; one per thread, reused so that its buffers are.
pub struct Decoder {
    jpeg: jpeg::Jpeg,
    scratch: Vec<u8>,
}

impl Decoder {
    /// Sets up libjpeg-turbo.
    pub fn new() -> Result<Self> {
        Ok(Self { jpeg: jpeg::Jpeg::new()?, scratch: Vec::new() })
    }

    /// Decodes `bytes` into `image`, as Pillow's `Image.open(...).convert("RGB")` does: bit for bit for
    /// JPEG and PNG up to 8 bits. On an error the image is empty.
    pub fn decode(&mut self, bytes: &[u8], image: &mut Image) -> Result<()> {
        let decoded = self.decode_into(bytes, image);
        if decoded.is_err() {
            *image = Image { data: std::mem::take(&mut image.data), ..Image::default() };
            image.data.clear();
        }
        decoded
    }

    fn decode_into(&mut self, bytes: &[u8], image: &mut Image) -> Result<()> {
        let (header, frame) = read_header(bytes)?;
        image.width = header.width as usize;
        image.height = header.height as usize;
        image.data.resize(image.width * image.height * 3, 0);
        match (header.format, frame) {
            (Format::Jpeg, Some(frame)) => self.jpeg.decode(bytes, &frame, &mut image.data),
            (Format::Png, _) => png::decode(bytes, &mut self.scratch, &mut image.data),
            (Format::WebP, _) => webp::decode(bytes, &mut self.scratch, &mut image.data),
            (Format::Jpeg, None) => Err(Fault::UnknownFormat.into()),
        }
    }

    /// Warnings of the last JPEG that left all of its pixels intact, such as padding between its
    /// segments. Files that have them deserve a line in a report.
    pub fn tolerated_warnings(&self) -> u32 {
        self.jpeg.tolerated()
    }
}
