//! Gradients against central differences.

use proptest::prelude::*;
use regard_oracle::{Attention, Bias, Problem, Sizes, problems_of, widen};

use crate::{close, keeps, tries};

/// So small that every number can be moved by itself.
fn tiny() -> impl Strategy<Value = Problem> {
    let sizes = (1..=2_usize, 1..=2_usize, 1..=2_usize, 0..=4_usize, 0..=6_usize, 1..=3_usize, 1..=3_usize);
    problems_of(sizes.prop_map(|(batch, kv_heads, group, queries, keys, dim_k, dim_v)| Sizes {
        batch,
        heads: kv_heads * group,
        kv_heads,
        queries,
        keys,
        dim_k,
        dim_v,
    }))
}

/// `Σ dout·out + Σ dlse·lse`, over the queries that have a log-sum-exp.
fn value(call: &Attention<'_>, dout: &[f64], dlse: &[f64]) -> f64 {
    let attended = call.exact();
    let out: f64 = attended.out.iter().zip(dout).map(|(x, d)| x * d).sum();
    let lse = attended.lse.iter().zip(dlse).filter(|(lse, _)| lse.is_finite()).map(|(x, d)| x * d);
    out + lse.sum::<f64>()
}

/// The derivatives of a function by every number of `x`, to the fourth order of the step.
fn differences(x: &[f64], mut f: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    // What is left out grows as the step's fourth power, what rounding costs as its inverse: both are below 1e−10 of the
    // numbers here.
    const STEP: f64 = 3e-4;
    let mut moved = x.to_vec();
    let mut derivative = |at: usize| {
        let mut difference = |steps: f64| {
            let [after, before] = [steps, -steps].map(|steps| {
                moved[at] = x[at] + steps * STEP;
                f(&moved)
            });
            moved[at] = x[at];
            after - before
        };
        (8.0 * difference(1.0) - difference(2.0)) / (12.0 * STEP)
    };
    (0..x.len()).map(&mut derivative).collect()
}

proptest! {
    #![proptest_config(tries(200))]

    #[test]
    fn gradients_are_what_central_differences_say(problem in tiny()) {
        let (dout, dlse) = (widen(&problem.dout), widen(&problem.dlse));
        problem.define(keeps, |call| -> Result<(), String> {
            let gradients = call.gradients(&dout, &dlse);
            let value = |call: Attention<'_>| value(&call, &dout, &dlse);
            let judge = |name: &str, gradient: &[f64], differences: Vec<f64>| {
                close(gradient, &differences, 1e-7).map_err(|what| format!("{name}: {what}"))
            };
            judge("dq", &gradients.dq, differences(call.q, |q| value(Attention { q, ..call })))?;
            judge("dk", &gradients.dk, differences(call.k, |k| value(Attention { k, ..call })))?;
            judge("dv", &gradients.dv, differences(call.v, |v| value(Attention { v, ..call })))?;
            let bias = call.bias.map_or(vec![], |bias| {
                differences(bias.values, |values| value(Attention { bias: Some(Bias { values, ..bias }), ..call }))
            });
            judge("dbias", &gradients.dbias, bias)?;
            let sinks = call.sinks.map_or(vec![], |sinks| {
                differences(sinks, |sinks| value(Attention { sinks: Some(sinks), ..call }))
            });
            judge("dsinks", &gradients.dsinks, sinks)
        })
        .map_err(TestCaseError::fail)?;
    }
}
