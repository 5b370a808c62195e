//! Rows of the result in f64.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_attention::{CacheDtype, Shape};
use regard_memory::each_of;
use regard_oracle::{Attention, Sequence, Sizes, widen};
use regard_threads::Pool;

use super::{MOST_PRODUCTS, bound, largest_error, magnitude, precision, worse};
use crate::bench::case::Case;
use crate::bench::inputs::{Inputs, Stored};
use crate::bench::report::Accuracy;

/// All rows, or a sample that is the same in every run.
pub(super) struct Rows {
    rows: Vec<Row>,
    bound: f64,
}

/// A query's result.
#[derive(Default)]
struct Row {
    /// Which one of `[batch · heads · queries]`.
    index: usize,
    /// `[dim]`.
    exact: Vec<f64>,
    /// The largest error of the plain method.
    plain_error: f64,
}

impl Rows {
    pub(super) fn new<T: Stored>(case: &Case, inputs: &Inputs<T>, pool: &Pool) -> Self {
        let Shape { heads, kv_heads, queries, keys, dim_k, dim_v, .. } = case.shape;
        let (q, k, v) = (widen(&inputs.q), widen(&inputs.k), widen(&inputs.v));
        // What rounding to bytes puts off is no fault of a call, but stands in its error.
        let in_bytes = (case.cache_dtype == CacheDtype::Int8).then(|| (bytes(&k, dim_k), bytes(&v, dim_v)));
        let stretches = case.stretches();
        let mut rows: Vec<Row> = sample(case).into_iter().map(|index| Row { index, ..Row::default() }).collect();
        pool.run(each_of(&mut rows), |_, row| {
            let (head, i) = (row.index / queries, row.index % queries);
            let kv_head = head / heads * kv_heads + head % heads / (heads / kv_heads);
            let (of_queries, of_keys) = stretches.iter().find(|(rows, _)| rows.contains(&i)).expect("a sequence");
            let offset = (i - of_queries.start) as i64 + of_keys.len() as i64 - of_queries.len() as i64;
            let sequence = Sequence { batch: 0, queries: 0..1, keys: of_keys.clone(), offset };
            let query = Attention {
                sizes: Sizes { batch: 1, heads: 1, kv_heads: 1, queries: 1, keys, dim_k, dim_v },
                q: &q[row.index * dim_k..][..dim_k],
                k: &k[kv_head * keys * dim_k..][..keys * dim_k],
                v: &v[kv_head * keys * dim_v..][..keys * dim_v],
                sequences: Some(std::slice::from_ref(&sequence)),
                allows: &|pair| case.keep.keeps(pair.p, pair.j as i64),
                ..Attention::default()
            };
            row.exact = query.exact().out;
            let stored = match &in_bytes {
                None => query,
                Some((k, v)) => Attention {
                    k: &k[kv_head * keys * dim_k..][..keys * dim_k],
                    v: &v[kv_head * keys * dim_v..][..keys * dim_v],
                    ..query
                },
            };
            let precision = precision(case);
            row.plain_error = largest_error(&stored.plain(precision, precision).out, &row.exact);
        });
        let plain_error = rows.iter().map(|row| row.plain_error).fold(0.0, f64::max);
        let largest = rows.iter().map(|row| magnitude(&row.exact)).fold(0.0, f64::max);
        Rows { rows, bound: bound(case, plain_error, largest) }
    }

    /// The largest error of `[batch, heads, queries, dim]`; NaN if there is one.
    pub(super) fn judge<T: Copy + Into<f64>>(&self, out: &[T]) -> Accuracy {
        let error = |row: &Row| largest_error(&out[row.index * row.exact.len()..], &row.exact);
        Accuracy { of: "out", error: self.rows.iter().map(error).fold(0.0, worse), bound: self.bound }
    }
}

/// Rows as a cache of bytes holds them: whole numbers of the largest magnitude over 127.
fn bytes(numbers: &[f64], dim: usize) -> Vec<f64> {
    let row = |row: &[f64]| {
        let scale = magnitude(row) / 127.0;
        let round = move |&x: &f64| if scale == 0.0 { 0.0 } else { (x / scale).round() * scale };
        row.iter().map(round).collect::<Vec<_>>()
    };
    numbers.chunks_exact(dim).flat_map(row).collect()
}

/// All rows, or, where that is too much, the first and the last and some between them, the same in every run.
fn sample(case: &Case) -> Vec<usize> {
    let Shape { batch, heads, queries, keys, dim_k, dim_v, .. } = case.shape;
    let all = batch * heads * queries;
    let most = (MOST_PRODUCTS / (keys * (dim_k + dim_v))).max(2);
    if all <= most {
        return (0..all).collect();
    }
    let mut generator = ChaCha8Rng::seed_from_u64(all as u64);
    let mut rows: Vec<usize> = (2..most).map(|_| generator.random_range(0..all as u64) as usize).collect();
    rows.extend([0, all - 1]);
    rows.sort_unstable();
    rows.dedup();
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::case::{Dtype, parse};

    fn case(changes: &str) -> Case {
        let text =
            format!(r#"[{{"id": "a", "batch": 2, "heads": 4, "kv_heads": 2, "dim": 8, "mask": "causal", {changes}}}]"#);
        parse(&text).unwrap().remove(0)
    }

    /// The same by the oracle in one piece, which has its own way through heads, sequences and positions.
    fn whole(case: &Case, inputs: &Inputs<f32>) -> Vec<f64> {
        let Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = case.shape;
        let of = |segment: regard_attention::Segment| {
            let offset = segment.keys.len() as i64 - segment.queries.len() as i64;
            Sequence { batch: segment.batch, queries: segment.queries, keys: segment.keys, offset }
        };
        let sequences: Vec<_> = case.segments().into_iter().map(of).collect();
        let call = Attention {
            sizes: Sizes { batch, heads, kv_heads, queries, keys, dim_k, dim_v },
            q: &widen(&inputs.q),
            k: &widen(&inputs.k),
            v: &widen(&inputs.v),
            sequences: Some(&sequences),
            allows: &|pair| pair.j as i64 <= pair.p,
            ..Attention::default()
        };
        call.exact().out
    }

    #[test]
    fn rows_are_those_of_the_whole_and_an_error_in_one_is_found() {
        for lengths in [r#""queries": 5, "keys": 9"#, r#""queries": [2, 3], "keys": [4, 5]"#] {
            let case = case(&format!(r#"{lengths}, "dtype": "f32""#));
            let inputs = Inputs::<f32>::random(&case);
            let rows = Rows::new(&case, &inputs, Pool::global());
            let exact = whole(&case, &inputs);
            assert_eq!(exact.len(), rows.rows.len() * 8);
            assert!(rows.judge(&exact).error < 1e-12);
            for place in [0, 77, exact.len() - 1] {
                let with = |error: f64| {
                    let mut off = exact.clone();
                    off[place] += error;
                    rows.judge(&off)
                };
                assert!((with(1e-3).error - 1e-3).abs() < 1e-12 && !with(1e-3).is_right());
                assert!(with(f64::NAN).error.is_nan() && !with(f64::NAN).is_right());
            }
        }
    }

    #[test]
    fn bounds_are_of_the_precision() {
        let bound = |dtype: &str| {
            let case = case(&format!(r#""queries": 30, "keys": 40, "dtype": "{dtype}""#));
            match case.dtype {
                Dtype::F32 => Rows::new(&case, &Inputs::<f32>::random(&case), Pool::global()).bound,
                Dtype::Bf16 => Rows::new(&case, &Inputs::<half::bf16>::random(&case), Pool::global()).bound,
                Dtype::F16 => Rows::new(&case, &Inputs::<half::f16>::random(&case), Pool::global()).bound,
            }
        };
        let (f32, f16, bf16) = (bound("f32"), bound("f16"), bound("bf16"));
        assert!(f32 < 3e-6 && f16 < 6e-3 && bf16 < 5e-2 && 100.0 * f32 < f16 && 3.0 * f16 < bf16, "{f32} {f16} {bf16}");
    }

    #[test]
    fn a_sample_is_sorted_has_both_ends_and_is_the_same_again() {
        let case = case(r#""queries": 100000, "keys": 3000, "dtype": "f32""#);
        let rows = sample(&case);
        assert!(rows.len() > 1000 && rows.len() < 2 * 4 * 100_000 / 10, "{}", rows.len());
        assert!(rows.is_sorted() && rows[0] == 0 && rows[rows.len() - 1] == 2 * 4 * 100_000 - 1);
        assert_eq!(rows, sample(&case));
    }
}
