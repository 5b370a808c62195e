//! Whether a result is right: its largest error against attention in f64.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_attention::Shape;
use regard_memory::each_of;
use regard_oracle::{Attention, Precision};
use regard_threads::Pool;

use crate::bench::case::{Case, Dtype};
use crate::bench::inputs::{Inputs, Stored};

/// Multiplications that the reference may cost, some seconds' work. A case that needs more is checked by a sample of its
/// rows.
const MOST_PRODUCTS: usize = 1 << 29;

/// Rows of the exact result, and how far off a result may be.
pub(crate) struct Reference {
    rows: Vec<Row>,
    /// Twice the error of the plain method in the case's dtype, which rounds its weights and its results to it; and at
    /// least one unit in the last place of the largest result.
    pub(crate) bound: f64,
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

impl Reference {
    pub(crate) fn new<T: Stored>(case: &Case, inputs: &Inputs<T>, pool: &Pool) -> Self {
        let Shape { heads, kv_heads, queries, keys, dim_k, dim_v, .. } = case.shape;
        let precision = match case.dtype {
            Dtype::F32 => Precision::F32,
            Dtype::Bf16 => Precision::Bf16,
            Dtype::F16 => Precision::F16,
        };
        let (q, k, v) = (T::widened(&inputs.q), T::widened(&inputs.k), T::widened(&inputs.v));
        let mut rows: Vec<Row> = sample(case).into_iter().map(|index| Row { index, ..Row::default() }).collect();
        pool.run(each_of(&mut rows), |_, row| {
            let (head, i) = (row.index / queries, row.index % queries);
            let kv_head = head / heads * kv_heads + head % heads / (heads / kv_heads);
            let query = Attention {
                batch: 1,
                heads: 1,
                kv_heads: 1,
                queries: 1,
                keys,
                dim_k,
                dim_v,
                scale: 1.0 / (dim_k as f32).sqrt(),
                offset: i as i64 + keys as i64 - queries as i64,
                allows: &|p, j| case.keep.keeps(p, j as i64),
                q: &q[row.index * dim_k..][..dim_k],
                k: &k[kv_head * keys * dim_k..][..keys * dim_k],
                v: &v[kv_head * keys * dim_v..][..keys * dim_v],
            };
            row.exact = query.exact().out;
            row.plain_error = largest_error(query.plain(precision, precision).out, &row.exact);
        });
        let plain_error = rows.iter().fold(0.0, |error: f64, row| error.max(row.plain_error));
        let largest = rows.iter().flat_map(|row| &row.exact).fold(0.0, |largest: f64, exact| largest.max(exact.abs()));
        Reference { rows, bound: (2.0 * plain_error).max(precision.ulp(largest)) }
    }

    /// The largest error of `[batch, heads, queries, dim]`, given by index; NaN if there is one.
    pub(crate) fn error(&self, out: impl Fn(usize) -> f32) -> f64 {
        let error = |row: &Row| {
            let from = row.index * row.exact.len();
            largest_error((from..).map(|at| f64::from(out(at))), &row.exact)
        };
        self.rows.iter().map(error).fold(0.0, worse)
    }
}

fn largest_error(results: impl IntoIterator<Item = f64>, exact: &[f64]) -> f64 {
    // The exact ones first: the results may go on.
    exact.iter().zip(results).map(|(exact, result)| (result - exact).abs()).fold(0.0, worse)
}

/// The larger of two errors; NaN is the largest of all.
fn worse(a: f64, b: f64) -> f64 {
    if a >= b || a.is_nan() { a } else { b }
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
    use crate::bench::case::parse;

    fn case(changes: &str) -> Case {
        let text =
            format!(r#"[{{"id": "a", "batch": 2, "heads": 4, "kv_heads": 2, "dim": 8, "mask": "causal", {changes}}}]"#);
        parse(&text).unwrap().remove(0)
    }

    /// The same by the oracle in one piece, which has its own way through heads and positions.
    fn whole(case: &Case, inputs: &Inputs<f32>) -> Vec<f64> {
        let Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = case.shape;
        let call = Attention {
            batch,
            heads,
            kv_heads,
            queries,
            keys,
            dim_k,
            dim_v,
            scale: 1.0 / (dim_k as f32).sqrt(),
            offset: keys as i64 - queries as i64,
            allows: &|p, j| j as i64 <= p,
            q: &inputs.q,
            k: &inputs.k,
            v: &inputs.v,
        };
        call.exact().out
    }

    #[test]
    fn rows_are_those_of_the_whole_and_an_error_in_one_is_found() {
        let case = case(r#""queries": 5, "keys": 9, "dtype": "f32""#);
        let inputs = Inputs::<f32>::random(&case);
        let reference = Reference::new(&case, &inputs, Pool::global());
        let exact = whole(&case, &inputs);
        assert_eq!(exact.len(), reference.rows.len() * 8);
        assert!(reference.error(|at| exact[at] as f32) <= reference.bound);
        for place in [0, 77, exact.len() - 1] {
            let off = |at: usize| exact[at] as f32 + if at == place { 1e-3 } else { 0.0 };
            assert!((reference.error(off) - 1e-3).abs() < 1e-6);
            assert!(reference.error(off) > reference.bound);
            assert!(reference.error(|at| if at == place { f32::NAN } else { exact[at] as f32 }).is_nan());
        }
    }

    #[test]
    fn bounds_are_of_the_precision() {
        let bound = |dtype: &str| {
            let case = case(&format!(r#""queries": 30, "keys": 40, "dtype": "{dtype}""#));
            match case.dtype {
                Dtype::F32 => Reference::new(&case, &Inputs::<f32>::random(&case), Pool::global()).bound,
                Dtype::Bf16 => Reference::new(&case, &Inputs::<half::bf16>::random(&case), Pool::global()).bound,
                Dtype::F16 => Reference::new(&case, &Inputs::<half::f16>::random(&case), Pool::global()).bound,
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
