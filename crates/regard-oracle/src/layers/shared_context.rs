//! What a block hands to the next beside its output.

use super::{Tensor, linear};

/// The shared attention context: `S [D, D]`, the running correlation between a block's input channels and its mixer's output
/// channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SharedContext {
    /// How much of a new correlation is taken, `r`.
    pub rate: f64,
    /// How many rows of a sequence are sampled at most.
    pub rows: usize,
}

impl Default for SharedContext {
    fn default() -> Self {
        SharedContext { rate: 0.01, rows: 32 }
    }
}

/// Which rows of a sequence are sampled: `⌊(2r + 1)·T/(2n)⌋` for r below `n = min(T, most)`.
pub fn sampled_rows(tokens: usize, most: usize) -> Vec<usize> {
    let n = tokens.min(most);
    (0..n).map(|r| (2 * r + 1) * tokens / (2 * n)).collect()
}

/// The columns of these rows, each without its mean.
fn centred(x: &Tensor, rows: &[usize]) -> Vec<Vec<f64>> {
    let column = |c: usize| rows.iter().map(move |&row| x.values[row * x.width() + c]);
    let columns = (0..x.width()).map(|c| {
        let mean = column(c).sum::<f64>() / rows.len() as f64;
        column(c).map(|x| x - mean).collect()
    });
    columns.collect()
}

impl SharedContext {
    /// `sim_ij = tanh(X̂_i·Ŷ_j / (‖X̂_i‖‖Ŷ_j‖))` of a sequence's sampled rows, centred by column, and 0 where the denominator is
    /// at most 1e−12: `[D, D]` of x and y `[tokens, D]`.
    pub fn similarity(&self, x: &Tensor, y: &Tensor) -> Tensor {
        assert_eq!(x.shape, y.shape);
        let rows = sampled_rows(x.shape[0], self.rows);
        let (x, y) = (centred(x, &rows), centred(y, &rows));
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut similarities = Vec::new();
        for x in &x {
            for y in &y {
                let size = product(x, x).sqrt() * product(y, y).sqrt();
                similarities.push(if size <= 1e-12 { 0.0 } else { (product(x, y) / size).tanh() });
            }
        }
        Tensor::new(&[x.len(), y.len()], similarities)
    }

    /// `(1 − r)·S + r·sim`, with `sim` averaged over those of the sequences, pairs of x and y `[tokens, D]`, that have more than
    /// one row; S itself where none has.
    pub fn updated(&self, s: &Tensor, sequences: &[(Tensor, Tensor)]) -> Tensor {
        let long = sequences.iter().filter(|(x, _)| x.shape[0] > 1);
        let similarities: Vec<Tensor> = long.map(|(x, y)| self.similarity(x, y)).collect();
        let Some(sum) = similarities.iter().cloned().reduce(|sum, sim| sum.plus(&sim)) else { return s.clone() };
        s.with(&sum, |s, sum| (1.0 - self.rate) * s + self.rate * sum / similarities.len() as f64)
    }

    /// `X' = X + (scale/D)·X·S`, of x `[…, D]`.
    pub fn apply(x: &Tensor, s: &Tensor, scale: f64) -> Tensor {
        let factor = scale / x.width() as f64;
        x.with(&linear(x, &transposed(s), None), |x, product| x + factor * product)
    }

    /// The gradients `dX = G + (scale/D)·G·Sᵀ` and `dscale = (1/D)·Σ G∘(X·S)`, from that of X', `G`.
    pub fn gradients(x: &Tensor, s: &Tensor, scale: f64, g: &Tensor) -> (Tensor, f64) {
        let factor = scale / x.width() as f64;
        let dx = g.with(&linear(g, s, None), |g, product| g + factor * product);
        (dx, g.dot(&linear(x, &transposed(s), None)) / x.width() as f64)
    }
}

fn transposed(s: &Tensor) -> Tensor {
    let (rows, columns) = (s.shape[0], s.shape[1]);
    let values = (0..columns).flat_map(|c| (0..rows).map(move |r| s.values[r * columns + c])).collect();
    Tensor::new(&[columns, rows], values)
}
