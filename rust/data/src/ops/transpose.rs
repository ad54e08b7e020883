//! Here: rows of bytes to columns of lanes and back, by 8 x 8 tiles in 64-bit words.
//! Not here: arithmetic on pixels.

/// Rows that are transposed together.
pub(crate) const LANES: usize = 16;

/// Bytes that are transposed together.
const TILE: usize = 8;

/// Byte `i` of row `lane` to lane `lane` of column `i`.
#[inline(always)]
pub(crate) fn to_columns<'a>(row: impl Fn(usize) -> &'a [u8], columns: &mut [[u8; LANES]]) {
    for start in tiles(columns.len()) {
        let columns = &mut columns[start..];
        for lanes in (0..LANES).step_by(TILE) {
            let mut words = [0; TILE];
            for (lane, word) in words.iter_mut().enumerate() {
                *word = load(&row(lanes + lane)[start..]);
            }
            for (column, word) in columns.iter_mut().zip(transpose(words)) {
                store(&mut column[lanes..], word);
            }
        }
    }
}

/// The reverse: `size` columns, each third one from `channel` on, to the rows that `rows` has space for.
#[inline(always)]
pub(crate) fn from_columns(columns: &[[u8; LANES]], channel: usize, size: usize, rows: &mut [u8]) {
    for start in tiles(size) {
        for lanes in (0..rows.len() / size).step_by(TILE) {
            let mut words = [0; TILE];
            for (x, word) in (start..size).zip(&mut words) {
                *word = load(&columns[3 * x + channel][lanes..]);
            }
            for (row, word) in rows[lanes * size..].chunks_exact_mut(size).zip(transpose(words)) {
                store(&mut row[start..], word);
            }
        }
    }
}

/// Where tiles begin that cover `length`: the last one overlaps its neighbour rather than the end.
#[inline(always)]
fn tiles(length: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by(TILE).map(move |start| start.min(length.saturating_sub(TILE)))
}

/// The first eight bytes, or as many as there are.
#[inline(always)]
fn load(bytes: &[u8]) -> u64 {
    if let Some(&word) = bytes.first_chunk() {
        return u64::from_le_bytes(word);
    }
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[inline(always)]
fn store(bytes: &mut [u8], word: u64) {
    if let Some(bytes) = bytes.first_chunk_mut() {
        *bytes = word.to_le_bytes();
    } else {
        bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
    }
}

/// Transposes 8 x 8 bytes: halves, quarters and single bytes change places across the diagonal.
#[inline(always)]
fn transpose(mut words: [u64; TILE]) -> [u64; TILE] {
    let mut exchange = |a: usize, b: usize, bits: u32, mask: u64| {
        let swapped = ((words[a] >> bits) ^ words[b]) & mask;
        words[a] ^= swapped << bits;
        words[b] ^= swapped;
    };
    for a in [0, 1, 2, 3] {
        exchange(a, a + 4, 32, 0x0000_0000_ffff_ffff);
    }
    for a in [0, 1, 4, 5] {
        exchange(a, a + 2, 16, 0x0000_ffff_0000_ffff);
    }
    for a in [0, 2, 4, 6] {
        exchange(a, a + 1, 8, 0x00ff_00ff_00ff_00ff);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_hold_the_rows_side_by_side_and_go_back() {
        for length in [1, 7, 8, 9, 24, 61] {
            let byte = |lane: usize, i: usize| (lane * 61 + i * 7) as u8;
            let rows: Vec<Vec<u8>> =
                (0..LANES).map(|lane| (0..length).map(|i| byte(lane, i)).collect()).collect();
            let mut columns = vec![[0; LANES]; length];
            to_columns(|lane| &rows[lane], &mut columns);
            for (i, column) in columns.iter().enumerate() {
                assert_eq!(*column, std::array::from_fn(|lane| byte(lane, i)), "{length}");
            }
            // Every third column is one channel; fewer rows than lanes may be wanted.
            let spread: Vec<_> =
                columns.iter().flat_map(|&column| [[0; LANES], column, [0; LANES]]).collect();
            for count in [1, 5, 8, 11, LANES] {
                let mut back = vec![0; count * length];
                from_columns(&spread, 1, length, &mut back);
                assert_eq!(back, rows[..count].concat(), "{length}, {count}");
            }
        }
    }
}
