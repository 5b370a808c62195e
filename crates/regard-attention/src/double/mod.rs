//! Attention in f64, row by row: for gradient checks, and for arrays that come in f64.
//!
//! It means what the path of f32 means, from the same plan, and is written for clarity: no packing, no scratch, plain loops.
//! A row visits the keys that its layout keeps, so that a call costs what its mask keeps; a row's result
//! depends on its own sequence alone.

mod backward;
mod forward;
mod row;
mod softmax;

use std::ops::Range;

use regard_memory::TensorMut;

use crate::Real;

pub(crate) use row::Row;
pub(crate) use softmax::Softmax;

/// Keys of any sequence.
pub(crate) const ALL: Range<usize> = 0..usize::MAX;

/// Sums that a product of rows is added up in, side by side: one would wait for each addition before the next.
const LANES: usize = 8;

/// `Σ a·b`.
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a.to_f64() * b.to_f64();
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| a.to_f64() * b.to_f64());
    sums.into_iter().sum::<f64>() + rest.sum::<f64>()
}

/// `to += factor·x`.
pub(crate) fn add(to: &mut [f64], factor: f64, x: &[f64]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += factor * x);
}

/// Fills rows of a tensor (batch entry, rows), under all heads.
fn fill(tensor: &mut TensorMut<'_, f64>, stretches: &[(usize, Range<usize>)], value: f64) {
    for (batch, rows) in stretches {
        for head in 0..tensor.shape()[1] {
            rows.clone().for_each(|row| tensor.rows_mut(*batch, head).row_mut(row).fill(value));
        }
    }
}
