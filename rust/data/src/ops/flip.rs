//! Here: the horizontal flip. Not here: anything else.

/// Mirrors every row of `width` pixels, left to right.
pub(crate) fn flip(picture: &mut [u8], width: usize) {
    picture.chunks_exact_mut(width).for_each(<[u8]>::reverse);
}

#[cfg(test)]
mod tests {
    #[test]
    fn rows_are_mirrored_and_stay_in_place() {
        let mut picture = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        super::flip(&mut picture, 2);
        assert_eq!(picture, [2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11]);
    }
}
