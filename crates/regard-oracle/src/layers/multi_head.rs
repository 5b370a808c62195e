//! Attention in several heads, with what leads into them and out of them.

use super::{Rotary, Tensor, Tensors, linear};
use crate::{Attended, Attention, Dropout, Pair, Sizes};

/// Multi-head attention, of x `[batch, tokens, E]` over itself or over a memory `[batch, keys, E]`:
/// `y_e = Σ_hd o[h, d]·w_out[h, d, e] + b_out[e]` with the heads' results `o = softmax(scale·q·kᵀ)·v`. Head `h` reads
/// key/value head `h / (H / H_kv)`.
///
/// Weights, in one of three forms, known by their names:
/// - `w_qkv [3, H, d_k, E]`
/// - `w_q [1, H, d_k, E]`, `w_kv [2, H_kv, d_k, E]`
/// - `w_q [1, H, d_k, E]`, `w_k [H_kv, d_k, E]`, `w_v [H_kv, d_v, E]`
///
/// and `w_out [H, d_v, E]`. Each of the biases `b_q [H, d_k]`, `b_k [H_kv, d_k]`, `b_v [H_kv, d_v]`, `b_out [E]` may be missing.
#[derive(Clone, Copy)]
pub struct MultiHead<'a> {
    /// Whether query `i` sees key `j`.
    pub allows: &'a dyn Fn(usize, usize) -> bool,
    /// Whether key/value head 0 is the only one that is projected, and all heads read it.
    pub reuse_first_head_kv: bool,
    /// Whether x is added to the output.
    pub add_input: bool,
    /// Positions of queries and keys, both from 0.
    pub rotary: Option<Rotary>,
    /// `1/√d_k` unless given.
    pub scale: Option<f64>,
    /// Which weights of the softmax are dropped.
    pub dropout: Option<Dropout<'a>>,
}

impl Default for MultiHead<'_> {
    fn default() -> Self {
        let (rotary, scale, dropout) = (None, None, None);
        MultiHead { allows: &|_, _| true, reuse_first_head_kv: false, add_input: false, rotary, scale, dropout }
    }
}

/// `[batch, heads, tokens, d]` of x `[batch, tokens, E]`, w `[heads, d, E]` and b `[heads, d]`.
pub fn heads_of(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Tensor {
    let ([batch, tokens, _], [heads, d, width]) = (axes(x), axes(w));
    let y = linear(x, &w.reshaped(&[heads * d, width]), b);
    let mut values = Vec::new();
    for b in 0..batch {
        for h in 0..heads {
            for t in 0..tokens {
                values.extend_from_slice(&y.values[((b * tokens + t) * heads + h) * d..][..d]);
            }
        }
    }
    Tensor::new(&[batch, heads, tokens, d], values)
}

/// `y[b, t, e] = Σ_hd o[b, h, t, d]·w[h, d, e] + b[e]`.
pub fn merge_heads(o: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Tensor {
    let ([batch, heads, tokens, d], [_, _, width]) = (axes(o), axes(w));
    assert_eq!([heads, d], w.shape[..2], "heads");
    let mut y = Tensor::new(&[batch, tokens, width], vec![0.0; batch * tokens * width]);
    for (place, o) in o.rows().enumerate() {
        let (entry, h, t) = (place / tokens / heads, place / tokens % heads, place % tokens);
        let y = &mut y.values[(entry * tokens + t) * width..][..width];
        for (o, w) in o.iter().zip(w.part(h).rows()) {
            y.iter_mut().zip(w).for_each(|(y, w)| *y += o * w);
        }
    }
    let shifted = |b: &Tensor| y.by_row(width, |y| y.iter().zip(&b.values).map(|(y, b)| y + b).collect());
    b.map_or(y.clone(), shifted)
}

impl MultiHead<'_> {
    /// The layer's output, over the memory if there is one, and otherwise over x itself.
    pub fn forward(&self, x: &Tensor, memory: Option<&Tensor>, weights: &Tensors) -> Tensor {
        let (k, v) = self.keys_values(memory.unwrap_or(x), weights);
        self.over(x, &k, &v, weights)
    }

    /// The queries of x, `[batch, H, queries, d_k]`.
    pub fn queries(&self, x: &Tensor, weights: &Tensors) -> Tensor {
        let w = weights.get("w_qkv").unwrap_or_else(|| &weights["w_q"]).part(0);
        let q = heads_of(x, &w, weights.get("b_q"));
        self.rotary.map_or(q.clone(), |rotary| rotary.apply(&q, 0))
    }

    /// The keys `[batch, H_kv, keys, d_k]` and values `[batch, H_kv, keys, d_v]` of a memory, where `H_kv` is 1 if only the
    /// first head is used.
    pub fn keys_values(&self, memory: &Tensor, weights: &Tensors) -> (Tensor, Tensor) {
        let joint = |name: &str, at: usize| weights.get(name).map(|w| w.part(at));
        let [w_k, w_v] = [("w_k", 0), ("w_v", 1)].map(|(name, at)| {
            joint("w_qkv", at + 1).or_else(|| joint("w_kv", at)).unwrap_or_else(|| weights[name].clone())
        });
        // A leading part of the heads, each of them `[d, E]`, or `[d]` for a bias.
        let used = |tensor: &Tensor| {
            let mut shape = tensor.shape.clone();
            shape[0] = if self.reuse_first_head_kv { 1 } else { shape[0] };
            Tensor::new(&shape, tensor.values[..shape.iter().product()].to_vec())
        };
        let [b_k, b_v] = ["b_k", "b_v"].map(|name| weights.get(name).map(used));
        let k = heads_of(memory, &used(&w_k), b_k.as_ref());
        let k = self.rotary.map_or(k.clone(), |rotary| rotary.apply(&k, 0));
        (k, heads_of(memory, &used(&w_v), b_v.as_ref()))
    }

    /// The layer's output over keys and values as [`keys_values`](MultiHead::keys_values) gives them, which another layer may
    /// have made.
    pub fn over(&self, x: &Tensor, k: &Tensor, v: &Tensor, weights: &Tensors) -> Tensor {
        let q = self.queries(x, weights);
        let allows = |pair: &Pair| (self.allows)(pair.query, pair.key);
        let options = Attention { allows: &allows, scale: self.scale, dropout: self.dropout, ..Attention::default() };
        let (o, _) = attend(&q, k, v, options);
        let y = merge_heads(&o, &weights["w_out"], weights.get("b_out"));
        if self.add_input { y.plus(x) } else { y }
    }
}

/// Results `[batch, H, queries, d_v]` and the log-sum-exps `[batch, H, queries]` of q `[batch, H, queries, d_k]`,
/// k `[batch, H_kv, keys, d_k]` and v `[batch, H_kv, keys, d_v]`.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, options: Attention<'_>) -> (Tensor, Vec<f64>) {
    let ([batch, heads, queries, dim_k], [_, kv_heads, keys, dim_v]) = (axes(q), axes(v));
    let sizes = Sizes { batch, heads, kv_heads, queries, keys, dim_k, dim_v };
    let Attended { out, lse } = Attention { sizes, q: &q.values, k: &k.values, v: &v.values, ..options }.exact();
    (Tensor::new(&sizes.out(), out), lse)
}

/// The lengths of so many axes.
fn axes<const N: usize>(tensor: &Tensor) -> [usize; N] {
    tensor.shape[..].try_into().unwrap_or_else(|_| panic!("{:?} has not {N} axes", tensor.shape))
}
