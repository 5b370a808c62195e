//! Results and gradients.

use proptest::prelude::*;
use regard_oracle::{Precision, Recurrence, numbers, widen};
use regard_simd::Isa;

use crate::support::{Asked, calls, judge, pool, tries};

/// What a result that is made of some numbers may be off by where the plain method happens to be nearly exact.
fn floor(numbers: &[f64]) -> f64 {
    let largest = numbers.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    Recurrence::FLOOR * Precision::F32.ulp(largest)
}

fn are_right(call: &Recurrence, seed: u64) -> Result<(), TestCaseError> {
    let (exact, plain) = (call.exact(), call.plain());
    let dout = widen(&numbers(seed ^ 7, exact.0.len()));
    let dafter = if seed.is_multiple_of(3) { vec![] } else { widen(&numbers(seed ^ 8, exact.1.len())) };
    let (gradients, plain_gradients) = (call.gradients(&dout, &dafter), call.plain_gradients(&dout, &dafter));
    // A log decay's gradient is a difference of what queries and keys have to do with theirs.
    let products = |of: usize, x: &[f64], width: usize| -> Vec<f64> {
        let products: Vec<f64> = x.iter().zip(&gradients.of[of]).map(|(x, dx)| (x * dx).abs()).collect();
        products.chunks(width).map(|of_token| of_token.iter().sum()).collect()
    };
    let of_decays = [products(0, &call.q, call.dim_k), products(1, &call.k, call.dim_k)].concat();
    for isa in Isa::available() {
        let asked = Asked { call, isa, pool: pool() };
        let (out, state) = asked.run::<f32>();
        judge("results", isa, &out, &exact.0, &plain.0, floor(&exact.0).max(floor(&call.v)))?;
        judge("states", isa, &state, &exact.1, &plain.1, floor(&exact.1).max(floor(&call.v)))?;
        let ours = asked.gradients::<f32>(&dout, &dafter);
        let of = ["queries", "keys", "values", "log decays", "betas", "states before"];
        for (((what, ours), exact), plain) in of.iter().zip(&ours).zip(&gradients.of).zip(&plain_gradients.of) {
            let made_of = if *what == "log decays" { &of_decays } else { &dout };
            judge(what, isa, ours, exact, plain, floor(exact).max(floor(made_of)))?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(tries(150))]

    #[test]
    fn small((call, seed) in calls(24)) {
        are_right(&call, seed)?;
    }
}

proptest! {
    #![proptest_config(tries(60))]

    #[test]
    fn of_several_chunks((call, seed) in calls(220)) {
        are_right(&call, seed)?;
    }
}
