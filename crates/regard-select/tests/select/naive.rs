//! The methods as they are defined, pair by pair in f64, without a line of the crate's.

use ndarray::Array4;
use proptest::prelude::*;
use regard_attention::Direction;
use regard_oracle::numbers;
use regard_select::Select;

/// Queries and keys of any sizes, cut into blocks.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) q: Array4<f32>,
    pub(crate) k: Array4<f32>,
    pub(crate) size: usize,
    pub(crate) direction: Direction,
    pub(crate) offset: Option<usize>,
    pub(crate) scale: Option<f64>,
}

pub(crate) fn draw(seed: u64, shape: (usize, usize, usize, usize), size: f32) -> Array4<f32> {
    let (a, b, c, d) = shape;
    let numbers = numbers(seed, a * b * c * d).iter().map(|x| x * size).collect();
    Array4::from_shape_vec(shape, numbers).unwrap()
}

pub(crate) fn calls() -> impl Strategy<Value = Call> {
    let heads = prop::sample::select(vec![(1, 1), (2, 1), (4, 2), (3, 3)]);
    let lengths = (1..60_usize, 1..60_usize);
    let offset = prop::option::weighted(0.3, 0..70_usize);
    let scale = prop::option::weighted(0.3, 0.05..2.0);
    (0..1_000_000_u64, 1..3_usize, heads, lengths, 1..8_usize, 1..20_usize, any::<bool>(), offset, scale).prop_map(
        |(seed, batch, (heads, kv_heads), (n, m), dim, size, is_causal, offset, scale)| {
            // Without an offset the first query stands at the first key at the earliest.
            let (queries, keys) = if offset.is_none() { (n.min(m), n.max(m)) } else { (n, m) };
            Call {
                q: draw(seed, (batch, heads, queries, dim), 2.0),
                k: draw(seed + 1, (batch, kv_heads, keys, dim), 1.5),
                size,
                direction: if is_causal { Direction::Causal } else { Direction::Both },
                offset,
                scale,
            }
        },
    )
}

/// Every head: batch entry and head.
pub(crate) type Place = (usize, usize);

impl Call {
    pub(crate) fn select(&self) -> Select<'_> {
        let mut select = Select::new(self.q.view(), self.k.view()).block(self.size).direction(self.direction);
        if let Some(offset) = self.offset {
            select = select.offset(offset);
        }
        if let Some(scale) = self.scale {
            select = select.scale(scale);
        }
        select
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        let (batch, heads, ..) = self.q.dim();
        (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))).collect()
    }

    pub(crate) fn position(&self, i: usize) -> usize {
        i + self.offset.unwrap_or_else(|| self.keys() - self.queries())
    }

    pub(crate) fn queries(&self) -> usize {
        self.q.dim().2
    }

    pub(crate) fn keys(&self) -> usize {
        self.k.dim().2
    }

    pub(crate) fn scale(&self) -> f64 {
        self.scale.unwrap_or_else(|| 1.0 / (self.q.dim().3 as f64).sqrt())
    }

    pub(crate) fn sees(&self, i: usize, j: usize) -> bool {
        self.direction == Direction::Both || j <= self.position(i)
    }

    /// The numbers of the blocks of queries among all blocks of positions, with their queries.
    pub(crate) fn rows(&self) -> Vec<(usize, Vec<usize>)> {
        let of = |i: usize| self.position(i) / self.size;
        let blocks = of(0)..of(self.queries() - 1) + 1;
        blocks.map(|block| (block, (0..self.queries()).filter(|&i| of(i) == block).collect())).collect()
    }

    /// The keys of each block of keys.
    pub(crate) fn columns(&self) -> Vec<Vec<usize>> {
        let blocks = 0..(self.keys() - 1) / self.size + 1;
        blocks.map(|block| (0..self.keys()).filter(|j| j / self.size == block).collect()).collect()
    }

    /// The columns of which any query of a row sees any key.
    pub(crate) fn seen(&self, queries: &[usize]) -> Vec<usize> {
        let columns = self.columns();
        let sees = |keys: &[usize]| queries.iter().any(|&i| keys.iter().any(|&j| self.sees(i, j)));
        (0..columns.len()).filter(|&column| sees(&columns[column])).collect()
    }

    fn query(&self, (b, h): Place, i: usize) -> Vec<f64> {
        (0..self.q.dim().3).map(|c| f64::from(self.q[[b, h, i, c]])).collect()
    }

    fn key(&self, (b, h): Place, j: usize) -> Vec<f64> {
        let group = self.q.dim().1 / self.k.dim().1;
        (0..self.k.dim().3).map(|c| f64::from(self.k[[b, h / group, j, c]])).collect()
    }

    fn mean(rows: &[Vec<f64>]) -> Vec<f64> {
        (0..rows[0].len()).map(|c| rows.iter().map(|row| row[c]).sum::<f64>() / rows.len() as f64).collect()
    }

    fn pools(&self, place: Place, queries: &[usize], keys: &[usize]) -> [Vec<f64>; 3] {
        let of_queries: Vec<_> = queries.iter().map(|&i| self.query(place, i)).collect();
        let of_keys: Vec<_> = keys.iter().map(|&j| self.key(place, j)).collect();
        let mean = Self::mean(&of_keys);
        let squares: Vec<Vec<f64>> = of_keys
            .iter()
            .map(|key| key.iter().zip(&mean).map(|(x, mean)| (x - mean) * (x - mean)).collect())
            .collect();
        [Self::mean(&of_queries), mean, Self::mean(&squares)]
    }

    pub(crate) fn pooled(&self, place: Place, queries: &[usize], keys: &[usize]) -> f64 {
        let [query, key, _] = self.pools(place, queries, keys);
        self.scale() * query.iter().zip(&key).map(|(q, k)| q * k).sum::<f64>()
    }

    pub(crate) fn estimated(&self, place: Place, queries: &[usize], keys: &[usize]) -> f64 {
        let [query, _, variance] = self.pools(place, queries, keys);
        let spread: f64 = query.iter().zip(&variance).map(|(q, v)| (self.scale() * q).powi(2) * v / 2.0).sum();
        let pairs: f64 = queries.iter().map(|&i| keys.iter().filter(|&&j| self.sees(i, j)).count() as f64).sum();
        (pairs / queries.len() as f64).ln() + self.pooled(place, queries, keys) + spread
    }

    /// Softmax weights of a query, 0 where it does not see.
    pub(crate) fn weights(&self, place: Place, i: usize) -> Vec<f64> {
        let query = self.query(place, i);
        let score = |j: usize| {
            let product: f64 = query.iter().zip(self.key(place, j)).map(|(q, k)| q * k).sum();
            if self.sees(i, j) { self.scale() * product } else { f64::NEG_INFINITY }
        };
        let scores: Vec<f64> = (0..self.keys()).map(score).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
        scores.iter().map(|score| (score - most).exp() / sum).collect()
    }

    pub(crate) fn mass(&self, place: Place, queries: &[usize], keys: &[usize]) -> f64 {
        let of_query = |&i: &usize| {
            let weights = self.weights(place, i);
            keys.iter().map(|&j| weights[j]).sum::<f64>()
        };
        queries.iter().map(of_query).sum::<f64>() / queries.len() as f64
    }
}
