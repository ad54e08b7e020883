//! Here: memory that is used again: a block goes back to its shelf when its owner lets go of it.
//! Not here: what is written into it, who may still see it (the owner's part).
//!
//! Fresh memory for every batch costs a page fault for each 4 kB. Blocks begin with a line of the cache: stores past
//! the caches go by whole lines, and take a fifth longer where they do not begin with one.

use std::sync::{Arc, Mutex, TryLockError, Weak};

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// Blocks of memory that nobody uses, at most `keep` of them.
pub struct Shelf {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    keep: usize,
}

/// Memory with one owner; it goes back to the shelf when that owner drops it.
pub struct Block {
    /// `LINE - 1` more than were asked for, so that as many can begin with a line.
    bytes: Vec<u8>,
    free: Weak<Mutex<Vec<Vec<u8>>>>,
    keep: usize,
}

impl Shelf {
    /// An empty shelf.
    pub fn new(keep: usize) -> Self {
        Self { free: Arc::default(), keep }
    }

    /// A block of exactly `length` bytes: one that lies here with whatever is in it, or a new one.
    pub fn take(&self, length: usize) -> Block {
        let length = length + LINE - 1;
        let found = self.free.try_lock().ok().and_then(|mut free| {
            let at = free.iter().rposition(|bytes| bytes.len() == length)?;
            Some(free.swap_remove(at))
        });
        let bytes = found.unwrap_or_else(|| vec![0; length]);
        Block { bytes, free: Arc::downgrade(&self.free), keep: self.keep }
    }
}

impl Block {
    /// Its memory.
    pub fn bytes(&mut self) -> &mut [u8] {
        let before = self.bytes.as_ptr().align_offset(LINE).min(LINE - 1);
        let length = self.bytes.len() + 1 - LINE;
        &mut self.bytes[before..before + length]
    }
}

impl Drop for Block {
    /// Never waits: it may run in a forked child, where a lock can be held by a thread that is not there.
    fn drop(&mut self) {
        let Some(free) = self.free.upgrade() else {
            return;
        };
        let mut free = match free.try_lock() {
            Ok(free) => free,
            Err(TryLockError::Poisoned(free)) => free.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if self.keep > 0 {
            // The oldest goes: lengths that nobody asks for any more would else lie here for good.
            if free.len() >= self.keep {
                free.remove(0);
            }
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_used_again_after_its_owner_and_not_before() {
        let shelf = Shelf::new(2);
        let mut first = shelf.take(100);
        let address = first.bytes().as_ptr();
        first.bytes().fill(7);
        let mut second = shelf.take(100);
        assert_eq!(second.bytes(), [0; 100]);
        assert_eq!([&mut first, &mut second].map(|block| block.bytes().as_ptr().addr() % LINE), [0, 0]);
        assert_ne!(second.bytes().as_ptr(), address);
        drop(first);
        assert_ne!(shelf.take(99).bytes().len(), 100, "another length is another block");
        let mut again = shelf.take(100);
        assert_eq!((again.bytes().as_ptr(), again.bytes().len()), (address, 100));
    }

    #[test]
    fn the_shelf_keeps_few_and_may_go_before_its_blocks() {
        let shelf = Shelf::new(2);
        drop([1, 2, 3, 4].map(|length| shelf.take(length)));
        // The youngest, which were dropped last.
        let lengths: Vec<usize> = shelf.free.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(lengths, [3 + LINE - 1, 4 + LINE - 1]);
        let mut block = shelf.take(5);
        drop(shelf);
        block.bytes().fill(1);
        drop(block);
    }

    #[test]
    fn a_lock_that_is_held_costs_a_block_and_no_time() {
        let shelf = Shelf::new(2);
        let block = shelf.take(5);
        let held = shelf.free.lock().unwrap();
        drop(block);
        assert_eq!(shelf.take(5).bytes(), [0; 5]);
        assert!(held.is_empty());
    }
}
