//! What a call gives.

use regard_oracle::{Problem, Sequence, Sizes};

/// Results of a forward pass in f32, without gaps.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// `[batch, heads, queries, dim_v]`.
    pub(crate) out: Vec<f32>,
    /// `[batch, heads, queries]`.
    pub(crate) lse: Vec<f32>,
}

impl Outcome {
    pub(crate) fn bits(&self) -> (Vec<u32>, Vec<u32>) {
        (bits(&self.out), bits(&self.lse))
    }
}

/// Gradients in f32, without gaps.
#[derive(Clone, Debug)]
pub(crate) struct Slopes {
    /// `[batch, heads, queries, dim_k]`.
    pub(crate) dq: Vec<f32>,
    /// `[batch, kv_heads, keys, dim_k]`.
    pub(crate) dk: Vec<f32>,
    /// `[batch, kv_heads, keys, dim_v]`.
    pub(crate) dv: Vec<f32>,
    /// In the bias's own shape; empty without one.
    pub(crate) dbias: Vec<f32>,
    /// `[heads]`; empty without sinks.
    pub(crate) dsinks: Vec<f32>,
}

/// What both passes give.
#[derive(Clone, Debug)]
pub(crate) struct Results {
    pub(crate) outcome: Outcome,
    pub(crate) slopes: Slopes,
}

impl Results {
    /// All bits, by name.
    pub(crate) fn bits(&self) -> [(&'static str, Vec<u32>); 7] {
        let Slopes { dq, dk, dv, dbias, dsinks } = &self.slopes;
        let [out, lse] = [&self.outcome.out, &self.outcome.lse];
        [("out", out), ("lse", lse), ("dq", dq), ("dk", dk), ("dv", dv), ("dbias", dbias), ("dsinks", dsinks)]
            .map(|(name, x)| (name, bits(x)))
    }

    /// The bits that are of one sequence alone, by name.
    pub(crate) fn bits_of(&self, problem: &Problem, sequence: &Sequence) -> [(&'static str, Vec<u32>); 5] {
        let Sizes { heads, kv_heads, queries, keys, dim_k, dim_v, .. } = problem.sizes;
        let of = |x: &[f32], heads: usize, seq: usize, dim: usize, rows: &std::ops::Range<usize>| {
            let heads = (0..heads).map(|head| (sequence.batch * heads + head) * seq);
            heads.flat_map(|first| bits(&x[(first + rows.start) * dim..(first + rows.end) * dim])).collect()
        };
        let queries = |x, dim| of(x, heads, queries, dim, &sequence.queries);
        let keys = |x, dim| of(x, kv_heads, keys, dim, &sequence.keys);
        [
            ("out", queries(&self.outcome.out, dim_v)),
            ("lse", queries(&self.outcome.lse, 1)),
            ("dq", queries(&self.slopes.dq, dim_k)),
            ("dk", keys(&self.slopes.dk, dim_k)),
            ("dv", keys(&self.slopes.dv, dim_v)),
        ]
    }
}

/// Bits tell what equality does not: NaN from NaN, and 0 from −0.
pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
