//! In f64.

use proptest::prelude::*;
use regard_oracle::Favor;
use regard_simd::Isa;
use regard_threads::Pool;

use super::{Asked, calls};
use crate::double::are_close;
use crate::support::{pool, tries};

proptest! {
    #![proptest_config(tries(100))]

    #[test]
    fn results_and_states((call, seed) in calls(80)) {
        let asked = Asked::new(&call, seed, Isa::best(), pool());
        let (out, sums, exponents) = asked.run_f64();
        let known = Favor { after: exponents.clone(), ..call.clone() };
        let (exact, states) = known.exact();
        are_close("result", &out, &exact, &call.v)?;
        are_close("state", &sums, &states, &[])?;
        // The exponents are the largest of f32's, but for its rounding.
        let (_, (_, of_f32)) = asked.run::<f32>();
        for (ours, of_f32) in exponents.iter().zip(of_f32) {
            let of_f32 = f64::from(of_f32);
            prop_assert!(*ours == of_f32 || (ours - of_f32).abs() <= 1e-4 * (1.0 + of_f32.abs()), "{} for {}", ours, of_f32);
        }
        let alone = Pool::new(1).unwrap();
        let alone = Asked::new(&call, seed, Isa::best(), &alone).run_f64();
        prop_assert_eq!((out, sums, exponents), alone);
    }
}
