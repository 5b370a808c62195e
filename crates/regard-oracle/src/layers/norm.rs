//! Rows brought to one size.

use super::Tensor;

/// Which norm, and what it adds to the mean square.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// [`rms_norm`].
    Rms(f64),
    /// [`layer_norm`].
    Layer(f64),
}

impl Norm {
    /// The norm of each row, where only [`layer_norm`] has a bias.
    pub fn apply(self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        match self {
            Norm::Rms(epsilon) => rms_norm(x, weight, epsilon),
            Norm::Layer(epsilon) => layer_norm(x, weight, bias, epsilon),
        }
    }
}

fn mean(row: &[f64]) -> f64 {
    row.iter().sum::<f64>() / row.len() as f64
}

/// `y = x / √(mean(x²) + ε) · w`, row by row: x and y `[…, width]`, w `[width]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Tensor {
    assert_eq!([x.width()], weight.shape[..], "weights");
    x.by_row(x.width(), |x| {
        let squares: Vec<f64> = x.iter().map(|x| x * x).collect();
        let size = (mean(&squares) + epsilon).sqrt();
        x.iter().zip(&weight.values).map(|(x, w)| x / size * w).collect()
    })
}

/// `y = (x − mean(x)) / √(var(x) + ε) · w + b`, row by row, with the variance that divides by the width: x and y
/// `[…, width]`, w and b `[width]`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, epsilon: f64) -> Tensor {
    let middle = mean;
    let centred = x.by_row(x.width(), |x| x.iter().map(|y| y - middle(x)).collect());
    let y = rms_norm(&centred, weight, epsilon);
    let shifted = |bias: &Tensor| y.by_row(y.width(), |y| y.iter().zip(&bias.values).map(|(y, b)| y + b).collect());
    bias.map_or(y.clone(), shifted)
}
