//! The register tile: the one loop under every product of this crate.

use regard_simd::Simd;

use crate::Operand;

/// A block of accumulators: `R` rows of `W` vectors.
pub(crate) type Accumulators<S, const R: usize, const W: usize> = [[<S as Simd>::F32; W]; R];

/// `C + A·B` for `R` rows and `W` vectors of columns, summed over `steps`. The step `k` of row `r` of `A` lies at
/// `a + r·a_row + k·a_step`, and that of `B` at `b + k·b_step`; distances are in words.
///
/// `R·W` accumulators, `W` vectors of `B` and one of `A` must fit the registers: see [`Simd::STRIPS`].
///
/// # Safety
/// All that is named above must be readable.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a matrix product: two sides with their strides")]
pub(crate) unsafe fn multiply_add<S: Simd, E: Operand, const R: usize, const W: usize>(
    s: S,
    steps: usize,
    a: *const E::A,
    (a_row, a_step): (usize, usize),
    b: *const E::B,
    b_step: usize,
    mut c: Accumulators<S, R, W>,
) -> Accumulators<S, R, W> {
    for k in 0..steps {
        // SAFETY: step `k` is below `steps`, row `r` below `R`, column vector `w` below `W`.
        unsafe {
            let b = b.add(k * b_step);
            let mut columns = [E::load(s, b); W];
            for (w, column) in columns.iter_mut().enumerate().skip(1) {
                *column = E::load(s, b.add(w * S::LANES));
            }
            for (r, row) in c.iter_mut().enumerate() {
                let x = E::spread(s, a.add(r * a_row + k * a_step));
                for (sum, &column) in row.iter_mut().zip(&columns) {
                    *sum = E::multiply_add(s, *sum, x, column);
                }
            }
        }
    }
    c
}
