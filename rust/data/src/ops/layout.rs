//! Here: interleaved to planar, and the horizontal flip. Not here: any arithmetic on pixels.

use super::{kernel, planes};

kernel! {
    /// RGBRGB... to the planes R, G, B; both hold the same number of bytes.
    pub(crate) fn to_planar / to_planar_portable(interleaved: &[u8], picture: &mut [u8]) {
        let [red, green, blue] = planes(picture);
        let pixels = interleaved.as_chunks::<3>().0;
        for (((pixel, r), g), b) in pixels.iter().zip(red).zip(green).zip(blue) {
            [*r, *g, *b] = *pixel;
        }
    }
}

/// Mirrors every row, left to right.
pub(crate) fn flip(picture: &mut [u8], width: usize) {
    picture.chunks_exact_mut(width).for_each(<[u8]>::reverse);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_are_the_channels_and_a_flip_mirrors_rows() {
        // Two rows of two pixels.
        let interleaved = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let mut picture = [0; 12];
        to_planar(&interleaved, &mut picture);
        assert_eq!(picture, [1, 4, 7, 10, 2, 5, 8, 11, 3, 6, 9, 12]);
        flip(&mut picture, 2);
        assert_eq!(picture, [4, 1, 10, 7, 5, 2, 11, 8, 6, 3, 12, 9]);
    }
}
