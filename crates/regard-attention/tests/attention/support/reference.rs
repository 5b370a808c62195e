//! What results are judged by.

use std::f64::consts::LOG2_E;

use regard_oracle::{
    Attended, Attention, Gradients, Precision, Problem, Sizes, largest, largest_error, widen, within_twice_plain,
};

use super::asked::keeps;
use super::{Outcome, Precisions, Slopes};

/// Numbers of each tensor that the plain method's largest error is taken of, at least: of a few it would be luck.
const NUMBERS: usize = 1000;
/// Calls that it is taken of, at least: the largest error of one is often that of a single row.
const CALLS: usize = 16;
/// Multiply-adds of both references after which the luck has to do.
const WORK: usize = 10_000_000;
/// Those that it takes to find out whether a query sees a key.
const LOOK: usize = 32;

/// Weights below the least normal number are 0, whatever they are multiplied by.
const UNDERFLOW: f64 = 1000.0 * f32::MIN_POSITIVE as f64;

/// The exact result of a call, and how far off one may be.
pub(crate) struct Forward {
    pub(crate) exact: Attended,
    /// Of an output in its own precision, of one in f32, and of the log-sum-exp.
    plain: [f64; 3],
    floors: [f64; 3],
}

impl Forward {
    /// What a problem, whose tensors are of the stored precision, is to give.
    pub(crate) fn new(problem: &Problem, precisions: Precisions) -> Forward {
        let Precisions { weights, result, .. } = precisions;
        let (exact, exponent) = define(problem, |call| {
            // A log-sum-exp is made of the largest score and the logarithm of at most as many terms as there are keys; in
            // base 2 both are larger, and rounded.
            let largest = call.largest_score().max((call.sizes.keys.max(1) as f64).ln());
            (call.exact(), Precision::F32.ulp(largest * LOG2_E))
        });
        // A weight that will be rounded to 8 bits is itself off by a part in ten thousand.
        let of_weights: f64 = if weights == Precision::Bf16 { 1.1e-4 } else { 0.0 };
        let lse_floor = of_weights.max(2.0 * exponent);
        let seen = exact.lse.iter().filter(|&&lse| lse != f64::NEG_INFINITY).count();
        let mut plain = [0.0f64; 3];
        // These numbers, and others, until enough queries have seen a key.
        for drawn in draws(problem, precisions, seen) {
            let (Attended { out, lse }, exact) =
                define(&drawn, |call| (call.plain(weights, Precision::F32), call.exact()));
            let rounded: Vec<f64> = out.iter().map(|&x| result.round(x as f32).into()).collect();
            let errors = [(&rounded, &exact.out), (&out, &exact.out), (&lse, &exact.lse)];
            for (plain, (method, exact)) in plain.iter_mut().zip(errors) {
                *plain = plain.max(largest_error(method, exact));
            }
        }
        // A result is made of values, each of them multiplied by what makes up for the weights that fall; beyond the plain
        // method's roundings there are those of a corrected sum, a reciprocal, its product, and a merge; and all weights are
        // off by what is rounded of their exponents. Where few keys are seen, what their rounded weights are off by is luck.
        let values = largest(&problem.v) / (1.0 - f64::from(problem.dropout.unwrap_or(0.0)));
        let wide = weights.ulp(most(&exact.out)).max(4.0 * Precision::F32.ulp(values)).max(exponent * values);
        let narrow = result.ulp(most(&exact.out)).max(wide);
        Forward { exact, plain, floors: [narrow, wide, lse_floor] }
    }

    /// Whether a result in its own precision is as good as it must be.
    pub(crate) fn judge(&self, outcome: &Outcome) -> Result<(), String> {
        self.judge_as(outcome, 0)
    }

    /// The same of a result in f32.
    pub(crate) fn judge_wide(&self, outcome: &Outcome) -> Result<(), String> {
        self.judge_as(outcome, 1).map_err(|what| format!("in f32, {what}"))
    }

    fn judge_as(&self, outcome: &Outcome, precision: usize) -> Result<(), String> {
        within_twice_plain(&outcome.out, &self.exact.out, self.plain[precision], self.floors[precision])
            .map_err(|what| format!("out: {what}"))?;
        within_twice_plain(&outcome.lse, &self.exact.lse, self.plain[2], self.floors[2])
            .map_err(|what| format!("lse: {what}"))
    }
}

/// The exact gradients of a call, and how far off they may be.
pub(crate) struct Backward {
    pub(crate) exact: Gradients,
    plain: [f64; 5],
    floors: [f64; 5],
}

impl Backward {
    /// The gradients that a problem, whose tensors and output are of the stored precision, is to give.
    pub(crate) fn new(problem: &Problem, precisions: Precisions) -> Backward {
        let Precisions { stored, weights, result } = precisions;
        let (exact, exponent) = gradients(problem, |call, dout, dlse| {
            let sums = call.exact().lse.into_iter().filter(|lse| lse.is_finite());
            (call.gradients(dout, dlse), sums.fold(call.largest_score(), |most, lse| most.max(lse.abs())))
        });
        // What the plain method is off by, in proportion to the largest number: a row with large gradients has large errors.
        let mut share = [0.0f64; 5];
        let live = |x: &Vec<f64>| x.iter().filter(|&&x| x != 0.0).count();
        let fewest = tensors(&exact).into_iter().map(|(_, x)| live(x)).filter(|&live| live > 0).min();
        for drawn in draws(problem, precisions, fewest.unwrap_or(0)) {
            let exact = gradients(&drawn, |call, dout, dlse| call.gradients(dout, dlse));
            // Where a CPU has no products of a precision, weights are not rounded to it.
            for weights in [Some(weights), (weights != Precision::F32).then_some(Precision::F32)].into_iter().flatten()
            {
                let method =
                    gradients(&drawn, |call, dout, dlse| call.plain_gradients((dout, dlse), stored, weights, result));
                for (share, ((_, method), (_, exact))) in
                    share.iter_mut().zip(tensors(&method).into_iter().zip(tensors(&exact)))
                {
                    *share = share.max(largest_error(method, exact) / most(exact).max(f64::MIN_POSITIVE));
                }
            }
        }
        let most = tensors(&exact).map(|(_, exact)| most(exact));
        // Where few pairs are seen, what their rounded weights are off by is luck. And all weights are off by what is rounded
        // of their exponents, which are of base 2 and made of a score and a log-sum-exp.
        let exponent = 4.0 * Precision::F32.ulp(exponent.max(1.0) * LOG2_E);
        let rounded = |most| result.ulp(most).max(weights.ulp(most));
        let floors = std::array::from_fn(|tensor| {
            let rounded = if tensor < 3 { rounded(most[tensor]) } else { Precision::F32.ulp(most[tensor]) };
            rounded.max(exponent * most[tensor]).max(UNDERFLOW)
        });
        Backward { exact, plain: std::array::from_fn(|tensor| share[tensor] * most[tensor]), floors }
    }

    /// Whether gradients are as good as they must be.
    pub(crate) fn judge(&self, slopes: &Slopes) -> Result<(), String> {
        let Slopes { dq, dk, dv, dbias, dsinks } = slopes;
        for (tensor, ours) in [dq, dk, dv, dbias, dsinks].into_iter().enumerate() {
            let (name, exact) = tensors(&self.exact)[tensor];
            within_twice_plain(ours, exact, self.plain[tensor], self.floors[tensor])
                .map_err(|what| format!("{name}: {what}"))?;
        }
        Ok(())
    }
}

fn tensors(gradients: &Gradients) -> [(&'static str, &Vec<f64>); 5] {
    let Gradients { dq, dk, dv, dbias, dsinks } = gradients;
    [("dq", dq), ("dk", dk), ("dv", dv), ("dbias", dbias), ("dsinks", dsinks)]
}

/// The largest magnitude that is finite.
fn most(x: &[f64]) -> f64 {
    x.iter().filter(|x| x.is_finite()).fold(0.0, |most, x| most.max(x.abs()))
}

fn gradients<R>(problem: &Problem, ask: impl FnOnce(Attention<'_>, &[f64], &[f64]) -> R) -> R {
    let (dout, dlse) = (widen(&problem.dout), widen(&problem.dlse));
    define(problem, |call| ask(call, &dout, &dlse))
}

fn define<R>(problem: &Problem, answer: impl FnOnce(Attention<'_>) -> R) -> R {
    problem.define(|pair| keeps(problem, pair), answer)
}

/// A problem, and the same with other numbers, until there are enough of those of which one has so many.
fn draws(problem: &Problem, precisions: Precisions, fewest: usize) -> impl Iterator<Item = Problem> {
    let Sizes { dim_k, dim_v, .. } = problem.sizes;
    let work = |pair| LOOK + if problem.sees(&pair) { dim_k + dim_v } else { 0 };
    let work: usize = problem.pairs().map(work).sum();
    let more = NUMBERS.checked_div(fewest).map_or(0, |calls| calls.max(CALLS)).min(WORK / work.max(1));
    // Not a seed that a problem is made of.
    let seed = u64::from(problem.q.first().map_or(0, |x| x.to_bits())) << 16;
    let redrawn = move |draw| problem.redrawn(seed + draw as u64).rounded(precisions.stored);
    std::iter::once(problem.clone()).chain((0..more).map(redrawn))
}
