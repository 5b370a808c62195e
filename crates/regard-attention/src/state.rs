//! Partial results of attention, and how two of them become one.

use crate::{Error, Real};

/// Attention over some of the keys: `out` is already divided by the softmax sum, `lse` is its logarithm.
///
/// Rows lie one after the other: `out` is `[rows, dim_v]`, `lse` is `[rows]` (natural logarithm, −∞ for a row that has
/// seen no key). Those of f64 arrays are in f64, all others in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct State<W = f32> {
    /// `[rows, dim_v]`.
    pub out: Vec<W>,
    /// `[rows]`.
    pub lse: Vec<W>,
}

impl<W: Real<Wide = W>> State<W> {
    /// The state of rows that have seen no key: the neutral element of merging.
    ///
    /// # Panics
    /// There is no memory for it.
    pub fn empty(rows: usize, dim_v: usize) -> State<W> {
        State { out: vec![W::default(); rows.saturating_mul(dim_v)], lse: vec![W::wide(f64::NEG_INFINITY); rows] }
    }

    /// Takes in the state of the same rows over other keys.
    ///
    /// ```
    /// use regard_attention::State;
    ///
    /// // One key each, with scores ln 1 and ln 3: the weights are ¼ and ¾.
    /// let mut state = State { out: vec![0.0], lse: vec![0.0] };
    /// state.merge(&State { out: vec![8.0], lse: vec![3f32.ln()] })?;
    /// assert!((state.out[0] - 6.0).abs() < 1e-6);
    /// assert!((state.lse[0] - 4f32.ln()).abs() < 1e-6);
    /// # Ok::<(), regard_attention::Error>(())
    /// ```
    ///
    /// # Errors
    /// The states differ in shape, or their numbers are no whole rows; then nothing is merged.
    pub fn merge(&mut self, other: &State<W>) -> Result<(), Error> {
        same("rows", other.lse.len(), self.lse.len())?;
        same("numbers", other.out.len(), self.out.len())?;
        let dim = self.out.len().checked_div(self.lse.len()).unwrap_or(0);
        same("numbers", self.out.len(), dim * self.lse.len())?;
        for (r, lse) in self.lse.iter_mut().enumerate() {
            *lse = merge_row(&mut self.out[r * dim..][..dim], *lse, &other.out[r * dim..][..dim], other.lse[r]);
        }
        Ok(())
    }
}

/// Merges the state `(other, other_lse)` of a row into `(out, lse)`, over disjoint keys; gives the new log-sum-exp.
///
/// With `m = max(a, b)`: `out = (e^(a−m)·out_a + e^(b−m)·out_b) / (e^(a−m) + e^(b−m))`, `lse = m + ln(…)`. Two rows
/// that have seen no key make one that has seen none.
///
/// # Errors
/// The rows differ in length; then nothing is merged.
pub fn merge<W: Real<Wide = W>>(out: &mut [W], lse: W, other: &[W], other_lse: W) -> Result<W, Error> {
    same("dim", other.len(), out.len())?;
    Ok(merge_row(out, lse, other, other_lse))
}

fn same(axis: &'static str, has: usize, expected: usize) -> Result<(), Error> {
    if has == expected {
        return Ok(());
    }
    Err(Error::Axis { tensor: "state to be merged", axis, has, expected: expected.to_string() })
}

/// [`merge`] of rows that are of one length.
pub(crate) fn merge_row<W: Real<Wide = W>>(out: &mut [W], lse: W, other: &[W], other_lse: W) -> W {
    let (of_out, of_other) = (lse.to_f64(), other_lse.to_f64());
    if of_other == f64::NEG_INFINITY {
        return lse;
    }
    if of_out == f64::NEG_INFINITY {
        out.copy_from_slice(other);
        return other_lse;
    }
    let max = of_out.max(of_other);
    let (a, b) = ((of_out - max).exp(), (of_other - max).exp());
    let sum = a + b;
    let (a, b) = (a / sum, b / sum);
    for (x, y) in out.iter_mut().zip(other) {
        *x = W::wide(a * x.to_f64() + b * y.to_f64());
    }
    W::wide(max + sum.ln())
}
