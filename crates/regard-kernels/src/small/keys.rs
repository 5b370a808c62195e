//! Keys on their way into columns: read once, transposed in squares.

use regard_memory::Rows;
use regard_simd::{Kernel, Simd};

use super::same;
use crate::{COLUMNS, Number, Operand};

/// Writes `keys [n, d_k]` as `[steps][columns]` words; columns past the last key hold any finite numbers.
pub(super) struct Transpose<'a, E: Operand, T> {
    pub(super) keys: Rows<'a, T>,
    /// `⌈d_k / DEPTH⌉` rows and, up to a multiple of 16, rows that are of no use.
    pub(super) panel: &'a mut [E::B],
    /// A multiple of 16.
    pub(super) columns: usize,
}

impl<E: Operand, T: Number> Kernel for Transpose<'_, E, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Transpose { keys, panel, columns } = self;
        let (n, steps) = (keys.rows(), keys.cols().div_ceil(E::DEPTH));
        let direct: Option<Rows<'_, E::B>> = same(keys);
        let mut stage = [E::B::default(); COLUMNS * COLUMNS];
        for step in (0..steps).step_by(S::LANES) {
            for key in (0..n).step_by(S::LANES) {
                let to = &mut panel[step * columns + key..][..(S::LANES - 1) * columns + S::LANES];
                let whole = key + S::LANES <= n && step + S::LANES <= steps;
                let (from, stride) = match direct {
                    Some(keys) if whole => (keys.as_ptr().wrapping_add(key * keys.stride() + step), keys.stride()),
                    _ => {
                        let dims = step * E::DEPTH..keys.cols().min((step + S::LANES) * E::DEPTH);
                        for r in 0..S::LANES.min(n - key) {
                            E::stage(s, &keys.row(key + r)[dims.clone()], &mut stage[r * S::LANES..][..S::LANES]);
                        }
                        (stage.as_ptr(), S::LANES)
                    }
                };
                // SAFETY: a square of the keys or the stage, and one of the panel; words of 32 bits.
                unsafe { s.transpose(from.cast(), stride, to.as_mut_ptr().cast(), columns) };
            }
        }
    }
}
