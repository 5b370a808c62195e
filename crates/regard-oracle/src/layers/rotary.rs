//! Positions as rotations.

use super::Tensor;

/// Rotary positions, half-split: of the first `dims` numbers of a row at position p, `x[c]` and `x[c + dims/2]` are turned by
/// the angle `p·θ^(−2c/dims)`; the others stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// θ.
    pub theta: f64,
    /// How many numbers of a row are turned, an even number; all of them unless given.
    pub dims: Option<usize>,
}

impl Rotary {
    /// Of x `[…, tokens, d]` whose first token stands at position `first`.
    pub fn apply(&self, x: &Tensor, first: usize) -> Tensor {
        let (tokens, dims) = (x.shape[x.shape.len() - 2], self.dims.unwrap_or(x.width()));
        let mut row = 0;
        x.by_row(x.width(), |x| {
            let position = (first + row % tokens) as f64;
            row += 1;
            let mut y = x.to_vec();
            for c in 0..dims / 2 {
                let angle = position * self.theta.powf(-2.0 * c as f64 / dims as f64);
                let (sin, cos) = angle.sin_cos();
                let (a, b) = (x[c], x[c + dims / 2]);
                y[c] = a * cos - b * sin;
                y[c + dims / 2] = a * sin + b * cos;
            }
            y
        })
    }
}
