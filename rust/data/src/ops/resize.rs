//! Here: part of an image to a square of another size, antialiased, by fast_image_resize.
//! Not here: the choice of the part.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use crate::error::{Fault, Result};

/// Filters of a resize; both widen when an image shrinks (antialiasing), as Pillow's do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// Triangle.
    Bilinear,
    /// Cubic with a = -0.5.
    Bicubic,
}

/// A rectangle of whole pixels of a source image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Left column.
    pub x: u32,
    /// Top row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// Which square to make of an image: `window` of it is resized to `resized`, and the `size` x `size`
/// pixels at `offset` of that are the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Part of the source that is looked at.
    pub window: Window,
    /// Width and height of the resized window.
    pub resized: (u32, u32),
    /// x and y of the square in the resized window.
    pub offset: (u32, u32),
    /// Side of the square in pixels.
    pub size: u32,
    /// Filter of the resize.
    pub interpolation: Interpolation,
}

impl Cut {
    /// False if the window leaves an image of this size, or the square the resized window.
    fn fits(&self, width: usize, height: usize) -> bool {
        let inside =
            |start: u32, length: u32, whole: u64| length > 0 && u64::from(start) + u64::from(length) <= whole;
        let Window { x, y, width: across, height: down } = self.window;
        inside(x, across, width as u64)
            && inside(y, down, height as u64)
            && inside(self.offset.0, self.size, u64::from(self.resized.0))
            && inside(self.offset.1, self.size, u64::from(self.resized.1))
    }
}

/// A resizer and its buffers, reused from image to image.
#[derive(Default)]
pub(crate) struct Resize {
    resizer: Resizer,
    square: Vec<u8>,
}

impl Resize {
    /// The square as interleaved RGB. Pixels outside the window have no influence: at its border the
    /// filter is cut off and normalised, as if the window were an image of its own.
    pub(crate) fn cut(&mut self, rgb: &[u8], width: usize, height: usize, cut: &Cut) -> Result<&[u8]> {
        if !cut.fits(width, height) {
            return Err(Fault::Setting(format!("{cut:?} does not fit an image of {width}x{height}")).into());
        }
        let (window, size) = (cut.window, cut.size);
        self.square.resize(size as usize * size as usize * 3, 0);
        let bug = |error: &dyn std::fmt::Display| Fault::Bug(format!("resize: {error}"));
        let image = TypedImageRef::<U8x3>::from_buffer(width as u32, height as u32, rgb)
            .map_err(|error| bug(&error))?;
        let source = TypedCroppedImage::from_ref(&image, window.x, window.y, window.width, window.height)
            .map_err(|error| bug(&error))?;
        let mut target =
            TypedImage::<U8x3>::from_buffer(size, size, &mut self.square).map_err(|error| bug(&error))?;
        let filter = match cut.interpolation {
            Interpolation::Bilinear => FilterType::Bilinear,
            Interpolation::Bicubic => FilterType::CatmullRom,
        };
        let (left, across) = span(window.width, cut.resized.0, cut.offset.0, size);
        let (top, down) = span(window.height, cut.resized.1, cut.offset.1, size);
        let options =
            ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).crop(left, top, across, down);
        self.resizer.resize_typed(&source, &mut target, &options).map_err(|error| bug(&error))?;
        Ok(&self.square)
    }
}

/// Start and length, in pixels of a side of `source`, of the `size` pixels at `offset` of its `resized`.
fn span(source: u32, resized: u32, offset: u32, size: u32) -> (f64, f64) {
    let (source, scale) = (f64::from(source), f64::from(source) / f64::from(resized));
    // Rounding may not carry the end beyond the source.
    let start = (f64::from(offset) * scale).min(source);
    (start, (f64::from(size) * scale).min(source - start))
}
