//! Here: which samples make which batch: a pure map from (seed, epoch, step, rank, world size) to ids.
//! Not here: state, memory that grows with the data set, what a sample is.
//!
//! The permutation is a Feistel network over the smallest power of two that holds all ids, with
//! Philox as its round function; a value outside the ids is sent through again (cycle walking, Black
//! and Rogaway, "Ciphers with arbitrary finite domains", 2002). So any position of any epoch costs a
//! few hundred nanoseconds and no memory, and the state of an epoch is one integer: the step.

use crate::error::{Fault, Result};
use crate::limits::MAX_SAMPLES;
use crate::random::{self, Draws};

/// Changes whenever the same settings would give other ids; part of [`Order::digest`].
pub const VERSION: u32 = 1;

/// Each round is a full Philox call, so few would do for the eye; ten is what NIST asks of FF1.
const ROUNDS: u32 = 10;

/// Second counter word of the rounds. Draws for views put the view number in its upper half, so view
/// 65535 does not exist.
const PURPOSE: u32 = 0xffff_0000;

/// The stream of view 65535 that stand-ins come from: far from the rounds above.
const STAND_INS: u16 = 0xffff;

/// The next batch to deliver: the whole state of the data side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Counted from 0.
    pub epoch: u32,
    /// Batch within the epoch, counted from 0.
    pub step: u64,
}

/// The order of one run, as seen by one rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Key of the permutations.
    pub seed: u64,
    /// Size of the data set.
    pub num_samples: u64,
    /// Size of the global batch: the sum over all ranks.
    pub batch_size: u64,
    /// This process, in 0..world_size.
    pub rank: u32,
    /// Number of processes.
    pub world_size: u32,
    /// False: ids in index order, every epoch.
    pub shuffle: bool,
    /// False: a shorter last batch keeps the remainder.
    pub drop_last: bool,
}

impl Order {
    /// Checks the settings against each other.
    pub fn new(
        seed: u64,
        num_samples: u64,
        batch_size: u64,
        (rank, world_size): (u32, u32),
        shuffle: bool,
        drop_last: bool,
    ) -> Result<Self> {
        let refuse = |text: String| Err(Fault::Setting(text).into());
        if num_samples == 0 {
            return Err(Fault::Empty("").into());
        }
        if num_samples > MAX_SAMPLES {
            return Err(
                Fault::Limit { what: "number of samples", found: num_samples, limit: MAX_SAMPLES }.into()
            );
        }
        if rank >= world_size {
            return refuse(format!("rank {rank} is not below world size {world_size}"));
        }
        if batch_size == 0 {
            return refuse("batch size is 0".into());
        }
        if drop_last && batch_size > num_samples {
            return refuse(format!(
                "batch size {batch_size} is larger than the data set ({num_samples} samples)"
            ));
        }
        if !batch_size.is_multiple_of(u64::from(world_size)) {
            return refuse(format!("batch size {batch_size} is not divisible by world size {world_size}"));
        }
        Ok(Self { seed, num_samples, batch_size, rank, world_size, shuffle, drop_last })
    }

    /// Batches in an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        match self.drop_last {
            true => self.num_samples / self.batch_size,
            false => self.num_samples.div_ceil(self.batch_size),
        }
    }

    /// Ids of this rank's part of a global batch, in order; empty behind the end of the epoch.
    ///
    /// The batch of L ids is cut at floor(r L / W): equal parts, but for a shorter last batch.
    pub fn batch(&self, position: Position) -> Vec<u32> {
        if position.step >= self.steps_per_epoch() {
            return Vec::new();
        }
        let start = position.step * self.batch_size;
        let length = self.batch_size.min(self.num_samples - start);
        let cut =
            |rank: u32| start + (u128::from(rank) * u128::from(length) / u128::from(self.world_size)) as u64;
        (cut(self.rank)..cut(self.rank + 1)).map(|at| self.id(position.epoch, at)).collect()
    }

    /// The samples that may stand in for a damaged one in an epoch, first choice first: each drawn
    /// uniformly from all others, as a function of (seed, epoch, id) alone. Endless, but empty where there
    /// are no others.
    pub fn stand_ins(&self, epoch: u32, id: u32) -> impl Iterator<Item = u32> + use<> {
        let mut draws = Draws::new(self.seed, epoch, id, (PURPOSE >> 16) as u16, STAND_INS);
        let others = u32::try_from(self.num_samples - 1).unwrap_or(u32::MAX);
        std::iter::repeat_with(move || draws.below(others))
            .map(move |other| other + u32::from(other >= id))
            .take(if others == 0 { 0 } else { usize::MAX })
    }

    /// The sample at a place of an epoch.
    fn id(&self, epoch: u32, at: u64) -> u32 {
        match self.shuffle {
            true => permute(self.seed, epoch, self.num_samples, at) as u32,
            false => at as u32,
        }
    }

    /// Identifies the sequence of global batches: the same for every rank and world size.
    pub fn digest(&self) -> u64 {
        let words = [
            u64::from(VERSION),
            self.seed,
            self.num_samples,
            self.batch_size,
            u64::from(self.shuffle) << 1 | u64::from(self.drop_last),
        ];
        // A chain of Philox calls, each keyed by the one before: any change of a word changes the rest.
        words.into_iter().fold(0, |state, word| {
            let mixed = random::philox([word as u32, (word >> 32) as u32, 0, 0], random::key(state));
            u64::from(mixed[0]) | u64::from(mixed[1]) << 32
        })
    }
}

/// A keyed bijection of 0..n onto itself; `at` must be below `n`, and `n` at most 2^32.
fn permute(seed: u64, epoch: u32, n: u64, at: u64) -> u64 {
    let bits = u64::BITS - (n - 1).leading_zeros();
    if bits < 2 {
        // One or two samples: a network needs two halves of a bit each.
        let flip = n == 2 && random::philox([0, PURPOSE, n as u32, epoch], random::key(seed))[0] & 1 == 1;
        return at ^ u64::from(flip);
    }
    let mut value = at;
    loop {
        value = feistel(seed, epoch, n, bits, value);
        // `at` lies on the cycle, so the walk ends; the domain is below 2n, so it is short.
        if value < n {
            return value;
        }
    }
}

/// An alternating Feistel network on `bits` bits: the halves differ by a bit if `bits` is odd, and swap
/// sizes each round; after an even number of rounds they are as before.
fn feistel(seed: u64, epoch: u32, n: u64, bits: u32, value: u64) -> u64 {
    let mut right_bits = bits / 2;
    let mut left_bits = bits - right_bits;
    let mut left = (value >> right_bits) as u32;
    let mut right = (value & ((1 << right_bits) - 1)) as u32;
    for round in 0..ROUNDS {
        let noise = random::philox([right, PURPOSE | round, n as u32, epoch], random::key(seed))[0];
        (left, right) = (right, left ^ (noise >> (u32::BITS - left_bits)));
        (left_bits, right_bits) = (right_bits, left_bits);
    }
    u64::from(left) << right_bits | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(num_samples: u64, batch_size: u64, rank: u32, world_size: u32) -> Order {
        Order::new(7, num_samples, batch_size, (rank, world_size), true, false).unwrap()
    }

    fn epoch_of(order: &Order, epoch: u32) -> Vec<u32> {
        (0..order.steps_per_epoch()).flat_map(|step| order.batch(Position { epoch, step })).collect()
    }

    fn is_bijection(seed: u64, epoch: u32, n: u64) -> bool {
        let mut seen = vec![false; n as usize];
        (0..n).all(|at| {
            let id = permute(seed, epoch, n, at) as usize;
            id < seen.len() && !std::mem::replace(&mut seen[id], true)
        })
    }

    #[test]
    fn every_size_is_permuted_without_loss() {
        let large = [127, 128, 129, 997, 1000, 1024, 4095, 4096, 4097, 50_000, 65_537];
        // Miri is a thousand times slower.
        for n in (1..=70).chain(large).filter(|&n| !cfg!(miri) || n < 130 && n % 9 == 1) {
            assert!(is_bijection(n, 3, n), "{n}");
        }
    }

    #[test]
    fn the_largest_domain_fits() {
        let n = MAX_SAMPLES;
        let mut ids: Vec<u64> = (0..1000).map(|i| permute(1, 2, n, n - 1 - i)).collect();
        assert!(ids.iter().all(|&id| id < n));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 1000);
    }

    /// All 24 orders of four samples, over 24,000 epochs: a Feistel network on two bits has them all.
    #[test]
    #[cfg_attr(miri, ignore = "statistics: hours under miri")]
    fn orders_of_few_samples_are_about_equally_frequent() {
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..24_000 {
            let order: Vec<u64> = (0..4).map(|at| permute(5, epoch, 4, at)).collect();
            *counts.entry(order).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 24);
        // Chi-square with 23 degrees of freedom: 58.6 is the 0.9999 quantile.
        let chi: f64 = counts.values().map(|&count| (f64::from(count) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 58.6, "{chi}: {counts:?}");
    }

    /// Where each sample lands over epochs, and what follows it, should show no pattern.
    #[test]
    #[cfg_attr(miri, ignore = "statistics: hours under miri")]
    fn places_and_neighbours_are_uniform() {
        let n = 50;
        let mut places = vec![0u32; (n * n) as usize];
        let mut steps = vec![0u32; n as usize];
        let epochs = 5000;
        for epoch in 0..epochs {
            let ids: Vec<u64> = (0..n).map(|at| permute(9, epoch, n, at)).collect();
            for (at, &id) in ids.iter().enumerate() {
                places[at * n as usize + id as usize] += 1;
            }
            for pair in ids.windows(2) {
                steps[((pair[1] + n - pair[0]) % n) as usize] += 1;
            }
        }
        let chi = |counts: &[u32], expected: f64| -> f64 {
            counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum()
        };
        // 49² = 2401 degrees of freedom: mean 2401, standard deviation 69; four of them either way.
        let places = chi(&places, f64::from(epochs) / n as f64);
        assert!((2125.0..2677.0).contains(&places), "{places}");
        // Difference 0 never occurs; 48 degrees of freedom, and samples that are nearly independent.
        assert_eq!(steps[0], 0);
        let steps = chi(&steps[1..], f64::from(epochs));
        assert!((15.0..98.0).contains(&steps), "{steps}");
    }

    #[test]
    fn the_world_size_changes_who_gets_a_sample_and_nothing_else() {
        for (n, batch) in [(1000, 64), (64, 64), (70, 24), (5, 8)] {
            let whole = order(n, batch, 0, 1);
            for world in [2, 4, 8] {
                for step in 0..whole.steps_per_epoch() {
                    let position = Position { epoch: 2, step };
                    let parts: Vec<Vec<u32>> =
                        (0..world).map(|rank| order(n, batch, rank, world).batch(position)).collect();
                    let longest = parts.iter().map(Vec::len).max().unwrap();
                    let shortest = parts.iter().map(Vec::len).min().unwrap();
                    assert!(longest - shortest <= 1);
                    assert_eq!(parts.concat(), whole.batch(position));
                }
            }
        }
    }

    #[test]
    fn an_epoch_is_every_sample_once() {
        let kept = order(1003, 100, 0, 1);
        assert_eq!(kept.steps_per_epoch(), 11);
        let mut ids = epoch_of(&kept, 1);
        assert_ne!(ids, epoch_of(&kept, 2));
        ids.sort_unstable();
        assert_eq!(ids, (0..1003).collect::<Vec<u32>>());

        let dropped = Order { drop_last: true, ..kept.clone() };
        assert_eq!(dropped.steps_per_epoch(), 10);
        assert_eq!(epoch_of(&dropped, 1), epoch_of(&kept, 1)[..1000]);
        assert_eq!(dropped.batch(Position { epoch: 1, step: 10 }), []);
        let plain = Order { shuffle: false, ..kept };
        assert_eq!(epoch_of(&plain, 1), (0..1003).collect::<Vec<u32>>());
    }

    #[test]
    fn stand_ins_are_uniform_over_the_others() {
        let ids = |order: &Order, epoch, id| order.stand_ins(epoch, id).take(9).collect::<Vec<u32>>();
        let five = order(5, 1, 0, 1);
        let mut counts = [0u32; 5];
        (0..20_000).for_each(|epoch| counts[five.stand_ins(epoch, 2).next().unwrap() as usize] += 1);
        assert_eq!(counts[2], 0);
        // Chi-square with 3 degrees of freedom: 21.1 is the 0.9999 quantile.
        let chi = |&count: &u32| (f64::from(count) - 5000.0).powi(2) / 5000.0;
        assert!([0, 1, 3, 4].iter().map(|&id| chi(&counts[id])).sum::<f64>() < 21.1, "{counts:?}");
        let many = order(1000, 8, 0, 1);
        assert_eq!(
            ids(&many, 1, 3),
            ids(&order(1000, 64, 3, 4), 1, 3),
            "the batch and the world don't matter"
        );
        assert_ne!(ids(&many, 1, 3), ids(&many, 2, 3));
        assert_ne!(ids(&many, 1, 3), ids(&many, 1, 4));
        assert_ne!(ids(&many, 1, 3), ids(&Order { seed: 8, ..many.clone() }, 1, 3));
        assert_eq!(ids(&order(2, 1, 0, 1), 0, 0), [1; 9]);
        assert_eq!(ids(&order(1, 1, 0, 1), 0, 0), []);
        let most = order(MAX_SAMPLES, 8, 0, 1);
        assert!(most.stand_ins(0, u32::MAX).take(1000).all(|id| id < u32::MAX));
    }

    #[test]
    fn seed_epoch_and_size_matter() {
        let ids = |seed, epoch, n| -> Vec<u64> { (0..20).map(|at| permute(seed, epoch, n, at)).collect() };
        let base = ids(1, 1, 1000);
        for other in [ids(2, 1, 1000), ids(1 << 32 | 1, 1, 1000), ids(1, 2, 1000), ids(1, 1, 1001)] {
            assert_ne!(base, other);
        }
    }

    /// A change here is a new VERSION: it changes what every past run saw. The numbers come from the
    /// plain-Python twin in tests/test_order.py.
    #[test]
    fn golden_ids() {
        assert_eq!(VERSION, 1);
        let first = |n, batch| order(n, batch, 0, 1).batch(Position { epoch: 1, step: 1 });
        assert_eq!(first(2, 1), GOLDEN_2);
        assert_eq!(first(50_000, 8), GOLDEN_50000);
        assert_eq!(first(1 << 32, 8), GOLDEN_MAX);
        assert_eq!(order(50_000, 8, 0, 1).digest(), GOLDEN_DIGEST);
    }

    const GOLDEN_2: [u32; 1] = [0];
    const GOLDEN_50000: [u32; 8] = [45282, 3514, 20450, 23588, 17269, 9553, 8502, 26317];
    const GOLDEN_MAX: [u32; 8] =
        [1302495468, 3519606960, 785830081, 1004317266, 1970413202, 3247861578, 3592162092, 2889027411];
    const GOLDEN_DIGEST: u64 = 0x9832_d408_186b_b432;

    #[test]
    fn the_digest_names_the_sequence_of_global_batches() {
        let base = order(1000, 8, 0, 1);
        assert_eq!(base.digest(), order(1000, 8, 3, 4).digest());
        for other in [
            Order { seed: 8, ..base.clone() },
            Order { num_samples: 1001, ..base.clone() },
            Order { batch_size: 16, ..base.clone() },
            Order { shuffle: false, ..base.clone() },
            Order { drop_last: true, ..base.clone() },
        ] {
            assert_ne!(base.digest(), other.digest(), "{other:?}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let new = |n, batch, rank, world, drop| {
            Order::new(0, n, batch, (rank, world), true, drop).map_err(|error| error.to_string())
        };
        assert!(new(10, 4, 0, 2, true).is_ok());
        assert!(new(0, 4, 0, 1, true).unwrap_err().contains("no images"));
        assert!(new(10, 0, 0, 1, true).unwrap_err().contains("batch size is 0"));
        assert!(new(10, 12, 0, 1, true).unwrap_err().contains("larger than the data set (10 samples)"));
        assert!(new(10, 12, 0, 1, false).is_ok());
        assert!(new(10, 4, 0, 3, true).unwrap_err().contains("not divisible by world size 3"));
        assert!(new(10, 4, 2, 2, true).unwrap_err().contains("rank 2"));
        assert!(new(10, 4, 0, 0, true).unwrap_err().contains("world size 0"));
        assert!(new(MAX_SAMPLES + 1, 4, 0, 1, true).unwrap_err().contains("limit"));
    }

    proptest! {
        #[test]
        fn permutations_of_any_size_and_key(seed: u64, epoch: u32, n in 1u64..3000) {
            prop_assert!(is_bijection(seed, epoch, n));
        }
    }
}
