//! What stands at both ends of a model and between all its parts.

use super::Tensor;

/// `y = x·Wᵀ + b`: of x `[…, in]`, W `[out, in]` and b `[out]`, y `[…, out]`.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Tensor {
    assert_eq!(x.width(), w.width(), "inputs");
    x.by_row(w.shape[0], |x| {
        let bias = |o: usize| b.map_or(0.0, |b| b.values[o]);
        let product = |w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
        w.rows().enumerate().map(|(o, w)| product(w) + bias(o)).collect()
    })
}

/// Row `tokens[t]` of a table `[vocabulary, width]` for each t: `[tokens, width]`.
pub fn embedding(table: &Tensor, tokens: &[usize]) -> Tensor {
    let rows: Vec<&[f64]> = table.rows().collect();
    let values = tokens.iter().flat_map(|&token| rows[token].iter().copied()).collect();
    Tensor::new(&[tokens.len(), table.width()], values)
}

/// The mean over targets of `ln Σ e^x − x[target]`, of logits `[…, classes]`, a target for each row; rows without one do not
/// count. Where there is none at all, 0.
pub fn cross_entropy(logits: &Tensor, targets: &[Option<usize>]) -> f64 {
    assert_eq!(logits.rows().count(), targets.len(), "targets");
    let loss = |(x, target): (&[f64], &Option<usize>)| {
        let most = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = x.iter().map(|x| (x - most).exp()).sum();
        target.map(|target| most + sum.ln() - x[target])
    };
    let losses: Vec<f64> = logits.rows().zip(targets).filter_map(loss).collect();
    losses.iter().sum::<f64>() / losses.len().max(1) as f64
}
