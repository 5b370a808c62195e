//! Floats by their bits, in blocks, on all cores.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Floats in a block.
pub(crate) const BLOCK: usize = if cfg!(miri) { 64 } else { 4096 };

/// All bit patterns of positive floats, infinity and NaNs; the sign is the bit above.
pub(crate) const POSITIVE: Range<u64> = 0..1 << 31;

/// `REGARD_EXHAUSTIVE_STRIDE=n` takes one float of `n` where each would be taken: for machines that are slow or
/// emulated. Code that is not optimised does so by itself.
fn stride() -> u64 {
    match std::env::var("REGARD_EXHAUSTIVE_STRIDE") {
        Ok(stride) => stride.parse().expect("REGARD_EXHAUSTIVE_STRIDE is a whole number"),
        Err(_) if cfg!(miri) => 10_000_019,
        Err(_) if cfg!(debug_assertions) => 101,
        Err(_) => 1,
    }
}

/// Calls `check` with blocks of floats, on every core: of those with these bits every `step`-th, with either sign.
pub(crate) fn for_floats(bits: Range<u64>, step: u64, check: impl Fn(&[f32; BLOCK]) + Sync) {
    let (next, step) = (AtomicU64::new(0), step * stride());
    let work = || {
        loop {
            let first = bits.start + next.fetch_add(BLOCK as u64, Ordering::Relaxed) * step;
            if first >= bits.end {
                break;
            }
            let mut block = std::array::from_fn(|i| f32::from_bits((first + i as u64 * step).min(bits.end - 1) as u32));
            check(&block);
            block.iter_mut().for_each(|x| *x = -*x);
            check(&block);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
}
