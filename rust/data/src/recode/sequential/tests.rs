//! Here: tests of blocks to codes, and of codes to blocks. Not here: whole files.

use super::*;
use crate::ops::simd::{Portable, Simd, kernel};
use crate::recode::bits::{Bits, Writer};
use crate::recode::codes::{Class, Made};
use crate::recode::pieces::WIDE_VALUE;
use crate::recode::samples::{Random, table};

kernel! {
    fn write_by / write_by_on[V: Steps](queue: &mut Queue, tables: (&Pieces, &Pieces), block: &Coded<'_>) -> () {
        write::<V>(queue, tables, block);
    }
}

kernel! {
    fn pieces_by / pieces_by_on[V: Steps](
        bitmap: u64,
        values: &[u8; 64],
        small: &[[Piece; 256]; 16],
        out: &mut [Piece; 64],
    ) -> bool {
        V::pieces(bitmap, values, small, out)
    }
}

#[test]
fn vectors_make_the_pieces_that_the_table_has() {
    let mut random = Random(33);
    let (mut made, mut refused) = (0, 0);
    for case in 0..if cfg!(miri) { 4 } else { 400 } {
        let ac = Pieces::made(&table(&mut random, Class::Ac), Class::Ac).unwrap();
        let mut small = ac.small;
        for _ in 0..case % 3 {
            small[random.below(4)][1 + random.below(3)] = NONE;
        }
        let bits = [4, 10, 30][random.below(3)];
        let bitmap = (1..64).filter(|_| random.below(32) < bits).fold(0, |bitmap, at| bitmap | 1 << at);
        let values: [u8; 64] = std::array::from_fn(|_| 1 + random.below(3) as u8 * (case % 100) as u8);
        let (mut expected, mut last) = (Vec::new(), 0);
        for (place, &value) in (1..64_usize).filter(|place| bitmap >> place & 1 == 1).zip(&values) {
            expected.push(small.get(place - last - 1).map_or(NONE, |pieces| pieces[usize::from(value)]));
            last = place;
        }
        let whole = expected.iter().all(|&piece| piece < NONE);
        for simd in Simd::available() {
            let mut out = [7; 64];
            let done = pieces_by(simd, bitmap, &values, &small, &mut out);
            assert_eq!(done, whole && simd.name() == "avx512", "{} {bitmap:x}", simd.name());
            assert!(!done || out[..expected.len()] == expected, "{} {bitmap:x}", simd.name());
        }
        (made, refused) = (made + usize::from(whole), refused + usize::from(!whole));
    }
    assert!(cfg!(miri) || (made > 50 && refused > 50), "{made} {refused}");
}

/// Bitmap, first coefficient, the others.
type Block = (u64, i16, Vec<i16>);

fn block(random: &mut Random) -> Block {
    // Full ones, ones with long runs, ones that end with their last place, none.
    let chance = [0, 1, 2, 5, 40][random.below(5)];
    let mut bitmap = (1..64).filter(|_| random.below(40) < chance).fold(0, |bits, place| bits | 1 << place);
    bitmap |= u64::from(random.below(4) == 0) << 63;
    let value = |_| {
        let size = [1, 1, 2, 7, 8, 15][random.below(6)];
        let most = (1 << size) - 1;
        let value = 1 + random.below(most) as i16;
        if random.below(2) == 0 { value } else { -value }
    };
    let values = (0..u64::count_ones(bitmap)).map(value).collect();
    (bitmap, random.below(1 << 15) as i16 - (1 << 14), values)
}

/// With the small values of all blocks and the wide ones apart, as a band has them.
fn written(blocks: &[Block], tables: (&Pieces, &Pieces), simd: Simd) -> Vec<u8> {
    let all: Vec<i16> = blocks.iter().flat_map(|block| block.2.clone()).collect();
    let small = |value: i16| i8::try_from(value).map_or(WIDE_VALUE, i8::cast_unsigned);
    let mut values: Vec<u8> =
        all.iter().map(|&value| if value == -128 { WIDE_VALUE } else { small(value) }).collect();
    values.extend([7; 64]);
    let wide = all.iter().enumerate().filter(|(at, _)| values[*at] == WIDE_VALUE);
    let wide: Vec<Wide> = wide.map(|(at, &value)| Wide { at, value }).collect();
    let (mut queue, mut writer, mut last, mut at) = (Queue::default(), Writer::default(), 0, 0);
    writer.begin();
    for (bitmap, first, own) in blocks {
        let difference = i32::from(*first) - std::mem::replace(&mut last, i32::from(*first));
        let window = values[at..].first_chunk().unwrap();
        let block = Coded { bitmap: *bitmap, difference, values: window, wide: (&wide, at) };
        write_by(simd, &mut queue, tables, &block);
        at += own.len();
        if queue.is_full() {
            assert!(writer.append_on(simd, queue.take()));
        }
    }
    assert!(writer.append_on(simd, queue.take()));
    let missing = writer.missing();
    writer.put((1 << missing) - 1, missing);
    let mut bytes = Vec::new();
    writer.end(&mut bytes);
    bytes
}

#[test]
fn blocks_come_back_from_their_codes() {
    let mut random = Random(31);
    for case in 0..if cfg!(miri) { 2 } else { 12 } {
        let tables = [Class::Dc, Class::Ac].map(|class| table(&mut random, class));
        let dc = Pieces::made(&tables[0], Class::Dc).unwrap();
        let ac = Pieces::made(&tables[1], Class::Ac).unwrap();
        let blocks: Vec<Block> = (0..60).map(|_| block(&mut random)).collect();
        let bytes = written(&blocks, (&dc, &ac), Simd::PORTABLE);
        for simd in Simd::available() {
            assert_eq!(written(&blocks, (&dc, &ac), simd), bytes, "{}", simd.name());
        }
        let dc = DcLookup::made(&tables[0], Class::Dc).unwrap();
        let ac = AcLookup::made(&tables[1], Class::Ac).unwrap();
        let (mut bits, mut last, mut values) = (Bits::default(), 0, [0; ROOM]);
        assert_eq!(bits.begin(&bytes, 0), bytes.len());
        for (number, (bitmap, first, own)) in blocks.iter().enumerate() {
            let (state, data) = bits.parts();
            let difference = super::first((state, data), &dc).unwrap();
            assert_eq!(difference.wrapping_add(std::mem::replace(&mut last, *first)), *first);
            let found = rest((state, data), &ac, &mut values).unwrap();
            let expected = Taken { bitmap: *bitmap, behind: 0 };
            assert_eq!(found, expected, "case {case}, block {number}");
            assert_eq!(values[..own.len()], own[..], "case {case}, block {number}");
        }
        assert!(bits.padding().is_ok() && bits.unread() == 0);
    }
}

#[test]
fn what_has_no_code_is_told() {
    let mut random = Random(32);
    let mut table = table(&mut random, Class::Ac);
    let dc = Pieces::made(&crate::recode::samples::table(&mut random, Class::Dc), Class::Dc).unwrap();
    let without = table.symbols.iter().position(|&symbol| symbol == 0x21).unwrap();
    table.symbols[without] = 0x31;
    let ac = Pieces::made(&table, Class::Ac).unwrap();
    let told = |bitmap: u64, value: i16| {
        let mut queue = Queue::default();
        let small = i8::try_from(value).map_or(WIDE_VALUE, i8::cast_unsigned);
        let wide = [Wide { at: 5, value }];
        let block = Coded { bitmap, difference: 0, values: &[small; 64], wide: (&wide, 5) };
        write::<Portable>(&mut queue, (&dc, &ac), &block);
        !Writer::default().append(queue.take())
    };
    assert!(!told(1 << 1, 1) && !told(1 << 2, -1) && !told(1 << 4, 1) && !told(1 << 3, 2));
    assert!(told(1 << 3, 1) && told(1 << 3, -1) && !told(1 << 3, 300));
    // A value that needs 16 bits and is zero, or has more of them than a code can say.
    let zero =
        Coded { bitmap: 2, difference: 0, values: &[WIDE_VALUE; 64], wide: (&[Wide { at: 0, value: 0 }], 0) };
    let mut queue = Queue::default();
    write::<Portable>(&mut queue, (&dc, &ac), &zero);
    assert!(!Writer::default().append(queue.take()));
    assert!(told(1 << 1, i16::MIN));
}

#[test]
fn a_block_goes_to_its_last_place_and_no_further() {
    // Codes of 1 bit for a value of 1 bit, of 2 for a run of 15 and a value, of 3 for the end.
    let mut table = crate::recode::codes::Table { counts: [0; 16], symbols: [0; 256] };
    table.counts[..3].copy_from_slice(&[1, 1, 1]);
    table.symbols[..3].copy_from_slice(&[0x01, 0xf1, 0x00]);
    let ac = AcLookup::made(&table, Class::Ac).unwrap();
    let dc = DcLookup::made(&table, Class::Dc);
    assert!(dc.is_err());
    table.symbols[1] = 2;
    let dc = DcLookup::made(&table, Class::Dc).unwrap();
    let run = |bits: &str| {
        let mut bytes: Vec<u8> = Vec::new();
        for eight in bits.as_bytes().chunks(8) {
            let byte = eight.iter().fold(0, |byte, &bit| byte << 1 | u16::from(bit == b'1'));
            bytes.push((byte << (8 - eight.len())) as u8);
            if byte == 0xff {
                bytes.push(0);
            }
        }
        let (mut input, mut values) = (Bits::default(), [0; ROOM]);
        input.begin(&bytes, 0);
        let (state, data) = input.parts();
        assert_eq!(first((state, data), &dc), Ok(1));
        rest((state, data), &ac, &mut values).map(|found| (found.bitmap, found.behind == 0))
    };
    // A difference of 1; 63 values of 1; whatever follows belongs to the next block.
    let full = format!("01{}", "01".repeat(63));
    for next in ["110", "01", "00", "1110"] {
        assert_eq!(run(&format!("{full}{next}")), Ok((u64::MAX - 1, true)), "{next}");
    }
    assert_eq!(run(&format!("01{}110", "01".repeat(62))), Ok((u64::MAX >> 1 & !1, true)));
    assert_eq!(run("01110"), Ok((0, true)));
    assert!(run(&format!("01{}{}", "101".repeat(3), "01".repeat(14) + "101")).is_err());
    assert_eq!(run(&format!("01{}110", "101".repeat(3))), Ok((1 << 16 | 1 << 32 | 1 << 48, true)));
}
