//! The same bits, whatever else is computed beside them.

use half::bf16;
use proptest::prelude::*;
use regard_oracle::{Problem, Set, Sizes, problems};
use regard_simd::Isa;
use regard_threads::Pool;

use crate::support::{Asked, Stored, Way, alone, calls, tries};

/// Small calls and calls of every regime.
fn all() -> impl Strategy<Value = Problem> {
    prop_oneof![problems(), calls()]
}

fn any_threads<T: Stored>(problem: &Problem, pools: &[Pool]) -> Result<(), TestCaseError> {
    for isa in Way::all() {
        let asked = Asked::new(problem, isa);
        let first = asked.results::<T>().bits();
        for pool in pools {
            // Planned anew, too.
            for ((name, first), (_, again)) in first.iter().zip(Asked { pool, ..asked }.results::<T>().bits()) {
                prop_assert!(*first == again, "{isa} on {} threads: {name}", pool.threads());
            }
        }
    }
    Ok(())
}

/// A sequence of a call is the call of itself, if dropout knows it by the same number.
fn any_company<T: Stored>(problem: &Problem) -> Result<(), TestCaseError> {
    for isa in Way::all() {
        let together = Asked::new(problem, isa).results::<T>();
        for (number, sequence) in problem.sequences.iter().enumerate() {
            let own = alone(problem, sequence);
            let single = Asked { ids: Some(&[number as u64]), ..Asked::new(&own, isa) }.results::<T>();
            let (single, together) = (single.bits_of(&own, &own.sequences[0]), together.bits_of(problem, sequence));
            for ((name, single), (_, together)) in single.into_iter().zip(together) {
                prop_assert!(single == together, "{isa}: {name} of sequence {number}");
            }
        }
    }
    Ok(())
}

/// The sequences of a call in another order, each with its number.
fn any_order<T: Stored>(problem: &Problem, first: usize) -> Result<(), TestCaseError> {
    let mut order: Vec<usize> = (0..problem.sequences.len()).rev().collect();
    let first = first % order.len().max(1);
    order.rotate_left(first);
    let sequences = order.iter().map(|&number| problem.sequences[number].clone()).collect();
    let ids: Vec<u64> = order.iter().map(|&number| number as u64).collect();
    let other = Problem { sequences, ..problem.clone() };
    for isa in Way::all() {
        let one = Asked::new(problem, isa).results::<T>();
        let another = Asked { ids: Some(&ids), ..Asked::new(&other, isa) }.results::<T>();
        // What is added up over sequences is so in their order.
        for ((name, one), (_, another)) in one.bits().into_iter().zip(another.bits()).take(5) {
            prop_assert!(one == another, "{isa}: {name}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(tries(40))]

    #[test]
    fn on_any_number_of_threads(problem in all()) {
        let pools = [1, 1, 3].map(|threads| Pool::new(threads).expect("threads"));
        any_threads::<f32>(&problem, &pools)?;
        any_threads::<bf16>(&problem, &pools)?;
    }

    #[test]
    fn alone_padded_or_packed(problem in all()) {
        any_company::<f32>(&problem)?;
        any_company::<bf16>(&problem)?;
    }

    #[test]
    fn packed_in_any_order(problem in all(), first: usize) {
        any_order::<f32>(&problem, first)?;
        any_order::<bf16>(&problem, first)?;
    }
}

#[test]
fn another_number_is_another_dropout() {
    let sizes = Sizes { batch: 1, heads: 2, kv_heads: 1, queries: 20, keys: 70, dim_k: 8, dim_v: 8 };
    let problem = Problem { dropout: Some(0.3), ..Problem::of(sizes, Set::Causal, 1) };
    let asked = Asked::new(&problem, Isa::best());
    let by = |id: u64| Asked { ids: Some(&[id]), ..asked }.results::<f32>().bits();
    assert_eq!(by(0), asked.results::<f32>().bits());
    assert_ne!(by(1 << 40), by(0));
}

/// Whether an entry's scattered keys are gathered depends on its own mask, not on what another keeps.
#[test]
fn few_keys_beside_a_scattered_mask() {
    let few = Set::GlobalKeys(vec![3, 100, 222]);
    let scattered = Set::KeySet((0..300).map(|key| key % 41 == 5).collect());
    let sizes = Sizes { batch: 2, heads: 2, kv_heads: 1, queries: 40, keys: 300, dim_k: 16, dim_v: 16 };
    let problem = Problem::of(sizes, Set::ByBatch(vec![few, scattered]), 1);
    for isa in Isa::available() {
        let together = Asked::new(&problem, isa);
        assert!(together.plan().layout(1, 0).lists() > 0, "the scattered keys are gathered");
        let together = together.results::<f32>();
        for (number, sequence) in problem.sequences.iter().enumerate() {
            let own = alone(&problem, sequence);
            let single = Asked { ids: Some(&[number as u64]), ..Asked::new(&own, isa) }.results::<f32>();
            assert_eq!(single.bits_of(&own, &own.sequences[0]), together.bits_of(&problem, sequence), "{isa}");
        }
    }
}
