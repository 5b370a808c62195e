//! NaN, infinities, dead rows and rows without keys in the backward pass: each rule by itself.

use half::{bf16, f16};
use proptest::prelude::*;
use regard_oracle::{Problem, Sequence, Set, Sizes, problems};

use crate::support::{Asked, Backward, Slopes, Stored, Way, calls, on, spoilt, tries};

const SIZES: Sizes = Sizes { batch: 1, heads: 4, kv_heads: 2, queries: 50, keys: 30, dim_k: 8, dim_v: 8 };

/// What spreads does so as the definition says: whether it arrives as NaN or as an infinity is the order of additions.
///
/// No query and no key is infinite: in a row that is NaN, a weight of a score of −∞ is as good as none and as good as NaN.
fn as_defined<T: Stored>(problem: &Problem) -> Result<(), TestCaseError> {
    let mut problem = problem.rounded(T::PRECISIONS.stored);
    let Problem { q, k, .. } = &mut problem;
    q.iter_mut().chain(k).filter(|x| x.is_infinite()).for_each(|x| *x = f32::NAN);
    let problem = &problem;
    let mut reference = Backward::new(problem, T::PRECISIONS);
    let exact = &mut reference.exact;
    for gradient in [&mut exact.dq, &mut exact.dk, &mut exact.dv, &mut exact.dbias, &mut exact.dsinks] {
        gradient.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = f64::NAN);
    }
    for isa in Way::all() {
        let asked = Asked::new(problem, isa);
        let Slopes { mut dq, mut dk, mut dv, mut dbias, mut dsinks } = asked.results::<T>().slopes;
        for gradient in [&mut dq, &mut dk, &mut dv, &mut dbias, &mut dsinks] {
            gradient.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = f32::NAN);
        }
        on(isa, reference.judge(&Slopes { dq, dk, dv, dbias, dsinks }))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(tries(60))]

    #[test]
    fn spread_to_whom_they_are_kept_for_in_small_calls(problem in spoilt(problems())) {
        as_defined::<f32>(&problem)?;
        as_defined::<bf16>(&problem)?;
        as_defined::<f16>(&problem)?;
    }
}

proptest! {
    #![proptest_config(tries(12))]

    #[test]
    fn spread_to_whom_they_are_kept_for(problem in spoilt(calls())) {
        as_defined::<f32>(&problem)?;
        as_defined::<bf16>(&problem)?;
    }
}

fn zeros(x: &[f32]) -> bool {
    x.iter().all(|x| *x == 0.0)
}

/// Whether each row of 8 is of zeros.
fn zero_rows(x: &[f32]) -> Vec<bool> {
    x.chunks(8).map(zeros).collect()
}

#[test]
fn a_query_without_keys_has_no_gradient_and_adds_to_none() {
    // Queries 0 to 19 stand before the first key. What flows into them is nothing that counts.
    let mut problem = Problem::of(SIZES, Set::Causal, 3);
    let sound = problem.clone();
    for head in 0..4 {
        problem.dout[head * 400..][..160].fill(f32::NAN);
        problem.dlse[head * 50..][..20].fill(f32::INFINITY);
        problem.q[head * 400..][..160].fill(f32::NAN);
    }
    for isa in Way::all() {
        let [slopes, expected] = [&problem, &sound].map(|problem| Asked::new(problem, isa).results::<f32>().slopes);
        for (row, zeros) in zero_rows(&slopes.dq).into_iter().enumerate() {
            assert_eq!(zeros, row % 50 < 20, "{isa}: query {row}");
        }
        assert_eq!((slopes.dk, slopes.dv), (expected.dk, expected.dv), "{isa}");
    }
}

#[test]
fn a_query_without_keys_gives_its_sink_the_gradient_of_the_log_sum_exp() {
    let mut problem = Problem { sinks: Some(vec![0.5, -3.0, 60.0, 0.0]), ..Problem::of(SIZES, !Set::Full, 3) };
    problem.dout.fill(f32::NAN);
    for isa in Way::all() {
        let slopes = Asked::new(&problem, isa).results::<f32>().slopes;
        for (head, dsink) in slopes.dsinks.iter().enumerate() {
            let expected: f64 = problem.dlse[head * 50..][..50].iter().map(|&x| f64::from(x)).sum();
            assert!((f64::from(*dsink) - expected).abs() < 1e-5, "{isa}: {dsink}, expected {expected}");
        }
        assert!(zeros(&slopes.dq) && zeros(&slopes.dk) && zeros(&slopes.dv), "{isa}");
    }
}

#[test]
fn dead_queries_and_keys_have_no_gradient() {
    let mut problem = Problem { sinks: Some(vec![1.0; 4]), ..Problem::of(SIZES, Set::Full, 3) };
    problem.sequences = vec![
        Sequence { batch: 0, queries: 3..7, keys: 0..10, offset: 0 },
        Sequence { batch: 0, queries: 40..45, keys: 12..29, offset: 0 },
        // Nobody sees these keys; they are not dead.
        Sequence { batch: 0, queries: 50..50, keys: 11..12, offset: 0 },
    ];
    let lives = |row: usize| (3..7).contains(&row) || (40..45).contains(&row);
    let is_seen = |key: usize| key < 10 || (12..29).contains(&key);
    // Whatever dead rows hold.
    for row in (0..200).filter(|row| !lives(row % 50)) {
        problem.q[row * 8] = f32::NAN;
        problem.dout[row * 8 + 1] = f32::INFINITY;
        problem.dlse[row] = f32::NAN;
    }
    for row in (0..60).filter(|row| !is_seen(row % 30)) {
        (problem.k[row * 8 + 7], problem.v[row * 8]) = (f32::NAN, f32::NAN);
    }
    for isa in Way::all() {
        let slopes = Asked::new(&problem, isa).results::<f32>().slopes;
        let rows = |x: &[f32]| zero_rows(x).into_iter().enumerate().collect::<Vec<_>>();
        assert!(rows(&slopes.dq).into_iter().all(|(row, zeros)| zeros != lives(row % 50)), "{isa}");
        for gradient in [&slopes.dk, &slopes.dv] {
            assert!(rows(gradient).into_iter().all(|(row, zeros)| zeros != is_seen(row % 30)), "{isa}");
        }
        for x in [&slopes.dq, &slopes.dk, &slopes.dv, &slopes.dsinks] {
            assert!(x.iter().all(|x| x.is_finite()), "{isa}");
        }
    }
}

/// 60 causal queries of one head.
fn causal() -> Problem {
    let sizes = Sizes { batch: 1, heads: 1, kv_heads: 1, queries: 60, keys: 60, dim_k: 8, dim_v: 8 };
    Problem::of(sizes, Set::Causal, 3)
}

/// Which rows of dq, dk and dv hold what is not finite; all of it or none.
fn odd_rows(problem: &Problem, isa: Way) -> [Vec<bool>; 3] {
    let Slopes { dq, dk, dv, .. } = Asked::new(problem, isa).results::<f32>().slopes;
    [dq, dk, dv].map(|x| {
        let odd = |row: &[f32]| {
            let odd = row.iter().filter(|x| !x.is_finite()).count();
            assert!(odd == 0 || odd == row.len(), "{isa}: {row:?}");
            odd > 0
        };
        x.chunks(8).map(odd).collect()
    })
}

fn rows(odd: impl Fn(usize) -> bool) -> Vec<bool> {
    (0..60).map(odd).collect()
}

#[test]
fn a_gradient_of_nan_reaches_its_query_and_the_keys_it_sees() {
    let mut of_out = causal();
    of_out.dout[33 * 8..][..8].fill(f32::NAN);
    let mut of_lse = causal();
    of_lse.dlse[33] = f32::NAN;
    for isa in Way::all() {
        assert_eq!(odd_rows(&of_out, isa), [rows(|i| i == 33), rows(|j| j <= 33), rows(|j| j <= 33)], "{isa}");
        // The log-sum-exp knows no values.
        assert_eq!(odd_rows(&of_lse, isa), [rows(|i| i == 33), rows(|j| j <= 33), rows(|_| false)], "{isa}");
    }
}

#[test]
fn a_key_of_nan_reaches_the_queries_that_see_it_and_the_keys_that_these_see() {
    let mut problem = causal();
    problem.k[40 * 8 + 3] = f32::NAN;
    for isa in Way::all() {
        // The last query sees every key.
        assert_eq!(odd_rows(&problem, isa), [rows(|i| i >= 40), rows(|_| true), rows(|_| true)], "{isa}");
        // Where only query 45 sees it, only what query 45 sees is hit.
        let one = Problem {
            set: Set::Causal & (!Set::GlobalKeys(vec![40]) | Set::GlobalQueries(vec![45])),
            ..problem.clone()
        };
        assert_eq!(odd_rows(&one, isa), [rows(|i| i == 45), rows(|j| j <= 45), rows(|j| j <= 45)], "{isa}");
    }
}
