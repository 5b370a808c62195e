//! Partial results of attention, and how two of them become one.

use crate::Error;

/// Attention over some of the keys: `out` is already divided by the softmax sum, `lse` is its logarithm.
///
/// Rows lie one after the other: `out` is `[rows, dim_v]`, `lse` is `[rows]` (natural logarithm, −∞ for a row that has
/// seen no key).
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// `[rows, dim_v]`.
    pub out: Vec<f32>,
    /// `[rows]`.
    pub lse: Vec<f32>,
}

impl State {
    /// The state of rows that have seen no key: the neutral element of merging.
    ///
    /// # Panics
    /// There is no memory for it.
    pub fn empty(rows: usize, dim_v: usize) -> State {
        State { out: vec![0.0; rows.saturating_mul(dim_v)], lse: vec![f32::NEG_INFINITY; rows] }
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
    pub fn merge(&mut self, other: &State) -> Result<(), Error> {
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
pub fn merge(out: &mut [f32], lse: f32, other: &[f32], other_lse: f32) -> Result<f32, Error> {
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
pub(crate) fn merge_row(out: &mut [f32], lse: f32, other: &[f32], other_lse: f32) -> f32 {
    if other_lse == f32::NEG_INFINITY {
        return lse;
    }
    if lse == f32::NEG_INFINITY {
        out.copy_from_slice(other);
        return other_lse;
    }
    let max = lse.max(other_lse);
    let (a, b) = ((lse - max).exp(), (other_lse - max).exp());
    let sum = a + b;
    let (a, b) = (a / sum, b / sum);
    for (x, y) in out.iter_mut().zip(other) {
        *x = a * *x + b * y;
    }
    max + sum.ln()
}
