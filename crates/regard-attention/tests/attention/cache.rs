//! Caches: however the tokens came, the result is that of the call without a cache.

use proptest::prelude::*;
use regard_attention::{Cache, CacheDtype, Error};
use regard_oracle::{Problem, Set, Sizes, numbers, problems_of};
use regard_simd::Isa;
use regard_threads::Pool;

use crate::support::{
    DTYPES, Forward, decode, keeps, on, pool, precisions_of, run_cached, run_cached_on, seen_through, tokens, tries,
};

/// The last tokens of one sequence, with any option but dropout, and masks that no later token changes the meaning of.
pub(crate) fn sessions() -> impl Strategy<Value = Problem> {
    let keys = prop_oneof![3 => 1..300_usize, 2 => 1025..2400_usize];
    let dim = || prop::sample::select(vec![1, 16, 33, 64]);
    let sizes = (1..=3_usize, 1..=4_usize, keys, 1..=24_usize, dim(), dim());
    let sizes = sizes.prop_map(|(kv_heads, group, keys, queries, dim_k, dim_v)| {
        let queries = queries.min(keys);
        Sizes { batch: 1, heads: kv_heads * group, kv_heads, queries, keys, dim_k, dim_v }
    });
    problems_of(sizes).prop_map(|problem| {
        let (sequences, set) = (problem.sizes.whole(None), Set::Causal & problem.set);
        Problem { sequences, set, dropout: None, ..problem }
    })
}

/// Lengths of chunks: all single tokens, all at once, or anything.
pub(crate) fn chunks() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), Just(vec![usize::MAX / 2]), prop::collection::vec(1..150_usize, 1..9)]
}

proptest! {
    #![proptest_config(tries(24))]

    #[test]
    fn a_cache_changes_nothing(problem in sessions(), chunks in chunks(), junk: bool) {
        for dtype in DTYPES {
            let problem = seen_through(dtype, &problem);
            let reference = Forward::new(&problem, precisions_of(dtype));
            for isa in Isa::available() {
                on(isa, reference.judge(&decode::<Cache>(&problem, dtype, isa, &chunks, junk)))?;
            }
        }
    }

}

#[test]
fn a_full_cache_refuses_and_keeps_what_it_has() {
    let sizes = Sizes { batch: 1, heads: 2, kv_heads: 2, queries: 5, keys: 100, dim_k: 16, dim_v: 16 };
    let k = numbers(1, 2 * 100 * 16);
    let all = |range| tokens(&k, [1, 2, 100, 16], range);
    for dtype in DTYPES {
        let mut cache = Cache::new(dtype, 2, 16, 16, 100).expect("a cache");
        cache.append(all(0..90), all(0..90), Isa::best(), pool()).expect("room");
        let error = cache.append(all(0..11), all(0..11), Isa::best(), pool()).expect_err("no room");
        assert_eq!(error, Error::CacheFull { len: 90, capacity: 100, more: 11 });
        assert_eq!((cache.len(), cache.capacity(), cache.dtype()), (90, 100, dtype));
        // Neither has the refused append written over the last panel.
        cache.append(all(90..100), all(90..100), Isa::best(), pool()).expect("room");
        let problem = Problem::of(sizes, Set::Causal, 7);
        let bits = |cache: &Cache| run_cached(&problem, &[cache], Isa::best()).bits();
        let mut at_once = Cache::new(dtype, 2, 16, 16, 100).expect("a cache");
        at_once.append(all(0..100), all(0..100), Isa::best(), pool()).expect("room");
        assert_eq!(bits(&cache), bits(&at_once));
    }
}

#[test]
fn a_fork_goes_its_own_way() {
    let sizes = Sizes { batch: 1, heads: 2, kv_heads: 2, queries: 1, keys: 80, dim_k: 16, dim_v: 16 };
    let (k, other) = (numbers(1, 2 * 80 * 16), numbers(2, 2 * 80 * 16));
    let take = |x, range| tokens(x, [1, 2, 80, 16], range);
    let append = |cache: &mut Cache, x, range: std::ops::Range<usize>| {
        cache.append(take(x, range.clone()), take(x, range), Isa::best(), pool()).expect("room");
    };
    let problem = Problem::of(sizes, Set::Causal, 7);
    let bits = |cache: &Cache| run_cached(&problem, &[cache], Isa::best()).bits();
    let mut cache = Cache::new(CacheDtype::F32, 2, 16, 16, 80).expect("a cache");
    append(&mut cache, &k, 0..70);
    let mut fork = cache.fork().expect("memory");
    append(&mut cache, &k, 70..80);
    let before = bits(&cache);
    append(&mut fork, &other, 70..80);
    assert_eq!(bits(&cache), before);
    assert_ne!(bits(&fork), before);
    fork.truncate(70);
    append(&mut fork, &k, 70..80);
    assert_eq!(bits(&fork), before);
}

#[test]
fn what_a_cache_cannot_hold_stays_behind_the_mask() {
    let sizes = Sizes { batch: 1, heads: 1, kv_heads: 1, queries: 70, keys: 70, dim_k: 16, dim_v: 16 };
    for (dtype, large) in [(CacheDtype::F16, 1e5), (CacheDtype::F16, 65_520.0), (CacheDtype::Bf16, f32::MAX)] {
        for sign in [1.0, -1.0] {
            let mut problem = seen_through(dtype, &Problem::of(sizes, Set::Causal, 3));
            // A number of a vector, and one behind the last whole vector of a shorter row.
            for column in [0, 15] {
                problem.v[60 * 16 + column] = sign * large;
            }
            for isa in Isa::available() {
                let mut cache = Cache::new(dtype, 1, 16, 16, 70).expect("a cache");
                let all = |x| tokens(x, [1, 1, 70, 16], 0..70);
                cache.append(all(&problem.k), all(&problem.v), isa, pool()).expect("room");
                let outcome = run_cached(&problem, &[&cache], isa);
                let (before, after) = outcome.out.split_at(60 * 16);
                assert!(before.iter().all(|x| x.is_finite()), "{dtype:?} {large} on {isa}");
                assert!(after.chunks(16).all(|row| row[0] == f32::INFINITY * sign), "{dtype:?} {large} on {isa}");
            }
        }
    }
}

#[test]
fn a_long_cache_gives_the_same_bits_on_any_number_of_threads() {
    let sizes = Sizes { batch: 1, heads: 6, kv_heads: 2, queries: 1, keys: 3500, dim_k: 64, dim_v: 48 };
    let pools = [1, 3].map(|threads| Pool::new(threads).expect("threads"));
    for dtype in DTYPES {
        for set in [Set::Causal, Set::causal_window(2100)] {
            let problem = Problem::of(sizes, set, 11);
            let mut cache = Cache::new(dtype, 2, 64, 48, 3500).expect("a cache");
            let (k, v) = (tokens(&problem.k, sizes.k(), 0..3500), tokens(&problem.v, sizes.v(), 0..3500));
            cache.append(k, v, Isa::best(), pool()).expect("room");
            let first = run_cached(&problem, &[&cache], Isa::best()).bits();
            for pool in &pools {
                let again = run_cached_on(&problem, &[&cache], Isa::best(), pool).bits();
                assert_eq!(again, first, "{dtype:?} on {} threads", pool.threads());
            }
        }
    }
}

#[test]
fn sizes_that_no_memory_holds_are_errors() {
    for (kv_heads, dim_k, dim_v, capacity) in [
        (1, 1 << 59, 16, 64),
        (1, 16, 1 << 59, 64),
        (1, usize::MAX, 16, 1),
        (1, 16, usize::MAX, 1),
        (usize::MAX, 16, 16, 1),
        (2, 16, 16, usize::MAX),
    ] {
        for dtype in DTYPES {
            assert!(Cache::new(dtype, kv_heads, dim_k, dim_v, capacity).is_err(), "{kv_heads} {dim_k} {dim_v}");
        }
    }
}

#[test]
fn bytes_are_off_by_their_rounding_alone() {
    let sizes = Sizes { batch: 1, heads: 4, kv_heads: 2, queries: 9, keys: 1500, dim_k: 40, dim_v: 24 };
    let mut problem = Problem::of(sizes, Set::Causal, 21);
    // Rows of all lengths: a scale is a row's own.
    let lengths = numbers(22, 2 * 1500);
    let lengthen = |x: &mut [f32], dim, by: f32| {
        x.chunks_exact_mut(dim)
            .zip(&lengths)
            .for_each(|(row, length)| row.iter_mut().for_each(|x| *x *= (by * length).exp()));
    };
    lengthen(&mut problem.k, 40, 0.5);
    lengthen(&mut problem.v, 24, 3.0);
    let rounded = |x: &[f32], dim| {
        let row = |row: &[f32]| {
            let scale = row.iter().fold(0.0, |max: f32, x| max.max(x.abs())) / 127.0;
            // Not divided by the scale: that may round to the other neighbour.
            let factor = 1.0 / scale;
            row.iter().map(|x| scale * (x * factor).round_ties_even()).collect::<Vec<_>>()
        };
        x.chunks_exact(dim).flat_map(row).collect::<Vec<_>>()
    };
    let stored = Problem { k: rounded(&problem.k, 40), v: rounded(&problem.v, 24), ..problem.clone() };
    let exact = stored.define(|pair| keeps(&stored, pair), |call| call.exact());
    let largest = exact.out.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    for isa in Isa::available() {
        let mut cache = Cache::new(CacheDtype::Int8, 2, 40, 24, 1500).expect("a cache");
        let (k, v) = (tokens(&problem.k, sizes.k(), 0..1500), tokens(&problem.v, sizes.v(), 0..1500));
        cache.append(k, v, isa, pool()).expect("room");
        let outcome = run_cached(&problem, &[&cache], isa);
        let off = outcome.out.iter().zip(&exact.out).fold(0.0, |max: f64, (x, y)| max.max((f64::from(*x) - y).abs()));
        assert!(off < 2e-5 * largest, "{isa}: off by {off}, of numbers to {largest}");
    }
}
