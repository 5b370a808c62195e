//! A query and a key, whether they see each other, and the score of the two.

use std::ops::Range;

use crate::real::{Real, dot};
use crate::{Attention, Sequence, Sizes};

/// A query and a key of one sequence, under one query head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Which one of the call's sequences.
    pub sequence: usize,
    /// The batch entry.
    pub batch: usize,
    /// The query head.
    pub head: usize,
    /// Which query of the sequence.
    pub i: usize,
    /// The position of the query among the keys of the sequence.
    pub p: i64,
    /// Which key of the sequence.
    pub j: usize,
    /// The query's row in its batch entry.
    pub query: usize,
    /// The key's row in its batch entry.
    pub key: usize,
}

impl Pair {
    /// Where the number for a pair is in a tensor `[batch, heads, queries, keys]` any axis of which may be 1, and then stands
    /// for all of it.
    pub(crate) fn within(&self, shape: [usize; 4]) -> usize {
        let at = [self.batch, self.head, self.query, self.key];
        shape.iter().zip(at).fold(0, |index, (&size, at)| index * size + if size == 1 { 0 } else { at })
    }

    /// The steps between query and key.
    fn distance(&self) -> f64 {
        (i128::from(self.p) - self.j as i128).abs() as f64
    }
}

/// A query under one head, and the keys of its sequence.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) sequence: usize,
    pub(crate) batch: usize,
    pub(crate) head: usize,
    pub(crate) i: usize,
    pub(crate) p: i64,
    pub(crate) query: usize,
    pub(crate) keys: Range<usize>,
}

impl Row {
    pub(crate) fn into_pairs(self) -> impl Iterator<Item = Pair> {
        let Row { sequence, batch, head, i, p, query, keys } = self;
        let pair = move |(j, key)| Pair { sequence, batch, head, i, p, j, query, key };
        keys.enumerate().map(pair)
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = Pair> {
        self.clone().into_pairs()
    }

    /// Its place in `[batch, heads, queries]`.
    pub(crate) fn index(&self, sizes: Sizes) -> usize {
        (self.batch * sizes.heads + self.head) * sizes.queries + self.query
    }
}

/// All queries of some sequences, under each head.
pub(crate) fn rows(sizes: Sizes, sequences: &[Sequence]) -> impl Iterator<Item = Row> {
    let of_sequence = move |(number, sequence)| (0..sizes.heads).map(move |head| (number, sequence, head));
    let of_head = |(sequence, of, head): (usize, &Sequence, usize)| {
        let Sequence { batch, queries, keys, offset } = of.clone();
        let row = move |(i, query)| Row { sequence, batch, head, i, p: offset + i as i64, query, keys: keys.clone() };
        queries.enumerate().map(row)
    };
    sequences.iter().enumerate().flat_map(of_sequence).flat_map(of_head)
}

impl Attention<'_> {
    /// All queries that live.
    pub(crate) fn rows(&self) -> Vec<Row> {
        self.check();
        match self.sequences {
            Some(sequences) => rows(self.sizes, sequences).collect(),
            None => rows(self.sizes, &self.sizes.whole(None)).collect(),
        }
    }

    /// The pairs of a row that are not removed. Nothing else of a row is ever looked at.
    pub(crate) fn seen(&self, row: &Row) -> Vec<Pair> {
        row.pairs().filter(|pair| self.sees(pair)).collect()
    }

    pub(crate) fn sees(&self, pair: &Pair) -> bool {
        (self.allows)(pair) && self.bias.is_none_or(|bias| bias.values[pair.within(bias.shape)] != f64::NEG_INFINITY)
    }

    /// `scale·q·k`.
    pub(crate) fn raw<F: Real>(&self, pair: &Pair) -> F {
        self.scale::<F>() * dot(self.query(pair), self.key(pair))
    }

    pub(crate) fn scale<F: Real>(&self) -> F {
        F::of(self.scale.unwrap_or(1.0 / (self.sizes.dim_k as f64).sqrt()))
    }

    /// `softcap·tanh(raw / softcap)`.
    pub(crate) fn capped<F: Real>(&self, pair: &Pair) -> F {
        let raw = self.raw::<F>(pair);
        self.softcap.map_or(raw, |cap| F::of(cap) * (raw / F::of(cap)).tanh())
    }

    /// The score of a pair that is seen: `capped + bias − slope·|p − j|`.
    pub(crate) fn score<F: Real>(&self, pair: &Pair) -> F {
        let mut score = self.capped::<F>(pair);
        if let Some(bias) = self.bias {
            score += F::of(bias.values[pair.within(bias.shape)]);
        }
        if let Some(slopes) = self.slopes {
            score = score - F::of(slopes[pair.head]) * F::of(pair.distance());
        }
        score
    }

    /// The logit of a row that has no value; none is as good as −∞.
    pub(crate) fn sink<F: Real>(&self, head: usize) -> F {
        F::of(self.sinks.map_or(f64::NEG_INFINITY, |sinks| sinks[head]))
    }

    /// What dropout multiplies a weight by: 0, or 1 if it is kept.
    pub(crate) fn kept<F: Real>(&self, pair: &Pair) -> F {
        if self.dropout.is_none_or(|dropout| (dropout.keeps)(pair)) { F::one() } else { F::zero() }
    }

    /// What makes up for the weights that are dropped.
    pub(crate) fn made_up<F: Real>(&self) -> F {
        self.dropout.map_or(F::one(), |dropout| F::one() / (F::one() - F::of(dropout.probability)))
    }

    pub(crate) fn query(&self, pair: &Pair) -> &[f64] {
        &self.q[self.query_row(pair) * self.sizes.dim_k..][..self.sizes.dim_k]
    }

    pub(crate) fn key(&self, pair: &Pair) -> &[f64] {
        &self.k[self.key_row(pair) * self.sizes.dim_k..][..self.sizes.dim_k]
    }

    pub(crate) fn value(&self, pair: &Pair) -> &[f64] {
        &self.v[self.key_row(pair) * self.sizes.dim_v..][..self.sizes.dim_v]
    }

    /// A pair's query in `[batch, heads, queries]`.
    pub(crate) fn query_row(&self, pair: &Pair) -> usize {
        (pair.batch * self.sizes.heads + pair.head) * self.sizes.queries + pair.query
    }

    /// A pair's key in `[batch, kv_heads, keys]`.
    pub(crate) fn key_row(&self, pair: &Pair) -> usize {
        let Sizes { heads, kv_heads, keys, .. } = self.sizes;
        (pair.batch * kv_heads + pair.head / (heads / kv_heads)) * keys + pair.key
    }
}
