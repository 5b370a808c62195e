//! A state-space model, step by step.

use super::{Activation, Norm, Tensor, Tensors, linear};

/// The mixer of Mamba-2 (Dao and Gu, 2024, section 7). Each head has a state h `[head_dim, state]`, and head `a` reads group
/// `a / (heads / groups)` of B and C: `h ← e^(−Δ·e^A)·h + Δ·x⊗B`, `y = h·C + D·x`, with `Δ = ln(1 + e^(δ + b))`. Before it is a
/// causal convolution of x, B and C with SiLU, and behind it a gate and a norm of each group by itself.
///
/// Weights: `in_proj.weight [2·inner + 2·groups·state + heads, E]` (rows z, x, B, C, δ), `conv1d.weight [channels, 1, taps]`,
/// `conv1d.bias [channels]`, `A_log`, `D`, `dt_bias` `[heads]`, `norm.weight [inner]`, `out_proj.weight [E, inner]`, where
/// `inner = heads·head_dim` and `channels = inner + 2·groups·state`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StateSpace {
    /// Heads, each with a state.
    pub heads: usize,
    /// What B and C there are of.
    pub groups: usize,
    /// What the norm adds to the mean square.
    pub epsilon: f64,
}

impl StateSpace {
    /// The layer's output, `[batch, tokens, E]`, of x `[batch, tokens, E]`.
    pub fn forward(&self, x: &Tensor, weights: &Tensors) -> Tensor {
        let gated = self.gated(x, weights);
        let (shape, width) = (gated.shape.clone(), gated.width() / self.groups);
        // Rows of all groups, normed without weights.
        let ones = Tensor::new(&[width], vec![1.0; width]);
        let normed = Norm::Rms(self.epsilon).apply(&gated.reshaped(&[gated.values.len() / width, width]), &ones, None);
        let weight = &weights["norm.weight"].values;
        let weighted = |row: &[f64]| row.iter().zip(weight).map(|(x, w)| x * w).collect();
        linear(&normed.reshaped(&shape).by_row(weight.len(), weighted), &weights["out_proj.weight"], None)
    }

    /// What is normed, `[batch, tokens, inner]`.
    pub fn gated(&self, x: &Tensor, weights: &Tensors) -> Tensor {
        let (heads, batch, tokens) = (self.heads, x.shape[0], x.shape[1]);
        let of = |name: &str| &weights[name].values;
        let (channels, taps) = (weights["conv1d.weight"].shape[0], weights["conv1d.weight"].width());
        let projected = linear(x, &weights["in_proj.weight"], None);
        let inner = projected.width() - channels - heads;
        let (head_dim, keys) = (inner / heads, (channels - inner) / 2);
        let state = keys / self.groups;
        let rows: Vec<&[f64]> = projected.rows().collect();
        let mut gated = Vec::new();
        for entry in rows.chunks(tokens) {
            let mut h = vec![0.0; inner * state];
            for (t, row) in entry.iter().enumerate() {
                // Of the taps those that lie within the sequence.
                let convolved = |c: usize| {
                    let within = (0..taps).filter(|tap| t + tap + 1 >= taps);
                    let seen = |tap: usize| of("conv1d.weight")[c * taps + tap] * entry[t + tap + 1 - taps][inner + c];
                    Activation::Silu.of(of("conv1d.bias")[c] + within.map(seen).sum::<f64>())
                };
                let convolved: Vec<f64> = (0..channels).map(convolved).collect();
                let (values, rest) = convolved.split_at(inner);
                let (b, c) = rest.split_at(keys);
                for (at, (&x, &z)) in values.iter().zip(&row[..inner]).enumerate() {
                    let head = at / head_dim;
                    let group = head / (heads / self.groups) * state;
                    let delta = (row[inner + channels + head] + of("dt_bias")[head]).exp().ln_1p();
                    let left = (-delta * of("A_log")[head].exp()).exp();
                    let mut y = of("D")[head] * x;
                    for n in 0..state {
                        let h = &mut h[at * state + n];
                        *h = left * *h + delta * x * b[group + n];
                        y += *h * c[group + n];
                    }
                    gated.push(y * Activation::Silu.of(z));
                }
            }
        }
        Tensor::new(&[batch, tokens, inner], gated)
    }
}
