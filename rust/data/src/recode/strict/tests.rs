//! Here: that whatever is read strictly would be written just so, on files of an encoder that takes liberties.
//! Not here: files of encoders that do not.

use crate::recode::codes::{Class, Prefixes, Table};
use crate::recode::samples::{Random, table};
use crate::recode::{Proof, Recoder};

/// Writes small files as the standard allows them, and not always as encoders do: slowly, bit by bit.
struct Liberal {
    random: Random,
    /// DC, AC: bits of a code, how many, its symbol.
    codes: [Vec<(u32, u32, u8)>; 2],
    bits: Vec<bool>,
    /// One of so many choices is odd; 0: none is.
    odd: usize,
    /// Whether one was.
    was_odd: bool,
}

impl Liberal {
    fn chance(&mut self) -> bool {
        let odd = self.odd > 0 && self.random.below(self.odd) == 0;
        self.was_odd |= odd;
        odd
    }

    fn put(&mut self, bits: u32, count: u32) {
        self.bits.extend((0..count).rev().map(|bit| bits >> bit & 1 == 1));
    }

    /// The first code of a symbol, or a later one.
    fn symbol(&mut self, class: usize, symbol: u8) {
        let all: Vec<_> = self.codes[class].iter().copied().filter(|code| code.2 == symbol).collect();
        let which = if all.len() > 1 && self.chance() { 1 + self.random.below(all.len() - 1) } else { 0 };
        let (code, length, _) = all[which];
        self.put(code, length);
    }

    fn value(&mut self, class: usize, run: u8, value: i32) {
        let size = 32 - value.unsigned_abs().leading_zeros();
        self.symbol(class, run << 4 | size as u8);
        let bits = if value < 0 { value - 1 } else { value };
        self.put(bits as u32 & ((1 << size) - 1), size);
    }

    fn block(&mut self) {
        let difference = self.random.below(31) as i32 - 15;
        self.value(0, 0, difference);
        let mut place = 1;
        for _ in 0..[0, 2, 6, 63][self.random.below(4)] {
            let run = [0, 0, 0, 1, 5, 20, 40][self.random.below(7)];
            if place + run > 63 {
                break;
            }
            for _ in 0..run / 16 {
                self.symbol(1, 0xf0);
            }
            let most = [1, 3, 15][self.random.below(3)];
            let magnitude = 1 + self.random.below(most) as i32;
            let value = if self.random.below(2) == 0 { magnitude } else { -magnitude };
            self.value(1, run as u8 % 16, value);
            place += run + 1;
        }
        while place <= 48 && self.chance() {
            self.symbol(1, 0xf0);
            place += 16;
        }
        if place < 64 {
            let ends = [0x10, 0x50, 0xe0].into_iter().find(|end| self.codes[1].iter().any(|c| c.2 == *end));
            let end = ends.filter(|_| self.chance()).unwrap_or(0);
            self.symbol(1, end);
        }
    }

    /// The segment so far, its last byte filled up.
    fn segment(&mut self, out: &mut Vec<u8>) {
        let fill = self.random.below(8) < 7;
        while !self.bits.len().is_multiple_of(8) {
            self.bits.push(fill || self.random.below(2) == 0);
        }
        for eight in std::mem::take(&mut self.bits).chunks(8) {
            let byte = eight.iter().fold(0, |byte, &bit| byte << 1 | u8::from(bit));
            out.push(byte);
            if byte == 0xff {
                out.push(0);
            }
        }
    }
}

fn segment(out: &mut Vec<u8>, marker: u8, payload: &[u8]) {
    out.extend([0xff, marker]);
    out.extend((payload.len() as u16 + 2).to_be_bytes());
    out.extend_from_slice(payload);
}

fn huffman(class: u8, table: &Table) -> Vec<u8> {
    let count: usize = table.counts.iter().map(|&count| usize::from(count)).sum();
    [&[class << 4][..], &table.counts, &table.symbols[..count]].concat()
}

/// A file, and whether a choice in its data was odd.
fn file(seed: u32) -> (Vec<u8>, bool) {
    let mut random = Random(seed);
    let mut tables = [Class::Dc, Class::Ac].map(|class| table(&mut random, class));
    let odd = [0, 0, 3, 40][random.below(4)];
    if odd > 0 && random.below(2) == 0 {
        // A symbol that there is already, or one that ends a block and is not 0, in place of a rare one.
        let at = tables[1].symbols.iter().position(|symbol| symbol & 15 == 14 - (seed % 3) as u8);
        let with = [0x10, 0xe0, 0, 0xf0, 1, 2][random.below(6)];
        tables[1].symbols[at.unwrap()] = with;
        if random.below(3) == 0 {
            let at = tables[0].symbols.iter().position(|&symbol| symbol == 13).unwrap();
            tables[0].symbols[at] = random.below(5) as u8;
        }
    }
    let codes = [0, 1].map(|i| {
        let mut codes = Vec::new();
        let class = [Class::Dc, Class::Ac][i];
        Prefixes::new(&tables[i], class, |code, length, symbol| codes.push((code, length, symbol))).unwrap();
        codes
    });
    let (across, down) = (1 + random.below(3), 1 + random.below(3));
    let (parts, restart) = ([1_usize, 3][random.below(2)], [0, 0, 1, 2][random.below(4)]);
    let mut out = vec![0xff, 0xd8];
    segment(&mut out, 0xdb, &[&[0][..], &[1; 64]].concat());
    let mut frame = vec![8, 0, 8 * down as u8, 0, 8 * across as u8, parts as u8];
    let mut scan = vec![parts as u8];
    for id in 1..=parts as u8 {
        frame.extend([id, 0x11, 0]);
        scan.extend([id, 0]);
    }
    scan.extend([0, 63, 0]);
    segment(&mut out, 0xc0, &frame);
    segment(&mut out, 0xc4, &huffman(0, &tables[0]));
    segment(&mut out, 0xc4, &huffman(1, &tables[1]));
    if restart > 0 {
        segment(&mut out, 0xdd, &[0, restart as u8]);
    }
    segment(&mut out, 0xda, &scan);
    let mut encoder = Liberal { random, codes, bits: Vec::new(), odd, was_odd: false };
    for unit in 0..across * down {
        if restart > 0 && unit > 0 && unit.is_multiple_of(restart) {
            encoder.segment(&mut out);
            out.extend([0xff, 0xd0 + ((unit / restart - 1) % 8) as u8]);
        }
        (0..parts).for_each(|_| encoder.block());
    }
    encoder.segment(&mut out);
    if encoder.chance() {
        out.extend([0x12, 0x34]);
    }
    out.extend([0xff, 0xd9]);
    (out, encoder.was_odd)
}

/// BARLOW_MUTANTS asks for more of them.
#[test]
fn what_is_read_strictly_would_be_written_so() {
    let count = std::env::var("BARLOW_MUTANTS").ok().and_then(|count| count.parse().ok()).unwrap_or(3000);
    let (mut strictly, mut written) = (Recoder::with(Proof::Strict), Recoder::new());
    let (mut strict, mut loose, mut refused) = (0, 0, 0);
    for number in 0..if cfg!(miri) { 4 } else { count } {
        let (mut bytes, odd) = file(number / 4);
        let mut random = Random(number);
        // Of four one is as it was; of the others some bytes, mostly of the data, are changed.
        for _ in 0..number % 4 {
            let from = if random.below(4) == 0 { 2 } else { bytes.len() * 7 / 8 };
            let at = from + random.below(bytes.len() - from);
            match random.below(4) {
                0 => bytes[at] = random.next() as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes[at] ^= 1 << random.below(8),
            }
        }
        strictly.parts.strict = false;
        let (one, other) = (strictly.recode(&bytes), written.recode(&bytes));
        assert_eq!(one, other, "file {number}");
        let was_strict = strictly.parts.strict;
        if number % 4 == 0 {
            assert!(if odd { !was_strict } else { one.is_ok() }, "file {number}");
        }
        match (one.is_ok(), was_strict) {
            (true, true) => strict += 1,
            (true, false) => loose += 1,
            _ => refused += 1,
        }
    }
    assert!(
        cfg!(miri) || (strict * 10 > count && loose * 20 > count && refused * 20 > count),
        "{strict} {loose} {refused}"
    );
}

/// Files of encoders, of all ways of coding, sizes and restarts: whole, or with bytes changed, lost or doubled.
#[test]
fn mutated_files_are_recoded_alike_or_refused_alike() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpus/images");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    paths.sort();
    if cfg!(miri) {
        paths.retain(|path| path.ends_with("size-17x16.jpg"));
    }
    let mut files: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    files.retain(|file| Recoder::new().recode(file).is_ok());
    let count = std::env::var("BARLOW_MUTANTS").ok().and_then(|count| count.parse().ok()).unwrap_or(2000);
    let (mut strictly, mut written) = (Recoder::with(Proof::Strict), Recoder::new());
    let (mut strict, mut loose, mut refused) = (0, 0, 0);
    for number in 0..if cfg!(miri) { 3 } else { count } {
        let mut random = Random(number as u32);
        let mut bytes = files[number % files.len()].clone();
        for _ in 0..random.below(4) {
            // Mostly of the data, and seldom what makes the rest of them other ones.
            let from = if random.below(4) == 0 { 2 } else { bytes.len() * 7 / 8 };
            let at = from + random.below(bytes.len() - from);
            match random.below(5) {
                0 => bytes[at] = random.next() as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, bytes[at]),
                _ => bytes[at] ^= 1 << random.below(8),
            }
        }
        strictly.parts.strict = false;
        let one = strictly.recode(&bytes);
        let other = written.recode(&bytes);
        assert!(one == other, "mutant {number}: {:?} {:?}", one.err(), other.err());
        match (one, strictly.parts.strict) {
            (Ok(member), was_strict) => {
                assert!(written.restore(&member).unwrap() == bytes, "mutant {number}");
                *(if was_strict { &mut strict } else { &mut loose }) += 1;
            }
            _ => refused += 1,
        }
    }
    assert!(
        cfg!(miri) || (strict * 10 > count && loose * 20 > count && refused * 20 > count),
        "{strict} {loose} {refused}"
    );
}
