//! Here: JPEG bytes to RGB through libjpeg-turbo (>= 3.1, with SIMD): header, limits, FFI.
//! Not here: other formats, I/O, the choice of a scale, EXIF orientation (ignored, as the paper's code does).
//!
//! Pixels are those of Pillow's `convert("RGB")`: accurate IDCT, fancy upsampling, CMYK and YCCK by
//! Adobe's inverted convention. A file whose data ends early or holds impossible codes is an error,
//! never a picture with invented rows; `jpeg.c` lists the warnings that leave every pixel intact.

use std::ffi::{CStr, c_char, c_int, c_long, c_uchar, c_uint};
use std::ptr::NonNull;

// The shim calls into the static library that this crate builds.
use turbojpeg_sys as _;

use crate::decode::Part;
use crate::error::{Error, Fault, Result};
use crate::limits::{MAX_COEFFICIENT_BYTES, MAX_SCAN_PIXELS, MAX_SCANS};

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
        wanted: c_uint,
        shrink: c_int,
        max_scans: c_int,
        max_memory: c_long,
    ) -> c_int;
}

/// What a JPEG's frame header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) width: u32,
    pub(crate) height: u32,
    components: u8,
    /// Where the first scan's header begins.
    scan: usize,
    /// Several scans are to come: progressive, or not all components in the first scan.
    many_scans: bool,
    /// Minimal coding units: the blocks that hold one of each component, or more.
    units: u64,
    /// Blocks of 64 coefficients.
    blocks: u64,
    /// Huffman codes, of which every unit takes one at least; arithmetic coding has no such bound.
    huffman: bool,
}

fn damaged(reason: impl Into<String>) -> Error {
    Fault::Damaged { format: "JPEG", reason: reason.into() }.into()
}

fn unsupported(reason: String) -> Error {
    Fault::Unsupported { format: "JPEG", reason }.into()
}

/// True if the bytes begin as a JPEG does.
pub(crate) fn sniff(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xff\xd8\xff")
}

/// The segments of a JPEG: marker code and payload. Skips what decoders skip: fill bytes, junk and
/// entropy-coded data between segments.
struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Segments<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.at += find_ff(self.bytes.get(self.at..)?)?;
            let code = *self.bytes.get(self.at + 1)?;
            match code {
                // Fill byte: the next one may be the marker.
                0xff => self.at += 1,
                // Stuffed byte, restart marker, SOI and TEM stand alone.
                0x00 | 0x01 | 0xd0..=0xd8 => self.at += 2,
                0xd9 => return None,
                _ => {
                    let start = self.at + 4;
                    let length = self.bytes.get(self.at + 2..start)?;
                    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                    let payload = self.bytes.get(start..start + length.checked_sub(2)?)?;
                    self.at = start + payload.len();
                    return Some((code, payload));
                }
            }
        }
    }
}

/// Index of the first 0xff. Entropy-coded data has one in some hundreds of bytes.
fn find_ff(bytes: &[u8]) -> Option<usize> {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let found = |block: &[u8]| block.iter().position(|&byte| byte == 0xff);
    for (i, block) in blocks.iter().enumerate() {
        if block.iter().fold(false, |any, &byte| any | (byte == 0xff)) {
            return found(block).map(|at| i * 32 + at);
        }
    }
    found(rest).map(|at| blocks.len() * 32 + at)
}

/// Reads up to the first scan header; nothing is decoded or allocated.
pub(crate) fn header(bytes: &[u8]) -> Result<Frame> {
    let mut segments = Segments { bytes, at: 2 };
    let mut frame: Option<Frame> = None;
    while let Some((code, payload)) = segments.next() {
        match (code, payload) {
            // DHT, JPG and DAC lie in the range of the frame headers.
            (0xc4 | 0xc8 | 0xcc, _) => {}
            (0xc0..=0xcf, &[precision, h1, h0, w1, w0, components, ref sampled @ ..]) => {
                if frame.is_some() {
                    return Err(damaged("two frame headers"));
                }
                if precision != 8 {
                    return Err(unsupported(format!("{precision} bits per sample")));
                }
                if !matches!(components, 1 | 3 | 4) {
                    return Err(unsupported(format!("{components} components")));
                }
                let width = u32::from(u16::from_be_bytes([w1, w0]));
                let height = u32::from(u16::from_be_bytes([h1, h0]));
                let (units, blocks) = blocks(width, height, sampled);
                frame = Some(Frame {
                    width,
                    height,
                    components,
                    scan: 0,
                    many_scans: matches!(code, 0xc2 | 0xc6 | 0xca | 0xce),
                    units,
                    blocks,
                    huffman: code < 0xc8,
                });
            }
            (0xc0..=0xcf, _) => return Err(damaged("short frame header")),
            (0xda, scan) => {
                let mut frame = frame.ok_or_else(|| damaged("scan before frame header"))?;
                if frame.width == 0 || frame.height == 0 {
                    return Err(damaged("zero width or height"));
                }
                frame.scan = segments.at - scan.len() - 4;
                frame.many_scans |= scan.first() != Some(&frame.components);
                return Ok(frame);
            }
            _ => {}
        }
    }
    Err(damaged("no image data"))
}

/// Minimal coding units and blocks of a frame; `sampled` has three bytes for each component, with the
/// horizontal and vertical factors in the second. libjpeg refuses factors that are not 1 to 4.
fn blocks(width: u32, height: u32, sampled: &[u8]) -> (u64, u64) {
    let factors = || {
        let pairs = sampled.as_chunks::<3>().0.iter().map(|&[_, both, _]| (both >> 4, both & 15));
        pairs.map(|(across, down)| (u64::from(across.clamp(1, 4)), u64::from(down.clamp(1, 4))))
    };
    let most = factors().fold((1, 1), |most: (u64, u64), one| (most.0.max(one.0), most.1.max(one.1)));
    let units = u64::from(width).div_ceil(8 * most.0) * u64::from(height).div_ceil(8 * most.1);
    (units, units * factors().map(|(across, down)| across * down).sum::<u64>())
}

/// Scans a file of this size may have.
fn scan_limit(frame: &Frame) -> u32 {
    let pixels = u64::from(frame.width) * u64::from(frame.height);
    (MAX_SCAN_PIXELS / pixels.max(1)).clamp(1, u64::from(MAX_SCANS)) as u32
}

/// Refuses what would burn time or memory, from the bytes alone and before anything is allocated: more
/// pixels than the file can hold, too many scans, too many coefficients at once.
pub(crate) fn check(bytes: &[u8], frame: &Frame) -> Result<()> {
    // A Huffman code has a bit at least, and data that end early are an error in any case.
    if frame.huffman && frame.units > 8 * bytes.len() as u64 {
        return Err(damaged("more pixels than the file has room for"));
    }
    // libjpeg takes one scan where one was announced.
    if !frame.many_scans {
        return Ok(());
    }
    let limit = |what, found: u64, limit: u64| match found > limit {
        true => Err(Fault::Limit { what, found, limit }),
        false => Ok(()),
    };
    limit("JPEG of several scans, bytes of coefficients,", 128 * frame.blocks, MAX_COEFFICIENT_BYTES)?;
    let scans = Segments { bytes, at: frame.scan }.filter(|&(code, _)| code == 0xda).count();
    limit("number of JPEG scans", scans as u64, scan_limit(frame).into())?;
    Ok(())
}

/// Behind [`check`], for files that libjpeg reads differently: the coefficients, and a sixteenth for
/// its rows and tables.
const MAX_LIBJPEG_BYTES: c_long = (MAX_COEFFICIENT_BYTES + MAX_COEFFICIENT_BYTES / 16) as c_long;

/// A libjpeg-turbo decompressor; one per thread, reused for every image.
pub(crate) struct Jpeg {
    handle: NonNull<Handle>,
    cmyk: Vec<u8>,
}

// SAFETY: the handle owns all of its state and is used by one thread at a time (`&mut self`).
unsafe impl Send for Jpeg {}

impl Jpeg {
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: no arguments; null means out of memory.
        let handle = NonNull::new(unsafe { barlow_jpeg_new() });
        let handle = handle.ok_or_else(|| Fault::Bug("libjpeg-turbo did not start".to_owned()))?;
        Ok(Self { handle, cmyk: Vec::new() })
    }

    /// Warnings of the last image that left every pixel intact (padding between segments and the like).
    pub(crate) fn tolerated(&self) -> u32 {
        // SAFETY: the handle is live until drop.
        unsafe { barlow_jpeg_tolerated(self.handle.as_ptr()) }
    }

    /// Decodes `part` into `rgb`, which holds its rows; the file has passed [`check`].
    pub(crate) fn decode(&mut self, bytes: &[u8], frame: &Frame, part: Part, rgb: &mut [u8]) -> Result<()> {
        let max_scans = scan_limit(frame);
        if frame.components != 4 {
            return self.rows(bytes, frame, part, max_scans, 3, rgb);
        }
        let mut cmyk = std::mem::take(&mut self.cmyk);
        cmyk.resize(rgb.len() / 3 * 4, 0);
        let done = self.rows(bytes, frame, part, max_scans, 4, &mut cmyk);
        if done.is_ok() {
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
        rows: &mut [u8],
    ) -> Result<()> {
        let (width, height) = (part.of(frame.width), part.of(frame.height));
        let wanted = part.rows.min(height);
        let expected = width as usize * wanted as usize * channels;
        if rows.len() != expected {
            return Err(Fault::Bug(format!("JPEG rows: {} bytes for {expected}", rows.len())).into());
        }
        // SAFETY: the handle is live; `bytes` outlives the call; `rows` holds the wanted x width x channels
        // bytes checked above, and the shim writes no row unless libjpeg agrees with that geometry.
        let status = unsafe {
            barlow_jpeg_decode(
                self.handle.as_ptr(),
                bytes.as_ptr(),
                bytes.len(),
                rows.as_mut_ptr(),
                width,
                height,
                channels as c_int,
                wanted,
                part.shrink as c_int,
                max_scans as c_int,
                MAX_LIBJPEG_BYTES,
            )
        };
        if status == 0 {
            return Ok(());
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
pub(crate) mod samples {
    //! An encoder for tests: libjpeg-turbo's own.

    use turbojpeg_sys as tj;

    /// A JPEG of interleaved RGB pixels; `settings` are TurboJPEG parameters and their values.
    pub(crate) fn encode(rgb: &[u8], width: usize, settings: &[(tj::TJPARAM, i32)]) -> Vec<u8> {
        let height = rgb.len() / 3 / width;
        let mut bytes = std::ptr::null_mut();
        let mut length = 0;
        // SAFETY: `rgb` holds width x height pixels; the library allocates the output, which is copied
        // before it is freed.
        unsafe {
            let handle = tj::tj3Init(tj::TJINIT_TJINIT_COMPRESS as i32);
            let mut status = 0;
            for &(parameter, value) in settings {
                status |= tj::tj3Set(handle, parameter as i32, value);
            }
            let (w, h) = (width as i32, height as i32);
            let format = tj::TJPF_TJPF_RGB;
            status |= tj::tj3Compress8(handle, rgb.as_ptr(), w, 0, h, format, &mut bytes, &mut length);
            assert_eq!(status, 0, "the encoder refused");
            let jpeg = std::slice::from_raw_parts(bytes, length as usize).to_vec();
            tj::tj3Free(bytes.cast());
            tj::tj3Destroy(handle);
            jpeg
        }
    }

    /// Quality 90, 4:2:0, further settings on top.
    pub(crate) fn usual(rgb: &[u8], width: usize, more: &[(tj::TJPARAM, i32)]) -> Vec<u8> {
        let mut settings = vec![(tj::TJPARAM_TJPARAM_QUALITY, 90), (tj::TJPARAM_TJPARAM_SUBSAMP, 2)];
        settings.extend(more);
        encode(rgb, width, &settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libjpeg_turbo_is_new_enough_and_has_simd() {
        let (version, simd) = library();
        assert!(version >= 3_001_000, "{version}");
        assert!(simd);
    }

    #[test]
    fn finds_the_first_ff_wherever_it_lies() {
        for at in 0..100 {
            let mut bytes = [0u8; 100];
            bytes[at] = 0xff;
            bytes[99] = 0xff;
            assert_eq!(find_ff(&bytes), Some(at));
        }
        assert_eq!(find_ff(&[0; 70]), None);
    }

    #[test]
    fn scan_bombs_are_refused_before_they_burn() -> Result<()> {
        let progressive = [(turbojpeg_sys::TJPARAM_TJPARAM_PROGRESSIVE, 1)];
        let bytes = samples::usual(&[90; 40 * 30 * 3], 40, &progressive);
        let frame = header(&bytes)?;
        // Many copies of the last scan, its header and its data.
        let last = bytes.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap_or_default();
        let scan = &bytes[last..bytes.len() - 2];
        let mut bomb = bytes[..last].to_vec();
        (0..MAX_SCANS).for_each(|_| bomb.extend(scan));
        bomb.extend([0xff, 0xd9]);
        let mut jpeg = Jpeg::new()?;
        let mut rgb = vec![0; 40 * 30 * 3];
        let refusal = check(&bomb, &frame).err().map(|error| error.fault().kind());
        assert_eq!(refusal, Some("limit"));
        // The second guard, inside libjpeg-turbo, on a file that is well within the first.
        assert!(jpeg.rows(&bytes, &frame, Part::WHOLE, 20, 3, &mut rgb).is_ok());
        let refusal =
            jpeg.rows(&bytes, &frame, Part::WHOLE, 3, 3, &mut rgb).err().map(|error| error.to_string());
        assert_eq!(refusal.as_deref(), Some("damaged JPEG image: more than 3 scans"));
        jpeg.decode(&bytes, &frame, Part::WHOLE, &mut rgb)?;
        assert!(check(&bytes, &frame).is_ok());
        // The larger the image, the fewer scans.
        assert_eq!(scan_limit(&frame), MAX_SCANS);
        assert_eq!(scan_limit(&Frame { width: 13_000, height: 13_000, ..frame }), 11);
        Ok(())
    }
}
