//! Where some rows lie in a tensor without gaps.

use regard_attention::Error;
use regard_memory::{Tensor, TensorMut};

/// Some rows of each head of some batch entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Of the whole tensor: batch entries, heads, rows.
    pub(super) all: [usize; 3],
    /// The first batch entry, and how many.
    pub(super) batch: (usize, usize),
    /// The first row, and how many.
    pub(super) rows: (usize, usize),
}

impl Place {
    pub(super) fn of<T>(self, data: &[T]) -> Result<Tensor<'_, T>, Error> {
        let (from, shape, strides) = self.layout(data.len());
        Ok(Tensor::new(&data[from..], shape, strides)?)
    }

    pub(super) fn of_mut<T>(self, data: &mut [T]) -> Result<TensorMut<'_, T>, Error> {
        let (from, shape, strides) = self.layout(data.len());
        Ok(TensorMut::new(&mut data[from..], shape, strides)?)
    }

    /// The first element, the shape and the strides in a tensor of so many numbers.
    fn layout(self, len: usize) -> (usize, [usize; 4], [usize; 3]) {
        let Place { all: [batch, heads, rows], batch: (first, count), rows: (row, seq) } = self;
        let dim = len / (batch * heads * rows);
        let strides = [heads * rows * dim, rows * dim, dim];
        (first * strides[0] + row * dim, [count, heads, seq, dim], strides)
    }
}
