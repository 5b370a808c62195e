//! What becomes of the sums of a linear layer.

use regard_memory::RowsMut;
use regard_simd::{Kernel, Simd};

use super::slab::Row;
use crate::{Activation, PANEL};

/// What becomes of the sums `y` of a linear layer, while they are near: `activation(y + bias)`, stored or added.
///
/// ```
/// use regard_kernels::{Activation, Epilogue};
///
/// let residual = Epilogue::ADD;
/// let activated = Epilogue { activation: Some(Activation::Gelu), ..Epilogue::STORE };
/// assert!(residual.add && !activated.add && activated.bias.is_none());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Epilogue<'a> {
    /// Added to the sums: one number for each column of the result.
    pub bias: Option<&'a [f32]>,
    /// Applied to the sums, after their bias.
    pub activation: Option<Activation>,
    /// Whether the result is added to what stands there, as a residual connection does, and not stored over it.
    pub add: bool,
}

impl Epilogue<'_> {
    /// `out = y`.
    pub const STORE: Self = Epilogue { bias: None, activation: None, add: false };
    /// `out = out + y`.
    pub const ADD: Self = Epilogue { bias: None, activation: None, add: true };

    /// Writes sums, a row of a panel each, to `out` from `row` and `column` on, where columns exist.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(
        self,
        s: S,
        sums: &mut [Row<f32>],
        row: usize,
        column: usize,
        out: &mut RowsMut<'_, f32>,
    ) {
        if let Some(bias) = self.bias {
            let bias = &bias[column..];
            for sums in &mut *sums {
                sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
            }
        }
        if let Some(activation) = self.activation {
            activation.apply(s, sums.as_flattened_mut());
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = &mut out.row_mut(row + r)[column..];
            let live = out.len().min(sums.len());
            let (out, sums) = (&mut out[..live], &sums[..live]);
            let whole = live / S::LANES * S::LANES;
            for at in (0..whole).step_by(S::LANES) {
                // SAFETY: both slices hold `at + LANES` numbers.
                unsafe {
                    let (sum, out) = (s.load(sums[at..].as_ptr()), out[at..].as_mut_ptr());
                    s.store(out, if self.add { s.add(s.load(out), sum) } else { sum });
                }
            }
            for (out, sum) in out[whole..].iter_mut().zip(&sums[whole..]) {
                *out = if self.add { *out + sum } else { *sum };
            }
        }
    }
}

/// The product of no inputs: zeros, and what the epilogue makes of them.
pub(super) struct Nothing<'a> {
    pub(super) out: RowsMut<'a, f32>,
    pub(super) epilogue: Epilogue<'a>,
}

impl Kernel for Nothing<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Nothing { mut out, epilogue } = self;
        for row in 0..out.rows() {
            for column in (0..out.cols()).step_by(PANEL) {
                epilogue.finish(s, &mut [[0.0; PANEL]], row, column, &mut out);
            }
        }
    }
}
