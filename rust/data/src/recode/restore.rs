//! Here: a JPEG taken apart into coefficients and skeleton, and put together again, byte for byte.
//! Not here: how either is stored, whether a file is worth it.

use super::Unusual;
use super::coefficients::{Coefficients, Transform};
use super::entropy::{self, Choices, Tools};
use super::segments::{Next, Segments};
use super::skeleton::Skeleton;
use crate::limits::{MAX_COEFFICIENT_BYTES, MAX_SCANS};

/// Coefficients of nothing, whose memory the next image takes.
pub(super) fn nothing() -> Coefficients {
    Coefficients { width: 0, height: 0, components: Vec::new(), transform: Transform::Grey }
}

/// Reads every coefficient of a JPEG that libjpeg would read without inventing any; whatever is unusual is an
/// error. Whether [`build`] gives the file back is not known yet.
pub(super) fn take_apart(
    tools: &mut Tools,
    bytes: &[u8],
    into: &mut Coefficients,
) -> Result<Skeleton<'static>, Unusual> {
    let mut segments = Segments::default();
    let mut choices = Choices::default();
    let mut outside = Vec::new();
    let (mut at, mut from, mut scans) = (2, 0, 0);
    let mut components = Vec::new();
    while let Next::Scan(scan) = segments.next(bytes, &mut at)? {
        let frame = segments.frame.as_ref().ok_or(Unusual("a scan before the frame header"))?;
        scans += 1;
        if scans > MAX_SCANS || frame.coefficient_bytes() > MAX_COEFFICIENT_BYTES {
            return Err(Unusual("more coefficients or scans than are taken apart"));
        }
        if scans == 1 {
            components = frame.components(&mut into.components);
        }
        outside.extend_from_slice(&bytes[from..at]);
        at = entropy::read(tools, (bytes, at), (frame, &scan), &mut components, &mut choices)?;
        from = at;
    }
    outside.extend_from_slice(&bytes[from..]);
    let (frame, transform) =
        segments.frame.as_ref().zip(segments.transform()).ok_or(Unusual("a file without an image"))?;
    components.iter_mut().zip(frame.quants()).for_each(|(component, quant)| component.quant = quant);
    *into = Coefficients { width: frame.width, height: frame.height, components, transform };
    Ok(Skeleton { choices, outside: outside.into() })
}

/// The file that was taken apart; an error if it would have more than `limit` bytes, or if skeleton and
/// coefficients belong to different images.
pub(super) fn build(
    tools: &mut Tools,
    skeleton: Skeleton<'_>,
    coefficients: &mut Coefficients,
    limit: usize,
) -> Result<Vec<u8>, Unusual> {
    let Skeleton { mut choices, outside } = skeleton;
    let mut segments = Segments::default();
    let mut out = Vec::with_capacity(limit);
    let (mut at, mut from, mut scans) = (2, 0, 0);
    while let Next::Scan(scan) = segments.next(&outside, &mut at)? {
        let frame = segments.frame.as_ref().ok_or(Unusual("a scan before the frame header"))?;
        scans += 1;
        if scans > MAX_SCANS || !frame.is_of(coefficients) {
            return Err(Unusual("a skeleton of another image"));
        }
        out.extend_from_slice(&outside[from..at]);
        let components = &mut coefficients.components;
        entropy::write(tools, &mut out, limit, (frame, &scan), components, &mut choices)?;
        from = at;
    }
    let steps = coefficients.components.iter().map(|component| component.quant);
    let frame = segments.frame.as_ref().filter(|frame| frame.quants().eq(steps));
    if frame.is_none() || segments.transform() != Some(coefficients.transform) {
        return Err(Unusual("a skeleton of other colours or quantisation"));
    }
    out.extend_from_slice(&outside[from..]);
    if out.len() > limit { Err(Unusual("a file that is longer than it was")) } else { Ok(out) }
}
