use super::*;
use std::thread;

const LONG: Duration = Duration::from_secs(20);

/// A batch's memory for tests: two views of 3 and 2 bytes a row, poisoned.
struct Owned(Vec<u8>, Vec<u8>, Vec<i64>, Vec<i64>);

impl Owned {
    fn new(rows: usize) -> Self {
        Self(vec![0xAB; 3 * rows], vec![0xAB; 2 * rows], vec![-7; rows], vec![-7; rows])
    }

    fn lend(&mut self) -> Memory {
        let rows = self.2.len();
        let start = |bytes: &mut Vec<u8>| NonNull::new(bytes.as_mut_ptr()).unwrap_or(NonNull::dangling());
        let words = |words: &mut Vec<i64>| NonNull::new(words.as_mut_ptr()).unwrap_or(NonNull::dangling());
        let views = vec![(start(&mut self.0), 3), (start(&mut self.1), 2)];
        // SAFETY: the vectors outlive the threads of each test and are read after `take` only.
        unsafe { Memory::new(rows, views, words(&mut self.2), words(&mut self.3), Box::new(())) }
    }
}

fn position(step: u64) -> Position {
    Position { epoch: 0, step }
}

fn fill(row: &mut Row<'_>) {
    let id = row.id() as u8;
    row.view(0).fill(id);
    row.view(1).fill(id + 1);
    assert!(row.view(2).is_empty());
    row.describe(id.into(), id.is_multiple_of(2).then_some(u32::from(id) * 10));
}

/// Step and rows of the next batch.
fn taken(ring: &Ring) -> Result<(u64, usize)> {
    let filled = ring.take(LONG)?.ok_or(Fault::Cancelled)?;
    assert!(filled.replaced.is_empty());
    Ok((filled.position.step, filled.rows))
}

fn with_workers<T>(num_workers: usize, ring: &Arc<Ring>, work: fn(Row<'_>), body: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        for _ in 0..num_workers {
            let mut claims = Claims::new(ring.clone());
            scope.spawn(move || {
                while let Some(row) = claims.claim() {
                    work(row);
                }
            });
        }
        let result = body();
        ring.stop();
        result
    })
}

#[test]
fn batches_leave_in_order_with_every_row_written_once() -> Result<()> {
    let sizes = [5usize, 0, 1, 7, 3, 0, 4];
    let mut memory: Vec<Owned> = sizes.iter().map(|&rows| Owned::new(rows)).collect();
    let ring = Ring::new();
    let work = |mut row: Row<'_>| {
        fill(&mut row);
        row.finish(Ok(()));
    };
    with_workers(3, &ring, work, || -> Result<()> {
        let mut first = 0u32;
        for (step, owned) in memory.iter_mut().enumerate() {
            let ids = (first..).take(sizes[step]).collect();
            first += sizes[step] as u32;
            ring.lend(position(step as u64), ids, owned.lend())?;
        }
        for (step, &rows) in sizes.iter().enumerate() {
            assert_eq!(taken(&ring)?, (step as u64, rows));
        }
        assert_eq!(ring.occupancy(), (0, 0));
        Ok(())
    })?;
    let mut id = 0u8;
    for (owned, rows) in memory.iter().zip(sizes) {
        for row in 0..rows {
            assert_eq!(owned.0[3 * row..3 * row + 3], [id; 3]);
            assert_eq!(owned.1[2 * row..2 * row + 2], [id + 1; 2]);
            assert_eq!(owned.2[row], if id.is_multiple_of(2) { i64::from(id) * 10 } else { -1 });
            assert_eq!(owned.3[row], i64::from(id));
            id += 1;
        }
    }
    Ok(())
}

#[test]
fn the_first_bad_row_speaks_for_its_batch_and_the_next_batch_is_whole() -> Result<()> {
    let mut memory = [Owned::new(4), Owned::new(2)];
    let ring = Ring::new();
    let work = |mut row: Row<'_>| match row.id() {
        1 => {
            thread::sleep(Duration::from_millis(20)); // row 2 fails before row 1 does
            row.finish(Err(Fault::UnknownFormat.into()));
        }
        2 => row.finish(Err(Fault::NotATar.into())),
        3 => drop(row),
        _ => {
            fill(&mut row);
            row.finish(Ok(()));
        }
    };
    with_workers(2, &ring, work, || -> Result<()> {
        ring.lend(position(0), vec![0, 1, 2, 3], memory[0].lend())?;
        ring.lend(position(1), vec![4, 5], memory[1].lend())?;
        let error = ring.take(LONG).err();
        assert!(error.is_some_and(|error| matches!(error.fault(), Fault::UnknownFormat)));
        assert_eq!(taken(&ring)?, (1, 2));
        Ok(())
    })?;
    assert_eq!(memory[1].3, [4, 5]);
    Ok(())
}

#[test]
fn a_lost_row_is_a_bug_with_words() -> Result<()> {
    let mut memory = Owned::new(1);
    let ring = Ring::new();
    with_workers(
        1,
        &ring,
        |row: Row<'_>| drop(row),
        || -> Result<()> {
            ring.lend(position(0), vec![0], memory.lend())?;
            let error = ring.take(LONG).err();
            assert!(error.is_some_and(|error| matches!(error.fault(), Fault::Bug(_))));
            Ok(())
        },
    )
}

#[test]
fn waiting_ends() -> Result<()> {
    let mut memory = Owned::new(2);
    let ring = Ring::new();
    assert!(ring.take(LONG).is_err(), "nothing lent: an error, not a wait");
    assert!(ring.lend(position(0), vec![0; 3], memory.lend()).is_err(), "two rows for three samples");
    ring.lend(position(0), vec![0; 2], memory.lend())?;
    let start = Instant::now();
    assert!(ring.take(Duration::from_millis(30))?.is_none());
    assert!(start.elapsed() >= Duration::from_millis(30));
    thread::scope(|scope| {
        let taker = scope.spawn(|| ring.take(LONG).is_err());
        thread::sleep(Duration::from_millis(20));
        ring.stop();
        assert!(taker.join().is_ok_and(|stopped| stopped));
    });
    assert!(start.elapsed() < LONG / 2);
    assert!(Claims::new(ring.clone()).claim().is_none());
    Ok(())
}

/// Sets a flag when it is dropped.
struct Alive(Arc<AtomicBool>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn memory_is_kept_until_the_last_writer_has_let_go_of_it() -> Result<()> {
    let mut memory = [Owned::new(1), Owned::new(1)];
    let gone = [false, false].map(|_| Arc::new(AtomicBool::new(false)));
    let is_gone = |at: usize| gone[at].load(Ordering::SeqCst);
    let ring = Ring::new();
    for (step, owned) in memory.iter_mut().enumerate() {
        let lent = owned.lend();
        *lock(&lent.keep) = Some(Box::new(Alive(gone[step].clone())));
        ring.lend(position(step as u64), vec![4], lent)?;
    }
    let (mut first, mut second) = (Claims::new(ring.clone()), Claims::new(ring.clone()));
    let mut row = first.claim().ok_or(Fault::Cancelled)?;
    let mut stuck = second.claim().ok_or(Fault::Cancelled)?;
    fill(&mut row);
    row.finish(Ok(()));
    // The batch brings it back, and a worker that has not let go of the batch yet holds nothing.
    let filled = ring.take(LONG)?.ok_or(Fault::Cancelled)?;
    assert!(!is_gone(0) && filled.keep.is_some());
    drop(filled);
    assert!(is_gone(0));
    // A worker that is stuck when all ends may still write.
    ring.stop();
    assert!(!is_gone(1) && ring.take(LONG).is_err());
    fill(&mut stuck);
    stuck.finish(Ok(()));
    assert!(second.claim().is_none());
    assert!(is_gone(1));
    assert_eq!(memory[1].3, [4]);
    Ok(())
}

#[test]
fn replaced_rows_are_listed_in_order() -> Result<()> {
    let mut memory = Owned::new(4);
    let ring = Ring::new();
    let work = |mut row: Row<'_>| {
        if row.id() == 1 {
            thread::sleep(Duration::from_millis(20)); // row 3 comes before row 1
        }
        if row.id() % 2 == 1 {
            let id = row.id();
            row.replaced(vec![(id, Fault::UnknownFormat.into())]);
        }
        row.describe(row.id() + 10, None);
        row.finish(Ok(()));
    };
    with_workers(2, &ring, work, || -> Result<()> {
        ring.lend(position(0), vec![0, 1, 2, 3], memory.lend())?;
        let filled = ring.take(LONG)?.ok_or(Fault::Cancelled)?;
        let listed = |replaced: &Replaced| (replaced.row, replaced.damaged[0].0);
        assert_eq!(filled.replaced.iter().map(listed).collect::<Vec<_>>(), [(1, 1), (3, 3)]);
        Ok(())
    })?;
    assert_eq!(memory.3, [10, 11, 12, 13]);
    Ok(())
}

#[test]
fn extra_members_come_by_row() -> Result<()> {
    let mut memory = Owned::new(4);
    let ring = Ring::new();
    let work = |mut row: Row<'_>| {
        if row.id() == 5 {
            thread::sleep(Duration::from_millis(20)); // the first row comes last
        }
        row.extras(vec![None, Some(vec![row.id() as u8])]);
        row.finish(Ok(()));
    };
    let filled = with_workers(2, &ring, work, || -> Result<Filled> {
        ring.lend(position(0), vec![5, 6, 7, 8], memory.lend())?;
        Ok(ring.take(LONG)?.ok_or(Fault::Cancelled)?)
    })?;
    assert_eq!(filled.extras, [5, 6, 7, 8].map(|id| vec![None, Some(vec![id])]));
    Ok(())
}
