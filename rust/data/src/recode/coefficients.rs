//! Here: what a JPEG is before its entropy coding: quantised DCT coefficients, and what turns them into pixels.
//! Not here: where they come from, how they are stored, what becomes of them.

/// Which colours the components are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Transform {
    /// One component, which every channel takes.
    Grey = 0,
    /// Three components, luminance and two colour differences (ITU-R BT.601, full range).
    YCbCr = 1,
    /// Three components that are the channels.
    Rgb = 2,
}

impl Transform {
    /// How many components there are.
    pub fn components(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::YCbCr | Self::Rgb => 3,
        }
    }
}

/// The coefficients of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coefficients {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// As many as `transform` says, in the order of the frame header.
    pub components: Vec<Component>,
    /// What they are the components of.
    pub transform: Transform,
}

/// One component of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// The number that the file has for it.
    pub id: u8,
    /// Sampling factor across, 1 to 4.
    pub h: u8,
    /// Sampling factor down, 1 to 4.
    pub v: u8,
    /// Quantisation steps in natural (row by row) order.
    pub quant: [u16; 64],
    /// Blocks across, up to whole coding units of the image: `ceil(width / (8 * most h)) * h`.
    pub columns: u32,
    /// Blocks down, likewise.
    pub rows: u32,
    /// `rows * columns` blocks, row by row; coefficients in natural order, the first not a difference.
    pub blocks: Vec<[i16; 64]>,
}
