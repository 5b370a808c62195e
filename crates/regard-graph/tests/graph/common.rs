//! Numbers that lie in clusters, as those of real tokens do, and plain answers in f64.

use ndarray::{Array2, Array4, ArrayView4};
use regard_oracle::{Attended, Attention, Pair, Sizes, numbers, widen};

/// `[rows, dim]`: a cluster's centre and a third as much noise, clusters taking turns.
pub(crate) fn clustered(seed: u64, rows: usize, dim: usize, clusters: usize) -> Array2<f32> {
    let centres = numbers(1_000_003, clusters * dim);
    let noise = numbers(seed, rows * dim);
    Array2::from_shape_fn((rows, dim), |(i, c)| centres[i * 7 % clusters * dim + c] + noise[i * dim + c] / 3.0)
}

/// `[batch, heads, seq, dim]` of clustered rows.
pub(crate) fn heads(seed: u64, [batch, heads, seq, dim]: [usize; 4]) -> Array4<f32> {
    let rows = clustered(seed, batch * heads * seq, dim, 11);
    rows.into_shape_with_order((batch, heads, seq, dim)).unwrap()
}

pub(crate) fn product(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

/// The `count` of these keys with the largest products, ascending; of equal ones the first.
pub(crate) fn top(query: &[f32], keys: &[&[f32]], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by(|&a, &b| product(query, keys[b]).total_cmp(&product(query, keys[a])).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

pub(crate) fn sizes(q: ArrayView4<'_, f32>, k: ArrayView4<'_, f32>, v: ArrayView4<'_, f32>) -> Sizes {
    let ((batch, heads, queries, dim_k), (_, kv_heads, keys, _)) = (q.dim(), k.dim());
    Sizes { batch, heads, kv_heads, queries, keys, dim_k, dim_v: v.dim().3 }
}

/// Attention of the pairs in f64, and how far the plain method in f32 is off: in its results, and in its log-sum-exps.
pub(crate) fn exact([q, k, v]: [ArrayView4<'_, f32>; 3], allows: &dyn Fn(&Pair) -> bool) -> (Attended, f64, f64) {
    let of = |x: ArrayView4<'_, f32>| widen(&x.iter().copied().collect::<Vec<_>>());
    let (sizes, q, k, v) = (sizes(q, k, v), of(q), of(k), of(v));
    let call = Attention { sizes, q: &q, k: &k, v: &v, allows, ..Attention::default() };
    let (exact, plain) = (call.exact(), call.plain(regard_oracle::Precision::F32, regard_oracle::Precision::F32));
    let off = |plain: &[f64], exact: &[f64]| regard_oracle::largest_error(plain, exact);
    let (out, lse) = (off(&plain.out, &exact.out), off(&plain.lse, &exact.lse));
    (exact, out, lse)
}
