//! Here: drawn parameters as rows of numbers of one width, for who applies the operations elsewhere.
//! Not here: drawing, applying.
//!
//! A view's operations have fixed columns, in the order stated: a colour jitter has four, every other
//! operation one. A column that is not taken has code 0. So all images of a batch have rows of one width in
//! which column k is always the same operation, and the steps read from left to right are those drawn.

use super::{Applied, Cut, Operation, Parameters, View};

/// Words of a cut: x, y, width and height of the window, width and height that it is resized to, x and y of
/// the square that is cut out of that.
pub const CUT_WORDS: usize = 8;

/// Words of one step: a code and a value.
pub const STEP_WORDS: usize = 2;

impl Applied {
    /// Its code, from 1 on, and its value as the kernels take it: single precision, a hue in whole levels of
    /// 1/255 turn. 0 where there is none.
    pub fn code_and_value(self) -> [f32; STEP_WORDS] {
        match self {
            Self::Flip => [1.0, 0.0],
            Self::Brightness(factor) => [2.0, factor as f32],
            Self::Contrast(factor) => [3.0, factor as f32],
            Self::Saturation(factor) => [4.0, factor as f32],
            Self::Hue(shift) => [5.0, (shift * 255.0).trunc() as f32],
            Self::Grayscale => [6.0, 0.0],
            Self::Blur(sigma) => [7.0, sigma as f32],
            Self::Solarize(threshold) => [8.0, f32::from(threshold)],
        }
    }
}

impl Operation {
    /// Columns of its steps.
    fn columns(&self) -> usize {
        if matches!(self, Self::ColorJitter { .. }) { 4 } else { 1 }
    }

    /// Whether `step` is of a kind that it draws.
    fn draws(&self, step: Applied) -> bool {
        match (*self, step) {
            (Self::Flip { .. }, Applied::Flip)
            | (Self::Grayscale { .. }, Applied::Grayscale)
            | (Self::GaussianBlur { .. }, Applied::Blur(_))
            | (Self::Solarize { .. }, Applied::Solarize(_)) => true,
            (Self::ColorJitter { brightness: range, .. }, Applied::Brightness(_))
            | (Self::ColorJitter { contrast: range, .. }, Applied::Contrast(_))
            | (Self::ColorJitter { saturation: range, .. }, Applied::Saturation(_)) => range != (1.0, 1.0),
            (Self::ColorJitter { hue, .. }, Applied::Hue(_)) => hue != (0.0, 0.0),
            _ => false,
        }
    }
}

impl View {
    /// Columns of its steps; each has `STEP_WORDS` words.
    pub fn columns(&self) -> usize {
        self.operations.iter().map(Operation::columns).sum()
    }

    /// The steps drawn for this view: for each column its code and value. Where two operations
    /// could have drawn a step, the first that keeps the order gets it; the picture is the same.
    pub fn steps(&self, parameters: &Parameters) -> Vec<[f32; STEP_WORDS]> {
        let mut left = parameters.operations.as_slice();
        let mut rows = Vec::with_capacity(self.columns());
        for operation in &self.operations {
            let end = rows.len() + operation.columns();
            while let Some((&step, rest)) = left.split_first()
                && rows.len() < end
                && operation.draws(step)
            {
                rows.push(step.code_and_value());
                left = rest;
            }
            rows.resize(end, [0.0; STEP_WORDS]);
        }
        rows
    }
}

impl Cut {
    /// The cut in whole words.
    pub fn words(&self) -> [i32; CUT_WORDS] {
        let Self { window: w, resized, offset, .. } = *self;
        [w.x, w.y, w.width, w.height, resized.0, resized.1, offset.0, offset.1].map(|word| word as i32)
    }
}

/// The level that is added to a hue, from its value in a row: modulo 256, as the kernel adds it.
#[cfg(test)]
fn level(value: f32) -> u8 {
    (value as i32) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::{Crop, Interpolation};
    use crate::ops::hue;

    const JITTER: Operation = Operation::ColorJitter {
        brightness: (0.6, 1.4),
        contrast: (0.6, 1.4),
        saturation: (0.8, 1.2),
        hue: (-0.1, 0.1),
        p: 0.8,
    };

    fn view(operations: Vec<Operation>) -> View {
        let interpolation = Interpolation::Bicubic;
        View {
            crop: Crop::RandomResized { size: 8, scale: (0.1, 1.0), ratio: (0.75, 4.0 / 3.0), interpolation },
            operations,
        }
    }

    /// Read from left to right the columns are the steps drawn, whatever the order and repetition of
    /// operations, and each stands in a column of an operation that draws it.
    #[test]
    fn the_columns_hold_what_was_drawn_in_its_order() {
        let blur = |p| Operation::GaussianBlur { sigma: (0.1, 2.0), p };
        let solarize = Operation::Solarize { threshold: 100, p: 0.5 };
        let (flip, grey) = (Operation::Flip { p: 0.5 }, Operation::Grayscale { p: 0.5 });
        let part = Operation::ColorJitter {
            brightness: (0.6, 1.4),
            contrast: (1.0, 1.0),
            saturation: (1.0, 1.0),
            hue: (-0.3, 0.3),
            p: 0.5,
        };
        let views = [
            view(vec![part, JITTER, part, blur(1.0), part]),
            view(vec![flip, JITTER, grey, blur(0.5), solarize]),
            view(vec![blur(0.5), solarize, flip, blur(0.5), JITTER, JITTER, flip]),
            view(vec![]),
        ];
        for view in &views {
            for sample in 0..500 {
                let drawn = view.draw(1, 2, sample, 3, 100, 80);
                let rows = view.steps(&drawn);
                assert_eq!(rows.len(), view.columns());
                let expected: Vec<_> = drawn.operations.iter().map(|step| step.code_and_value()).collect();
                let taken: Vec<_> = rows.iter().copied().filter(|row| row[0] != 0.0).collect();
                assert_eq!(taken, expected);
                let mut column = 0;
                for operation in &view.operations {
                    for row in &rows[column..column + operation.columns()] {
                        let own = |step: &&Applied| step.code_and_value() == *row;
                        let step = drawn.operations.iter().find(own);
                        assert!(step.is_none_or(|&step| operation.draws(step)), "{rows:?}");
                    }
                    column += operation.columns();
                }
            }
        }
    }

    #[test]
    fn a_hue_in_a_row_is_the_kernels_level() {
        for i in -5000..=5000 {
            let shift = f64::from(i) / 10_000.0;
            assert_eq!(level(Applied::Hue(shift).code_and_value()[1]), hue::levels(shift), "{shift}");
        }
    }
}
