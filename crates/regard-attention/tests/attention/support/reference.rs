//! What a result is judged by.

use regard_oracle::{Attended, Precision, largest, largest_error, within_twice_plain};

use super::{Case, Inputs, Outcome, Precisions};

/// Queries that the plain method's largest error is taken of, at least: of a few it would be luck.
const ROWS: usize = 1000;
/// Multiply-adds of both references after which the luck has to do.
const WORK: usize = 10_000_000;

/// The exact result of a call, and how far off one may be.
pub(crate) struct Reference {
    pub(crate) exact: Attended,
    plain_out: f64,
    plain_lse: f64,
    out_floor: f64,
    lse_floor: f64,
}

impl Reference {
    pub(crate) fn new(case: &Case, inputs: &Inputs, precisions: Precisions) -> Reference {
        let mut reference = case.define(inputs, |call| Reference {
            exact: call.exact(),
            plain_out: 0.0,
            plain_lse: 0.0,
            // Beyond the plain method's division, the reciprocal of a sum and the product with it are rounded.
            out_floor: 2.0 * precisions.result.ulp(largest(&inputs.v)),
            // A log-sum-exp is made of the largest score and the logarithm of at most as many terms as there are keys.
            // It is made in base 2 and converted.
            lse_floor: 2.0 * Precision::F32.ulp(call.largest_score().max((call.sizes.keys.max(1) as f64).ln())),
        });
        reference.measure(case, inputs, precisions);
        // The same call with other numbers, until enough queries have seen a key.
        let seen = reference.exact.lse.iter().filter(|&&lse| lse != f64::NEG_INFINITY).count();
        let work = case.pairs() * (case.shape.dim_k + case.shape.dim_v);
        let draws = ROWS.checked_div(seen).unwrap_or(0).min(WORK / work.max(1));
        for draw in 1..=draws as u64 {
            let other = Case { seed: case.seed.wrapping_add(draw), ..case.clone() };
            reference.measure(&other, &other.inputs().rounded(precisions.stored), precisions);
        }
        reference
    }

    /// Takes in the plain method's error on these numbers.
    fn measure(&mut self, case: &Case, inputs: &Inputs, precisions: Precisions) {
        let Precisions { weights, result, .. } = precisions;
        let (plain, exact) = case.define(inputs, |call| (call.plain(weights, result), call.exact()));
        self.plain_out = self.plain_out.max(largest_error(&plain.out, &exact.out));
        self.plain_lse = self.plain_lse.max(largest_error(&plain.lse, &exact.lse));
    }

    /// Whether a result is as good as it must be.
    pub(crate) fn judge(&self, outcome: &Outcome) -> Result<(), String> {
        within_twice_plain(&outcome.out, &self.exact.out, self.plain_out, self.out_floor)
            .map_err(|what| format!("out: {what}"))?;
        within_twice_plain(&outcome.lse, &self.exact.lse, self.plain_lse, self.lse_floor)
            .map_err(|what| format!("lse: {what}"))
    }
}
