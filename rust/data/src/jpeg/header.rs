//! Here: a JPEG's segments up to its first scan, and what is refused from them alone.
//! Not here: decoding.

use crate::error::{Error, Fault, Result};
use crate::limits::{MAX_COEFFICIENT_BYTES, MAX_SCAN_PIXELS, MAX_SCANS};

/// What a JPEG's frame header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) components: u8,
    /// Where the first scan's header begins.
    pub(crate) scan: usize,
    /// Several scans are to come: progressive, or not all components in the first scan.
    pub(crate) many_scans: bool,
    /// Minimal coding units: the blocks that hold one of each component, or more.
    pub(crate) units: u64,
    /// Blocks of 64 coefficients.
    pub(crate) blocks: u64,
    /// Predicted pixels instead of transformed blocks: there are no parts of such an image.
    pub(crate) lossless: bool,
    /// Huffman codes, of which every unit takes one at least; arithmetic coding has no such bound.
    pub(crate) huffman: bool,
}

pub(super) fn damaged(reason: impl Into<String>) -> Error {
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
pub(crate) fn find_ff(bytes: &[u8]) -> Option<usize> {
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
                    lossless: matches!(code, 0xc3 | 0xc7 | 0xcb | 0xcf),
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
pub(super) fn scan_limit(frame: &Frame) -> u32 {
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
    check_scans(bytes, frame)
}

/// The part of [`check`] that entropy-coded data have no say in.
pub(crate) fn check_scans(bytes: &[u8], frame: &Frame) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
