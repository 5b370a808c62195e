//! Any call against its definition.

use half::{bf16, f16};
use proptest::prelude::*;
use regard_oracle::{Problem, problems};
use regard_simd::Isa;

use crate::support::{Asked, Forward, Order, Stored, Way, calls, on, orders, tries};

/// A call is as its definition says on every instruction set, with results in its own type and in f32.
fn is_right<T: Stored>(problem: &Problem, orders: [Order; 5]) -> Result<(), TestCaseError> {
    let problem = &problem.rounded(T::PRECISIONS.stored);
    let reference = Forward::new(problem, T::PRECISIONS);
    for isa in Way::all() {
        let asked = Asked { orders, ..Asked::new(problem, isa) };
        on(isa, reference.judge(&asked.run::<T, T>()))?;
        on(isa, reference.judge_wide(&asked.run::<T, f32>()))?;
    }
    Ok(())
}

fn all_orders() -> impl Strategy<Value = [Order; 5]> {
    [orders(), orders(), orders(), orders(), orders()]
}

proptest! {
    #![proptest_config(tries(100))]

    #[test]
    fn small_in_f32(problem in problems(), orders in all_orders()) {
        is_right::<f32>(&problem, orders)?;
    }

    #[test]
    fn small_in_bf16(problem in problems(), orders in all_orders()) {
        is_right::<bf16>(&problem, orders)?;
    }

    #[test]
    fn small_in_f16(problem in problems(), orders in all_orders()) {
        is_right::<f16>(&problem, orders)?;
    }
}

proptest! {
    #![proptest_config(tries(24))]

    #[test]
    fn in_f32(problem in calls(), orders in all_orders()) {
        is_right::<f32>(&problem, orders)?;
    }

    #[test]
    fn in_bf16(problem in calls(), orders in all_orders()) {
        is_right::<bf16>(&problem, orders)?;
    }

    #[test]
    fn in_f16(problem in calls(), orders in all_orders()) {
        is_right::<f16>(&problem, orders)?;
    }
}

proptest! {
    #![proptest_config(tries(200))]

    #[test]
    fn live_pairs_are_those_of_the_definition(problem in calls()) {
        let plan = Asked::new(&problem, Isa::best()).plan();
        let live = problem.pairs().filter(|pair| problem.allows(pair)).count();
        prop_assert_eq!(plan.live_pairs() as usize, live);
    }
}
