//! Attention to what is near and to a few keys that everyone sees.

use super::activation::sigmoid;
use super::multi_head::attend;
use super::{MultiHead, Tensor, Tensors, merge_heads};
use crate::{Attention, Pair};

/// Local-global attention of x `[batch, tokens, E]` over itself. Of each head, `local` is the softmax over the keys with
/// `|i − j| ≤ w`, and `global` that over the index list, each with its own denominator; both see only `j ≤ i` where causal.
/// Then `out[c] = g·local[c] + (1 − g)·global[c]` with `g = σ(gate[h, c])`; a row that sees no global key returns its local part
/// alone. Joint, there is one softmax over the union, and no gate.
///
/// Weights: those of [`MultiHead`], and `gate [H, d_v]` unless joint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalGlobal {
    /// w.
    pub window: usize,
    /// The index list; keys that stand in it several times count once.
    pub globals: Vec<usize>,
    /// Whether no key after a query is seen.
    pub causal: bool,
    /// Whether there is one softmax.
    pub joint: bool,
}

impl LocalGlobal {
    /// The layer's output, `[batch, tokens, E]`.
    pub fn forward(&self, x: &Tensor, weights: &Tensors) -> Tensor {
        let projections = MultiHead::default();
        let (q, (k, v)) = (projections.queries(x, weights), projections.keys_values(x, weights));
        merge_heads(&self.attend(&q, &k, &v, weights.get("gate")), &weights["w_out"], weights.get("b_out"))
    }

    /// The heads' results, `[batch, H, tokens, d_v]`, from q `[batch, H, tokens, d_k]`, k `[batch, H_kv, tokens, d_k]` and
    /// v `[batch, H_kv, tokens, d_v]`; `gate [H, d_v]`.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, gate: Option<&Tensor>) -> Tensor {
        let seen = |pair: &Pair| !self.causal || pair.key <= pair.query;
        let near = |pair: &Pair| seen(pair) && pair.query.abs_diff(pair.key) <= self.window;
        let listed = |pair: &Pair| seen(pair) && self.globals.contains(&pair.key);
        if self.joint {
            let union = |pair: &Pair| near(pair) || listed(pair);
            return attend(q, k, v, Attention { allows: &union, ..Attention::default() }).0;
        }
        let (mut local, _) = attend(q, k, v, Attention { allows: &near, ..Attention::default() });
        let (global, lse) = attend(q, k, v, Attention { allows: &listed, ..Attention::default() });
        let (gate, width) = (gate.expect("a gate"), local.width());
        let (heads, tokens) = (local.shape[1], local.shape[2]);
        for row in (0..lse.len()).filter(|&row| lse[row] != f64::NEG_INFINITY) {
            for c in 0..width {
                let g = sigmoid(gate.values[row / tokens % heads * width + c]);
                let at = row * width + c;
                local.values[at] = g * local.values[at] + (1.0 - g) * global.values[at];
            }
        }
        local
    }
}
