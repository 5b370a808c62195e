//! Linear attention token by token in f64: what results and gradients should be.

use regard_memory::each_of;
use regard_oracle::{Precision, Recurrence, largest_error, widen};
use regard_threads::Pool;

use super::call::{Inputs, RESULTS};
use super::{Case, DIM, HEADS};
use crate::bench::report::Accuracy;

/// What a case gives in f64: all heads of its results, or the first heads where gradients are asked for, since these need the
/// states before all tokens.
pub(super) struct Reference {
    heads: Vec<Head>,
}

#[derive(Default)]
struct Head {
    call: Recurrence,
    grad: Vec<f64>,
    /// As [`RESULTS`].
    exact: Vec<Vec<f64>>,
    plain: Vec<Vec<f64>>,
}

impl Reference {
    pub(super) fn new(case: &Case, inputs: &Inputs, pool: &Pool) -> Self {
        let count = if case.backward { 2 } else { HEADS };
        let mut heads: Vec<Head> = (0..count).map(|head| Head::new(case, inputs, head)).collect();
        pool.run(each_of(&mut heads), |_, head| head.work_out());
        Reference { heads }
    }

    /// How far off an answer is: its results, and each of its gradients. It may be off by twice what the rule is, token by
    /// token in f32, or by [`Recurrence::FLOOR`].
    pub(super) fn judge(&self, answer: &[Vec<f32>; 6]) -> Vec<Accuracy> {
        let judge = |(at, of): (usize, &'static str)| {
            let (mut error, mut plain, mut largest) = (0.0_f64, 0.0_f64, 0.0_f64);
            for (index, head) in self.heads.iter().enumerate() {
                let exact = &head.exact[at];
                let ours = &answer[at][index * exact.len()..][..exact.len()];
                // A NaN is an error without end.
                let off = |(x, y): (&f32, &f64)| (f64::from(*x) - y).abs();
                let worst = |most: f64, x: f64| if x.is_nan() { f64::INFINITY } else { most.max(x) };
                error = ours.iter().zip(exact).map(off).fold(error, worst);
                plain = plain.max(largest_error(&head.plain[at], exact));
                largest = exact.iter().fold(largest, |most, x| most.max(x.abs()));
            }
            Accuracy { of, error, bound: (2.0 * plain).max(Recurrence::FLOOR * Precision::F32.ulp(largest)) }
        };
        RESULTS.into_iter().enumerate().filter(|&(at, _)| !answer[at].is_empty()).map(judge).collect()
    }
}

impl Head {
    fn new(case: &Case, inputs: &Inputs, head: usize) -> Head {
        let of_head = |numbers: &[f32]| widen(&numbers[head * numbers.len() / HEADS..][..numbers.len() / HEADS]);
        let [q, k, v, log_decay, beta] = inputs.each.each_ref().map(|numbers| of_head(numbers));
        let call = Recurrence {
            batch: 1,
            tokens: case.tokens,
            dim_k: DIM,
            dim_v: DIM,
            heads: [1; 5],
            q,
            k,
            v,
            log_decay,
            beta,
            scale: f64::from(1.0 / (DIM as f32).sqrt()),
            ..Recurrence::default()
        };
        Head { call, grad: of_head(&inputs.grad), ..Head::default() }
    }

    fn work_out(&mut self) {
        let Head { call, grad, exact, plain } = self;
        exact.push(call.exact().0);
        plain.push(call.plain().0);
        if !grad.is_empty() {
            exact.extend(call.gradients(grad, &[]).of.into_iter().take(5));
            plain.extend(call.plain_gradients(grad, &[]).of.into_iter().take(5));
        }
    }
}
