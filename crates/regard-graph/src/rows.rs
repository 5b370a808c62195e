//! Rows of arrays `[batch, heads, seq, dim]`.

use std::borrow::Cow;

use ndarray::{ArrayView2, ArrayView4, Axis};

/// `[seq, dim]` of a head.
pub(crate) fn head<'a>(array: ArrayView4<'a, f32>, batch: usize, head: usize) -> ArrayView2<'a, f32> {
    array.index_axis_move(Axis(0), batch).index_axis_move(Axis(0), head)
}

/// `[dim]` of a token; copied where it is not contiguous.
pub(crate) fn row<'a>(head: ArrayView2<'a, f32>, token: usize) -> Cow<'a, [f32]> {
    let row = head.index_axis_move(Axis(0), token);
    match row.to_slice() {
        Some(row) => Cow::Borrowed(row),
        None => Cow::Owned(row.to_vec()),
    }
}
