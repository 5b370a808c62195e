//! Tensors of a call: what goes in beside the plan, and what comes out.

use regard_memory::{Tensor, TensorMut};

use crate::shape::expect;
use crate::{Error, Shape};

/// What joins scores and denominators. The default is nothing.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a, W = f32> {
    /// Added to the capped scores: `[batch or 1, heads or 1, queries or 1, keys or 1]`. −∞ is the same as masked.
    pub bias: Option<Tensor<'a, W>>,
    /// ALiBi, `[heads]`: `slope·|p − j|` is taken from the scores (Press et al., 2021).
    pub slopes: Option<&'a [W]>,
    /// `[heads]`: a logit that joins each row's denominator and has no value.
    pub sinks: Option<&'a [W]>,
    /// `[sequences]`: the numbers that dropout knows the sequences by; 0, 1, 2 … unless given.
    pub sequence_ids: Option<&'a [u64]>,
}

impl<W> Default for Terms<'_, W> {
    fn default() -> Self {
        Terms { bias: None, slopes: None, sinks: None, sequence_ids: None }
    }
}

impl<W> Terms<'_, W> {
    /// Compares shapes with the plan's.
    pub(crate) fn check(&self, shape: Shape, sequences: usize) -> Result<(), Error> {
        let Shape { batch, heads, queries, keys, .. } = shape;
        if let Some(bias) = &self.bias {
            let has = bias.shape();
            let mut expected = [batch, heads, queries, keys];
            for (expected, has) in expected.iter_mut().zip(has) {
                if has == 1 {
                    *expected = 1;
                }
            }
            expect("bias", has, expected)?;
        }
        let per_head = [("slopes", self.slopes.map(<[W]>::len)), ("sinks", self.sinks.map(<[W]>::len))];
        for (tensor, has) in per_head {
            if let Some(has) = has.filter(|&has| has != heads) {
                return Err(Error::Axis { tensor, axis: "heads", has, expected: heads.to_string() });
            }
        }
        match self.sequence_ids {
            Some(ids) if ids.len() != sequences => Err(Error::Axis {
                tensor: "sequence_ids",
                axis: "sequences",
                has: ids.len(),
                expected: sequences.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// What a call of attention reads.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, T, W = f32> {
    /// `[batch, heads, queries, dim_k]`.
    pub q: Tensor<'a, T>,
    /// `[batch, kv_heads, keys, dim_k]`.
    pub k: Tensor<'a, T>,
    /// `[batch, kv_heads, keys, dim_v]`.
    pub v: Tensor<'a, T>,
    /// What joins the scores.
    pub terms: Terms<'a, W>,
}

impl<'a, T, W> Inputs<'a, T, W> {
    /// Queries, keys and values, and nothing beside.
    pub fn new(q: Tensor<'a, T>, k: Tensor<'a, T>, v: Tensor<'a, T>) -> Self {
        Inputs { q, k, v, terms: Terms::default() }
    }

    /// Compares shapes with the plan's.
    pub(crate) fn check(&self, shape: Shape, sequences: usize) -> Result<(), Error> {
        let Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = shape;
        expect("queries", self.q.shape(), [batch, heads, queries, dim_k])?;
        expect("keys", self.k.shape(), [batch, kv_heads, keys, dim_k])?;
        expect("values", self.v.shape(), [batch, kv_heads, keys, dim_v])?;
        self.terms.check(shape, sequences)
    }
}

/// What a call of attention writes.
///
/// The numbers of `out` may be those of the queries or, for a state that is to be merged, f32.
#[derive(Debug)]
pub struct Outputs<'a, O, W = f32> {
    /// `[batch, heads, queries, dim_v]`.
    pub out: TensorMut<'a, O>,
    /// `[batch, heads, queries, 1]`: the natural logarithm of the sum of exponentials of a query's final scores.
    pub lse: Option<TensorMut<'a, W>>,
}

impl<'a, O, W> Outputs<'a, O, W> {
    /// The result without the log-sum-exp.
    pub fn new(out: TensorMut<'a, O>) -> Self {
        Outputs { out, lse: None }
    }

    /// The result and the log-sum-exp: a state.
    pub fn state(out: TensorMut<'a, O>, lse: TensorMut<'a, W>) -> Self {
        Outputs { out, lse: Some(lse) }
    }

    /// Compares shapes with the plan's.
    pub(crate) fn check(&self, shape: Shape) -> Result<(), Error> {
        let Shape { batch, heads, queries, dim_v, .. } = shape;
        expect("out", self.out.shape(), [batch, heads, queries, dim_v])?;
        match &self.lse {
            Some(lse) => expect("lse", lse.shape(), [batch, heads, queries, 1]),
            None => Ok(()),
        }
    }
}
