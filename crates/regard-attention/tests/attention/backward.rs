//! Gradients, against the definition in f64.

use half::{bf16, f16};
use proptest::prelude::*;
use regard_oracle::{Precision, Problem, Set, Sizes, problems};

use crate::support::{Asked, Backward, Order, Precisions, Stored, Way, calls, on, orders, tries};

/// All gradients of a call are as their definition says on every instruction set, in its own type and in f32.
fn are_right<T: Stored>(problem: &Problem, orders: [Order; 5]) -> Result<(), TestCaseError> {
    let problem = &problem.rounded(T::PRECISIONS.stored);
    let reference = Backward::new(problem, Precisions { result: Precision::F32, ..T::PRECISIONS });
    for isa in Way::all() {
        let asked = Asked { orders, ..Asked::new(problem, isa) };
        let outcome = asked.run::<T, T>();
        let wide = asked.backward::<T, f32>(&outcome);
        on(isa, reference.judge(&wide))?;
        // In the type of the inputs they are the same, rounded.
        let narrow = asked.backward::<T, T>(&outcome);
        for (narrow, wide) in [(narrow.dq, wide.dq), (narrow.dk, wide.dk), (narrow.dv, wide.dv)] {
            let rounded = wide.iter().map(|&x| T::PRECISIONS.result.round(x)).collect::<Vec<_>>();
            prop_assert!(narrow == rounded, "{isa}: not rounded from f32");
        }
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
        are_right::<f32>(&problem, orders)?;
    }

    #[test]
    fn small_in_bf16(problem in problems(), orders in all_orders()) {
        are_right::<bf16>(&problem, orders)?;
    }

    #[test]
    fn small_in_f16(problem in problems(), orders in all_orders()) {
        are_right::<f16>(&problem, orders)?;
    }
}

proptest! {
    #![proptest_config(tries(24))]

    #[test]
    fn in_f32(problem in calls(), orders in all_orders()) {
        are_right::<f32>(&problem, orders)?;
    }

    #[test]
    fn in_bf16(problem in calls(), orders in all_orders()) {
        are_right::<bf16>(&problem, orders)?;
    }

    #[test]
    fn in_f16(problem in calls(), orders in all_orders()) {
        are_right::<f16>(&problem, orders)?;
    }
}

#[test]
fn no_gradient_of_the_log_sum_exp_is_one_of_zeros() {
    let sizes = Sizes { batch: 2, heads: 4, kv_heads: 2, queries: 30, keys: 70, dim_k: 16, dim_v: 24 };
    let without = Problem { sinks: Some(vec![0.5; 4]), dlse: vec![], ..Problem::of(sizes, Set::Causal, 1) };
    let zeros = Problem { dlse: vec![0.0; sizes.lse().iter().product()], ..without.clone() };
    for isa in Way::all() {
        let [without, zeros] = [&without, &zeros].map(|problem| Asked::new(problem, isa).results::<f32>());
        assert_eq!(without.bits(), zeros.bits(), "{isa}");
    }
}
