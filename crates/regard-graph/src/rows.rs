//! Rows of arrays `[batch, heads, seq, dim]`.

use std::borrow::Cow;

use ndarray::{ArrayView2, ArrayView4, Axis};
use regard_attention::Shape;

/// `[seq, dim]` of a head.
pub(crate) fn head<'a>(array: ArrayView4<'a, f32>, batch: usize, head: usize) -> ArrayView2<'a, f32> {
    array.index_axis_move(Axis(0), batch).index_axis_move(Axis(0), head)
}

/// The batch entry, head and query of a row of `[batch][heads][queries]`.
pub(crate) fn place(shape: Shape, row: usize) -> (usize, usize, usize) {
    let Shape { heads, queries, .. } = shape;
    (row / queries / heads, row / queries % heads, row % queries)
}

/// `[dim]` of a token; copied where it is not contiguous.
pub(crate) fn row<'a>(head: ArrayView2<'a, f32>, token: usize) -> Cow<'a, [f32]> {
    let row = head.index_axis_move(Axis(0), token);
    match row.to_slice() {
        Some(row) => Cow::Borrowed(row),
        None => Cow::Owned(row.to_vec()),
    }
}
