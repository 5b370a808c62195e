//! Pages: whatever sequences share, each is what it would be in a cache of its own.

use std::ops::Range;

use proptest::prelude::*;
use regard_attention::{Cache, CacheDtype, Cached, Outputs, PAGE, PagePool, PagedCache, Plan, Terms};
use regard_masks::Mask;
use regard_memory::{Tensor, TensorMut};
use regard_oracle::{Precision, Problem, Set, Sizes, numbers};
use regard_simd::Isa;

use crate::cache::{chunks, sessions};
use crate::support::{
    AnyCache, Asked, DTYPES, Forward, Outcome, decode, exact_in_bytes, on, pool, precisions_of, run_cached,
    seen_through, shape_of, soiled, tokens, tries,
};

const KV_HEADS: usize = 2;
const DIM: usize = 16;

fn sizes(queries: usize, keys: usize) -> Sizes {
    Sizes { batch: 1, heads: 2 * KV_HEADS, kv_heads: KV_HEADS, queries, keys, dim_k: DIM, dim_v: DIM }
}

/// A token of this name: its keys, or its values.
fn row(name: u64, of_values: bool) -> Vec<f32> {
    exact_in_bytes(&numbers(2 * name + u64::from(of_values), KV_HEADS * DIM), DIM)
}

/// The keys, or the values, of tokens: `[1, kv_heads, n, dim]`.
fn rows(names: &[u64], of_values: bool) -> Vec<f32> {
    let each: Vec<_> = names.iter().map(|&name| row(name, of_values)).collect();
    (0..KV_HEADS).flat_map(|head| each.iter().flat_map(move |row| row[head * DIM..][..DIM].to_vec())).collect()
}

fn append(cache: &mut impl AnyCache, names: &[u64], isa: Isa) {
    let (k, v) = (rows(names, false), rows(names, true));
    let shape = [1, KV_HEADS, names.len(), DIM];
    let of = |x| Tensor::contiguous(x, shape).expect("tokens");
    cache.append(of(&k), of(&v), isa);
}

/// What the last tokens see of all.
fn problem(names: &[u64], queries: usize) -> Problem {
    let asked = Problem::of(sizes(queries.min(names.len()), names.len()), Set::Causal, 5);
    Problem { k: rows(names, false), v: rows(names, true), ..asked }
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize, usize),
    Truncate(usize, f64),
    Fork(usize),
    Drop(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = || 0..100_usize;
    let n = prop_oneof![2 => 0..5_usize, 2 => 0..2 * PAGE, 1 => Just(PAGE), 1 => 1000..1200_usize];
    let step = prop_oneof![
        5 => (which(), n).prop_map(|(which, n)| Step::Append(which, n)),
        2 => (which(), 0.0..1.0).prop_map(|(which, share)| Step::Truncate(which, share)),
        3 => which().prop_map(Step::Fork),
        1 => which().prop_map(Step::Drop),
    ];
    prop::collection::vec(step, 1..16)
}

proptest! {
    #![proptest_config(tries(16))]

    #[test]
    fn pages_change_no_bit(problem in sessions(), chunks in chunks(), junk: bool) {
        for dtype in DTYPES {
            let problem = seen_through(dtype, &problem);
            for isa in Isa::available() {
                let whole = decode::<Cache>(&problem, dtype, isa, &chunks, junk).bits();
                let paged = decode::<PagedCache>(&problem, dtype, isa, &chunks, junk).bits();
                prop_assert!(whole == paged, "{:?} on {}", dtype, isa);
            }
        }
    }

    #[test]
    fn sequences_that_share_are_as_if_they_did_not(steps in steps(), dtype in prop::sample::select(&DTYPES[..])) {
        let isa = Isa::best();
        let pages = PagePool::new(dtype, KV_HEADS, DIM, DIM, 1 << 20).expect("a pool");
        let mut sequences = vec![(PagedCache::new(&pages), Vec::new())];
        let mut names = 0_u64..;
        for step in steps {
            let count = sequences.len();
            match step {
                Step::Append(which, n) => {
                    let (cache, tokens) = &mut sequences[which % count];
                    let new: Vec<u64> = names.by_ref().take(n).collect();
                    append(cache, &new, isa);
                    tokens.extend(new);
                }
                Step::Truncate(which, share) => {
                    let (cache, tokens) = &mut sequences[which % count];
                    tokens.truncate((share * tokens.len() as f64) as usize);
                    cache.truncate(tokens.len());
                }
                Step::Fork(which) => {
                    let (cache, tokens) = &sequences[which % count];
                    let fork = (cache.fork(), tokens.clone());
                    sequences.push(fork);
                }
                Step::Drop(which) if count > 1 => drop(sequences.swap_remove(which % count)),
                Step::Drop(_) => {}
            }
        }
        for (number, (cache, names)) in sequences.iter().enumerate() {
            prop_assert_eq!(cache.len(), names.len());
            if names.is_empty() {
                continue;
            }
            let problem = problem(names, 1 + number % 4);
            let mut alone = Cache::with_room(dtype, problem.sizes, names.len());
            append(&mut alone, names, isa);
            let outcome = run_cached(&problem, &[cache], isa);
            prop_assert!(outcome.bits() == run_cached(&problem, &[&alone], isa).bits(), "sequence {}", number);
            if number == 0 {
                let reference = Forward::new(&rounded(dtype, problem), precisions_of(dtype));
                on(isa, reference.judge(&outcome))?;
            }
        }
        drop(sequences);
        prop_assert_eq!(pages.used(), 0);
    }
}

/// Numbers as the products over a cache see them: the keys and values are exact in all types.
fn rounded(dtype: CacheDtype, problem: Problem) -> Problem {
    if dtype == CacheDtype::Bf16 { problem.rounded(Precision::Bf16) } else { problem }
}

/// Several tokens are guessed at once, and some of them taken back.
fn speculate<C: AnyCache>(dtype: CacheDtype, isa: Isa, guesses: &[(usize, usize)]) -> Result<(), String> {
    let prompt = 500;
    let accepted: usize = guesses.iter().map(|(_, accepted)| accepted).sum();
    let names: Vec<u64> = (0..(prompt + accepted) as u64).collect();
    let inputs = rounded(dtype, problem(&names, accepted));
    let mut cache = C::with_room(dtype, inputs.sizes, names.len() + 20);
    let (k_shape, q_shape) = ([1, KV_HEADS, names.len(), DIM], [1, 2 * KV_HEADS, accepted, DIM]);
    let of = |x, range: Range<usize>| tokens(x, k_shape, range);
    cache.append(of(&inputs.k, 0..prompt), of(&inputs.v, 0..prompt), isa);
    let mut plan =
        Plan::new(shape_of(sizes(1, 1)), &Mask::causal(), &Asked::new(&inputs, isa).options()).expect("a plan");
    let mut whole = Outcome { out: vec![f32::NAN; inputs.q.len()], lse: vec![f32::NAN; inputs.q.len() / DIM] };
    for &(guessed, accepted) in guesses {
        let at = cache.len();
        cache.append(of(&inputs.k, at..at + accepted), of(&inputs.v, at..at + accepted), isa);
        // What is not accepted is something else.
        append(&mut cache, &vec![u64::MAX / 4; guessed - accepted], isa);
        plan.resize(guessed, cache.len()).expect("a layout");
        let q: Vec<f32> = (0..2 * KV_HEADS)
            .flat_map(|head| {
                let rows = (at - prompt..at - prompt + guessed).map(move |i| (head, i.min(q_shape[2] - 1)));
                rows.flat_map(|(head, i)| inputs.q[(head * q_shape[2] + i) * DIM..][..DIM].to_vec()).collect::<Vec<_>>()
            })
            .collect();
        let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; q.len() / DIM]);
        let shape = [1, 2 * KV_HEADS, guessed, DIM];
        let outputs = Outputs::state(
            TensorMut::contiguous(&mut out, shape).expect("a tensor"),
            TensorMut::contiguous(&mut lse, [1, 2 * KV_HEADS, guessed, 1]).expect("a tensor"),
        );
        let q = Tensor::contiguous(&q, shape).expect("a tensor");
        plan.run_cached(q, &[&cache], Terms::default(), outputs, &mut soiled(), pool()).expect("a run");
        for head in 0..2 * KV_HEADS {
            let to = head * q_shape[2] + at - prompt;
            whole.out[to * DIM..][..accepted * DIM].copy_from_slice(&out[head * guessed * DIM..][..accepted * DIM]);
            whole.lse[to..][..accepted].copy_from_slice(&lse[head * guessed..][..accepted]);
        }
        cache.truncate(at + accepted);
    }
    Forward::new(&inputs, precisions_of(dtype)).judge(&whole)
}

#[test]
fn tokens_that_were_guessed_wrong_leave_no_trace() {
    // Over the end of a panel and of a page, once all right and once all wrong.
    let guesses = [(4, 1), (5, 3), (3, 3), (4, 0), (7, 5), (2, 1)];
    for dtype in DTYPES {
        for isa in Isa::available() {
            speculate::<Cache>(dtype, isa, &guesses).unwrap_or_else(|what| panic!("{dtype:?} on {isa}: {what}"));
            speculate::<PagedCache>(dtype, isa, &guesses).unwrap_or_else(|what| panic!("{dtype:?} on {isa}: {what}"));
        }
    }
}

#[test]
fn sequences_of_all_lengths_and_both_kinds_in_one_call() {
    let lengths = [1, 700, 2500, 64, 0, 1300];
    for dtype in DTYPES {
        let isa = Isa::best();
        let pages = PagePool::new(dtype, KV_HEADS, DIM, DIM, 100).expect("a pool");
        let common: Vec<u64> = (0..600).collect();
        let mut prefix = PagedCache::new(&pages);
        append(&mut prefix, &common, isa);
        let caches: Vec<Box<dyn Cached>> = lengths
            .iter()
            .enumerate()
            .map(|(number, &len)| -> Box<dyn Cached> {
                let names: Vec<u64> =
                    (0..600.min(len) as u64).chain((0..).map(|i| 10_000 * number as u64 + i)).take(len).collect();
                if number == 1 {
                    let mut cache = Cache::with_room(dtype, sizes(1, 1), 1000);
                    append(&mut cache, &names, isa);
                    return Box::new(cache);
                }
                let mut cache = prefix.fork();
                cache.truncate(len);
                append(&mut cache, &names[600.min(len)..], isa);
                Box::new(cache)
            })
            .collect();
        let list: Vec<&dyn Cached> = caches.iter().map(|cache| &**cache).collect();
        let run = |caches: &[&dyn Cached], lengths: &[usize], q: &[f32]| {
            let batch = caches.len();
            let mut plan = Plan::new(shape_of(Sizes { batch, ..sizes(2, 1) }), &Mask::causal(), &Default::default())
                .expect("a plan");
            plan.resize_keys(2, lengths).expect("a layout");
            let mut out = vec![f32::NAN; q.len()];
            let shape = [batch, 2 * KV_HEADS, 2, DIM];
            let to = Outputs::new(TensorMut::contiguous(&mut out, shape).expect("a tensor"));
            let q = Tensor::contiguous(q, shape).expect("a tensor");
            plan.run_cached(q, caches, Terms::default(), to, &mut soiled(), pool()).expect("a run");
            out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let q = numbers(9, lengths.len() * 2 * KV_HEADS * 2 * DIM);
        let together = run(&list, &lengths, &q);
        let each = q.len() / lengths.len();
        for number in 0..lengths.len() {
            let alone = run(&list[number..=number], &lengths[number..=number], &q[number * each..][..each]);
            assert_eq!(together[number * each..][..each], alone, "{dtype:?}, sequence {number}");
        }
    }
}

#[test]
fn a_value_that_is_not_finite_is_seen_alike_in_pages() {
    // Under a bias that masks: the path that looks at single pairs.
    let keys = 1100;
    let names: Vec<u64> = (0..keys as u64).collect();
    let bias: Vec<f32> = (0..keys).map(|j| if j % 7 == 3 { f32::NEG_INFINITY } else { (j as f32).sin() }).collect();
    let mut problem = Problem { bias: Some(([1, 1, 1, keys], bias)), ..problem(&names, 3) };
    // 500 = 71·7 + 3, and 1095 = 156·7 + 3: the bias masks all three.
    for key in [3, 500, 1095] {
        problem.v[key * DIM + 2] = f32::NAN;
    }
    for dtype in DTYPES {
        for isa in Isa::available() {
            let mut whole = Cache::with_room(dtype, problem.sizes, keys);
            let mut paged = PagedCache::with_room(dtype, problem.sizes, keys);
            let of = |x| tokens(x, [1, KV_HEADS, keys, DIM], 0..keys);
            AnyCache::append(&mut whole, of(&problem.k), of(&problem.v), isa);
            AnyCache::append(&mut paged, of(&problem.k), of(&problem.v), isa);
            let outcome = run_cached(&problem, &[&whole], isa);
            assert_eq!(outcome.bits(), run_cached(&problem, &[&paged], isa).bits(), "{dtype:?} on {isa}");
            assert!(outcome.out.iter().all(|x| x.is_finite()), "{dtype:?} on {isa}");
        }
    }
}

#[test]
fn scattered_keys_are_gathered_from_pages() {
    let keys = 3000;
    let names: Vec<u64> = (0..keys as u64).collect();
    for set in
        [Set::Strided(67), Set::causal_window(70) | Set::Strided(97), Set::GlobalKeys(vec![3, 255, 256, 1030, 2900])]
    {
        let problem = Problem { set, ..problem(&names, 4) };
        let plan = Asked::new(&problem, Isa::best()).plan();
        assert!(plan.layout(0, 0).lists() > 0, "{problem:?} gathers nothing");
        for dtype in DTYPES {
            let problem = rounded(dtype, problem.clone());
            for isa in Isa::available() {
                let mut whole = Cache::with_room(dtype, problem.sizes, keys);
                let mut paged = PagedCache::with_room(dtype, problem.sizes, keys);
                append(&mut whole, &names, isa);
                append(&mut paged, &names, isa);
                let outcome = run_cached(&problem, &[&paged], isa);
                assert_eq!(outcome.bits(), run_cached(&problem, &[&whole], isa).bits(), "{dtype:?} on {isa}");
                let judged = Forward::new(&problem, precisions_of(dtype)).judge(&outcome);
                judged.unwrap_or_else(|what| panic!("{dtype:?} on {isa}: {what}"));
            }
        }
    }
}
