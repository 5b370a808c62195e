//! Every path through the engine once, as small as it can be: what an interpreter can follow that checks each access.

use half::{bf16, f16};
use regard_attention::{Cache, CacheDtype, PagedCache};
use regard_oracle::{Precision, Problem, Set, Sizes};
use regard_simd::Isa;

use crate::support::{
    AnyCache, Asked, Backward, DTYPES, Forward, Outcome, Precisions, Stored, Way, decode, precisions_of, seen_through,
};

/// An interpreter takes a second for a few hundred pairs: there one panel is enough where all else joins the scores.
const KEYS: usize = if cfg!(miri) { 20 } else { 70 };

const SIZES: Sizes = Sizes { batch: 1, heads: 2, kv_heads: 1, queries: 7, keys: KEYS, dim_k: 3, dim_v: 5 };

fn problem(queries: usize, keys: usize, set: Set) -> Problem {
    Problem::of(Sizes { queries, keys, ..SIZES }, set, 11)
}

fn is_right(problem: &Problem, precisions: Precisions, outcome: &Outcome) {
    // An interpreter would take minutes for the reference; there it is the way to the result that is looked at.
    if cfg!(miri) {
        assert!(outcome.out.iter().all(|x| x.is_finite()), "{problem:?}");
    } else {
        assert_eq!(Forward::new(problem, precisions).judge(outcome), Ok(()), "{problem:?}");
    }
}

fn attends<T: Stored>(problem: &Problem) {
    let problem = problem.rounded(T::PRECISIONS.stored);
    for isa in Isa::available() {
        is_right(&problem, T::PRECISIONS, &Asked::new(&problem, isa).run::<T, T>());
    }
}

#[test]
fn a_small_head() {
    let problem = problem(7, 9, Set::Causal);
    attends::<f32>(&problem);
    attends::<bf16>(&problem);
    attends::<f16>(&problem);
}

#[test]
fn a_head_of_several_panels() {
    let problem =
        if cfg!(miri) { problem(7, 70, Set::causal_window(30)) } else { problem(7, 140, Set::causal_window(70)) };
    attends::<f32>(&problem);
    if !cfg!(miri) {
        attends::<bf16>(&problem);
    }
}

#[test]
fn many_keys() {
    attends::<f32>(&problem(if cfg!(miri) { 20 } else { 60 }, 520, Set::causal_window(3)));
    attends::<f32>(&problem(2, 520, Set::Full));
}

#[test]
fn one_query_of_many_keys() {
    attends::<f32>(&problem(1, 1100, Set::causal_window(90)));
}

#[test]
fn gathered_keys() {
    attends::<f32>(&problem(3, 400, Set::Strided(67)));
}

fn caches<C: AnyCache>() {
    let problem = problem(2, 70, Set::Causal);
    let dtypes = if cfg!(miri) { &[CacheDtype::F32, CacheDtype::Int8][..] } else { &DTYPES };
    for &dtype in dtypes {
        let problem = seen_through(dtype, &problem);
        for isa in Isa::available() {
            let outcome = decode::<C>(&problem, dtype, isa, &[60, 1, 2], true);
            is_right(&problem, precisions_of(dtype), &outcome);
        }
    }
}

#[test]
fn a_cache() {
    caches::<Cache>();
}

#[test]
fn a_cache_in_pages() {
    caches::<PagedCache>();
}

/// With whatever joins scores.
fn with_everything() -> Problem {
    let problem = Problem {
        softcap: Some(3.0),
        bias: Some(([1, 2, 7, 1], vec![0.0; 14])),
        slopes: Some(vec![0.1, 0.02]),
        sinks: Some(vec![0.0; 2]),
        dropout: Some(0.2),
        ..Problem::of(SIZES, Set::Causal, 0)
    };
    problem.redrawn(3).rounded(Precision::F32)
}

fn has_gradients(asked: Asked<'_>) {
    let slopes = asked.backward::<f32, f32>(&asked.run::<f32, f32>());
    if cfg!(miri) {
        assert!(slopes.dq.iter().all(|x| x.is_finite()));
    } else {
        assert_eq!(Backward::new(asked.problem, f32::PRECISIONS).judge(&slopes), Ok(()), "{}", asked.isa);
    }
}

#[test]
fn gradients_of_a_call_with_everything() {
    let problem = with_everything();
    Isa::available().for_each(|isa| has_gradients(Asked::new(&problem, isa)));
}

#[test]
fn edges() {
    let problem = with_everything();
    for way in Way::all().filter(|way| way.edges) {
        is_right(&problem, f32::PRECISIONS, &Asked::new(&problem, way).run::<f32, f32>());
        has_gradients(Asked::new(&problem, way));
    }
}
