//! How a packed panel stores a weight.
//!
//! A panel holds the [`PANEL`] outputs of a product side by side, so that a vector is one step of neighbouring outputs. It is
//! a run of *slabs*: each holds the next few inputs, for all outputs of the panel. A single token reads it from front to
//! back, and it is as long as what the file stores.

use half::{bf16, f16};
use regard_memory::Pod;
use regard_simd::Simd;

use crate::{Number, PANEL};

/// A row of a panel: one number of each output.
pub(crate) type Row<T> = [T; PANEL];

/// The next `DEPTH` inputs of the outputs of a panel.
pub(crate) trait Slab: Pod + Send + Sync {
    /// Inputs that a slab holds.
    const DEPTH: usize;
    /// Inputs that are widened at a time: `DEPTH`, or a part of it.
    const STEP: usize;
    /// Bytes of a row of the file that a slab holds.
    const BYTES: usize;

    /// Takes over `BYTES` bytes of a row of the file as the weights of the output `column`.
    fn put(&mut self, column: usize, bytes: &[u8]);
    /// The weights of one output, exactly: `[DEPTH]`.
    fn get(&self, column: usize, to: &mut [f32]);
    /// The weights of all outputs for the step `step` of inputs, exactly: `[STEP][PANEL]`.
    fn widen<S: Simd>(&self, s: S, step: usize, to: &mut [Row<f32>]);
    /// The slabs as they are, if they are rows of f32.
    fn as_f32(_slabs: &[Self]) -> Option<&[Row<f32>]> {
        None
    }
}

/// Plain numbers: a slab is one input.
macro_rules! number_slab {
    ($number:ty, $as_f32:expr) => {
        impl Slab for Row<$number> {
            const DEPTH: usize = 1;
            const STEP: usize = 1;
            const BYTES: usize = size_of::<$number>();

            #[inline(always)]
            fn put(&mut self, column: usize, bytes: &[u8]) {
                self[column] = <$number>::from_le_bytes(std::array::from_fn(|i| bytes[i]));
            }
            fn get(&self, column: usize, to: &mut [f32]) {
                to[0] = self[column].to_f32();
            }
            #[inline(always)]
            fn widen<S: Simd>(&self, s: S, _step: usize, to: &mut [Row<f32>]) {
                for at in (0..PANEL).step_by(S::LANES) {
                    // SAFETY: both rows hold PANEL numbers, which LANES divides.
                    unsafe { s.store(to[0][at..].as_mut_ptr(), Number::load(s, self[at..].as_ptr())) };
                }
            }
            fn as_f32(slabs: &[Self]) -> Option<&[Row<f32>]> {
                $as_f32(slabs)
            }
        }
    };
}

number_slab!(f32, Some);
number_slab!(f16, |_| None);
number_slab!(bf16, |_| None);
