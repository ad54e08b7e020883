//! Here: the zeros that stand behind each 0xFF of entropy-coded data, taken out and put in.
//! Not here: the bits (`bits.rs`).

use super::simd::Steps;
use crate::ops::simd::{Vector, kernel};

/// Bytes that are copied at once.
pub(super) const CHUNK: usize = 32;

/// Copies up to the first 0xFF, that one too, or all if there is none; says how many that is, and whether there is.
/// There must be room for a chunk more.
#[inline(always)]
fn copy_to_ff(from: &[u8], to: &mut [u8]) -> (usize, bool) {
    let mut at = 0;
    while let (Some(chunk), Some(room)) =
        (from.get(at..).and_then(<[u8]>::first_chunk::<CHUNK>), to.get_mut(at..at + CHUNK))
    {
        room.copy_from_slice(chunk);
        if chunk.iter().fold(false, |any, &byte| any | (byte == 0xff)) {
            break;
        }
        at += CHUNK;
    }
    for (&byte, room) in from.iter().zip(to).skip(at) {
        *room = byte;
        at += 1;
        if byte == 0xff {
            return (at, true);
        }
    }
    (at, false)
}

kernel! {
    /// Takes out the zeros behind each 0xFF, up to the next marker; gives the length, and the marker's place.
    pub(super) fn unstuff / unstuff_in[V: Steps](raw: &[u8], out: &mut [u8]) -> (usize, usize) {
        let (mut at, mut length) = (0, 0);
        loop {
            let mut found = false;
            while let (Some(chunk), Some(room)) =
                (raw.get(at..).and_then(<[u8]>::first_chunk), out.get_mut(length..).and_then(<[u8]>::first_chunk_mut))
                && let Some((count, last)) = V::unstuff(chunk, found, room)
            {
                (at, length, found) = (at + chunk.len(), length + count, last);
            }
            if !found {
                let (copied, ends) = copy_to_ff(&raw[at..], &mut out[length..]);
                (at, length, found) = (at + copied, length + copied, ends);
            }
            if !found {
                return (length, raw.len());
            }
            if raw.get(at) != Some(&0) {
                return (length - 1, at - 1);
            }
            at += 1;
        }
    }
}

kernel! {
    /// Puts a zero behind each 0xFF; `out` has zeros and room.
    pub(super) fn stuff / stuff_in[V: Vector](data: &[u8], out: &mut [u8]) -> () {
        let (mut at, mut length) = (0, 0);
        loop {
            let (copied, found) = copy_to_ff(&data[at..], &mut out[length..]);
            at += copied;
            length += copied;
            if !found {
                return;
            }
            // A chunk may have been copied over it.
            out[length] = 0;
            length += 1;
        }
    }
}

kernel! {
    /// How many 0xFF there are.
    pub(super) fn count_ff / count_ff_in[V: Vector](data: &[u8]) -> usize {
        let mut count = 0;
        for part in data.chunks(255) {
            let mut some = 0u8;
            for &byte in part {
                some += u8::from(byte == 0xff);
            }
            count += usize::from(some);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::simd::Simd;

    #[test]
    fn zeros_come_and_go_wherever_an_ff_is() {
        for simd in Simd::available() {
            for length in
                [100, 0_usize, 1, 31, 32, 33, 64, 200].into_iter().take(if cfg!(miri) { 1 } else { 8 })
            {
                for at in (0..length).step_by(7).chain(length.checked_sub(1)) {
                    for more in [0, 1, 40] {
                        let is_ff = |i: &usize| *i == at || *i == at + more;
                        let data: Vec<u8> =
                            (0..length).map(|i| if is_ff(&i) { 0xff } else { i as u8 }).collect();
                        let expected: Vec<u8> = data
                            .iter()
                            .flat_map(|&byte| [byte, 0].into_iter().take(1 + usize::from(byte == 0xff)))
                            .collect();
                        let zeros = count_ff(simd, &data);
                        assert_eq!(expected.len(), length + zeros);
                        let mut out = vec![7; length + zeros + CHUNK];
                        stuff(simd, &data, &mut out);
                        assert_eq!(out[..length + zeros], expected, "{}", simd.name());
                        for behind in [&[][..], &[0xff, 0xd9], &[0xff]] {
                            let raw = [&expected[..], behind].concat();
                            let mut out = vec![7; raw.len() + CHUNK];
                            assert_eq!(unstuff(simd, &raw, &mut out), (length, expected.len()));
                            assert_eq!(out[..length], data, "{}", simd.name());
                        }
                    }
                }
            }
        }
    }
}
