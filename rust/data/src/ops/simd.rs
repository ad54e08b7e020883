//! Here: which instruction set kernels run on, and the few steps for which compilers do not find the
//! right instructions: weighted sums of bytes and of 16-bit pairs, table look-ups, regrouping of pixels.
//! Not here: what is summed up, and why (the kernels).
//!
//! Every step has a scalar twin, `Portable`, which defines it; all instruction sets give equal bytes.

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod interleave;
mod portable;

#[cfg(target_arch = "aarch64")]
pub(crate) use arm::Neon;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512, add_products, unknown};
pub(crate) use interleave::Interleave;
pub(crate) use portable::Portable;

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

    /// Sums without their fractions, of any size.
    type Whole: Copy;

    /// How many sums of 16 lanes are best computed together, so that enough are independent and all stay in
    /// registers: 2 or 4.
    const TOGETHER: usize;

    /// Weights (of at most 127 * (2^16 + 2^8 + 1) in size) of eight fours, by their place in the four, in the
    /// form that `dot` takes.
    fn pack(weights: &[[i32; 8]; 4]) -> [Packed; 8];

    /// Quotients of weights and their sums, rounded as division rounds them; it may use the sums' reciprocals, rounded.
    #[inline(always)]
    fn shares(mut weights: [f64; 8], sums: [f64; 8], _reciprocals: [f64; 8]) -> [f64; 8] {
        for (weight, sum) in weights.iter_mut().zip(sums) {
            *weight /= sum;
        }
        weights
    }

    /// Sums of nothing; `whole` rounds them.
    fn zero() -> Self::Sums;

    /// Adds to each lane's sum its four samples times their weights.
    fn dot(sums: &mut Self::Sums, quads: &Quads, weights: &Packed);

    /// The sums without their fraction, rounded half up.
    fn whole(sums: Self::Sums) -> Self::Whole;

    /// Clipped to levels: those of one after those of the other.
    fn in_order(four: [Self::Whole; 4]) -> [[u8; LANES]; 4];

    /// Clipped to levels: lanes 0 to 3 of all four side by side, lanes 4 to 7, and so on.
    fn by_lanes(four: [Self::Whole; 4]) -> [[u8; LANES]; 4];

    /// The first four interleaved pixels of each of 16 rows, `stride` bytes apart, by channel. Four bytes behind
    /// the pixels must be there, but are ignored.
    fn gather(rows: &[u8], stride: usize) -> [Quads; 3];

    /// Every array as a 4 x 4 matrix, transposed.
    fn across(matrices: &[[u8; 16]; 4]) -> [[u8; 16]; 4];

    /// The `i`th of them from the `i`th array of each part, side by side.
    #[inline(always)]
    fn quads(parts: &[[[u8; 16]; 4]; 4]) -> [Quads; 4] {
        let mut quads = [Quads::ZERO; 4];
        for (i, quads) in quads.iter_mut().enumerate() {
            for (part, words) in parts.iter().zip(quads.0.as_chunks_mut().0) {
                *words = part[i];
            }
        }
        quads
    }

    /// Four rows of 64 bytes: each lane's bytes of all rows side by side.
    #[inline(always)]
    fn stack(rows: [[u8; 64]; 4]) -> [Quads; 4] {
        let mut quads = [Quads::ZERO; 4];
        for (row, bytes) in rows.iter().enumerate() {
            for (i, &byte) in bytes.iter().enumerate() {
                quads[i / LANES].0[4 * (i % LANES) + row] = byte;
            }
        }
        quads
    }

    /// A line from memory.
    fn load(line: &Line) -> Self::Levels;

    /// Lane by lane, modulo 2^16.
    fn add(one: Self::Levels, other: Self::Levels) -> Self::Levels;

    /// Lane by lane, modulo 2^16.
    fn subtract(one: Self::Levels, other: Self::Levels) -> Self::Levels;

    /// `(level * factor + 2^14) >> 15` for signed levels and factors, not both -2^15.
    fn scale(levels: Self::Levels, factor: i16) -> Self::Levels;

    /// Adds `by`, modulo 2^16, in the lanes where `keys` is `key`.
    fn correct(levels: Self::Levels, keys: Self::Levels, key: i16, by: i16) -> Self::Levels;

    /// A line from bytes.
    fn widen(bytes: &[u8; 32]) -> Self::Levels;

    /// A line to bytes, of levels that are some.
    fn bytes(levels: Self::Levels) -> [u8; 32];

    /// `(sum * full + ends * end + 2^23) >> 24` for values below 2^15 and weights up to 2^24.
    fn weigh(sums: Self::Levels, ends: Self::Levels, full: u32, end: u32) -> Self::Levels;

    /// A line to memory.
    fn store(levels: Self::Levels, line: &mut Line);

    /// Signed products with a factor, without their lower 16 bits.
    fn upper(levels: Self::Levels, factor: i16) -> Self::Levels;

    /// `(one * factors[0] + other * factors[1] + 2^15) >> 16` for signed levels whose sum stays below 2^31.
    fn products(one: Self::Levels, other: Self::Levels, factors: [i16; 2]) -> Self::Levels;

    /// The luma of red, green and blue, as `colour` defines it.
    fn luma(red: Self::Levels, green: Self::Levels, blue: Self::Levels) -> Self::Levels;

    /// Two lines from bytes, in an order of its own.
    fn split(bytes: &[u8; 64]) -> [Self::Levels; 2];

    /// The reverse for signed levels, which are clipped.
    fn merge(levels: [Self::Levels; 2]) -> [u8; 64];

    /// These bytes will be written soon: a CPU that can be told so brings them into its caches meanwhile.
    #[inline(always)]
    fn expect(bytes: &[u8]) {
        #[cfg(target_arch = "x86_64")]
        for line in bytes.chunks(64) {
            use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            // SAFETY: every x86-64 CPU has SSE; nothing is read.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = bytes;
    }

    /// Looks every byte up in a table; false if that is not worth it here, and nothing was done.
    fn map(bytes: &mut [u8], table: &[u8; 256]) -> bool;
}

#[cfg(test)]
mod tests;
