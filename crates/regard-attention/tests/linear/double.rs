//! In f64: no further from the definition than rounding in f64 explains.

use proptest::prelude::*;
use regard_oracle::Recurrence;
use regard_simd::Isa;
use regard_threads::Pool;

use crate::support::{Asked, calls, part, pool, tries};

/// Whether results are within 10⁻¹² of the exact ones, beside the largest number that they are made of.
pub(crate) fn are_close(what: &str, ours: &[f64], exact: &[f64], made_of: &[f64]) -> Result<(), TestCaseError> {
    let largest = exact.iter().chain(made_of).fold(0.0_f64, |most, x| most.max(x.abs()));
    prop_assert_eq!(ours.len(), exact.len());
    for (at, (ours, exact)) in ours.iter().zip(exact).enumerate() {
        prop_assert!((ours - exact).abs() <= 1e-12 * largest, "{} {}: {} for {}", what, at, ours, exact);
    }
    Ok(())
}

proptest! {
    #![proptest_config(tries(150))]

    #[test]
    fn recurrences((call, _) in calls(150)) {
        let asked = Asked { call: &call, isa: Isa::best(), pool: pool() };
        let (out, state) = asked.run_f64();
        let exact = call.exact();
        are_close("result", &out, &exact.0, &call.v)?;
        are_close("state", &state, &exact.1, &call.v)?;
        let alone = Asked { pool: &Pool::new(1).unwrap(), ..asked };
        prop_assert_eq!((out, state), alone.run_f64());
    }

    /// What is not of f32 goes in, and the state of one call into the next.
    #[test]
    fn states_are_handed_on_whole((call, seed) in calls(60).prop_filter("one part at least", |(call, _)| call.tokens > 1 && !call.both)) {
        // Numbers that f32 does not have.
        let off = |numbers: &[f64]| -> Vec<f64> { numbers.iter().map(|x| x * (1.0 + 1e-9)).collect() };
        let call = Recurrence { q: off(&call.q), k: off(&call.k), v: off(&call.v), beta: off(&call.beta), ..call };
        let whole = Asked { call: &call, isa: Isa::best(), pool: pool() }.run_f64();
        let cut = 1 + seed as usize % (call.tokens - 1);
        let first = part(&call, 0..cut, call.state.clone());
        let (first_out, state) = Asked { call: &first, isa: Isa::best(), pool: pool() }.run_f64();
        let rest = part(&call, cut..call.tokens, state);
        let (rest_out, state) = Asked { call: &rest, isa: Isa::best(), pool: pool() }.run_f64();
        prop_assert_eq!(&state, &whole.1);
        let heads = call.batch * call.results();
        let joined: Vec<f64> = (0..heads).flat_map(|head| {
            let of = |out: &[f64]| { let each = out.len() / heads; out[head * each..][..each].to_vec() };
            [of(&first_out), of(&rest_out)].concat()
        }).collect();
        prop_assert_eq!(joined, whole.0);
    }
}
