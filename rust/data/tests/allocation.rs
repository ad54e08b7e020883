//! Recoded images that lie about themselves are refused before anything is allocated for them; and what others
//! take until they are refused stays below four times their bytes.

use std::alloc::{GlobalAlloc, Layout as Room, System};
use std::cell::Cell;

use barlow_data::decode::peek;
use barlow_data::recode::{Coefficients, Component, Layout, Recoder, Transform, layout};

thread_local! {
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

/// The system's, which counts what a thread asks for.
struct Counting;

// SAFETY: all calls go on to the system's allocator as they are.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as for `System`.
    unsafe fn alloc(&self, room: Room) -> *mut u8 {
        TAKEN.set(TAKEN.get() + room.size());
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(room) }
    }

    // SAFETY: as for `System`.
    unsafe fn dealloc(&self, at: *mut u8, room: Room) {
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(at, room) }
    }

    // SAFETY: as for `System`.
    unsafe fn realloc(&self, at: *mut u8, room: Room, size: usize) -> *mut u8 {
        TAKEN.set(TAKEN.get() + size);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.realloc(at, room, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a call asks for in bytes, and what it gives.
fn taken<T>(call: impl FnOnce() -> T) -> (usize, T) {
    let before = TAKEN.get();
    let result = call();
    (TAKEN.get() - before, result)
}

/// Enough for the text of an error, and for less than any part of an image.
const MESSAGE: usize = 256;

/// One column of blocks and as many bands as there can be.
fn tall() -> Coefficients {
    let rows = 8000;
    let blocks = vec![[0; 64]; rows as usize];
    let grey = Component { id: 1, h: 1, v: 1, quant: [1; 64], columns: 1, rows, blocks };
    Coefficients { width: 8, height: 8 * rows, components: vec![grey], transform: Transform::Grey }
}

#[test]
fn a_layout_that_lies_costs_its_message() {
    let bytes = layout::write(&tall());
    let (cost, parsed) = taken(|| Layout::parse(&bytes).is_ok());
    assert!(parsed && cost > 4 * 8000 && cost < 4 * bytes.len(), "{cost}");
    let mut refused = 0;
    // Cut anywhere; too long; and a byte of the head, or of the lengths of bands, that is another.
    let cuts = (0..bytes.len()).step_by(37).map(|length| bytes[..length].to_vec());
    let changes = (0..200).chain((200..9000).step_by(41)).map(|at| {
        let mut changed = bytes.clone();
        changed[at] ^= 0x41;
        changed
    });
    let longer = std::iter::once([&bytes[..], &[0]].concat());
    for lie in cuts.chain(changes).chain(longer) {
        let (cost, parsed) = taken(|| Layout::parse(&lie).map(|_| ()));
        if parsed.is_err() {
            drop(parsed);
            refused += 1;
            assert!(cost <= MESSAGE, "{cost} bytes");
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn a_member_that_lies_costs_its_message() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpus/images/");
    for name in ["sampling-420.jpg", "progressive-420.jpg"] {
        let member = Recoder::new().recode(&std::fs::read(format!("{folder}{name}")).unwrap()).unwrap();
        let mut recoder = Recoder::new();
        recoder.restore(&member).unwrap();
        for at in 0..44 {
            let mut lie = member.clone();
            lie[at] ^= 0x81;
            let (cost, found) = taken(|| peek(&lie).is_ok());
            assert!(!found && cost <= MESSAGE, "byte {at}: {cost} bytes");
            let (cost, restored) = taken(|| recoder.restore(&lie).is_ok());
            assert!(!restored && cost <= MESSAGE, "byte {at}: {cost} bytes");
        }
    }
}
