//! The layer that looks at each token alone.

use super::{Activation, Tensor, Tensors, linear};

/// Gated where there is a `w_gate`, `down(act(gate(x))·up(x))`, and otherwise `down(act(up(x)))`; x and y `[…, E]`.
///
/// Weights: `w_gate`, `w_up` `[F, E]`, `w_down` `[E, F]`; each may have a bias, `b_gate`, `b_up` `[F]`, `b_down` `[E]`.
pub fn feed_forward(x: &Tensor, weights: &Tensors, activation: Activation) -> Tensor {
    let part = |x: &Tensor, name: &str| linear(x, &weights[&format!("w_{name}")], weights.get(&format!("b_{name}")));
    let up = part(x, "up");
    let inner = match weights.get("w_gate") {
        Some(_) => part(x, "gate").with(&up, |gate, up| activation.of(gate) * up),
        None => up.by_row(up.width(), |up| up.iter().map(|&up| activation.of(up)).collect()),
    };
    part(&inner, "down")
}
