//! Here: the scans of a JPEG written as bytes.
//! Not here: the codes of one block, what is kept besides the coefficients.

use std::marker::PhantomData;
use std::ops::Range;

use super::Unusual;
use super::bits::Writer;
use super::codes::{Class, Codes};
use super::coefficients::Component;
use super::entropy::{Choices, Tools, both, progressive};
use super::expand::Heads;
use super::layout::{Layout, damaged};
use super::pieces::Pieces;
use super::progressive::{Band, Cuts, Writing};
use super::scans::{self, Coder};
use super::segments::{Frame, Scan};
use super::sequential::{self, Coded, Queue};
use super::simd::Steps;
use super::skeleton::Padding;
use crate::error::{Error, Result};
use crate::ops::simd::{Simd, kernel};

/// Appends the data of a sequential scan to `out`, at most `limit` bytes; all of the layout is read.
///
/// # Errors
/// `Damaged`, of the layout or of what it is written with.
pub(super) fn sequential(
    tools: &mut Tools,
    (out, limit): (&mut Vec<u8>, usize),
    (frame, scan): (&Frame, &Scan),
    layout: &Layout<'_>,
    choices: &mut Choices,
) -> Result<()> {
    let Tools { writer, heads, queue, pieces, .. } = tools;
    let [dc, ac] = both(pieces, scan).map_err(unusual)?;
    writer.begin();
    heads.begin(layout);
    queue.take();
    let sink = Sink { writer, out, limit, padding: &mut choices.padding };
    let rows = Rows::of(scan, layout);
    let mut coder = Sequential { sink, heads, queue, layout, rows, dc, ac, last: [0; 4], fault: None };
    let done = write_blocks(Simd::detect(), frame, scan, &mut coder);
    let done = done.and_then(|()| flush(coder.queue, &mut coder.sink)).and_then(|()| coder.sink.end());
    match coder.fault {
        Some(fault) => Err(fault),
        None => done.map_err(unusual),
    }
}

/// The same for a progressive scan.
pub(super) fn progressive_scan(
    tools: &mut Tools,
    (out, limit): (&mut Vec<u8>, usize),
    (frame, scan): (&Frame, &Scan),
    components: &mut [Component],
    choices: &mut Choices,
) -> std::result::Result<(), Unusual> {
    let Tools { writer, codes, .. } = tools;
    let codes = progressive(codes, frame, scan)?;
    let Choices { padding, cuts } = choices;
    writer.begin();
    let sink = Sink { writer, out, limit, padding };
    let mut coder = Progressive { sink, scan, codes, state: Writing::new(Band::of(scan)), cuts, components };
    scans::walk(frame, scan, &mut coder)?;
    coder.end_run()?;
    coder.sink.end()
}

fn unusual(Unusual(reason): Unusual) -> Error {
    damaged(reason)
}

kernel! {
    fn write_blocks / write_blocks_on[V: Steps](frame: &Frame, scan: &Scan, coder: &mut Sequential<'_, '_>) -> std::result::Result<(), Unusual> {
        scans::walk(frame, scan, &mut On(coder, PhantomData::<V>))
    }
}

struct Sink<'a> {
    writer: &'a mut Writer,
    out: &'a mut Vec<u8>,
    limit: usize,
    padding: &'a mut Padding,
}

impl Sink<'_> {
    /// The end of a segment.
    fn end(&mut self) -> std::result::Result<(), Unusual> {
        let missing = self.writer.missing();
        let value = self.padding.next(missing)?;
        self.writer.put(value.into(), missing);
        self.writer.end(self.out);
        if self.out.len() > self.limit { Err(TOO_LONG) } else { Ok(()) }
    }

    fn restart(&mut self, number: u8) -> std::result::Result<(), Unusual> {
        self.end()?;
        self.out.extend([0xff, 0xd0 + number]);
        self.writer.begin();
        Ok(())
    }

    /// Before the end of a segment, too: one may be as long as all coefficients together.
    #[inline(always)]
    fn check(&self) -> std::result::Result<(), Unusual> {
        if self.writer.length() > self.limit { Err(TOO_LONG) } else { Ok(()) }
    }
}

const TOO_LONG: Unusual = Unusual("more entropy-coded data than the file had");

/// How far the rows of a band have been written.
struct Rows {
    band: usize,
    /// Of each component of the scan: rows in a band, and how many of other components stand before them.
    slots: [(usize, usize); 4],
    /// Values of each of the band's rows.
    used: Vec<usize>,
}

impl Rows {
    fn of(scan: &Scan, layout: &Layout<'_>) -> Self {
        let mut slots = [(0, 0); 4];
        for (slot, part) in slots.iter_mut().zip(&scan.parts) {
            let v = layout.planes.get(part.component).map_or(0, |plane| plane.v.into());
            let before = layout.planes.iter().take(part.component);
            *slot = (v, before.map(|plane| usize::from(plane.v)).sum());
        }
        Self { band: 0, slots, used: Vec::new() }
    }

    /// Which of the band's rows a component's row is.
    #[inline(always)]
    fn at(&self, slot: usize, row: usize) -> usize {
        let (v, before) = self.slots[slot & 3];
        before + row.wrapping_sub(self.band * v)
    }
}

struct Sequential<'a, 'b> {
    sink: Sink<'a>,
    heads: &'a mut Heads,
    queue: &'a mut Queue,
    layout: &'a Layout<'b>,
    rows: Rows,
    dc: [&'a Pieces; 4],
    ac: [&'a Pieces; 4],
    last: [i32; 4],
    fault: Option<Error>,
}

/// Puts together what is queued.
fn flush(queue: &mut Queue, sink: &mut Sink<'_>) -> std::result::Result<(), Unusual> {
    if sink.writer.append(queue.take()) { sink.check() } else { Err(NO_SYMBOL) }
}

/// With the steps of an instruction set.
struct On<'a, C, V>(&'a mut C, PhantomData<V>);

impl<V: Steps> Coder for On<'_, Sequential<'_, '_>, V> {
    fn band(&mut self, band: usize) -> std::result::Result<(), Unusual> {
        self.0.band(band)
    }

    #[inline(always)]
    fn blocks(&mut self, slot: usize, row: usize, columns: Range<usize>) -> std::result::Result<(), Unusual> {
        self.0.blocks::<V>(slot, row, columns)
    }

    fn restart(&mut self, number: u8) -> std::result::Result<(), Unusual> {
        self.0.restart(number)
    }
}

impl Sequential<'_, '_> {
    fn band(&mut self, band: usize) -> std::result::Result<(), Unusual> {
        if let Err(fault) = self.heads.open(Simd::detect(), self.layout, band) {
            self.fault = Some(fault);
            return Err(OTHER_BLOCKS);
        }
        self.rows.band = band;
        self.rows.used.clear();
        self.rows.used.extend(self.heads.first_values());
        Ok(())
    }

    #[inline(always)]
    fn blocks<V: Steps>(
        &mut self,
        slot: usize,
        row: usize,
        columns: Range<usize>,
    ) -> std::result::Result<(), Unusual> {
        let at = self.rows.at(slot, row);
        let (heads, rows) = (&*self.heads, &mut self.rows);
        let blocks = heads.row(at).and_then(|row| row.get(columns)).ok_or(OTHER_BLOCKS)?;
        let used = rows.used.get_mut(at).ok_or(OTHER_BLOCKS)?;
        let tables = (self.dc[slot & 3], self.ac[slot & 3]);
        // In registers, not in memory.
        let (mut value, mut last) = (*used, self.last[slot & 3]);
        for head in blocks {
            let values = heads.values(value).ok_or(OTHER_BLOCKS)?;
            let difference = i32::from(head.dc) - std::mem::replace(&mut last, head.dc.into());
            let block = Coded { bitmap: head.bitmap, difference, values, wide: (heads.wide(), value) };
            sequential::write::<V>(self.queue, tables, &block);
            value += head.bitmap.count_ones() as usize;
            if self.queue.is_full() {
                flush(self.queue, &mut self.sink)?;
            }
        }
        (*used, self.last[slot & 3]) = (value, last);
        Ok(())
    }

    fn restart(&mut self, number: u8) -> std::result::Result<(), Unusual> {
        self.last = [0; 4];
        flush(self.queue, &mut self.sink)?;
        self.sink.restart(number)
    }
}

const NO_SYMBOL: Unusual = Unusual("a symbol without a Huffman code");

const OTHER_BLOCKS: Unusual = Unusual("blocks that are not there");

struct Progressive<'a> {
    sink: Sink<'a>,
    scan: &'a Scan,
    codes: Option<(Class, [&'a Codes; 4])>,
    state: Writing,
    cuts: &'a mut Cuts,
    components: &'a mut [Component],
}

impl Progressive<'_> {
    fn end_run(&mut self) -> std::result::Result<(), Unusual> {
        let codes = self.codes.filter(|codes| codes.0 == Class::Ac).map(|codes| codes.1[0]);
        self.state.restart(self.sink.writer, codes)
    }
}

impl Coder for Progressive<'_> {
    fn blocks(&mut self, slot: usize, row: usize, columns: Range<usize>) -> std::result::Result<(), Unusual> {
        let (state, writer) = (&mut self.state, &mut *self.sink.writer);
        for block in scans::blocks(self.components, self.scan, slot, row, columns)? {
            match self.codes {
                Some((Class::Ac, codes)) => state.ac(writer, codes[slot & 3], self.cuts, block)?,
                Some((Class::Dc, codes)) => state.dc(writer, Some(codes[slot & 3]), slot, block)?,
                None => state.dc(writer, None, slot, block)?,
            }
        }
        self.sink.check()
    }

    fn restart(&mut self, number: u8) -> std::result::Result<(), Unusual> {
        self.end_run()?;
        self.sink.restart(number)
    }
}
