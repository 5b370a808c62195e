//! Layers, by hand where they can be, and by what PyTorch makes of them.

mod attention;
mod golden;
mod shared_context;
mod tokens;

use regard_oracle::layers::{Tensor, Tensors};
use regard_oracle::{numbers, widen};

use crate::close;

/// Random numbers of a shape.
fn random(seed: u64, shape: &[usize]) -> Tensor {
    Tensor::new(shape, widen(&numbers(seed, shape.iter().product())))
}

/// Random tensors of these names and shapes.
fn drawn<const N: usize>(seed: u64, parts: [(&str, &[usize]); N]) -> Tensors {
    parts.iter().zip(seed..).map(|(&(name, shape), seed)| (name, random(seed, shape))).collect()
}

fn same(ours: &Tensor, theirs: &Tensor) {
    assert_eq!(ours.shape, theirs.shape);
    close(&ours.values, &theirs.values, 1e-12).unwrap();
}

/// One row.
fn row(values: &[f64]) -> Tensor {
    Tensor::new(&[1, values.len()], values.to_vec())
}

fn vector(values: &[f64]) -> Tensor {
    Tensor::new(&[values.len()], values.to_vec())
}
