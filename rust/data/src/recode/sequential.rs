//! Here: blocks of sequential scans: codes to coefficients and back.
//! Not here: which blocks, progressive scans.

use super::Unusual;
use super::bits::{Bits, Tail, Writer};
use super::codes::{Codes, END_OF_BLOCK};
use super::order::ZIGZAG;

/// Zigzag place to place in natural order. A block's end goes to the next place, where there is nothing yet, so
/// that no branch tells it from other codes; damaged files go beyond the last place, and hit it.
const NATURAL: [u8; 256] = {
    let mut natural = [63; 256];
    let mut place = 0;
    while place < 64 {
        natural[place] = ZIGZAG[place];
        natural[place + END_OF_BLOCK as usize] = ZIGZAG[place];
        place += 1;
    }
    natural
};

/// Reads one block of zeros; `last` is the first coefficient of the component's last block.
#[inline(always)]
pub(super) fn read(
    input: &mut Bits,
    dc: &Codes,
    ac: &Codes,
    last: &mut i32,
    block: &mut [i16; 64],
) -> Result<(), Unusual> {
    let no_code = Unusual("a Huffman code that does not exist");
    let mut state = input.state;
    let data = input.data();
    state.refill(data);
    let mut found = dc.look_up(state.bits);
    if found.escapes() {
        found = dc.further(state.bits, found);
        if found.bits() == 0 {
            return Err(no_code);
        }
    }
    state.drop(found.bits());
    *last += i32::from(found.value());
    block[0] = i16::try_from(*last).map_err(|_| Unusual("a coefficient of more than 16 bits"))?;
    let mut place = 0;
    'block: while place < 63 {
        state.refill(data);
        // 56 bits: five codes within the lookahead.
        for _ in 0..5 {
            found = ac.look_up(state.bits);
            if found.escapes() {
                state.refill(data);
                found = ac.further(state.bits, found);
                if found.bits() == 0 {
                    return Err(no_code);
                }
                state.drop(found.bits());
                place += found.step();
                block[usize::from(NATURAL[(place & 0xff) as usize]) & 63] = found.value();
                continue 'block;
            }
            state.drop(found.bits());
            place += found.step();
            block[usize::from(NATURAL[(place & 0xff) as usize]) & 63] = found.value();
            if place >= 63 {
                break 'block;
            }
        }
    }
    input.state = state;
    if input.overrun() || (64..END_OF_BLOCK).contains(&place) {
        return Err(Unusual("entropy-coded data that end early, or a block of more than 64 coefficients"));
    }
    Ok(())
}

/// For each row of a block and each pattern of its coefficients that are not zero, their zigzag places.
static PLACES: [[u64; 256]; 8] = {
    let mut places = [[0; 256]; 8];
    let mut place = 0;
    while place < 64 {
        let (row, column) = (ZIGZAG[place] as usize / 8, ZIGZAG[place] % 8);
        let mut pattern = 0;
        while pattern < 256 {
            if pattern >> column & 1 == 1 {
                places[row][pattern] |= 1 << place;
            }
            pattern += 1;
        }
        place += 1;
    }
    places
};

/// Zigzag places of the coefficients that are not zero, as bits.
#[inline(always)]
fn places(block: &[i16; 64]) -> u64 {
    let mut found = 0;
    for (row, places) in block.as_chunks::<8>().0.iter().zip(&PLACES) {
        let mut pattern = 0u8;
        for (column, &value) in row.iter().enumerate() {
            pattern |= u8::from(value != 0) << column;
        }
        found |= places[usize::from(pattern)];
    }
    found
}

/// Code and value of a symbol as one number, with their bits together; 0 bits: there is no code.
#[inline(always)]
fn joined(codes: &Codes, run: u32, value: i32) -> (u64, u32) {
    let sign = value >> 31;
    let size = 32 - ((value ^ sign) - sign).leading_zeros();
    let code = if size < 16 { codes.code(run << 4 | size) } else { 0 };
    let low = (value + sign) as u32 & ((1 << (size & 31)) - 1);
    match code {
        0 => (0, 0),
        _ => (u64::from(code >> 8) << size | u64::from(low), (code & 0xff) + size),
    }
}

/// Writes one block.
#[inline(always)]
pub(super) fn write(
    output: &mut Writer,
    dc: &Codes,
    ac: &Codes,
    last: &mut i32,
    block: &[i16; 64],
) -> Result<(), Unusual> {
    let difference = i32::from(block[0]) - std::mem::replace(last, block[0].into());
    let no_symbol = Unusual("a symbol without a Huffman code");
    let mut tail = output.tail().ok_or(no_symbol)?;
    let (value, bits) = joined(dc, 0, difference);
    tail.put(value, bits);
    let mut left = places(block) & !1;
    let mut whole = bits > 0;
    let mut before = 0;
    while left != 0 {
        let place = left.trailing_zeros();
        left &= left - 1;
        let mut run = place - before - 1;
        before = place;
        while run > 15 {
            whole &= code(&mut tail, ac, 0xf0);
            run -= 16;
        }
        let value = block[usize::from(ZIGZAG[place as usize & 63]) & 63];
        let (value, bits) = joined(ac, run, value.into());
        tail.put(value, bits);
        whole &= bits > 0;
    }
    if before < 63 {
        whole &= code(&mut tail, ac, 0);
    }
    let done = tail.done();
    output.keep(done);
    if whole { Ok(()) } else { Err(no_symbol) }
}

/// Writes the code of a symbol; false if there is none.
#[inline(always)]
fn code(tail: &mut Tail<'_>, codes: &Codes, symbol: u32) -> bool {
    let code = codes.code(symbol);
    tail.put(u64::from(code >> 8), code & 0xff);
    code != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_one_coefficient_each() {
        for (place, &natural) in ZIGZAG.iter().enumerate() {
            let mut block = [0; 64];
            block[usize::from(natural)] = -1;
            assert_eq!(places(&block), 1 << place);
        }
        assert_eq!(places(&[i16::MIN; 64]), u64::MAX);
    }
}
