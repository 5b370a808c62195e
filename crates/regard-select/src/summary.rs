//! What is known of a block without looking at its tokens one by one.

use ndarray::{Array2, ArrayView2, ArrayView4, Axis};
use regard_memory::each_of;
use regard_threads::Pool;

use crate::select::Heads;
use crate::{Blocks, Error};

/// Means of the queries of each row, means and variances of the keys of each column, in f64.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) heads: Heads,
    pub(crate) blocks: Blocks,
    pub(crate) scale: f64,
    /// `[batch · heads]` of `[rows, dim]`.
    pub(crate) queries: Vec<Array2<f64>>,
    /// `[batch · kv_heads]` of `[columns, dim]`.
    pub(crate) keys: Vec<Array2<f64>>,
    /// Mean squares of the distance from the mean, as the keys.
    pub(crate) spreads: Vec<Array2<f64>>,
}

/// That of one query head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadSummary<'a> {
    pub(crate) scale: f64,
    /// `[rows, dim]`.
    pub(crate) queries: ArrayView2<'a, f64>,
    /// `[columns, dim]`.
    pub(crate) keys: ArrayView2<'a, f64>,
    /// `[columns, dim]`.
    pub(crate) spreads: ArrayView2<'a, f64>,
}

impl Summary {
    /// # Errors
    /// [`Error::NotFinite`].
    pub(crate) fn new(
        q: ArrayView4<'_, f32>,
        k: ArrayView4<'_, f32>,
        blocks: Blocks,
        scale: f64,
    ) -> Result<Summary, Error> {
        let heads = Heads::of(q, k);
        let Heads { batch, heads: query_heads, kv_heads, .. } = heads;
        let mut queries = vec![Array2::zeros((0, 0)); batch * query_heads];
        Pool::global().run(each_of(&mut queries), |at, means| {
            let head = head(q, at / query_heads, at % query_heads);
            *means = rows(blocks.rows(), heads.dim, |row, mean| mean_of(head, blocks.queries_of(row), mean));
        });
        let mut of_keys = vec![(Array2::zeros((0, 0)), Array2::zeros((0, 0))); batch * kv_heads];
        Pool::global().run(each_of(&mut of_keys), |at, (means, spreads)| {
            let head = head(k, at / kv_heads, at % kv_heads);
            *means = rows(blocks.columns(), heads.dim, |column, mean| mean_of(head, blocks.keys_of(column), mean));
            *spreads = rows(blocks.columns(), heads.dim, |column, spread| {
                let (mean, keys) = (means.row(column), blocks.keys_of(column));
                for j in keys.clone() {
                    for ((spread, mean), x) in spread.iter_mut().zip(mean).zip(head.row(j)) {
                        *spread += (f64::from(*x) - mean).powi(2);
                    }
                }
                spread.iter_mut().for_each(|spread| *spread /= keys.len() as f64);
            });
        });
        let (keys, spreads) = of_keys.into_iter().unzip();
        let summary = Summary { heads, blocks, scale, queries, keys, spreads };
        // A sum of finite numbers in f32 is finite in f64, and any other number makes another sum.
        for (tensor, array, means) in [("queries", q, &summary.queries), ("keys", k, &summary.keys)] {
            if means.iter().flatten().any(|mean| !mean.is_finite()) {
                let found = array.indexed_iter().find(|(_, x)| !x.is_finite());
                let ((b, h, i, c), &has) = found.expect("finite numbers have finite means");
                return Err(Error::NotFinite { tensor, has, at: [b, h, i, c] });
            }
        }
        Ok(summary)
    }

    /// How many query heads there are, over all batch entries.
    pub(crate) fn len(&self) -> usize {
        self.queries.len()
    }

    /// That of a query head, counted over batch entries.
    pub(crate) fn head(&self, at: usize) -> HeadSummary<'_> {
        let of_keys = self.heads.keys_of(at);
        HeadSummary {
            scale: self.scale,
            queries: self.queries[at].view(),
            keys: self.keys[of_keys].view(),
            spreads: self.spreads[of_keys].view(),
        }
    }
}

impl HeadSummary<'_> {
    /// `scale · q̄·k̄`, `[rows, columns]`: the mean score of all pairs of two blocks.
    pub(crate) fn products(&self) -> Array2<f64> {
        self.queries.dot(&self.keys.t()) * self.scale
    }

    /// `½ scale² · Σ_c q̄_c²·σ²_c`, `[rows, columns]`: half the variance of the pooled query's scores over a block of keys, if
    /// their dimensions vary apart from each other.
    pub(crate) fn halves_of_variance(&self) -> Array2<f64> {
        self.queries.mapv(|x| x * x).dot(&self.spreads.t()) * (0.5 * self.scale * self.scale)
    }
}

/// `[seq, dim]` of a head.
pub(crate) fn head<'a>(array: ArrayView4<'a, f32>, batch: usize, head: usize) -> ArrayView2<'a, f32> {
    array.index_axis_move(Axis(0), batch).index_axis_move(Axis(0), head)
}

/// An array of rows, each filled by itself.
fn rows(count: usize, dim: usize, fill: impl Fn(usize, &mut [f64])) -> Array2<f64> {
    let mut numbers = vec![0.0; count * dim];
    numbers.chunks_exact_mut(dim).enumerate().for_each(|(row, numbers)| fill(row, numbers));
    Array2::from_shape_vec((count, dim), numbers).expect("the vector was made for the shape")
}

fn mean_of(head: ArrayView2<'_, f32>, tokens: std::ops::Range<usize>, mean: &mut [f64]) {
    let count = tokens.len() as f64;
    for i in tokens {
        mean.iter_mut().zip(head.row(i)).for_each(|(mean, x)| *mean += f64::from(*x));
    }
    mean.iter_mut().for_each(|mean| *mean /= count);
}
