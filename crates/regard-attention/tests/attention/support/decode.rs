//! A case token by token, through a cache.

use std::ops::Range;

use regard_attention::{Cache, CacheDtype, Plan, Shape};
use regard_memory::{Tensor, TensorMut};
use regard_oracle::Precision;
use regard_simd::Isa;
use regard_threads::Pool;

use super::{Case, Inputs, Outcome, Precisions, pool, soiled};

pub(crate) const DTYPES: [CacheDtype; 3] = [CacheDtype::F32, CacheDtype::F16, CacheDtype::Bf16];

/// What a cache's results are measured against. Queries and results are f32; a cache of bf16 multiplies pairs of bf16.
pub(crate) fn precisions_of(dtype: CacheDtype) -> Precisions {
    let worked = match dtype {
        CacheDtype::F32 | CacheDtype::F16 => Precision::F32,
        CacheDtype::Bf16 => Precision::Bf16,
    };
    Precisions { stored: worked, weights: worked, result: Precision::F32 }
}

/// A case's numbers as the products over a cache see them.
pub(crate) fn seen_through(dtype: CacheDtype, case: &Case) -> Inputs {
    let inputs = case.inputs();
    match dtype {
        CacheDtype::F32 => inputs,
        CacheDtype::F16 => Inputs { q: inputs.q.clone(), ..inputs.rounded(Precision::F16) },
        CacheDtype::Bf16 => inputs.rounded(Precision::Bf16),
    }
}

/// Runs all queries of a case over a cache that holds its keys.
pub(crate) fn run_cached(case: &Case, inputs: &Inputs, cache: &Cache, isa: Isa) -> Outcome {
    run_cached_on(case, inputs, cache, isa, pool())
}

/// The same on some threads.
pub(crate) fn run_cached_on(case: &Case, inputs: &Inputs, cache: &Cache, isa: Isa, pool: &Pool) -> Outcome {
    let [q, _, _, out_shape, lse_shape] = case.shapes();
    let plan = Plan::new(case.shape, &case.set.mask(), &case.options(isa)).expect("a plan");
    let [mut out, mut lse] = [out_shape, lse_shape].map(|shape| vec![f32::NAN; shape.iter().product()]);
    plan.run_cached(
        Tensor::contiguous(&inputs.q, q).expect("queries of the shape"),
        cache,
        TensorMut::contiguous(&mut out, out_shape).expect("a tensor"),
        Some(TensorMut::contiguous(&mut lse, lse_shape).expect("a tensor")),
        &mut soiled(),
        pool,
    )
    .expect("a run");
    Outcome { out, lse }
}

/// Some tokens of `[1, heads, len, dim]`.
pub(crate) fn tokens(numbers: &[f32], [_, heads, len, dim]: [usize; 4], range: Range<usize>) -> Tensor<'_, f32> {
    let strides = [heads * len * dim, len * dim, dim];
    Tensor::new(&numbers[range.start * dim..], [1, heads, range.len(), dim], strides).expect("tokens of the tensor")
}

/// Runs a case of one sequence as a session would: all tokens but those of the queries are a prompt, and everything comes
/// in chunks of these lengths, over and over. With `junk`, tokens that are taken back are appended before every chunk.
pub(crate) fn decode(
    case: &Case,
    inputs: &Inputs,
    dtype: CacheDtype,
    isa: Isa,
    chunks: &[usize],
    junk: bool,
) -> Outcome {
    let Shape { heads, kv_heads, queries, keys, dim_k, dim_v, .. } = case.shape;
    let [q_shape, k_shape, v_shape, ..] = case.shapes();
    let prompt = keys - queries;
    let mut cache = Cache::new(dtype, kv_heads, dim_k, dim_v, keys + 70).expect("a cache");
    let mut plan =
        Plan::new(Shape { queries: 1, keys: 1, ..case.shape }, &case.set.mask(), &case.options(isa)).expect("a plan");
    let mut scratch = soiled();
    let mut whole = Outcome { out: vec![f32::NAN; heads * queries * dim_v], lse: vec![f32::NAN; heads * queries] };
    let mut chunks = chunks.iter().cycle();
    while cache.len() < keys {
        let from = cache.len();
        if junk {
            let nothing = vec![f32::NAN; kv_heads * 70 * dim_k.max(dim_v)];
            let nothing = |dim| tokens(&nothing, [1, kv_heads, 70, dim], 0..70);
            cache.append(nothing(dim_k), nothing(dim_v), isa, pool()).expect("room");
            cache.truncate(from);
        }
        let end = if from < prompt { prompt } else { keys };
        let until = end.min(from + chunks.next().expect("a length"));
        let (k, v) = (tokens(&inputs.k, k_shape, from..until), tokens(&inputs.v, v_shape, from..until));
        cache.append(k, v, isa, pool()).expect("room");
        if from < prompt {
            continue;
        }
        let (first, n) = (from - prompt, until - from);
        let (mut out, mut lse) = (vec![f32::NAN; heads * n * dim_v], vec![f32::NAN; heads * n]);
        plan.resize(n, until).expect("a layout");
        plan.run_cached(
            tokens(&inputs.q, q_shape, first..first + n),
            &cache,
            TensorMut::contiguous(&mut out, [1, heads, n, dim_v]).expect("a tensor"),
            Some(TensorMut::contiguous(&mut lse, [1, heads, n, 1]).expect("a tensor")),
            &mut scratch,
            pool(),
        )
        .expect("a run");
        for h in 0..heads {
            let at = h * queries + first;
            whole.out[at * dim_v..][..n * dim_v].copy_from_slice(&out[h * n * dim_v..][..n * dim_v]);
            whole.lse[at..][..n].copy_from_slice(&lse[h * n..][..n]);
        }
    }
    whole
}
