//! NaN, infinities, rows without keys, and shapes without anything.

use half::{bf16, f16};
use proptest::prelude::*;
use regard_attention::{Cache, CacheDtype, Shape};
use regard_simd::Isa;

use crate::support::{
    Case, DTYPES, Inputs, Reference, Set, Stored, decode, on, precisions_of, run, seen_through, sets, tries,
};

/// Puts odd numbers into a few places of the queries, keys or values.
fn spoil(inputs: &mut Inputs, places: &[(usize, usize, f32)]) {
    for &(tensor, at, odd) in places {
        let numbers = [&mut inputs.q, &mut inputs.k, &mut inputs.v][tensor].as_mut_slice();
        if !numbers.is_empty() {
            let at = at % numbers.len();
            numbers[at] = odd;
        }
    }
}

/// Keys and values more often than queries; few, so that most rows stay sound.
fn places() -> impl Strategy<Value = Vec<(usize, usize, f32)>> {
    let odd = prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    prop::collection::vec((prop::sample::select(vec![0, 1, 1, 1, 2, 2, 2]), any::<usize>(), odd), 1..6)
}

fn calls(batch: usize) -> impl Strategy<Value = Case> {
    let keys = prop_oneof![3 => 1..300_usize, 1 => 500..700_usize, 1 => 1025..1300_usize];
    let dim = || prop::sample::select(vec![1, 7, 16, 33]);
    (1..=2_usize, 1..=3_usize, 1..=40_usize, keys, dim(), dim(), sets(), any::<u64>()).prop_map(
        move |(kv_heads, group, queries, keys, dim_k, dim_v, set, seed)| {
            Case::of(Shape { batch, heads: kv_heads * group, kv_heads, queries, keys, dim_k, dim_v }, set, seed)
        },
    )
}

/// The definition never looks at what the mask removes; what it keeps spreads by the rules of arithmetic.
fn as_defined<T: Stored>(case: &Case, places: &[(usize, usize, f32)]) -> Result<(), TestCaseError> {
    let mut inputs = case.inputs().rounded(T::PRECISIONS.stored);
    spoil(&mut inputs, places);
    let reference = Reference::new(case, &inputs, T::PRECISIONS);
    for isa in Isa::available() {
        on(isa, reference.judge(&run::<T>(case, &inputs, isa)))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(tries(60))]

    #[test]
    fn spread_to_whom_they_are_kept_for(case in calls(2), places in places()) {
        as_defined::<f32>(&case, &places)?;
        as_defined::<bf16>(&case, &places)?;
        as_defined::<f16>(&case, &places)?;
    }

    #[test]
    fn spread_so_through_caches(mut case in calls(1), places in places(), chunks in prop::collection::vec(1..99_usize, 1..5)) {
        case.shape.queries = case.shape.queries.min(case.shape.keys);
        case.set = Set::Causal & case.set;
        for dtype in DTYPES {
            let mut inputs = seen_through(dtype, &case);
            spoil(&mut inputs, &places);
            if dtype == CacheDtype::Int8 {
                // A scale is a row's: of what is not finite in one number nothing is known of the others.
                for (x, dim) in [(&mut inputs.k, case.shape.dim_k), (&mut inputs.v, case.shape.dim_v)] {
                    let odd = x.chunks_exact_mut(dim).filter(|row| row.iter().any(|x| !x.is_finite()));
                    odd.for_each(|row| row.fill(f32::NAN));
                }
            }
            let reference = Reference::new(&case, &inputs, precisions_of(dtype));
            for isa in Isa::available() {
                on(isa, reference.judge(&decode::<Cache>(&case, &inputs, dtype, isa, &chunks, false)))?;
            }
        }
    }
}

#[test]
fn a_kept_infinite_score_is_nan_in_its_rows_alone() {
    let shape = Shape { batch: 1, heads: 1, kv_heads: 1, queries: 100, keys: 100, dim_k: 8, dim_v: 8 };
    let case = Case::of(shape, Set::Causal, 3);
    let mut inputs = case.inputs();
    // All queries have a positive first element, so that the score of key 70 is +∞ for all who see it.
    inputs.q.chunks_exact_mut(8).for_each(|q| q[0] = q[0].abs() + 0.1);
    inputs.k[70 * 8] = f32::INFINITY;
    for isa in Isa::available() {
        let outcome = run::<f32>(&case, &inputs, isa);
        for (i, row) in outcome.out.chunks_exact(8).enumerate() {
            assert!(row.iter().all(|x| x.is_nan() == (i >= 70)), "{isa}: query {i} is {row:?}");
        }
    }
}

#[test]
fn rows_without_keys_are_empty() {
    let shape = Shape { batch: 2, heads: 4, kv_heads: 2, queries: 50, keys: 30, dim_k: 8, dim_v: 8 };
    // Queries 0 to 19 stand before the first key.
    let case = Case::of(shape, Set::Causal, 3);
    for isa in Isa::available() {
        for outcome in [run::<f32>(&case, &case.inputs(), isa), run::<bf16>(&case, &case.inputs(), isa)] {
            for (row, (out, &lse)) in outcome.out.chunks_exact(8).zip(&outcome.lse).enumerate() {
                let empty = row % 50 < 20;
                assert_eq!(lse == f32::NEG_INFINITY, empty, "{isa}: {row}");
                assert_eq!(out.iter().all(|x| x.to_bits() == 0), empty, "{isa}: {row}");
            }
        }
    }
}

#[test]
fn shapes_without_anything() {
    let shape = Shape { batch: 2, heads: 4, kv_heads: 2, queries: 5, keys: 7, dim_k: 8, dim_v: 3 };
    for shape in [
        Shape { batch: 0, ..shape },
        Shape { heads: 0, kv_heads: 0, ..shape },
        Shape { heads: 0, ..shape },
        Shape { heads: 0, keys: 600, ..shape },
        Shape { heads: 0, keys: 3000, ..shape },
        Shape { heads: 0, queries: 600, keys: 3000, ..shape },
        Shape { queries: 0, ..shape },
        Shape { keys: 0, ..shape },
        Shape { queries: 0, keys: 0, ..shape },
        Shape { dim_v: 0, ..shape },
        Shape { dim_v: 0, keys: 2000, ..shape },
    ] {
        let case = Case::of(shape, Set::Full, 1);
        let reference = Reference::new(&case, &case.inputs(), f32::PRECISIONS);
        for isa in Isa::available() {
            let judged = reference.judge(&run::<f32>(&case, &case.inputs(), isa));
            assert_eq!(judged, Ok(()), "{shape:?} on {isa}");
        }
    }
}
