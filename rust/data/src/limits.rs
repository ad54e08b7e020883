//! Here: every bound on hostile input, each with its reason.
//! Not here: the checks themselves (they stand where the number is read).

/// Most pixels an image may claim: Pillow's error line (2 × `MAX_IMAGE_PIXELS`), so that what
/// Pillow opens, barlow opens.
pub const MAX_PIXELS: u64 = 178_956_970;

/// Longest side in pixels: libjpeg's `JPEG_MAX_DIMENSION`; also what the index's `u16` can hold.
pub const MAX_SIDE_PX: u32 = 65_500;

/// Most pixels a WebP may have of which no byte says anything: a lossless one can be a single colour in 30
/// bytes. Far more than any icon or scanned page that is blank, and 64 MiB of memory instead of 1.2 GiB.
pub const MAX_WEBP_BLANK_PIXELS: u64 = 1 << 24;

/// Most pixels that a byte of a WebP may add to them; a lossy one has no others. It cannot reach this: a block of 16 x 16 pixels
/// takes at least log2(256 / 145) + log2(256 / 142) bits for its two modes, whose probabilities are fixed (RFC
/// 6386, section 11.2), and so a byte has at most 1230.
pub const MAX_WEBP_PIXELS_PER_BYTE: u64 = 1230;

/// Most scans of a progressive JPEG, libjpeg-turbo's own choice for fuzzing. A 92 kB file with 800
/// scans of 4096² pixels costs Pillow 8 s.
pub const MAX_SCANS: u32 = 100;

/// Bound on scans × pixels: 100 scans of a 4096² image would still burn a second each.
pub const MAX_SCAN_PIXELS: u64 = 2_000_000_000;

/// Most memory for the coefficients of a JPEG of several scans: all of them are held until the last scan,
/// 2 bytes each. It leaves 179 megapixels with 4:2:0 chroma and 89 with full chroma (1 GiB would be
/// needed there, beside the pixels), and is far above any progressive photo of a camera.
pub const MAX_COEFFICIENT_BYTES: u64 = 512 << 20;

/// Largest member that is read into memory. The largest ImageNet file has 15 MB.
pub const MAX_MEMBER_BYTES: u64 = 64 << 20;

/// Most extra members of one sample: they are looked through one by one. A stem with more is no sample.
pub const MAX_EXTRAS: u64 = 256;

/// Most bytes of all extra members of one sample, which are in memory at the same time; no more than the
/// image may have.
pub const MAX_EXTRAS_BYTES: u64 = MAX_MEMBER_BYTES;

/// Most different extensions of extra members in one index. Data sets have a few; this bounds the time to
/// open an index where dots in the names of files make nearly every extension a different one.
pub const MAX_KINDS: u64 = 1 << 20;

/// Longest member name: `PATH_MAX` of Linux.
pub const MAX_NAME_BYTES: u64 = 4096;

/// Largest PAX or GNU long-name block: names are bounded, and nothing else in it is used.
pub const MAX_PAX_BYTES: u64 = 64 << 10;

/// Most samples in one index: a sample id is one 32-bit word of the random counter.
pub const MAX_SAMPLES: u64 = 1 << 32;

/// Most shards in one index; a folder of loose images has one shard per image.
pub const MAX_SHARDS: u64 = 1 << 32;

/// Most classes in one index: numeric labels make a class of every number up to the largest. The
/// largest label set of ImageNet has 21,841.
pub const MAX_CLASSES: u64 = 1 << 20;
