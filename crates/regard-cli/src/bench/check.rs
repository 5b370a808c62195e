//! Whether what a call gives is right: its largest error against attention in f64.

mod heads;
mod rows;

use regard_oracle::Precision;
use regard_threads::Pool;

use self::heads::Heads;
use self::rows::Rows;
use crate::bench::answer::Answer;
use crate::bench::case::{Case, Dtype};
use crate::bench::inputs::{Inputs, Stored};
use crate::bench::report::Accuracy;

/// Multiplications that each part of the reference may cost, some seconds' work. A case that needs more is checked by a
/// sample: of the rows of its result, and of the key/value heads of its gradients, one at least.
const MOST_PRODUCTS: usize = 1 << 29;

/// What a case gives in f64, or a sample of it.
pub(crate) struct Reference {
    rows: Rows,
    heads: Option<Heads>,
}

impl Reference {
    pub(crate) fn new<T: Stored>(case: &Case, inputs: &Inputs<T>, pool: &Pool) -> Self {
        Reference { rows: Rows::new(case, inputs, pool), heads: case.backward.then(|| Heads::new(case, inputs, pool)) }
    }

    /// How far off an answer is: its result, and each of its gradients.
    pub(crate) fn judge<T: Copy + Into<f64>>(&self, answer: &Answer<T>) -> Vec<Accuracy> {
        let gradients = self.heads.iter().flat_map(|heads| heads.judge(answer));
        std::iter::once(self.rows.judge(&answer.out)).chain(gradients).collect()
    }
}

fn precision(case: &Case) -> Precision {
    match case.dtype {
        Dtype::F32 => Precision::F32,
        Dtype::Bf16 => Precision::Bf16,
        Dtype::F16 => Precision::F16,
    }
}

/// Twice the error of the plain method in the case's dtype, which rounds its weights and its results to it; and at least
/// one unit in the last place of the largest number.
fn bound(case: &Case, plain_error: f64, largest: f64) -> f64 {
    (2.0 * plain_error).max(precision(case).ulp(largest))
}

fn largest_error<T: Copy + Into<f64>>(results: &[T], exact: &[f64]) -> f64 {
    exact.iter().zip(results).map(|(exact, &result)| (result.into() - exact).abs()).fold(0.0, worse)
}

/// The larger of two errors; NaN is the largest of all.
fn worse(a: f64, b: f64) -> f64 {
    if a >= b || a.is_nan() { a } else { b }
}

fn magnitude(numbers: &[f64]) -> f64 {
    numbers.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()))
}
