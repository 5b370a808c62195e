//! The gradient of the bias: each task sums what it sees of it, and the sums are added up in the order of the tasks.

use std::ops::Range;

use regard_kernels::Transposable;
use regard_memory::{TensorMut, backwards};
use regard_threads::Pool;

use crate::backward::{Differentiable, Pass};

/// What a task sums of the gradient of the bias: `[heads of the group or 1, queries or 1, keys of the split or 1]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BiasShape {
    heads: usize,
    queries: usize,
    keys: usize,
}

impl BiasShape {
    /// For a bias `[batch or 1, heads or 1, queries or 1, keys or 1]`, and a task over so many queries and keys.
    pub(crate) fn of([_, heads, q, k]: [usize; 4], group: usize, queries: usize, keys: usize) -> BiasShape {
        let of = |extent: usize, all: usize| if extent == 1 { 1 } else { all };
        BiasShape { heads: of(heads, group), queries: of(q, queries), keys: of(k, keys) }
    }

    pub(crate) fn len(&self) -> usize {
        self.heads * self.queries * self.keys
    }

    /// Adds the gradients of the scores of a row, of consecutive keys of the split.
    pub(crate) fn add(&self, sums: &mut [f32], query: usize, head: usize, first_key: usize, gradients: &[f32]) {
        let row = head.min(self.heads - 1) * self.queries + query.min(self.queries - 1);
        if self.keys == 1 {
            sums[row] += gradients.iter().sum::<f32>();
            return;
        }
        // The last panel has columns behind the last key, which are 0.
        let to = &mut sums[row * self.keys..][..self.keys][first_key..];
        to.iter_mut().zip(gradients).for_each(|(to, x)| *to += x);
    }

    /// The sums of a row.
    fn row<'a>(&self, sums: &'a [f32], query: usize, head: usize) -> &'a [f32] {
        let row = head.min(self.heads - 1) * self.queries + query.min(self.queries - 1);
        &sums[row * self.keys..][..self.keys]
    }
}

/// Rows of the bias that a task adds up.
const ROWS_OF_A_TASK: usize = 16;

impl<T: Differentiable, O: Differentiable, E: Transposable> Pass<'_, '_, T, O, E> {
    /// The sums that a split makes of the gradient of the bias.
    pub(crate) fn bias_shape(&self, sequence: usize, split: usize) -> Option<BiasShape> {
        let bias = self.inputs.terms.bias.filter(|_| self.with_bias)?;
        let (queries, keys) = (self.plan.sequences[sequence].queries.len(), self.plan.sequences[sequence].keys.len());
        let each = self.backward.split_keys[sequence];
        Some(BiasShape::of(bias.shape(), self.group, queries, each.min(keys - (split * each).min(keys))))
    }

    /// Adds the sums of some units to the gradient; each split has `stride` words of them.
    pub(crate) fn add_bias(
        &self,
        units: Range<usize>,
        sums: &[f32],
        stride: usize,
        gradient: TensorMut<'_, f32>,
        pool: &Pool,
    ) {
        let [_, bias_heads, bias_rows, bias_keys] = gradient.shape();
        if gradient.shape().contains(&0) {
            return;
        }
        let blocks = bias_rows.div_ceil(ROWS_OF_A_TASK);
        let bias_batch = gradient.shape()[0];
        let parts = gradient.block_parts(1, ROWS_OF_A_TASK);
        let all = 0..bias_batch * bias_heads * blocks;
        pool.run(backwards(parts, all), |_, (index, mut part)| {
            let (entry, head, block) = (index / (bias_heads * blocks), index / blocks % bias_heads, index % blocks);
            let mut first = 0;
            for unit in units.clone().map(|unit| self.unit(unit)) {
                let splits = self.backward.splits(unit.sequence);
                let sequence = &self.plan.sequences[unit.sequence];
                let own = unit.head * self.group..(unit.head + 1) * self.group;
                let has = (bias_batch == 1 || sequence.batch == entry) && (bias_heads == 1 || own.contains(&head));
                for split in 0..if has { splits } else { 0 } {
                    let Some(shape) = self.bias_shape(unit.sequence, split) else { continue };
                    let sums = &sums[(first + split) * stride..][..shape.len()];
                    let first_key = sequence.keys.start + split * self.backward.split_keys[unit.sequence];
                    for at in 0..part.shape()[2] {
                        let row = block * ROWS_OF_A_TASK + at;
                        let query = if bias_rows == 1 { 0 } else { row.wrapping_sub(sequence.queries.start) };
                        if query >= sequence.queries.len() {
                            continue;
                        }
                        let from = shape.row(sums, query, head.saturating_sub(own.start));
                        let first_key = if bias_keys == 1 { 0 } else { first_key };
                        let mut rows = part.rows_mut(0, 0);
                        let to = &mut rows.row_mut(at)[first_key..];
                        to.iter_mut().zip(from).for_each(|(to, x)| *to += x);
                    }
                }
                first += splits;
            }
        });
    }
}
