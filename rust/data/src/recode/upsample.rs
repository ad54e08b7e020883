//! Here: rows of fewer samples to rows with one for each pixel, bit for bit as libjpeg does.
//! Not here: which rows (`pixels.rs`).
//!
//! Where libjpeg smooths ("fancy"), every sample has three parts of the nearest and one of the next nearest, across
//! and down, with a rounding that alternates. Its special cases at the edges are what the general one gives when
//! the sample at the edge is repeated once beyond it.

use crate::ops::simd::kernel;

kernel! {
    /// Two samples for each of `row` but its first and last, which are neighbours only.
    pub(crate) fn across / across_of(row: &[u8], out: &mut [u8]) {
        let middle = row[1..].iter().zip(&row[2..]);
        for (out, (&left, (&here, &right))) in out.as_chunks_mut::<2>().0.iter_mut().zip(row.iter().zip(middle)) {
            let (left, here, right) = (u16::from(left), 3 * u16::from(here), u16::from(right));
            *out = ((here + left + 1) >> 2 | ((here + right + 2) >> 2) << 8).to_le_bytes();
        }
    }
}

kernel! {
    /// The row between two of a component that has half the rows, nearer to the first; `bias` is 1 where the other
    /// is above and 2 where it is below.
    pub(crate) fn down / down_of(near: &[u8], far: &[u8], bias: u16, out: &mut [u8]) {
        for (out, (&near, &far)) in out.iter_mut().zip(near.iter().zip(far)) {
            *out = ((3 * u16::from(near) + u16::from(far) + bias) >> 2) as u8;
        }
    }
}

kernel! {
    /// Both: two samples for each of the rows' but their first and last. `sums` is for work, as long as they.
    pub(crate) fn both / both_of(near: &[u8], far: &[u8], sums: &mut [u16], out: &mut [u8]) {
        for (sum, (&near, &far)) in sums.iter_mut().zip(near.iter().zip(far)) {
            *sum = 3 * u16::from(near) + u16::from(far);
        }
        let sums = &sums[..near.len().min(far.len())];
        let middle = sums[1..].iter().zip(&sums[2..]);
        for (out, (&left, (&here, &right))) in out.as_chunks_mut::<2>().0.iter_mut().zip(sums.iter().zip(middle)) {
            let here = 3 * here;
            *out = ((here + left + 8) >> 4 | ((here + right + 7) >> 4) << 8).to_le_bytes();
        }
    }
}

kernel! {
    /// Every sample of `row` so many times.
    pub(crate) fn repeat / repeat_of(row: &[u8], times: usize, out: &mut [u8]) {
        if times == 2 {
            for (out, &sample) in out.as_chunks_mut::<2>().0.iter_mut().zip(row) {
                *out = [sample; 2];
            }
        } else {
            for (out, &sample) in out.chunks_mut(times).zip(row) {
                out.fill(sample);
            }
        }
    }
}
