//! Tensors that lie in memory in every way that is allowed.

use proptest::prelude::*;
use regard_memory::{Tensor, TensorMut};

use super::Stored;

/// How a `[batch, heads, seq, dim]` lies in memory: its axes but `dim` from the outermost to the innermost, and how many
/// elements of nobody lie behind each step of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    axes: [usize; 3],
    gaps: [usize; 3],
}

impl Order {
    pub(crate) const CONTIGUOUS: Order = Order { axes: [0, 1, 2], gaps: [0; 3] };

    /// Strides, and elements in all.
    fn strides(self, shape: [usize; 4]) -> ([usize; 3], usize) {
        let (mut strides, mut step) = ([0; 3], shape[3]);
        for axis in self.axes.into_iter().rev() {
            step += self.gaps[axis];
            strides[axis] = step;
            step *= shape[axis].max(1);
        }
        (strides, step)
    }
}

/// Without gaps; `[batch, seq, heads, dim]` and every other order of axes; with gaps.
pub(crate) fn orders() -> impl Strategy<Value = Order> {
    let axes = prop_oneof![
        Just([0, 1, 2]),
        Just([0, 2, 1]),
        Just([1, 0, 2]),
        Just([1, 2, 0]),
        Just([2, 0, 1]),
        Just([2, 1, 0])
    ];
    let gap = || prop_oneof![2 => Just(0), 1 => 1..20_usize];
    let odd = (axes, [gap(), gap(), gap()]).prop_map(|(axes, gaps)| Order { axes, gaps });
    prop_oneof![1 => Just(Order::CONTIGUOUS), 2 => odd]
}

/// A tensor and its memory.
pub(crate) struct Strided<T> {
    data: Vec<T>,
    shape: [usize; 4],
    strides: [usize; 3],
}

impl<T: Stored> Strided<T> {
    /// Holds numbers that come without gaps. What lies between them is NaN.
    pub(crate) fn new(numbers: &[f32], shape: [usize; 4], order: Order) -> Self {
        let mut tensor = Self::blank(shape, order);
        let [batch, heads, seq, dim] = shape;
        for b in 0..batch {
            for h in 0..heads {
                for i in 0..seq {
                    let from = &numbers[((b * heads + h) * seq + i) * dim..][..dim];
                    let at = tensor.place(b, h, i);
                    tensor.data[at..at + dim].copy_from_slice(&super::store::<T>(from));
                }
            }
        }
        tensor
    }

    /// All NaN.
    pub(crate) fn blank(shape: [usize; 4], order: Order) -> Self {
        let (strides, len) = order.strides(shape);
        Strided { data: vec![T::from_f32(f32::NAN); len], shape, strides }
    }

    fn place(&self, b: usize, h: usize, i: usize) -> usize {
        b * self.strides[0] + h * self.strides[1] + i * self.strides[2]
    }

    pub(crate) fn view(&self) -> Tensor<'_, T> {
        Tensor::new(&self.data, self.shape, self.strides).expect("memory for all of the view")
    }

    pub(crate) fn view_mut(&mut self) -> TensorMut<'_, T> {
        TensorMut::new(&mut self.data, self.shape, self.strides).expect("memory for all of the view, once")
    }

    /// The numbers without gaps. Panics where a gap was written to.
    pub(crate) fn gather(mut self) -> Vec<f32> {
        let [batch, heads, seq, dim] = self.shape;
        let mut numbers = Vec::with_capacity(batch * heads * seq * dim);
        for b in 0..batch {
            for h in 0..heads {
                for i in 0..seq {
                    let at = self.place(b, h, i);
                    numbers.extend(self.data[at..at + dim].iter().map(|x| x.to_f32()));
                    self.data[at..at + dim].fill(T::from_f32(f32::NAN));
                }
            }
        }
        assert!(self.data.iter().all(|x| x.to_f32().is_nan()), "something was written between the rows of a view");
        numbers
    }
}
