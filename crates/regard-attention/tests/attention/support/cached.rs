//! A call token by token, through a cache.

use std::ops::Range;

use regard_attention::{Cache, CacheDtype, Cached, Outputs, PAGE, PagePool, PagedCache, Plan, Shape, Terms};
use regard_memory::{Tensor, TensorMut};
use regard_oracle::{Precision, Problem, Sizes};
use regard_simd::Isa;
use regard_threads::Pool;

use super::{Asked, Outcome, Precisions, pool, soiled};

pub(crate) const DTYPES: [CacheDtype; 4] = [CacheDtype::F32, CacheDtype::F16, CacheDtype::Bf16, CacheDtype::Int8];

/// What a cache's results are measured against. Queries and results are f32; a cache of bf16 multiplies pairs of bf16.
pub(crate) fn precisions_of(dtype: CacheDtype) -> Precisions {
    let worked = match dtype {
        CacheDtype::F32 | CacheDtype::F16 | CacheDtype::Int8 => Precision::F32,
        CacheDtype::Bf16 => Precision::Bf16,
    };
    Precisions { stored: worked, weights: worked, result: Precision::F32 }
}

/// A problem with its numbers as the products over a cache see them.
pub(crate) fn seen_through(dtype: CacheDtype, problem: &Problem) -> Problem {
    match dtype {
        CacheDtype::F32 => problem.clone(),
        CacheDtype::F16 => Problem { q: problem.q.clone(), ..problem.rounded(Precision::F16) },
        CacheDtype::Bf16 => problem.rounded(Precision::Bf16),
        CacheDtype::Int8 => {
            let Sizes { dim_k, dim_v, .. } = problem.sizes;
            let (k, v) = (exact_in_bytes(&problem.k, dim_k), exact_in_bytes(&problem.v, dim_v));
            Problem { k, v, ..problem.clone() }
        }
    }
}

/// Rows that bytes hold as they are: multiples of 1/32, of which one is the largest that there may be.
pub(crate) fn exact_in_bytes(numbers: &[f32], dim: usize) -> Vec<f32> {
    let most = 127.0 / 32.0;
    let mut rows: Vec<f32> = numbers.iter().map(|x| (32.0 * x).round() / 32.0).map(|x| x.clamp(-most, most)).collect();
    for row in rows.chunks_exact_mut(dim) {
        let largest = row.iter_mut().max_by(|a, b| a.abs().total_cmp(&b.abs())).expect("a number");
        *largest = most.copysign(*largest);
    }
    rows
}

/// A cache of either kind.
pub(crate) trait AnyCache: Cached + Sized {
    /// One with room for so many tokens.
    fn with_room(dtype: CacheDtype, sizes: Sizes, tokens: usize) -> Self;
    fn append(&mut self, keys: Tensor<'_, f32>, values: Tensor<'_, f32>, isa: Isa);
    fn truncate(&mut self, len: usize);
    fn len(&self) -> usize;
}

impl AnyCache for Cache {
    fn with_room(dtype: CacheDtype, sizes: Sizes, tokens: usize) -> Cache {
        Cache::new(dtype, sizes.kv_heads, sizes.dim_k, sizes.dim_v, tokens).expect("a cache")
    }
    fn append(&mut self, keys: Tensor<'_, f32>, values: Tensor<'_, f32>, isa: Isa) {
        Cache::append(self, keys, values, isa, pool()).expect("room");
    }
    fn truncate(&mut self, len: usize) {
        Cache::truncate(self, len);
    }
    fn len(&self) -> usize {
        Cache::len(self)
    }
}

impl AnyCache for PagedCache {
    fn with_room(dtype: CacheDtype, sizes: Sizes, tokens: usize) -> PagedCache {
        let pages = tokens.div_ceil(PAGE).max(1);
        PagedCache::new(&PagePool::new(dtype, sizes.kv_heads, sizes.dim_k, sizes.dim_v, pages).expect("a pool"))
    }
    fn append(&mut self, keys: Tensor<'_, f32>, values: Tensor<'_, f32>, isa: Isa) {
        PagedCache::append(self, keys, values, isa, pool()).expect("room");
    }
    fn truncate(&mut self, len: usize) {
        PagedCache::truncate(self, len);
    }
    fn len(&self) -> usize {
        PagedCache::len(self)
    }
}

/// Some tokens of `[1, heads, len, dim]`.
pub(crate) fn tokens(numbers: &[f32], [_, heads, len, dim]: [usize; 4], range: Range<usize>) -> Tensor<'_, f32> {
    let strides = [heads * len * dim, len * dim, dim];
    Tensor::new(&numbers[range.start * dim..], [1, heads, range.len(), dim], strides).expect("tokens of the tensor")
}

/// The bias, slopes and sinks of a problem.
pub(crate) fn terms(problem: &Problem) -> Terms<'_> {
    let bias = problem.bias.as_ref().map(|(shape, x)| Tensor::contiguous(x, *shape).expect("a bias"));
    Terms { bias, slopes: problem.slopes.as_deref(), sinks: problem.sinks.as_deref(), sequence_ids: None }
}

/// The bias of some queries and of the first keys of a problem of one batch entry.
fn bias_of(problem: &Problem, rows: Range<usize>, keys: usize) -> Option<Tensor<'_, f32>> {
    let (shape, values) = problem.bias.as_ref()?;
    let [_, heads, all_rows, all_keys] = *shape;
    let rows = if all_rows == 1 { 0..1 } else { rows };
    let some = [1, heads, rows.len(), if all_keys == 1 { 1 } else { keys }];
    let strides = [heads * all_rows * all_keys, all_rows * all_keys, all_keys];
    Some(Tensor::new(&values[rows.start * all_keys..], some, strides).expect("a part of the bias"))
}

/// Runs all queries of a problem over caches that hold its keys, one for each batch entry.
pub(crate) fn run_cached<C: Cached + ?Sized>(problem: &Problem, caches: &[&C], isa: Isa) -> Outcome {
    run_cached_on(problem, caches, isa, pool())
}

/// The same on some threads.
pub(crate) fn run_cached_on<C: Cached + ?Sized>(problem: &Problem, caches: &[&C], isa: Isa, pool: &Pool) -> Outcome {
    let sizes = problem.sizes;
    let plan = Asked::new(problem, isa).plan();
    let [mut out, mut lse] = [sizes.out(), sizes.lse()].map(|shape| vec![f32::NAN; shape.iter().product()]);
    plan.run_cached(
        Tensor::contiguous(&problem.q, sizes.q()).expect("queries of the shape"),
        caches,
        terms(problem),
        Outputs::state(
            TensorMut::contiguous(&mut out, sizes.out()).expect("a tensor"),
            TensorMut::contiguous(&mut lse, sizes.lse()).expect("a tensor"),
        ),
        &mut soiled(),
        pool,
    )
    .expect("a run");
    Outcome { out, lse }
}

/// Runs a call of one sequence as a session would: all tokens but those of the queries are a prompt, and everything comes
/// in chunks of these lengths, over and over. With `junk`, tokens that are taken back are appended before every chunk.
///
/// Weights that fall would be others: dropout counts a call's own queries.
pub(crate) fn decode<C: AnyCache>(
    problem: &Problem,
    dtype: CacheDtype,
    isa: Isa,
    chunks: &[usize],
    junk: bool,
) -> Outcome {
    let (sizes, asked) = (problem.sizes, Asked::new(problem, isa));
    let Shape { heads, kv_heads, queries, keys, dim_k, dim_v, .. } = asked.shape();
    let prompt = keys - queries;
    let mut cache = C::with_room(dtype, sizes, keys + 70);
    let first = Shape { queries: 1, keys: 1, ..asked.shape() };
    let mut plan = Plan::new(first, &super::mask(&problem.set), &asked.options()).expect("a plan");
    let mut scratch = soiled();
    let mut whole = Outcome { out: vec![f32::NAN; heads * queries * dim_v], lse: vec![f32::NAN; heads * queries] };
    let mut chunks = chunks.iter().cycle();
    while cache.len() < keys {
        let from = cache.len();
        if junk {
            let nothing = vec![f32::NAN; kv_heads * 70 * dim_k.max(dim_v)];
            let nothing = |dim| tokens(&nothing, [1, kv_heads, 70, dim], 0..70);
            cache.append(nothing(dim_k), nothing(dim_v), isa);
            cache.truncate(from);
        }
        let end = if from < prompt { prompt } else { keys };
        let until = end.min(from + chunks.next().expect("a length"));
        let (k, v) = (tokens(&problem.k, sizes.k(), from..until), tokens(&problem.v, sizes.v(), from..until));
        cache.append(k, v, isa);
        if from < prompt {
            continue;
        }
        let (first, n) = (from - prompt, until - from);
        let (mut out, mut lse) = (vec![f32::NAN; heads * n * dim_v], vec![f32::NAN; heads * n]);
        plan.resize(n, until).expect("a layout");
        plan.run_cached(
            tokens(&problem.q, sizes.q(), first..first + n),
            &[&cache],
            Terms { bias: bias_of(problem, first..first + n, until), ..terms(problem) },
            Outputs::state(
                TensorMut::contiguous(&mut out, [1, heads, n, dim_v]).expect("a tensor"),
                TensorMut::contiguous(&mut lse, [1, heads, n, 1]).expect("a tensor"),
            ),
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
