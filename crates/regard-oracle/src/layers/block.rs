//! A block of a transformer.

use super::{Activation, MultiHead, Norm, Tensor, Tensors, feed_forward};

/// A transformer's block that normalises before each of its parts: `x₁ = x + attention(norm(x))`, then
/// `y = x₁ + feed_forward(norm(x₁))`, x and y `[batch, tokens, E]`.
///
/// Weights: `attention_norm.weight`, `feed_forward_norm.weight` `[E]`, each with a `.bias` of its own if there is one; those of
/// [`MultiHead`] under `attention.`, and those of [`feed_forward`] under `feed_forward.`.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    /// Of both norms.
    pub norm: Norm,
    /// The mixer: its mask and its positions. It adds no input by itself.
    pub attention: MultiHead<'a>,
    /// Of the feed-forward layer.
    pub activation: Activation,
}

impl Block<'_> {
    /// The block's output.
    pub fn forward(&self, x: &Tensor, weights: &Tensors) -> Tensor {
        let norm = |x: &Tensor, name: &str| {
            self.norm.apply(x, &weights[&format!("{name}.weight")], weights.get(&format!("{name}.bias")))
        };
        let mixed = self.attention.forward(&norm(x, "attention_norm"), None, &weights.under("attention."));
        let x = x.plus(&mixed);
        x.plus(&feed_forward(&norm(&x, "feed_forward_norm"), &weights.under("feed_forward."), self.activation))
    }
}
