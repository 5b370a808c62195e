//! A call, and what its parts mean.

use std::ops::Range;

use crate::Pair;

/// The sizes of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Batch entries.
    pub batch: usize,
    /// Query heads, a multiple of the key/value heads: head `h` reads key/value head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Queries of a batch entry.
    pub queries: usize,
    /// Keys of a batch entry.
    pub keys: usize,
    /// Elements of a query and of a key.
    pub dim_k: usize,
    /// Elements of a value.
    pub dim_v: usize,
}

impl Sizes {
    /// `[batch, heads, queries, dim_k]`.
    pub fn q(self) -> [usize; 4] {
        [self.batch, self.heads, self.queries, self.dim_k]
    }

    /// `[batch, kv_heads, keys, dim_k]`.
    pub fn k(self) -> [usize; 4] {
        [self.batch, self.kv_heads, self.keys, self.dim_k]
    }

    /// `[batch, kv_heads, keys, dim_v]`.
    pub fn v(self) -> [usize; 4] {
        [self.batch, self.kv_heads, self.keys, self.dim_v]
    }

    /// `[batch, heads, queries, dim_v]`.
    pub fn out(self) -> [usize; 4] {
        [self.batch, self.heads, self.queries, self.dim_v]
    }

    /// `[batch, heads, queries, 1]`.
    pub fn lse(self) -> [usize; 4] {
        [self.batch, self.heads, self.queries, 1]
    }

    /// Every batch entry as one sequence; the first query stands at `offset`, or where the last query stands at the last
    /// key.
    pub fn whole(self, offset: Option<i64>) -> Vec<Sequence> {
        let offset = offset.unwrap_or(self.keys as i64 - self.queries as i64);
        let entry = |batch| Sequence { batch, queries: 0..self.queries, keys: 0..self.keys, offset };
        (0..self.batch).map(entry).collect()
    }
}

/// Queries and keys that belong together. Those of no sequence are dead: such a query has output 0 and log-sum-exp −∞,
/// and neither such a query nor such a key has a gradient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The batch entry that it is part of.
    pub batch: usize,
    /// Its queries, as rows of that entry.
    pub queries: Range<usize>,
    /// Its keys, as rows of that entry.
    pub keys: Range<usize>,
    /// Where its first query stands among its keys.
    pub offset: i64,
}

/// Numbers that are added to scores.
#[derive(Clone, Copy, Debug)]
pub struct Bias<'a> {
    /// `[batch, heads, queries, keys]`, where any axis may be 1 and then stands for all of it. Axes are those of the tensors,
    /// also where a batch entry holds several sequences.
    pub shape: [usize; 4],
    /// The numbers, without gaps. −∞ is the same as masked.
    pub values: &'a [f64],
}

/// Which weights are dropped.
#[derive(Clone, Copy)]
pub struct Dropout<'a> {
    /// How likely a weight is dropped: what is left of a result is multiplied by `1 / (1 − probability)`.
    pub probability: f64,
    /// Whether the weight of a pair is kept.
    pub keeps: &'a (dyn Fn(&Pair) -> bool + 'a),
}

/// One call. Tensors are `[batch, heads, seq, dim]` without gaps.
///
/// The score of a query and a key is `s = scale·q·k`, then `c = softcap·tanh(s / softcap)`, then
/// `c + bias − slope·|p − j|`. Weights are the softmax of the scores of the pairs that the mask keeps and whose bias is
/// not −∞; other pairs are never looked at.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// The sizes of the tensors.
    pub sizes: Sizes,
    /// `[batch, heads, queries, dim_k]`.
    pub q: &'a [f64],
    /// `[batch, kv_heads, keys, dim_k]`.
    pub k: &'a [f64],
    /// `[batch, kv_heads, keys, dim_v]`.
    pub v: &'a [f64],
    /// Unless given, every batch entry is one sequence whose last query stands at the last key.
    pub sequences: Option<&'a [Sequence]>,
    /// The mask: whether a query sees a key. Unless given, it does.
    pub allows: &'a (dyn Fn(&Pair) -> bool + 'a),
    /// `1/√dim_k` unless given.
    pub scale: Option<f64>,
    /// The magnitude that scores stay below, or no such bound.
    pub softcap: Option<f64>,
    /// What is added to scores.
    pub bias: Option<Bias<'a>>,
    /// `[heads]`: how much a score loses for each step between query and key (ALiBi).
    pub slopes: Option<&'a [f64]>,
    /// `[heads]`: logits that join the denominators and have no value. A query that sees no key then has output 0, and the
    /// sink as its log-sum-exp.
    pub sinks: Option<&'a [f64]>,
    /// Which weights are dropped, after the softmax.
    pub dropout: Option<Dropout<'a>>,
}

/// Nothing, attended without options.
impl Default for Attention<'_> {
    fn default() -> Self {
        Attention {
            sizes: Sizes::default(),
            q: &[],
            k: &[],
            v: &[],
            sequences: None,
            allows: &|_| true,
            scale: None,
            softcap: None,
            bias: None,
            slopes: None,
            sinks: None,
            dropout: None,
        }
    }
}

impl Attention<'_> {
    /// Panics where numbers and sizes disagree: a test that is wrong should not look like an engine that is.
    pub(crate) fn check(&self) {
        let Sizes { batch, heads, queries, keys, .. } = self.sizes;
        let len = |shape: [usize; 4]| shape.iter().product::<usize>();
        assert_eq!(self.q.len(), len(self.sizes.q()), "numbers of q");
        assert_eq!(self.k.len(), len(self.sizes.k()), "numbers of k");
        assert_eq!(self.v.len(), len(self.sizes.v()), "numbers of v");
        if let Some(bias) = self.bias {
            assert_eq!(bias.values.len(), len(bias.shape), "numbers of the bias");
            let fits = |(&axis, size)| axis == size || axis == 1;
            assert!(bias.shape.iter().zip([batch, heads, queries, keys]).all(fits), "a bias of {:?}", bias.shape);
        }
        for logits in [self.slopes, self.sinks].into_iter().flatten() {
            assert_eq!(logits.len(), heads, "numbers of slopes or sinks");
        }
        for sequence in self.sequences.unwrap_or_default() {
            let inside = sequence.batch < batch && sequence.queries.end <= queries && sequence.keys.end <= keys;
            assert!(inside, "{sequence:?} of {:?}", self.sizes);
        }
    }
}
