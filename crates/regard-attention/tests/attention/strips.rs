//! Long sequences whose masks keep few keys at a time: cut into strips, which hold what their queries keep.

use half::{bf16, f16};
use proptest::prelude::*;
use regard_attention::{Crossovers, Regime};
use regard_oracle::{Problem, Set, Sizes};
use regard_simd::Isa;

use crate::support::{Asked, Forward, Stored, on, tries};

/// Masks of which a block of queries keeps a few panels of keys, and some far from these.
fn sets() -> impl Strategy<Value = Set> {
    let window = (0..30_usize, 0..30_usize).prop_map(|(left, right)| Set::Window(Some(left), Some(right)));
    let narrow =
        prop_oneof![window, (1..30_usize).prop_map(Set::causal_window), (1..30_usize).prop_map(Set::BlockDiagonal),];
    let globals = prop_oneof![
        2 => Just(None),
        1 => (1..20_usize).prop_map(|keys| Some(Set::Prefix(keys))),
        1 => prop::collection::vec(0..3200_usize, 1..3).prop_map(|keys| Some(Set::GlobalKeys(keys))),
    ];
    (narrow, globals).prop_map(|(narrow, globals)| match globals {
        Some(globals) => narrow | globals,
        None => narrow,
    })
}

fn problems() -> impl Strategy<Value = Problem> {
    let heads = prop_oneof![Just((1, 1)), Just((2, 2)), Just((2, 1)), Just((5, 1))];
    (heads, 3200..3300_usize, 0..200_usize, 1..20_usize, 1..20_usize, sets(), any::<u64>()).prop_map(
        |((heads, kv_heads), queries, more, dim_k, dim_v, set, seed)| {
            let sizes = Sizes { batch: 1, heads, kv_heads, queries, keys: queries + more, dim_k, dim_v };
            Problem::of(sizes, set, seed)
        },
    )
}

/// Strips give the bits of blocks, and these are right.
fn are_blocks<T: Stored>(problem: &Problem) -> Result<(), TestCaseError> {
    let problem = &problem.rounded(T::PRECISIONS.stored);
    let reference = Forward::new(problem, T::PRECISIONS);
    for isa in Isa::available() {
        let asked = Asked::new(problem, isa);
        let never = Crossovers { keys_of_a_strip: 0, ..Crossovers::default() };
        let blocks = Asked { crossovers: never, ..asked };
        let regime = |asked: &Asked<'_>| asked.plan().sequences()[0].regime();
        prop_assert_eq!((regime(&asked), regime(&blocks)), (Regime::Strips, Regime::Blocks));
        let outcome = asked.run::<T, T>();
        prop_assert!(outcome.bits() == blocks.run::<T, T>().bits(), "{isa}: other bits than those of blocks");
        on(isa, reference.judge(&outcome))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(tries(6))]

    #[test]
    fn are_blocks_in_f32(problem in problems()) {
        are_blocks::<f32>(&problem)?;
    }

    #[test]
    fn are_blocks_in_bf16(problem in problems()) {
        are_blocks::<bf16>(&problem)?;
    }

    #[test]
    fn are_blocks_in_f16(problem in problems()) {
        are_blocks::<f16>(&problem)?;
    }
}

/// Heads that would be small go block by block where they are cut.
#[test]
fn of_few_keys_are_cut_too() {
    let sizes = Sizes { batch: 1, heads: 2, kv_heads: 2, queries: 700, keys: 64, dim_k: 8, dim_v: 8 };
    let problem = &Problem::of(sizes, Set::Full, 1);
    let reference = Forward::new(problem, f32::PRECISIONS);
    for isa in Isa::available() {
        let crossovers = Crossovers { keys_of_a_head: 0, ..Crossovers::default() };
        let asked = Asked { crossovers, ..Asked::new(problem, isa) };
        assert_eq!(asked.plan().sequences()[0].regime(), Regime::Strips);
        assert_eq!(reference.judge(&asked.run::<f32, f32>()), Ok(()), "{isa}");
    }
}
