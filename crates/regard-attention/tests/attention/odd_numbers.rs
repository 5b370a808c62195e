//! NaN, infinities and rows without keys in the forward pass: each rule by itself.

use half::{bf16, f16};
use proptest::prelude::*;
use regard_attention::{Cache, CacheDtype};
use regard_oracle::{Problem, Sequence, Set, Sizes};
use regard_simd::Isa;

use crate::cache::{chunks, sessions};
use crate::support::{
    Asked, Backward, DTYPES, Doubled, Forward, Stored, Way, calls, close, decode, on, places, precisions_of,
    seen_through, spoil, spoilt, tries,
};

const SIZES: Sizes = Sizes { batch: 2, heads: 4, kv_heads: 2, queries: 50, keys: 30, dim_k: 8, dim_v: 8 };

/// The definition never looks at what mask, bias and lengths remove; what they keep spreads by the rules of arithmetic.
fn as_defined<T: Stored>(problem: &Problem) -> Result<(), TestCaseError> {
    let problem = &problem.rounded(T::PRECISIONS.stored);
    let reference = Forward::new(problem, T::PRECISIONS);
    for isa in Way::all() {
        on(isa, reference.judge(&Asked::new(problem, isa).run::<T, T>()))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(tries(60))]

    #[test]
    fn spread_to_whom_they_are_kept_for_in_small_calls(problem in spoilt(regard_oracle::problems())) {
        as_defined::<f32>(&problem)?;
        as_defined::<bf16>(&problem)?;
        as_defined::<f16>(&problem)?;
    }
}

proptest! {
    #![proptest_config(tries(20))]

    #[test]
    fn spread_to_whom_they_are_kept_for(problem in spoilt(calls())) {
        as_defined::<f32>(&problem)?;
        as_defined::<bf16>(&problem)?;
    }

    #[test]
    fn spread_so_through_caches(problem in sessions(), places in places(), chunks in chunks()) {
        for dtype in DTYPES {
            let mut problem = spoil(seen_through(dtype, &problem), &places);
            if dtype == CacheDtype::Int8 {
                // A scale is a row's: of what is not finite in one number nothing is known of the others.
                let Problem { sizes, k, v, .. } = &mut problem;
                for (x, dim) in [(k, sizes.dim_k), (v, sizes.dim_v)] {
                    let odd = x.chunks_exact_mut(dim).filter(|row| row.iter().any(|x| !x.is_finite()));
                    odd.for_each(|row| row.fill(f32::NAN));
                }
            }
            let reference = Forward::new(&problem, precisions_of(dtype));
            for isa in Isa::available() {
                on(isa, reference.judge(&decode::<Cache>(&problem, dtype, isa, &chunks, false)))?;
            }
        }
    }
}

/// Whether each of the 50 queries of each batch entry and head gives zeros and this log-sum-exp.
fn empties(out: &[f32], lse: &[f32], empty: f32) -> Vec<bool> {
    let zeros = |row: &[f32]| row.iter().all(|x| x.to_bits() == 0);
    out.chunks(SIZES.dim_v).zip(lse).map(|(out, lse)| zeros(out) && lse.to_bits() == empty.to_bits()).collect()
}

#[test]
fn a_query_without_keys_gives_nothing() {
    // Queries 0 to 19 stand before the first key.
    let problem = Problem::of(SIZES, Set::Causal, 3);
    for isa in Way::all() {
        let asked = Asked::new(&problem, isa);
        for outcome in [asked.run::<f32, f32>(), asked.run::<bf16, bf16>(), asked.run::<f16, f16>()] {
            for (row, empty) in empties(&outcome.out, &outcome.lse, f32::NEG_INFINITY).into_iter().enumerate() {
                assert_eq!(empty, row % 50 < 20, "{isa}: {row}");
            }
        }
    }
}

#[test]
fn a_query_without_keys_has_its_sink_as_log_sum_exp() {
    let sinks = vec![0.5, -3.0, 60.0, f32::NEG_INFINITY];
    let problem = Problem { sinks: Some(sinks.clone()), ..Problem::of(SIZES, Set::Causal, 3) };
    for isa in Way::all() {
        let outcome = Asked::new(&problem, isa).run::<f32, f32>();
        for (head, &sink) in sinks.iter().enumerate() {
            let rows = head * 50..(head + 1) * 50;
            let out = &outcome.out[rows.start * SIZES.dim_v..rows.end * SIZES.dim_v];
            for (i, empty) in empties(out, &outcome.lse[rows], sink).into_iter().enumerate() {
                assert_eq!(empty, i < 20, "{isa}: head {head}, query {i}");
            }
        }
    }
}

#[test]
fn a_dead_query_gives_nothing_and_has_no_sink() {
    let mut problem = Problem { sinks: Some(vec![1.0; 4]), ..Problem::of(SIZES, Set::Full, 3) };
    problem.sequences = vec![
        Sequence { batch: 0, queries: 3..7, keys: 0..10, offset: 0 },
        Sequence { batch: 0, queries: 40..45, keys: 10..30, offset: 0 },
    ];
    for isa in Way::all() {
        let outcome = Asked::new(&problem, isa).run::<f32, f32>();
        for (row, empty) in empties(&outcome.out, &outcome.lse, f32::NEG_INFINITY).into_iter().enumerate() {
            let lives = row < 200 && ((3..7).contains(&(row % 50)) || (40..45).contains(&(row % 50)));
            assert_eq!(empty, !lives, "{isa}: {row}");
        }
    }
}

/// A hundred causal queries whose first element is positive.
fn causal() -> Problem {
    let sizes = Sizes { batch: 1, heads: 1, kv_heads: 1, queries: 100, keys: 100, dim_k: 8, dim_v: 8 };
    let mut problem = Problem::of(sizes, Set::Causal, 3);
    problem.q.chunks_exact_mut(8).for_each(|q| q[0] = q[0].abs() + 0.1);
    problem
}

/// Which queries have results that are NaN throughout; the others have none.
fn nan_rows(problem: &Problem, isa: Way) -> Vec<bool> {
    let outcome = Asked::new(problem, isa).run::<f32, f32>();
    let rows = outcome.out.chunks_exact(8).zip(&outcome.lse);
    rows.map(|(out, lse)| {
        assert!(out.iter().all(|x| x.is_nan() == lse.is_nan()), "{isa}: {out:?} and {lse}");
        lse.is_nan()
    })
    .collect()
}

#[test]
fn a_kept_infinite_score_is_nan_in_its_rows_alone() {
    for odd in [f32::INFINITY, f32::NAN] {
        let mut problem = causal();
        problem.k[70 * 8] = odd;
        for isa in Way::all() {
            assert_eq!(nan_rows(&problem, isa), (0..100).map(|i| i >= 70).collect::<Vec<_>>(), "{isa}: {odd}");
        }
    }
}

#[test]
fn a_kept_bias_of_nan_or_infinity_is_nan_in_its_rows_alone() {
    for odd in [f32::INFINITY, f32::NAN] {
        let mut values = vec![0.0; 100 * 100];
        // One below the diagonal, one above.
        (values[30 * 100 + 20], values[40 * 100 + 50]) = (odd, odd);
        let problem = Problem { bias: Some(([1, 1, 100, 100], values)), ..causal() };
        for isa in Way::all() {
            assert_eq!(nan_rows(&problem, isa), (0..100).map(|i| i == 30).collect::<Vec<_>>(), "{isa}: {odd}");
        }
    }
}

#[test]
fn a_query_that_is_nan_is_so_alone() {
    let mut problem = causal();
    problem.q[33 * 8 + 5] = f32::NAN;
    for isa in Way::all() {
        assert_eq!(nan_rows(&problem, isa), (0..100).map(|i| i == 33).collect::<Vec<_>>(), "{isa}");
    }
}

#[test]
fn a_score_of_minus_infinity_weighs_nothing() {
    let mut problem = causal();
    problem.k[70 * 8] = f32::NEG_INFINITY;
    // As if the key were not there.
    let without = Problem { set: Set::Causal & !Set::GlobalKeys(vec![70]), ..causal() };
    let reference = Forward::new(&without, f32::PRECISIONS);
    for isa in Way::all() {
        let outcome = Asked::new(&problem, isa).run::<f32, f32>();
        reference.judge(&outcome).unwrap_or_else(|what| panic!("{isa}: {what}"));
    }
}

#[test]
fn calls_without_queries_or_keys() {
    let sizes = Sizes { batch: 2, heads: 4, kv_heads: 2, queries: 5, keys: 7, dim_k: 8, dim_v: 3 };
    for sizes in [
        Sizes { queries: 0, ..sizes },
        Sizes { keys: 0, ..sizes },
        Sizes { queries: 0, keys: 0, ..sizes },
        Sizes { keys: 0, queries: 600, ..sizes },
        Sizes { queries: 0, keys: 3000, ..sizes },
    ] {
        let problem = Problem::of(sizes, Set::Full, 1);
        let forward = Forward::new(&problem, f32::PRECISIONS);
        let backward = Backward::new(&problem, f32::PRECISIONS);
        let doubled = Doubled::new(&problem);
        let attended = doubled.run();
        let gradients = doubled.backward(&attended);
        for (ours, exact) in [
            (&attended.out, &forward.exact.out),
            (&attended.lse, &forward.exact.lse),
            (&gradients.dq, &backward.exact.dq),
            (&gradients.dk, &backward.exact.dk),
            (&gradients.dv, &backward.exact.dv),
        ] {
            assert_eq!(close(ours, exact, 1e-12), Ok(()), "{sizes:?} in f64");
        }
        for isa in Way::all() {
            let results = Asked::new(&problem, isa).results::<f32>();
            assert_eq!(forward.judge(&results.outcome), Ok(()), "{sizes:?} on {isa}");
            assert_eq!(backward.judge(&results.slopes), Ok(()), "{sizes:?} on {isa}");
        }
    }
}
