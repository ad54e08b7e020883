//! Here: which instruction set kernels run on, and the few steps for which compilers do not find the
//! right instructions: weighted sums of bytes and of 16-bit pairs, table look-ups, regrouping of pixels.
//! Not here: what is summed up, and why (the kernels).
//!
//! Every step has a scalar twin, `Portable`, which defines it; all instruction sets give equal bytes.

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(crate) use arm::Neon;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Fractional bits of a resize's weight: 8 for the value and 2 for overshoot and sign are left of 32.
pub(crate) const WEIGHT_BITS: u32 = 22;

/// Sums that are computed together, one for each lane.
pub(crate) const LANES: usize = 16;

/// An instruction set that this CPU has: the only way to get one is to ask the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Simd(Level);

/// Whatever has one of an architecture has those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Level {
    Portable,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Simd {
    /// What every CPU of the architecture has, as compilers use it.
    pub const PORTABLE: Self = Self(Level::Portable);

    /// The fastest that this CPU has.
    pub fn detect() -> Self {
        // The order of bytes in a word matters in `arm`.
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        if std::arch::is_aarch64_feature_detected!("neon") {
            return Self(Level::Neon);
        }
        #[cfg(target_arch = "x86_64")]
        {
            let bits = std::is_x86_feature_detected!("bmi1")
                && std::is_x86_feature_detected!("bmi2")
                && std::is_x86_feature_detected!("popcnt");
            if bits
                && std::is_x86_feature_detected!("avx512vbmi")
                && std::is_x86_feature_detected!("avx512vbmi2")
                && std::is_x86_feature_detected!("avx512vnni")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512vl")
            {
                return Self(Level::Avx512);
            }
            if bits && std::is_x86_feature_detected!("avx2") {
                return Self(Level::Avx2);
            }
        }
        Self::PORTABLE
    }

    /// All that this CPU has, slowest first: for tests and benchmarks.
    pub fn available() -> Vec<Self> {
        let all = [
            Level::Portable,
            #[cfg(target_arch = "aarch64")]
            Level::Neon,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512,
        ];
        let best = Self::detect().0;
        all.into_iter().filter(|&level| level <= best).map(Self).collect()
    }

    /// `portable`, `neon`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
        }
    }

    #[inline(always)]
    pub(crate) fn level(self) -> Level {
        self.0
    }
}

/// Compiles a kernel for each instruction set. `kernel! { fn name / inner(arguments) { body } }` makes
/// `name(simd, arguments)`; a body that needs a `Vector` says `inner[V]` and finds it as `V` (`inner[V: Steps]` if it wants a trait other than `Vector`). Loops that
/// compilers vectorise by themselves need none: Rust neither reorders nor fuses floating-point operations.
macro_rules! kernel {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident / $inner:ident($($arg:ident: $kind:ty),* $(,)?) $body:block) => {
        $crate::ops::simd::kernel! {
            $(#[$doc])* $visibility fn $name / $inner[_V]($($arg: $kind),*) $body
        }
    };
    ($(#[$doc:meta])* $visibility:vis fn $name:ident / $inner:ident[$V:ident]($($arg:ident: $kind:ty),* $(,)?) $body:block) => {
        $crate::ops::simd::kernel! {
            $(#[$doc])* $visibility fn $name / $inner[$V: $crate::ops::simd::Vector]($($arg: $kind),*) $body
        }
    };
    ($(#[$doc:meta])* $visibility:vis fn $name:ident / $inner:ident[$V:ident: $steps:path]($($arg:ident: $kind:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$doc])*
        $visibility fn $name(simd: $crate::ops::simd::Simd, $($arg: $kind),*) $(-> $result)? {
            use $crate::ops::simd::Level;
            match simd.level() {
                Level::Portable => $inner::<$crate::ops::simd::Portable>($($arg),*),
                #[cfg(target_arch = "aarch64")]
                Level::Neon => {
                    #[target_feature(enable = "neon")]
                    fn wide($($arg: $kind),*) $(-> $result)? {
                        $inner::<$crate::ops::simd::Neon>($($arg),*)
                    }
                    // SAFETY: a `Simd` of this level exists only where the CPU has NEON.
                    unsafe { wide($($arg),*) }
                }
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => {
                    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
                    fn wide($($arg: $kind),*) $(-> $result)? {
                        $inner::<$crate::ops::simd::Avx2>($($arg),*)
                    }
                    // SAFETY: a `Simd` of this level exists only where the CPU has AVX2.
                    unsafe { wide($($arg),*) }
                }
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => {
                    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vnni,bmi1,bmi2,popcnt")]
                    fn widest($($arg: $kind),*) $(-> $result)? {
                        $inner::<$crate::ops::simd::Avx512>($($arg),*)
                    }
                    // SAFETY: a `Simd` of this level exists only where the CPU has all of these.
                    unsafe { widest($($arg),*) }
                }
            }
        }

        #[inline(always)]
        fn $inner<$V: $steps>($($arg: $kind),*) $(-> $result)? $body
    };
}
pub(crate) use kernel;

/// Four consecutive samples for each of 16 lanes: byte `4 * lane + i` is sample `i`.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Quads(pub(crate) [u8; 4 * LANES]);

impl Quads {
    pub(crate) const ZERO: Self = Self([0; 4 * LANES]);
}

/// Levels that are filtered together, with room for their sums.
pub(crate) type Line = [u16; 32];

/// The weights of four consecutive samples, made by `Vector::pack`.
pub(crate) type Packed = [u32; 4];

/// Steps of one instruction set; called inside `kernel!` only, where the CPU has it.
pub(crate) trait Vector {
    /// Sixteen sums in the making.
    type Sums: Copy;

    /// A `Line`, loaded.
    type Levels: Copy;

    /// Weights (of at most 127 * (2^16 + 2^8 + 1) in size) in the form that `dot` takes.
    fn pack(weights: [i32; 4]) -> Packed;

    /// Sums of nothing.
    fn zero() -> Self::Sums;

    /// Adds to each lane's sum its four samples times their weights.
    fn dot(sums: &mut Self::Sums, quads: &Quads, weights: &Packed);

    /// The sums as levels: without their fraction, rounded half up, clipped.
    fn levels(sums: Self::Sums) -> [u8; LANES];

    /// Four interleaved pixels from each of 16 rows (the last four bytes of each are ignored), by channel.
    fn gather(rows: [&[u8; 16]; LANES]) -> [Quads; 3];

    /// Sixteen bytes of each of four columns: those of bytes 0 to 3 side by side, those of 4 to 7, and so on.
    fn regroup(columns: &[[u8; LANES]; 4]) -> [[u8; LANES]; 4];

    /// A line from memory.
    fn load(line: &Line) -> Self::Levels;

    /// Lane by lane; the sums fit 16 bits.
    fn add(one: Self::Levels, other: Self::Levels) -> Self::Levels;

    /// `(sum * full + ends * end + 2^23) >> 24` for values below 2^15 and weights up to 2^24.
    fn weigh(sums: Self::Levels, ends: Self::Levels, full: u32, end: u32) -> Self::Levels;

    /// A line to memory.
    fn store(levels: Self::Levels, line: &mut Line);

    /// Looks every byte up in a table; false if that is not worth it here, and nothing was done.
    fn map(bytes: &mut [u8], table: &[u8; 256]) -> bool;
}

/// Plain Rust: the definition of every step, and what compilers make of it.
pub(crate) struct Portable;

impl Vector for Portable {
    type Sums = [i32; LANES];
    type Levels = Line;

    #[inline(always)]
    fn pack(weights: [i32; 4]) -> Packed {
        weights.map(i32::cast_unsigned)
    }

    #[inline(always)]
    fn zero() -> Self::Sums {
        [0; LANES]
    }

    #[inline(always)]
    fn dot(sums: &mut Self::Sums, quads: &Quads, weights: &Packed) {
        let weights = weights.map(u32::cast_signed);
        for (sum, quad) in sums.iter_mut().zip(quads.0.as_chunks::<4>().0) {
            for (&sample, weight) in quad.iter().zip(weights) {
                *sum = sum.wrapping_add(i32::from(sample) * weight);
            }
        }
    }

    #[inline(always)]
    fn levels(sums: Self::Sums) -> [u8; LANES] {
        sums.map(|sum| (sum.wrapping_add(1 << (WEIGHT_BITS - 1)) >> WEIGHT_BITS).clamp(0, 255) as u8)
    }

    #[inline(always)]
    fn gather(rows: [&[u8; 16]; LANES]) -> [Quads; 3] {
        let mut channels = [Quads([0; 4 * LANES]); 3];
        for (lane, row) in rows.into_iter().enumerate() {
            for (pixel, values) in row.as_chunks::<3>().0.iter().take(4).enumerate() {
                for (channel, &value) in channels.iter_mut().zip(values) {
                    channel.0[4 * lane + pixel] = value;
                }
            }
        }
        channels
    }

    #[inline(always)]
    fn regroup(columns: &[[u8; LANES]; 4]) -> [[u8; LANES]; 4] {
        let mut out = [[0; LANES]; 4];
        for (i, out) in out.iter_mut().enumerate() {
            for (column, four) in columns.iter().zip(out.as_chunks_mut::<4>().0) {
                four.copy_from_slice(&column[4 * i..4 * i + 4]);
            }
        }
        out
    }

    #[inline(always)]
    fn load(line: &Line) -> Line {
        *line
    }

    #[inline(always)]
    fn add(mut one: Line, other: Line) -> Line {
        one.iter_mut().zip(other).for_each(|(one, other)| *one += other);
        one
    }

    #[inline(always)]
    fn weigh(sums: Line, ends: Line, full: u32, end: u32) -> Line {
        let mut out = [0; 32];
        for ((out, sum), ends) in out.iter_mut().zip(sums).zip(ends) {
            let weighted = u32::from(sum).wrapping_mul(full).wrapping_add(u32::from(ends).wrapping_mul(end));
            *out = (weighted.wrapping_add(1 << 23) >> 24) as u16;
        }
        out
    }

    #[inline(always)]
    fn store(levels: Line, line: &mut Line) {
        *line = levels;
    }

    #[inline(always)]
    fn map(_bytes: &mut [u8], _table: &[u8; 256]) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    kernel! {
        /// Every step once, on bytes and weights made from `seed`; the results one after the other.
        fn steps / steps_of[V](seed: u32, out: &mut Vec<u32>) {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 8
            };
            let mut sums = V::zero();
            for _ in 0..3 {
                let quads = Quads(std::array::from_fn(|_| (next() >> 7) as u8));
                // The sizes that three taps of a resize can have: their sum times 255 stays below 2^31.
                let weights = std::array::from_fn(|_| (next() % (1 << 20)) as i32 - (1 << 19));
                V::dot(&mut sums, &quads, &V::pack(weights));
            }
            out.extend(V::levels(sums).map(u32::from));
            let rows: [[u8; 16]; LANES] = std::array::from_fn(|_| std::array::from_fn(|_| next() as u8));
            let views: [&[u8; 16]; LANES] = std::array::from_fn(|lane| &rows[lane]);
            V::gather(views).iter().for_each(|quads| out.extend(quads.0.map(u32::from)));
            let columns = std::array::from_fn(|_| std::array::from_fn(|_| next() as u8));
            out.extend(V::regroup(&columns).as_flattened().iter().copied().map(u32::from));
            let mut line = |most: u32| std::array::from_fn(|_| (next() % most) as u16);
            let (sums, ends) = (V::add(V::load(&line(1000)), V::load(&line(276))), V::load(&line(511)));
            let full = next() % ((1 << 24) / 5);
            let mut weighed = [0; 32];
            V::store(V::weigh(sums, ends, full, ((1 << 24) - 5 * full) / 2), &mut weighed);
            out.extend(weighed.map(u32::from));
            let table = std::array::from_fn(|_| next() as u8);
            let mut bytes: Vec<u8> = (0..301).map(|_| next() as u8).collect();
            if !V::map(&mut bytes, &table) {
                bytes.iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]);
            }
            out.extend(bytes.into_iter().map(u32::from));
        }
    }

    #[test]
    fn every_instruction_set_gives_what_the_portable_one_gives() {
        assert_eq!(Simd::available().last(), Some(&Simd::detect()));
        for seed in 0..200 {
            let mut expected = Vec::new();
            steps(Simd::PORTABLE, seed, &mut expected);
            for simd in Simd::available() {
                let mut found = Vec::new();
                steps(simd, seed, &mut found);
                assert_eq!(found, expected, "{}, seed {seed}", simd.name());
            }
        }
    }

    #[test]
    fn the_largest_weights_are_exact() {
        let weights = [8_355_711, -8_388_608, 1 << 22, -1];
        let samples = [[255, 3, 2, 200], [3, 1, 1, 1], [0, 255, 0, 255], [1, 1, 0, 0]];
        let exact = samples.map(|samples: [u8; 4]| {
            let products = samples.iter().zip(weights).map(|(&sample, weight)| i64::from(sample) * weight);
            let level = (products.sum::<i64>() + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS;
            level.clamp(0, 255) as u8
        });
        for simd in Simd::available() {
            let mut found = [0; LANES];
            extremes(simd, weights.map(|weight| weight as i32), &samples, &mut found);
            assert_eq!(found[..4], exact, "{}", simd.name());
        }
    }

    kernel! {
        fn extremes / extremes_of[V](weights: [i32; 4], samples: &[[u8; 4]; 4], out: &mut [u8; LANES]) {
            let mut quads = Quads([0; 4 * LANES]);
            quads.0[..16].copy_from_slice(samples.as_flattened());
            let mut sums = V::zero();
            V::dot(&mut sums, &quads, &V::pack(weights));
            *out = V::levels(sums);
        }
    }
}
