//! Gradients, against the definition in f64.

use proptest::prelude::*;
use regard_oracle::{Gradients, Precision, Problem, largest_error, problems, widen, within_twice_plain};
use regard_simd::Isa;

use crate::support::{Asked, on, pool, tries};

/// The exact gradients of a problem, those of the plain method, and what weights are off by that are computed anew from a
/// log-sum-exp in f32.
fn defined(problem: &Problem) -> (Gradients, Gradients, f64) {
    let (dout, dlse) = (widen(&problem.dout), widen(&problem.dlse));
    problem.define(
        |pair| Asked::keeps(problem, pair),
        |call| {
            let exact = call.gradients(&dout, &dlse);
            let plain = call.plain_gradients(&dout, &dlse, Precision::F32, Precision::F32);
            let sums = call.exact().lse.into_iter().filter(|lse| lse.is_finite());
            let exponent = sums.fold(call.largest_score(), |most, lse| most.max(lse.abs()));
            // The exponent in base 2 is rounded a few times, and so is the log-sum-exp.
            (exact, plain, 4.0 * Precision::F32.ulp(exponent.max(1.0)))
        },
    )
}

/// Whether the gradients of a problem are as good as they must be.
fn judge(problem: &Problem, isa: Isa) -> Result<(), String> {
    let asked = Asked { problem, isa, pool: pool() };
    let ours = asked.backward::<f32>(&asked.run::<f32>());
    let (exact, plain, weight) = defined(problem);
    // All gradients are sums of terms as large as the largest of them, each with its weight's error.
    let all = [&exact.dq, &exact.dk, &exact.dv, &exact.dbias, &exact.dsinks];
    let magnitude = all.into_iter().flatten().filter(|x| x.is_finite()).fold(1.0f64, |most, x| most.max(x.abs()));
    let one = |name: &str, ours: &[f32], exact: &[f64], plain: &[f64]| {
        within_twice_plain(ours, exact, largest_error(plain, exact), weight * magnitude)
            .map_err(|what| format!("{name}: {what}"))
    };
    one("dq", &ours.dq, &exact.dq, &plain.dq)?;
    one("dk", &ours.dk, &exact.dk, &plain.dk)?;
    one("dv", &ours.dv, &exact.dv, &plain.dv)?;
    one("dbias", ours.dbias.as_deref().unwrap_or_default(), &exact.dbias, &plain.dbias)?;
    one("dsinks", ours.dsinks.as_deref().unwrap_or_default(), &exact.dsinks, &plain.dsinks)
}

proptest! {
    #![proptest_config(tries(200))]

    /// Whatever the call has of options: lengths, segments, softcap, bias, ALiBi, sinks, dropout.
    #[test]
    fn are_those_of_the_definition(problem in problems()) {
        prop_assume!(problem.sizes.batch > 0);
        for isa in Isa::available() {
            on(isa, judge(&problem, isa))?;
        }
    }
}
