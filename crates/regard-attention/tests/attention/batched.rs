//! Caches of different lengths in one call: each as if it were alone, whatever joins the scores.

use proptest::prelude::*;
use regard_attention::{Cache, CacheDtype, Outputs};
use regard_memory::{Tensor, TensorMut};
use regard_oracle::{Problem, Sequence, Sizes, problems_of};
use regard_simd::Isa;

use crate::support::{
    AnyCache, Asked, DTYPES, Forward, alone, bits, on, pool, precisions_of, run_cached, seen_through, soiled, terms,
    tokens, tries,
};

/// Some tokens each of sequences of different lengths, with any options.
fn batches() -> impl Strategy<Value = Problem> {
    let length = || prop_oneof![1 => Just(0), 4 => 1..300_usize, 1 => 1025..1500_usize];
    let dim = || prop::sample::select(vec![1, 7, 16, 33]);
    let lengths = prop::collection::vec(length(), 1..=4);
    (lengths, 1..=2_usize, 1..=3_usize, 1..=4_usize, dim(), dim()).prop_flat_map(
        |(lengths, kv_heads, group, queries, dim_k, dim_v)| {
            let keys = lengths.iter().copied().max().unwrap_or(0);
            let sizes = Sizes { batch: lengths.len(), heads: kv_heads * group, kv_heads, queries, keys, dim_k, dim_v };
            let sequence = move |(batch, length): (usize, &usize)| {
                let offset = *length as i64 - queries as i64;
                Sequence { batch, queries: 0..queries, keys: 0..*length, offset }
            };
            let sequences: Vec<_> = lengths.iter().enumerate().map(sequence).collect();
            problems_of(Just(sizes)).prop_map(move |problem| Problem { sequences: sequences.clone(), ..problem })
        },
    )
}

/// The tokens of a sequence, in a tensor of all.
fn own<'a>(x: &'a [f32], [_, heads, keys, dim]: [usize; 4], of: &Sequence) -> Tensor<'a, f32> {
    let entry = heads * keys * dim;
    tokens(&x[of.batch * entry..][..entry], [1, heads, keys, dim], of.keys.clone())
}

/// A cache for each batch entry.
fn fill(problem: &Problem, dtype: CacheDtype, isa: Isa) -> Vec<Cache> {
    let Problem { sizes, k, v, .. } = problem;
    let fill = |of: &Sequence| {
        let mut cache = Cache::with_room(dtype, *sizes, of.keys.len().max(1));
        AnyCache::append(&mut cache, own(k, sizes.k(), of), own(v, sizes.v(), of), isa);
        cache
    };
    problem.sequences.iter().map(fill).collect()
}

proptest! {
    #![proptest_config(tries(16))]

    #[test]
    fn are_right_and_the_same_alone(problem in batches()) {
        for dtype in DTYPES {
            let problem = seen_through(dtype, &problem);
            let reference = Forward::new(&problem, precisions_of(dtype));
            for isa in Isa::available() {
                let caches = fill(&problem, dtype, isa);
                let caches: Vec<&Cache> = caches.iter().collect();
                on(isa, reference.judge(&run_cached(&problem, &caches, isa)))?;
                // Dropout would know each by another number.
                let problem = Problem { dropout: None, ..problem.clone() };
                let together = run_cached(&problem, &caches, isa);
                let each = together.out.len() / caches.len();
                let lines = together.lse.len() / caches.len();
                for (number, sequence) in problem.sequences.iter().enumerate() {
                    let single = run_cached(&alone(&problem, sequence), &caches[number..=number], isa);
                    let (out, lse) = (&together.out[number * each..][..each], &together.lse[number * lines..][..lines]);
                    prop_assert!(single.bits() == (bits(out), bits(lse)), "{dtype:?} on {isa}: sequence {number}");
                }
            }
        }
    }

    /// A plan that has been of other lengths.
    #[test]
    fn a_plan_takes_other_lengths(problem in batches(), before in prop::collection::vec(1..2000_usize, 4)) {
        let (isa, sizes) = (Isa::best(), problem.sizes);
        let caches = fill(&problem, CacheDtype::F32, isa);
        let caches: Vec<&Cache> = caches.iter().collect();
        let lengths: Vec<usize> = problem.sequences.iter().map(|of| of.keys.len()).collect();
        let mut plan = Asked::new(&problem, isa).plan();
        plan.resize_keys(1 + before[0] % 7, &before[..sizes.batch]).expect("lengths");
        let changed = plan.to_string();
        prop_assert!(plan.resize_keys(sizes.queries, &before).is_err() || before.len() == sizes.batch);
        if before.len() != sizes.batch {
            prop_assert_eq!(plan.to_string(), changed, "it was changed by what it has refused");
        }
        plan.resize_keys(sizes.queries, &lengths).expect("lengths");
        let mut out = vec![f32::NAN; sizes.out().iter().product()];
        let to = Outputs::new(TensorMut::contiguous(&mut out, sizes.out()).expect("a tensor"));
        let q = Tensor::contiguous(&problem.q, sizes.q()).expect("queries");
        plan.run_cached(q, &caches, terms(&problem), to, &mut soiled(), pool()).expect("a run");
        prop_assert_eq!(bits(&out), run_cached(&problem, &caches, isa).bits().0);
    }
}
