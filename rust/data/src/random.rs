//! Here: random numbers as a pure function of (seed, epoch, sample, view, stream): Philox4x32-10.
//! Not here: generator state that outlives a draw, thread-local generators, time, the meaning of a draw.

/// Keyed counter-based generator: Philox4x32 with 10 rounds (Salmon et al., "Parallel random
/// numbers: as easy as 1, 2, 3", SC 2011). The same constants as Random123, cuRAND and PyTorch.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key[0] = key[0].wrapping_add(0x9E37_79B9);
            key[1] = key[1].wrapping_add(0xBB67_AE85);
        }
        let product0 = u64::from(counter[0]) * 0xD251_1F53;
        let product1 = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (product1 >> 32) as u32 ^ counter[1] ^ key[0],
            product1 as u32,
            (product0 >> 32) as u32 ^ counter[3] ^ key[1],
            product0 as u32,
        ];
    }
    counter
}

/// The two halves of a seed as a Philox key.
pub fn key(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// The draws of one purpose for one view of one sample in one epoch.
///
/// Counter words: draw block, stream and view, sample, epoch; key: the seed. So no two draws of a run
/// ever share a counter, and a new stream leaves the draws of every other stream as they were.
#[derive(Debug, Clone)]
pub struct Draws {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Draws {
    /// `stream` separates purposes: 0 is the crop, 1 + k the k-th operation of the view.
    pub fn new(seed: u64, epoch: u32, sample: u32, view: u16, stream: u16) -> Self {
        let purpose = (u32::from(view) << 16) | u32::from(stream);
        Self { key: key(seed), counter: [0, purpose, sample, epoch], block: [0; 4], used: 4 }
    }

    /// 32 uniform bits.
    pub fn bits(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        let word = self.block[self.used];
        self.used += 1;
        word
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn unit(&mut self) -> f64 {
        let high = u64::from(self.bits() >> 5);
        let low = u64::from(self.bits() >> 6);
        ((high << 26) | low) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with probability `p`; exact at 0 and 1, and always one draw.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Uniform in 0..n without bias (Lemire, "Fast random integer generation in an interval", 2019).
    /// For n = 0 the result is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        let threshold = n.wrapping_neg().checked_rem(n).unwrap_or(0);
        loop {
            let product = u64::from(self.bits()) * u64::from(n);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// A uniformly random order of 0..N (Fisher-Yates).
    pub fn permutation<const N: usize>(&mut self) -> [u8; N] {
        let mut order = std::array::from_fn(|i| i as u8);
        for i in (1..N).rev() {
            order.swap(i, self.below(i as u32 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers: Random123 1.14, tests/kat_vectors, philox4x32 10.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_coordinate_matters_and_nothing_else() {
        let first = |seed, epoch, sample, view, stream| Draws::new(seed, epoch, sample, view, stream).bits();
        let base = first(1, 2, 3, 4, 5);
        assert_eq!(base, first(1, 2, 3, 4, 5));
        for other in [
            first(2, 2, 3, 4, 5),
            first(1 + (1 << 32), 2, 3, 4, 5),
            first(1, 3, 3, 4, 5),
            first(1, 2, 4, 4, 5),
            first(1, 2, 3, 5, 5),
            first(1, 2, 3, 4, 6),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "statistics: minutes under miri")]
    fn below_is_uniform_and_in_range() {
        let mut draws = Draws::new(7, 0, 0, 0, 0);
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            counts[draws.below(6) as usize] += 1;
        }
        // Chi-square with 5 degrees of freedom: 25.7 is the 0.9999 quantile.
        let chi: f64 = counts.iter().map(|&c| (f64::from(c) - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi < 25.7, "{counts:?}");
        assert_eq!(draws.below(0), 0);
        assert_eq!(draws.below(1), 0);
    }

    #[test]
    fn chance_is_exact_at_its_ends() {
        let mut draws = Draws::new(7, 0, 0, 0, 1);
        assert!((0..1000).all(|_| draws.chance(1.0)));
        assert!(!(0..1000).any(|_| draws.chance(0.0)));
    }
}
