//! Results, states and gradients.

use proptest::prelude::*;
use regard_oracle::{Favor, Precision, widen};
use regard_simd::Isa;

use super::{Asked, State, calls, flowing};
use crate::support::{judge, pool, tries};

fn most(numbers: &[f64]) -> f64 {
    numbers.iter().fold(0.0_f64, |most, x| most.max(x.abs()))
}

/// What a result may be off by where the plain method happens to be nearly exact: twice what that is off by at the most over
/// calls of this kind, which is 4.8 units in the last place of the largest number that a result is made of.
fn floor(largest: f64) -> f64 {
    9.6 * Precision::F32.ulp(largest)
}

/// What an engine made of a call: results, states after, and gradients.
pub(super) type Made = (Vec<f32>, State, [Vec<f32>; 4]);

/// Whether results, states and gradients are as near to the exact ones as they must be.
pub(super) fn are_near(
    isa: Isa,
    call: &Favor,
    (dout, dafter): (&[f64], &[f64]),
    (out, (sums, exponents), ours): &Made,
) -> Result<(), TestCaseError> {
    let call = Favor { after: widen(exponents), ..call.clone() };
    let (exact, plain) = (call.exact(), call.plain());
    let (gradients, plain_gradients) = (call.gradients(dout, dafter), call.plain_gradients(dout, dafter));
    // Where all that is seen has one value, a gradient of exponents is a difference of what weighs much more.
    let steepest = call.scale.sqrt() * most(&call.directions);
    let of_results = most(dout) * most(&call.v).max(most(&exact.0)) * steepest;
    let of_states = most(dafter) * most(&exact.1) * steepest;
    let flowing = most(dout) + most(dafter);
    // An exponent is rounded in units of its own size, and what it is the exponent of as many times more.
    let halves = call.k.chunks(call.dim_k).map(|key| call.scale / 2.0 * key.iter().map(|x| x * x).sum::<f64>());
    let exponents = call.before.iter().chain(&call.after).map(|x| x.abs()).filter(|x| x.is_finite());
    let exponent = halves.chain(exponents).fold(1.0, f64::max);
    let [of_q, of_k, of_v, of_state] = &gradients.of;
    let [plain_q, plain_k, plain_v, plain_state] = &plain_gradients.of;
    let [q, k, v, state] = ours;
    for (what, ours, exact, plain, made_of) in [
        ("results", out, &exact.0, &plain.0, most(&call.v)),
        ("states", sums, &exact.1, &plain.1, 0.0),
        ("queries", q, of_q, plain_q, of_results),
        ("keys", k, of_k, plain_k, of_results + of_states),
        ("values", v, of_v, plain_v, flowing),
        ("states before", state, of_state, plain_state, flowing),
    ] {
        // Without a state before there is nothing that its gradient could be of.
        if what == "states before" && call.state.is_empty() {
            prop_assert!(ours.iter().all(|&x| x == 0.0), "{isa}: {ours:?} of no state");
            continue;
        }
        judge(what, isa, ours, exact, plain, floor(exponent * most(exact).max(made_of)))?;
    }
    Ok(())
}

fn are_right(call: &Favor, seed: u64) -> Result<(), TestCaseError> {
    let (dout, dafter) = flowing(call, seed);
    for isa in Isa::available() {
        let asked = Asked::new(call, seed, isa, pool());
        let (out, state) = asked.run::<f32>();
        let made = (out, state, asked.gradients::<f32>(&dout, &dafter));
        are_near(isa, call, (&dout, &dafter), &made)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(tries(120))]

    #[test]
    fn small((call, seed) in calls(24)) {
        are_right(&call, seed)?;
    }
}

proptest! {
    #![proptest_config(tries(16))]

    #[test]
    fn of_several_chunks((call, seed) in calls(150)) {
        are_right(&call, seed)?;
    }
}
