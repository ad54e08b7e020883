//! Here: JPEG bytes to RGB through libjpeg-turbo (>= 3.1, with SIMD): FFI. Headers and limits: `jpeg/header.rs`.
//! Not here: other formats, I/O, the choice of a scale, EXIF orientation (ignored, as the paper's code does).
//!
//! Pixels are those of Pillow's `convert("RGB")`: accurate IDCT, fancy upsampling, CMYK and YCCK by
//! Adobe's inverted convention. A file whose data ends early or holds impossible codes is an error,
//! never a picture with invented rows; `jpeg.c` lists the warnings that leave every pixel intact.

use std::ffi::{CStr, c_char, c_int, c_long, c_uchar, c_uint};
use std::ptr::NonNull;

// The shim calls into the static library that this crate builds.
use turbojpeg_sys as _;

mod header;
#[cfg(test)]
pub(crate) mod samples;

use crate::error::{Fault, Result};
use crate::limits::MAX_COEFFICIENT_BYTES;
pub(crate) use header::{Frame, check, check_scans, find_ff, header, sniff};
use header::{damaged, scan_limit};

#[repr(C)]
struct Handle {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn barlow_jpeg_version() -> c_int;
    fn barlow_jpeg_simd() -> c_int;
    fn barlow_jpeg_new() -> *mut Handle;
    fn barlow_jpeg_free(handle: *mut Handle);
    fn barlow_jpeg_message(handle: *const Handle) -> *const c_char;
    fn barlow_jpeg_tolerated(handle: *const Handle) -> c_uint;
    fn barlow_jpeg_decode(
        handle: *mut Handle,
        bytes: *const c_uchar,
        length: usize,
        rows: *mut c_uchar,
        width: c_uint,
        height: c_uint,
        channels: c_int,
        part: *const Wanted,
        first: *mut c_uint,
        library_codes: c_int,
        max_scans: c_int,
        max_memory: c_long,
    ) -> c_int;
}

/// `barlow_part` of the shim.
#[repr(C)]
struct Wanted {
    shrink: c_uint,
    left: c_uint,
    right: c_uint,
    top: c_uint,
    bottom: c_uint,
    pitch: c_uint,
}

/// What of an image is decoded. Formats other than JPEG are always decoded whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// 1, 2, 4 or 8: both sides are divided by it and rounded up. Each pixel then stands for so many
    /// squared, from the low frequencies of the JPEG alone.
    pub shrink: u32,
    /// First column and the one after the last, after that division.
    pub columns: (u32, u32),
    /// First row and the one after the last. What lies below is not looked at, not even for damage.
    pub rows: (u32, u32),
}

impl Part {
    /// Every pixel.
    pub const WHOLE: Self = Self { shrink: 1, columns: (0, u32::MAX), rows: (0, u32::MAX) };

    /// A side of that many pixels, divided.
    pub fn of(self, side: u32) -> u32 {
        side.div_ceil(self.shrink)
    }

    /// What there is of it in an image of that size.
    pub fn within(self, width: u32, height: u32) -> Self {
        let clip = |(from, to): (u32, u32), side| (from.min(side), to.min(side));
        let Self { shrink, columns, rows } = self;
        Self { shrink, columns: clip(columns, self.of(width)), rows: clip(rows, self.of(height)) }
    }
}

/// Pixels by which rows in memory may be longer than the part's: libjpeg decodes whole coding units of up to
/// 32 pixels, and one more on each side for the smoothing of chroma.
const SLACK: usize = 96;

/// Where a part is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Pixels from one row to the next.
    pub(crate) pitch: usize,
    /// Pixels before the part's first in each row.
    pub(crate) before: usize,
}

/// Who reads the Huffman codes of a JPEG. Pixels are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codes {
    /// `huffman.c`, where it can: baseline and extended sequential files with one scan.
    #[default]
    Own,
    /// libjpeg-turbo: the reference, and the limit that benchmarks measure against.
    Library,
}

/// Behind [`check`], for files that libjpeg reads differently: the coefficients, and a sixteenth for
/// its rows and tables.
const MAX_LIBJPEG_BYTES: c_long = (MAX_COEFFICIENT_BYTES + MAX_COEFFICIENT_BYTES / 16) as c_long;

/// A libjpeg-turbo decompressor; one per thread, reused for every image.
pub(crate) struct Jpeg {
    handle: NonNull<Handle>,
    cmyk: Vec<u8>,
    codes: Codes,
}

// SAFETY: the handle owns all of its state and is used by one thread at a time (`&mut self`).
unsafe impl Send for Jpeg {}

impl Jpeg {
    pub(crate) fn new(codes: Codes) -> Result<Self> {
        // SAFETY: no arguments; null means out of memory.
        let handle = NonNull::new(unsafe { barlow_jpeg_new() });
        let handle = handle.ok_or_else(|| Fault::Bug("libjpeg-turbo did not start".to_owned()))?;
        Ok(Self { handle, cmyk: Vec::new(), codes })
    }

    /// Warnings of the last image that left every pixel intact (padding between segments and the like).
    pub(crate) fn tolerated(&self) -> u32 {
        // SAFETY: the handle is live until drop.
        unsafe { barlow_jpeg_tolerated(self.handle.as_ptr()) }
    }

    /// Decodes a part, which must not be empty, into `rgb`, whose size it sets; the file has passed [`check`].
    pub(crate) fn decode(
        &mut self,
        bytes: &[u8],
        frame: &Frame,
        part: Part,
        rgb: &mut Vec<u8>,
    ) -> Result<Layout> {
        let max_scans = scan_limit(frame);
        if frame.components != 4 {
            return self.rows(bytes, frame, part, max_scans, 3, rgb);
        }
        let mut cmyk = std::mem::take(&mut self.cmyk);
        let done = self.rows(bytes, frame, part, max_scans, 4, &mut cmyk);
        if done.is_ok() {
            rgb.resize(cmyk.len() / 4 * 3, 0);
            inverted_cmyk_to_rgb(&cmyk, rgb);
        }
        self.cmyk = cmyk;
        done
    }

    fn rows(
        &mut self,
        bytes: &[u8],
        frame: &Frame,
        part: Part,
        max_scans: u32,
        channels: usize,
        rows: &mut Vec<u8>,
    ) -> Result<Layout> {
        let Part { shrink, columns, rows: lines } = part.within(frame.width, frame.height);
        if columns.0 >= columns.1 || lines.0 >= lines.1 {
            return Err(Fault::Bug(format!("{part:?} of a JPEG is empty")).into());
        }
        let (width, height) = (part.of(frame.width), part.of(frame.height));
        let pitch = (width as usize).min((columns.1 - columns.0) as usize + SLACK);
        rows.resize(pitch * (lines.1 - lines.0) as usize * channels, 0);
        let wanted = Wanted {
            shrink,
            left: columns.0,
            right: columns.1,
            top: lines.0,
            bottom: lines.1,
            pitch: pitch as c_uint,
        };
        let mut first = 0;
        // SAFETY: the handle is live; `bytes` outlives the call; `rows` holds the rows of `pitch` pixels set
        // above, and the shim writes none unless libjpeg agrees with that geometry.
        let status = unsafe {
            barlow_jpeg_decode(
                self.handle.as_ptr(),
                bytes.as_ptr(),
                bytes.len(),
                rows.as_mut_ptr(),
                width,
                height,
                channels as c_int,
                &raw const wanted,
                &raw mut first,
                c_int::from(self.codes == Codes::Library),
                max_scans as c_int,
                MAX_LIBJPEG_BYTES,
            )
        };
        if status == 0 {
            return Ok(Layout { pitch, before: (columns.0 - first) as usize });
        }
        // SAFETY: the shim keeps a NUL-terminated message inside the live handle.
        let message = unsafe { CStr::from_ptr(barlow_jpeg_message(self.handle.as_ptr())) };
        Err(damaged(crate::error::printable(message.to_bytes())))
    }
}

impl Drop for Jpeg {
    fn drop(&mut self) {
        // SAFETY: made by barlow_jpeg_new, freed once.
        unsafe { barlow_jpeg_free(self.handle.as_ptr()) };
    }
}

/// Adobe stores CMYK inverted: 255 is no ink. Ink is multiplied over black, rounded as Pillow does.
fn inverted_cmyk_to_rgb(cmyk: &[u8], rgb: &mut [u8]) {
    for (&[c, m, y, k], out) in cmyk.as_chunks::<4>().0.iter().zip(rgb.as_chunks_mut::<3>().0) {
        let white = u32::from(k);
        *out = [c, m, y].map(|stored| {
            let product = u32::from(255 - stored) * white + 128;
            (white - (((product >> 8) + product) >> 8)) as u8
        });
    }
}

/// libjpeg-turbo's version, as 3_001_000 for 3.1.0, and whether its SIMD code runs on this CPU.
pub fn library() -> (u32, bool) {
    // SAFETY: both take no arguments and have no side effects beyond libjpeg's own CPU detection.
    unsafe { (barlow_jpeg_version().unsigned_abs(), barlow_jpeg_simd() != 0) }
}

#[cfg(test)]
mod tests;
