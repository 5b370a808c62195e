//! Gradients of anything.

use super::{Tensor, Tensors};

/// How far a number is moved to either side, relative to it, and at least this far. What is left out grows as the square, what
/// rounding costs as the inverse: both stay near 1e−10 where derivatives are of order one.
const STEP: f64 = 1e-5;

/// The gradient of a function of named tensors by each of their numbers, by central differences:
/// `(f(x + h) − f(x − h)) / 2h`.
pub fn differences(at: &Tensors, value: impl Fn(&Tensors) -> f64) -> Tensors {
    let mut moved = at.clone();
    let mut slope = |name: &str, i: usize| {
        let x = at[name].values[i];
        let step = STEP * x.abs().max(1.0);
        let mut value_at = |x: f64| {
            moved[name].values[i] = x;
            value(&moved)
        };
        let (after, before) = (x + step, x - step);
        let slope = (value_at(after) - value_at(before)) / (after - before);
        moved[name].values[i] = x;
        slope
    };
    let mut gradient = |name: &str, tensor: &Tensor| (0..tensor.values.len()).map(|i| slope(name, i)).collect();
    at.iter().map(|(name, tensor)| (name, Tensor::new(&tensor.shape, gradient(name, tensor)))).collect()
}
