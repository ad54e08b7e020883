//! Here: the scans of a JPEG read from its bytes, and written as bytes.
//! Not here: the codes of one block, what is kept besides the coefficients.

use super::Unusual;
use super::bits::{Bits, Writer};
use super::codes::{Cache, Codes, Kind};
use super::coefficients::Component;
use super::progressive::{self, Band, Cuts};
use super::scans::{self, Coder};
use super::segments::{Frame, Scan};
use super::sequential;
use super::skeleton::Padding;
use crate::ops::simd::{Simd, Vector, kernel};

/// What reading and writing need again and again.
#[derive(Default)]
pub(super) struct Tools {
    bits: Bits,
    writer: Writer,
    cache: Cache,
}

/// What else there is to know of entropy-coded data.
#[derive(Default)]
pub(super) struct Choices {
    /// Of the bits that fill up the last byte of each segment.
    pub(super) padding: Padding,
    /// Of where runs end.
    pub(super) cuts: Cuts,
}

/// A scan's tables by component; [`Kind::Dc`] and [`Kind::Ac`], or those of a progressive scan.
type Tables<'a> = [[Option<&'a Codes>; 2]; 4];

fn tables<'a>(cache: &'a mut Cache, frame: &Frame, scan: &Scan) -> Result<Tables<'a>, Unusual> {
    let kinds = match (frame.progressive, scan.from, scan.high) {
        (false, ..) => [Some(Kind::Dc), Some(Kind::Ac)],
        (true, 0, 0) => [Some(Kind::PlainDc), None],
        (true, 0, _) => [None, None],
        (true, ..) => [None, Some(Kind::PlainAc)],
    };
    cache.begin_scan();
    let mut numbers = [[None; 2]; 4];
    for (part, numbers) in scan.parts.iter().zip(&mut numbers) {
        for ((kind, table), number) in kinds.iter().zip([&part.dc, &part.ac]).zip(numbers) {
            if let Some(kind) = *kind {
                let table = table.as_ref().ok_or(Unusual("a missing Huffman table"))?;
                *number = Some(cache.number(table, kind)?);
            }
        }
    }
    let cache = &*cache;
    Ok(numbers.map(|pair| pair.map(|number| cache.get(number?))))
}

/// Those of a component in a sequential scan.
type Pair<'a> = (&'a Codes, &'a Codes);

fn pairs<'a>(tables: &Tables<'a>) -> Result<[Pair<'a>; 4], Unusual> {
    let missing = Unusual("a missing Huffman table");
    let [Some(dc), Some(ac)] = tables[0] else { return Err(missing) };
    Ok(tables.map(|pair| (pair[0].unwrap_or(dc), pair[1].unwrap_or(ac))))
}

/// Reads a scan whose data begin at `bytes[at]`; gives where they end.
pub(super) fn read(
    tools: &mut Tools,
    (bytes, at): (&[u8], usize),
    (frame, scan): (&Frame, &Scan),
    components: &mut [Component],
    choices: &mut Choices,
) -> Result<usize, Unusual> {
    let Tools { bits, cache, .. } = tools;
    let tables = tables(cache, frame, scan)?;
    let Choices { padding, cuts } = choices;
    let marker = bits.begin(bytes, at);
    let mut source = Source { bytes, bits, begin: at, marker, padding };
    if frame.progressive {
        let state = progressive::Reading::new(Band::of(scan));
        let mut coder = ReadProgressive { source, tables, state, cuts };
        scans::walk(frame, scan, components, &mut coder)?;
        source = coder.source;
    } else {
        let mut coder = ReadSequential { source, tables: pairs(&tables)?, last: [0; 4] };
        read_blocks(Simd::detect(), frame, scan, components, &mut coder)?;
        source = coder.source;
    }
    source.padding.push(source.bits.padding()?);
    Ok(source.bits.end(source.begin))
}

// Not for vectors: shifts by a variable count are one instruction with BMI2, and three without.
kernel! {
    fn read_blocks / read_blocks_on[V: Vector](frame: &Frame, scan: &Scan, components: &mut [Component], coder: &mut ReadSequential<'_>) -> Result<(), Unusual> {
        scans::walk(frame, scan, components, coder)
    }
}

kernel! {
    fn write_blocks / write_blocks_on[V: Vector](frame: &Frame, scan: &Scan, components: &mut [Component], coder: &mut WriteSequential<'_>) -> Result<(), Unusual> {
        scans::walk(frame, scan, components, coder)
    }
}

/// The data of a scan, segment by segment.
struct Source<'a> {
    bytes: &'a [u8],
    bits: &'a mut Bits,
    /// Where the segment begins.
    begin: usize,
    /// Where the marker behind it is.
    marker: usize,
    padding: &'a mut Padding,
}

impl Source<'_> {
    fn restart(&mut self, number: u8) -> Result<(), Unusual> {
        self.padding.push(self.bits.padding()?);
        let marker = self.bytes.get(self.marker..).unwrap_or_default();
        if self.bits.unread() > 0 || !marker.starts_with(&[0xff, 0xd0 + number]) {
            return Err(Unusual("a restart marker that is not where it should be"));
        }
        self.begin = self.marker + 2;
        self.marker = self.bits.begin(self.bytes, self.begin);
        Ok(())
    }
}

struct ReadSequential<'a> {
    source: Source<'a>,
    tables: [Pair<'a>; 4],
    last: [i32; 4],
}

impl Coder for ReadSequential<'_> {
    #[inline(always)]
    fn block(&mut self, slot: usize, block: &mut [i16; 64]) -> Result<(), Unusual> {
        let (dc, ac) = self.tables[slot & 3];
        sequential::read(self.source.bits, dc, ac, &mut self.last[slot & 3], block)
    }

    fn restart(&mut self, number: u8) -> Result<(), Unusual> {
        self.last = [0; 4];
        self.source.restart(number)
    }
}

struct ReadProgressive<'a> {
    source: Source<'a>,
    tables: Tables<'a>,
    state: progressive::Reading,
    cuts: &'a mut Cuts,
}

impl Coder for ReadProgressive<'_> {
    fn block(&mut self, slot: usize, block: &mut [i16; 64]) -> Result<(), Unusual> {
        let (state, bits) = (&mut self.state, &mut *self.source.bits);
        match self.tables[slot & 3] {
            [_, Some(ac)] => state.ac(bits, ac, self.cuts, block)?,
            [dc, None] => state.dc(bits, dc, slot, block)?,
        }
        if bits.overrun() { Err(Unusual("entropy-coded data that end early")) } else { Ok(()) }
    }

    fn restart(&mut self, number: u8) -> Result<(), Unusual> {
        self.state.restart();
        self.source.restart(number)
    }
}

/// Appends the data of a scan to `out`, at most `limit` bytes.
pub(super) fn write(
    tools: &mut Tools,
    out: &mut Vec<u8>,
    limit: usize,
    (frame, scan): (&Frame, &Scan),
    components: &mut [Component],
    choices: &mut Choices,
) -> Result<(), Unusual> {
    let Tools { writer, cache, .. } = tools;
    let tables = tables(cache, frame, scan)?;
    let Choices { padding, cuts } = choices;
    writer.begin();
    let mut sink = Sink { writer, out, limit, padding };
    if frame.progressive {
        let state = progressive::Writing::new(Band::of(scan));
        let mut coder = WriteProgressive { sink, tables, state, cuts };
        scans::walk(frame, scan, components, &mut coder)?;
        coder.end_run()?;
        sink = coder.sink;
    } else {
        let mut coder = WriteSequential { sink, tables: pairs(&tables)?, last: [0; 4] };
        write_blocks(Simd::detect(), frame, scan, components, &mut coder)?;
        sink = coder.sink;
    }
    sink.end()
}

struct Sink<'a> {
    writer: &'a mut Writer,
    out: &'a mut Vec<u8>,
    limit: usize,
    padding: &'a mut Padding,
}

impl Sink<'_> {
    /// The end of a segment.
    fn end(&mut self) -> Result<(), Unusual> {
        let missing = self.writer.missing();
        let value = self.padding.next(missing)?;
        self.writer.put(value.into(), missing);
        self.writer.end(self.out);
        if self.out.len() > self.limit { Err(TOO_LONG) } else { Ok(()) }
    }

    fn restart(&mut self, number: u8) -> Result<(), Unusual> {
        self.end()?;
        self.out.extend([0xff, 0xd0 + number]);
        self.writer.begin();
        Ok(())
    }

    /// Before the end of a segment, too: one may be as long as all coefficients together.
    #[inline(always)]
    fn check(&self) -> Result<(), Unusual> {
        if self.writer.length() > self.limit { Err(TOO_LONG) } else { Ok(()) }
    }
}

const TOO_LONG: Unusual = Unusual("more entropy-coded data than the file had");

struct WriteSequential<'a> {
    sink: Sink<'a>,
    tables: [Pair<'a>; 4],
    last: [i32; 4],
}

impl Coder for WriteSequential<'_> {
    #[inline(always)]
    fn block(&mut self, slot: usize, block: &mut [i16; 64]) -> Result<(), Unusual> {
        let (dc, ac) = self.tables[slot & 3];
        sequential::write(self.sink.writer, dc, ac, &mut self.last[slot & 3], block)?;
        self.sink.check()
    }

    fn restart(&mut self, number: u8) -> Result<(), Unusual> {
        self.last = [0; 4];
        self.sink.restart(number)
    }
}

struct WriteProgressive<'a> {
    sink: Sink<'a>,
    tables: Tables<'a>,
    state: progressive::Writing,
    cuts: &'a mut Cuts,
}

impl WriteProgressive<'_> {
    fn end_run(&mut self) -> Result<(), Unusual> {
        self.state.restart(self.sink.writer, self.tables[0][1])
    }
}

impl Coder for WriteProgressive<'_> {
    fn block(&mut self, slot: usize, block: &mut [i16; 64]) -> Result<(), Unusual> {
        let (state, writer) = (&mut self.state, &mut *self.sink.writer);
        match self.tables[slot & 3] {
            [_, Some(ac)] => state.ac(writer, ac, self.cuts, block)?,
            [dc, None] => state.dc(writer, dc, slot, block)?,
        }
        self.sink.check()
    }

    fn restart(&mut self, number: u8) -> Result<(), Unusual> {
        self.end_run()?;
        self.sink.restart(number)
    }
}
