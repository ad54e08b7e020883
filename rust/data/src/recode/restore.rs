//! Here: a JPEG taken apart into coefficients and skeleton, and put together again, byte for byte.
//! Not here: how either is stored, whether a file is worth it.

use super::Unusual;
use super::coefficients::{Coefficients, Transform};
use super::entropy::{Choices, Tools};
use super::layout::{Layout, NOT_FAITHFUL, damaged, faithful};
use super::segments::{Next, Segments};
use super::skeleton::Skeleton;
use super::sparse::Sparse;
use super::{reading, strict, writing};
use crate::error::{Error, Result};
use crate::limits::{MAX_COEFFICIENT_BYTES, MAX_SCANS};

/// What a JPEG is taken apart into.
pub(super) struct Parts {
    /// Its coefficients.
    pub(super) sparse: Sparse,
    /// The same of a progressive file, before they are complete; otherwise nothing of use.
    dense: Coefficients,
    /// Its scans, if all of them were read strictly; otherwise nothing of use.
    pub(super) scans: Vec<strict::Scan>,
    /// Whether they were.
    pub(super) strict: bool,
}

impl Default for Parts {
    fn default() -> Self {
        let dense = Coefficients { width: 0, height: 0, components: Vec::new(), transform: Transform::Grey };
        Self { sparse: Sparse::default(), dense, scans: Vec::new(), strict: false }
    }
}

/// Reads every coefficient of a JPEG that libjpeg would read without inventing any; whatever is unusual is an
/// error. Whether [`build`] gives the file back is not known yet.
pub(super) fn take_apart(
    tools: &mut Tools,
    bytes: &[u8],
    into: &mut Parts,
) -> std::result::Result<Skeleton<'static>, Unusual> {
    let mut segments = Segments::default();
    let mut choices = Choices::default();
    let mut outside = Vec::new();
    let (mut at, mut from, mut scans) = (2, 0, 0);
    let Parts { sparse, dense, scans: list, strict } = into;
    list.clear();
    *strict = true;
    while let Next::Scan(scan) = segments.next(bytes, &mut at)? {
        let frame = segments.frame.as_ref().ok_or(NO_FRAME)?;
        scans += 1;
        if scans > MAX_SCANS || frame.coefficient_bytes() > MAX_COEFFICIENT_BYTES {
            return Err(Unusual("more coefficients or scans than are taken apart"));
        }
        outside.extend_from_slice(&bytes[from..at]);
        let (data, what) = ((bytes, at), (frame, &scan));
        if frame.progressive {
            if scans == 1 {
                dense.components = frame.components(&mut dense.components);
            }
            at = reading::progressive_scan(tools, data, what, &mut dense.components, &mut choices)?;
            *strict = false;
        } else {
            if scans == 1 {
                frame.begin(&mut sparse.planes);
            }
            let read = reading::sequential(tools, data, what, &mut sparse.planes, &mut choices)?;
            *strict &= read.strict;
            list.push(strict::Scan::new(what, at..read.end, read.padding));
            at = read.end;
        }
        from = at;
    }
    outside.extend_from_slice(&bytes[from..]);
    let (frame, transform) =
        segments.frame.as_ref().zip(segments.transform()).ok_or(Unusual("a file without an image"))?;
    if frame.progressive {
        sparse.take(dense);
    }
    (sparse.width, sparse.height, sparse.transform) = (frame.width, frame.height, transform);
    sparse.planes.iter_mut().zip(frame.quants()).for_each(|(blocks, quant)| blocks.plane.quant = quant);
    Ok(Skeleton { choices, outside: outside.into() })
}

const NO_FRAME: Unusual = Unusual("a scan before the frame header");

/// How the data of sequential scans are made.
#[derive(Clone, Copy)]
pub(super) enum Making<'a> {
    /// Written, of coefficients.
    Write,
    /// Not at all: nothing is written, but held against the file itself, of whose data it is known that they are what
    /// would be written.
    Compare(&'a [u8], &'a [strict::Scan]),
}

impl Making<'_> {
    /// Appends bytes to what is there; with it, `at` is how far the file has been compared.
    fn put(self, bytes: &[u8], at: &mut usize, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Write => out.extend_from_slice(bytes),
            Self::Compare(file, _) => {
                let same = file.get(*at..).is_some_and(|rest| rest.starts_with(bytes));
                *at += if same { bytes.len() } else { return Err(damaged(OTHER_FILE)) };
            }
        }
        Ok(())
    }
}

const OTHER_FILE: &str = "another file than was read";

/// Writes the file that was taken apart to `out`, over what was there, or compares it.
///
/// # Errors
/// `Damaged` if it is to be compared and another one, if it would have more than `limit` bytes, if skeleton and layout belong to different images, or if
/// libjpeg's arithmetic is not up to the coefficients.
pub(super) fn build(
    tools: &mut Tools,
    skeleton: Skeleton<'_>,
    layout: &Layout<'_>,
    (making, limit): (Making<'_>, usize),
    out: &mut Vec<u8>,
) -> Result<()> {
    let Skeleton { mut choices, outside } = skeleton;
    let mut segments = Segments::default();
    let mut dense = None;
    out.clear();
    let (mut at, mut from, mut scans, mut compared) = (2, 0, 0, 0);
    while let Next::Scan(scan) = segments.next(&outside, &mut at).map_err(unusual)? {
        let frame = segments.frame.as_ref().ok_or(NO_FRAME).map_err(unusual)?;
        scans += 1;
        if scans > MAX_SCANS || !frame.is_of(layout) {
            return Err(damaged("a skeleton of another image"));
        }
        making.put(&outside[from..at], &mut compared, out)?;
        let (end, what) = ((&mut *out, limit), (frame, &scan));
        if frame.progressive {
            let image: &mut Coefficients = match &mut dense {
                Some(image) => image,
                None => dense.insert(coefficients(layout)?),
            };
            writing::progressive_scan(tools, end, what, &mut image.components, &mut choices)
                .map_err(unusual)?;
        } else if let Making::Compare(_, read) = making {
            let scan = read.get(scans as usize - 1);
            let data = scan.and_then(|scan| scan.data(what, &mut choices.padding));
            compared = match data.filter(|data| data.start == compared) {
                Some(data) => data.end,
                None => return Err(damaged(OTHER_FILE)),
            };
        } else {
            writing::sequential(tools, end, what, layout, &mut choices)?;
        }
        from = at;
    }
    let steps = layout.planes.iter().map(|plane| plane.quant);
    let frame = segments.frame.as_ref().filter(|frame| frame.quants().eq(steps));
    if frame.is_none() || segments.transform() != Some(layout.transform) {
        return Err(damaged("a skeleton of other colours or quantisation"));
    }
    making.put(&outside[from..], &mut compared, out)?;
    if let Making::Compare(file, _) = making
        && compared != file.len()
    {
        return Err(damaged(OTHER_FILE));
    }
    if out.len() > limit { Err(damaged("a file that is longer than it was")) } else { Ok(()) }
}

/// All coefficients of a layout that may be kept.
fn coefficients(layout: &Layout<'_>) -> Result<Coefficients> {
    let image = layout.coefficients()?;
    if faithful(&image) { Ok(image) } else { Err(damaged(NOT_FAITHFUL)) }
}

fn unusual(Unusual(reason): Unusual) -> Error {
    damaged(reason)
}
