//! Here: what a view is, the drawing of its parameters, and their application to an image.
//! Not here: kernels (ops/), decoding, threads, parameters as numbers (augment/rows.rs).
//!
//! The only place where view parameters are drawn. Distributions are those of torchvision's
//! RandomResizedCrop and ColorJitter; every draw is a function of (seed, epoch, sample, view), with one
//! stream for the crop and one for each operation, so that changing one leaves the others as they were.

mod rows;

use std::ops::RangeInclusive;

use crate::decode::{Image, Part};
use crate::error::{Fault, Result};
use crate::ops::blur::Blur;
pub use crate::ops::blur::kernel as blur_kernel;
pub use crate::ops::resize::{Cut, Interpolation, Window};
use crate::ops::resize::{Pixels, Resize};
pub use crate::ops::simd::Simd;
use crate::ops::{colour, flip, hue, saturation};
use crate::random::Draws;
pub use rows::{CUT_WORDS, STEP_WORDS};

/// Changes whenever the same image and settings would give other parameters or other pixels; the order has
/// a version of its own. tests/test_golden.py pins what each version gives.
pub const VERSION: u32 = 1;

/// Largest side of a view in pixels: far above any network's input, far below what exhausts memory.
const MAX_SIZE: u32 = 4096;

/// Largest blur in pixels: the cost of a blur grows with it.
const MAX_SIGMA: f64 = 100.0;

/// Attempts at a random crop before the central one is taken (torchvision's number).
const CROP_ATTEMPTS: usize = 10;

/// Which square of the image a view shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Crop {
    /// A random part of random aspect ratio, resized to a square.
    RandomResized {
        /// Side of the view in pixels.
        size: u32,
        /// Range of the part's area, as a fraction of the image; uniform.
        scale: (f64, f64),
        /// Range of the part's width / height; uniform in the logarithm.
        ratio: (f64, f64),
        /// Filter of the resize.
        interpolation: Interpolation,
    },
    /// The whole image resized, then the central square: evaluation.
    ResizeCenter {
        /// Shorter side after the resize, in pixels.
        resize: u32,
        /// Side of the view in pixels; at most `resize`.
        size: u32,
        /// Filter of the resize.
        interpolation: Interpolation,
    },
}

/// One random step after the crop; `p` is its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    /// Left to right.
    Flip {
        /// Probability.
        p: f64,
    },
    /// Brightness, contrast, saturation and hue in random order, each factor uniform in its range. A
    /// range of only 1 (hue: only 0) leaves that one out.
    ColorJitter {
        /// Range of the factor; not negative.
        brightness: (f64, f64),
        /// Range of the factor; not negative.
        contrast: (f64, f64),
        /// Range of the factor; not negative.
        saturation: (f64, f64),
        /// Range of the shift in turns; within [-0.5, 0.5].
        hue: (f64, f64),
        /// Probability.
        p: f64,
    },
    /// Luma in all three channels.
    Grayscale {
        /// Probability.
        p: f64,
    },
    /// Gaussian blur.
    GaussianBlur {
        /// Range of the standard deviation in pixels; uniform.
        sigma: (f64, f64),
        /// Probability.
        p: f64,
    },
    /// Inversion of the values from `threshold` on.
    Solarize {
        /// Lowest value that is inverted.
        threshold: u8,
        /// Probability.
        p: f64,
    },
}

/// A recipe for one view of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// First the square.
    pub crop: Crop,
    /// Then these, in order.
    pub operations: Vec<Operation>,
}

/// One step with its parameter drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Applied {
    /// Left to right.
    Flip,
    /// Factor.
    Brightness(f64),
    /// Factor.
    Contrast(f64),
    /// Factor.
    Saturation(f64),
    /// Shift in turns, within [-0.5, 0.5].
    Hue(f64),
    /// Luma in all three channels.
    Grayscale,
    /// Standard deviation in pixels.
    Blur(f64),
    /// Lowest value that is inverted.
    Solarize(u8),
}

/// All that is random about one view of one image, drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// The square.
    pub cut: Cut,
    /// The steps that are taken, in order.
    pub operations: Vec<Applied>,
}

impl View {
    /// Refuses settings that cannot work, by name.
    pub fn validate(&self) -> Result<()> {
        self.crop.validate()?;
        self.operations.iter().try_for_each(Operation::validate)
    }

    /// Side of the view in pixels.
    pub fn size(&self) -> u32 {
        match self.crop {
            Crop::RandomResized { size, .. } | Crop::ResizeCenter { size, .. } => size,
        }
    }

    /// Draws the parameters of view number `view` of an image of `width` x `height` pixels.
    pub fn draw(&self, seed: u64, epoch: u32, sample: u32, view: u16, width: u32, height: u32) -> Parameters {
        let draws = |stream| Draws::new(seed, epoch, sample, view, stream);
        let cut = self.crop.draw(&mut draws(0), width, height);
        let mut operations = Vec::with_capacity(self.operations.len() + 3);
        for (operation, stream) in self.operations.iter().zip(1..) {
            operation.draw(&mut draws(stream), &mut operations);
        }
        Parameters { cut, operations }
    }
}

impl Crop {
    fn validate(&self) -> Result<()> {
        match *self {
            Self::RandomResized { size, scale, ratio, .. } => {
                within("size of a view", f64::from(size), 1.0..=f64::from(MAX_SIZE))?;
                range("crop scale", scale, f64::MIN_POSITIVE..=1.0)?;
                range("crop ratio", ratio, 1e-3..=1e3)
            }
            Self::ResizeCenter { resize, size, .. } => {
                within("size of a view", f64::from(size), 1.0..=f64::from(MAX_SIZE))?;
                let bounds = f64::from(size)..=f64::from(MAX_SIZE);
                within("resize of a centre crop (at least its size)", f64::from(resize), bounds)
            }
        }
    }

    fn draw(&self, draws: &mut Draws, width: u32, height: u32) -> Cut {
        match *self {
            Self::RandomResized { size, scale, ratio, interpolation } => {
                let window = random_window(draws, scale, ratio, width, height)
                    .unwrap_or_else(|| central_window(ratio, width, height));
                Cut { window, resized: (size, size), offset: (0, 0), size, interpolation }
            }
            Self::ResizeCenter { resize, size, interpolation } => {
                let window = Window { x: 0, y: 0, width, height };
                let (short, long) = (width.min(height), width.max(height));
                // torchvision: the longer side is truncated, the middle rounded half to even.
                let long = (f64::from(resize) * f64::from(long) / f64::from(short)) as u32;
                let resized = if width <= height { (resize, long) } else { (long, resize) };
                let middle = |side: u32| (f64::from(side - size) / 2.0).round_ties_even() as u32;
                let offset = (middle(resized.0), middle(resized.1));
                Cut { window, resized, offset, size, interpolation }
            }
        }
    }
}

/// torchvision's RandomResizedCrop: area uniform, aspect ratio log-uniform, sides rounded half to even,
/// until both sides fit.
fn random_window(
    draws: &mut Draws,
    scale: (f64, f64),
    ratio: (f64, f64),
    width: u32,
    height: u32,
) -> Option<Window> {
    let area = f64::from(width) * f64::from(height);
    for _ in 0..CROP_ATTEMPTS {
        let area = area * draws.uniform(scale.0, scale.1);
        let ratio = draws.uniform(ratio.0.ln(), ratio.1.ln()).exp();
        let across = (area * ratio).sqrt().round_ties_even() as u32;
        let down = (area / ratio).sqrt().round_ties_even() as u32;
        if (1..=width).contains(&across) && (1..=height).contains(&down) {
            let y = draws.below(height - down + 1);
            let x = draws.below(width - across + 1);
            return Some(Window { x, y, width: across, height: down });
        }
    }
    None
}

/// The largest central part whose aspect ratio is in range.
fn central_window(ratio: (f64, f64), width: u32, height: u32) -> Window {
    let own = f64::from(width) / f64::from(height);
    let (mut across, mut down) = (width, height);
    if own < ratio.0 {
        down = ((f64::from(width) / ratio.0).round_ties_even() as u32).clamp(1, height);
    } else if own > ratio.1 {
        across = ((f64::from(height) * ratio.1).round_ties_even() as u32).clamp(1, width);
    }
    Window { x: (width - across) / 2, y: (height - down) / 2, width: across, height: down }
}

impl Operation {
    fn validate(&self) -> Result<()> {
        let (name, p) = match *self {
            Self::Flip { p } => ("flip", p),
            Self::Grayscale { p } => ("grayscale", p),
            Self::Solarize { p, .. } => ("solarize", p),
            Self::GaussianBlur { sigma, p } => {
                range("blur sigma in pixels", sigma, 0.0..=MAX_SIGMA)?;
                ("blur", p)
            }
            Self::ColorJitter { brightness, contrast, saturation, hue, p } => {
                // Beyond 1e6 every pixel is clipped anyway; single precision would overflow later on.
                range("brightness", brightness, 0.0..=1e6)?;
                range("contrast", contrast, 0.0..=1e6)?;
                range("saturation", saturation, 0.0..=1e6)?;
                range("hue", hue, -0.5..=0.5)?;
                ("colour jitter", p)
            }
        };
        within(&format!("probability of {name}"), p, 0.0..=1.0)
    }

    fn draw(&self, draws: &mut Draws, into: &mut Vec<Applied>) {
        match *self {
            Self::Flip { p } => into.extend(draws.chance(p).then_some(Applied::Flip)),
            Self::Grayscale { p } => into.extend(draws.chance(p).then_some(Applied::Grayscale)),
            Self::Solarize { threshold, p } => {
                into.extend(draws.chance(p).then_some(Applied::Solarize(threshold)));
            }
            Self::GaussianBlur { sigma, p } => {
                into.extend(draws.chance(p).then(|| Applied::Blur(draws.uniform(sigma.0, sigma.1))));
            }
            Self::ColorJitter { brightness, contrast, saturation, hue, p } => {
                if !draws.chance(p) {
                    return;
                }
                let order = draws.permutation::<4>();
                let mut factor = |range: (f64, f64), neutral: f64| {
                    let drawn = draws.uniform(range.0, range.1);
                    (range != (neutral, neutral)).then_some(drawn)
                };
                let steps = [
                    factor(brightness, 1.0).map(Applied::Brightness),
                    factor(contrast, 1.0).map(Applied::Contrast),
                    factor(saturation, 1.0).map(Applied::Saturation),
                    factor(hue, 0.0).map(Applied::Hue),
                ];
                into.extend(order.iter().filter_map(|&i| steps[usize::from(i)]));
            }
        }
    }
}

fn within(what: &str, value: f64, bounds: RangeInclusive<f64>) -> Result<()> {
    if bounds.contains(&value) {
        return Ok(());
    }
    let (low, high) = bounds.into_inner();
    Err(Fault::Setting(format!("{what} must lie in [{low:?}, {high:?}], not {value:?}")).into())
}

fn range(what: &str, (low, high): (f64, f64), bounds: RangeInclusive<f64>) -> Result<()> {
    within(what, low, bounds.clone())?;
    within(what, high, bounds)?;
    if low <= high {
        return Ok(());
    }
    Err(Fault::Setting(format!("{what}: the range ({low:?}, {high:?}) is upside down")).into())
}

/// Images of more pixels than this are decoded at a fraction of their size where all views allow it. Below,
/// entropy decoding takes so much of the time that nothing is gained.
const MIN_SHRUNK_PIXELS: u64 = 1_000_000;

/// The least of an image of `width` x `height` pixels that all of these views need. `shrinks`: large images
/// may be decoded smaller, though never to fewer pixels than a view is to have. `stops`: rows below the
/// lowest window may stay unseen. Columns and rows before the windows are read for damage and not decoded.
pub fn part_of(views: &[Parameters], (width, height): (u32, u32), shrinks: bool, stops: bool) -> Part {
    let large = u64::from(width) * u64::from(height) > MIN_SHRUNK_PIXELS;
    let enough = |shrink: u32| {
        views.iter().all(|Parameters { cut: Cut { window, resized, .. }, .. }| {
            window.width >= shrink * resized.0 && window.height >= shrink * resized.1
        })
    };
    let shrink = if shrinks && large { [8, 4, 2].into_iter().find(|&by| enough(by)).unwrap_or(1) } else { 1 };
    let reaches = views.iter().map(|view| view.cut.reach((width, height), shrink));
    let union = |a: (u32, u32), b: (u32, u32)| (a.0.min(b.0), a.1.max(b.1));
    let all = reaches.reduce(|a, b| [union(a[0], b[0]), union(a[1], b[1])]);
    let [columns, rows] = all.unwrap_or([Part::WHOLE.columns, Part::WHOLE.rows]);
    Part { shrink, columns, rows: (rows.0, if stops { rows.1 } else { u32::MAX }) }
}

/// The image as the kernels see it.
pub(crate) fn pixels(image: &Image) -> Pixels<'_> {
    let Image { width, height, part: Part { shrink, columns, rows }, pitch, before, ref data } = *image;
    Pixels { rgb: data, width, height, shrink, columns, rows, pitch, before }
}

/// Makes views of images; one per thread, reused so that its buffers are.
pub struct Augmenter {
    simd: Simd,
    resize: Resize,
    blur: Blur,
}

impl Default for Augmenter {
    fn default() -> Self {
        Self::new()
    }
}

impl Augmenter {
    /// On the fastest instructions that this CPU has. Buffers grow with the first images.
    pub fn new() -> Self {
        Self::on(Simd::detect())
    }

    /// On given instructions; all of them give equal bytes.
    pub fn on(simd: Simd) -> Self {
        Self { simd, resize: Resize::new(simd), blur: Blur::new(simd) }
    }

    /// Writes one view into `out`: planar RGB, 3 x size x size bytes.
    pub fn apply(&mut self, image: &Image, parameters: &Parameters, out: &mut [u8]) -> Result<()> {
        let Parameters { cut, operations } = parameters;
        let size = cut.size as usize;
        if out.len() != 3 * size * size {
            let found = out.len();
            return Err(Fault::Setting(format!("a view of size {size} does not fill {found} bytes")).into());
        }
        // A flip that comes first costs nothing: the resize writes its columns in reverse.
        let mirrored = operations.first() == Some(&Applied::Flip);
        self.resize.cut(pixels(image), cut, mirrored, out)?;
        let simd = self.simd;
        for &operation in &operations[usize::from(mirrored)..] {
            match operation {
                Applied::Flip => flip::flip(out, size),
                Applied::Brightness(factor) => colour::brightness(simd, out, factor as f32),
                Applied::Contrast(factor) => colour::contrast(simd, out, factor as f32),
                Applied::Saturation(factor) => saturation::saturation(simd, out, factor as f32),
                Applied::Hue(shift) => hue::hue(simd, out, hue::levels(shift)),
                Applied::Grayscale => colour::grayscale(simd, out),
                Applied::Blur(sigma) => self.blur.blur(out, size, sigma),
                Applied::Solarize(threshold) => colour::solarize(simd, out, threshold),
            }
        }
        Ok(())
    }
}
