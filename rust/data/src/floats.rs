//! Here: batches of views as floats, for networks on a CPU.
//! Not here: the arithmetic (`ops/float.rs`), GPUs, which scale.

use crate::error::{Fault, Result};
use crate::ops::float;
use crate::ops::simd::Simd;

/// Bytes of floats that no cache of one core holds until somebody looks at them: from here on, they go past it.
const FAR: usize = 1 << 20;

/// Views (planar bytes, `view_bytes` each) as the floats that a network on a CPU takes, pixel after pixel:
/// `value * scale + shift` of its channel. On up to `threads` threads.
pub fn to_floats(
    views: &[u8],
    view_bytes: usize,
    (scale, shift): ([f32; 3], [f32; 3]),
    threads: usize,
    out: &mut [f32],
) -> Result<()> {
    if view_bytes == 0 || !view_bytes.is_multiple_of(3) || out.len() != views.len() {
        return Err(Fault::Setting(format!("{} floats for {} bytes of views", out.len(), views.len())).into());
    }
    let (simd, far) = (Simd::detect(), size_of_val(out) >= FAR);
    let share = (views.len() / view_bytes).div_ceil(threads.max(1)).max(1) * view_bytes;
    std::thread::scope(|scope| {
        let convert = |(views, out): (&[u8], &mut [f32])| {
            for (view, out) in views.chunks_exact(view_bytes).zip(out.chunks_exact_mut(view_bytes)) {
                float::interleave(simd, view, scale, shift, far, out);
            }
        };
        let mut shares = views.chunks(share).zip(out.chunks_mut(share));
        // The first share is this thread's own.
        let own = shares.next();
        shares.for_each(|share| {
            scope.spawn(move || convert(share));
        });
        own.map(convert);
    });
    Ok(())
}
