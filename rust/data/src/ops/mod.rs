//! Here: pixel kernels: what one operation with given parameters does to one picture.
//! Not here: randomness, which operations a view has, threads, I/O.
//!
//! The reference for every kernel is Pillow's arithmetic, as torchvision's PIL transforms call it. A
//! picture is planar here: its red, green and blue planes one after the other, as a network wants them,
//! so that a kernel is a plain loop over contiguous bytes that the compiler turns into SIMD.

pub(crate) mod blur;
pub(crate) mod colour;
pub(crate) mod filter;
pub(crate) mod flip;
pub(crate) mod float;
pub(crate) mod hue;
pub(crate) mod resize;
pub(crate) mod saturation;
pub(crate) mod simd;

/// The three planes of a planar picture.
#[inline(always)]
pub(crate) fn planes(picture: &mut [u8]) -> [&mut [u8]; 3] {
    let size = picture.len() / 3;
    let (red, rest) = picture.split_at_mut(size);
    let (green, blue) = rest.split_at_mut(size);
    [red, green, &mut blue[..size]]
}

/// The first `length` values of a buffer that never shrinks, whatever they are: filling it up again from size to size
/// costs more than some of the kernels.
#[inline(always)]
pub(crate) fn room<T: Copy>(buffer: &mut Vec<T>, length: usize, value: T) -> &mut [T] {
    if buffer.len() < length {
        buffer.resize(length, value);
    }
    &mut buffer[..length]
}

/// The whole level below a value, which is clipped to [0, 255]; NaN gives 0.
///
/// Rust's own conversion clips, too, but LLVM compiles it to one branchy conversion per value where a
/// vector instruction would do.
#[inline(always)]
pub(crate) fn whole_f32(value: f32) -> u8 {
    let positive = if value > 0.0 { value } else { 0.0 };
    let clipped = if positive < 255.0 { positive } else { 255.0 };
    // SAFETY: not NaN (each comparison would have failed) and within the range of i32.
    (unsafe { clipped.to_int_unchecked::<i32>() }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_levels_are_those_of_the_saturating_conversion() {
        let edges = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY, -0.0, 254.999_98, 255.0, 256.0, -1.5, 1e9];
        let steps = (-100..30_000).map(|i| i as f32 * 0.01);
        for value in edges.into_iter().chain(steps) {
            assert_eq!(whole_f32(value), value as u8, "{value}");
        }
    }
}

#[cfg(test)]
pub(crate) mod samples {
    //! Pictures for the tests of kernels.

    /// Every kind of neighbourhood: noise, ramps, flat and saturated areas. Deterministic.
    pub(crate) fn picture(width: usize, height: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_u32;
        (0..3 * width * height)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (x, y) = (i % width, i / width % height);
                match (x * 3 / width, y * 2 / height) {
                    (0, _) => (state >> 24) as u8,
                    (1, 0) => (x * 7 + y * 3) as u8,
                    (1, _) => 255,
                    _ => (128 + (state >> 29)) as u8,
                }
            })
            .collect()
    }
}
