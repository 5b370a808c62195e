//! Views of `ndarray` come over without a copy, whatever their strides.
#![cfg(feature = "ndarray")]

use ndarray::{Array4, ArrayView4, s};
use proptest::prelude::*;
use regard_memory::{Error, Tensor, TensorMut};

fn numbered(shape: [usize; 4]) -> Array4<usize> {
    Array4::from_shape_vec(shape, (0..shape.iter().product()).collect()).unwrap()
}

fn agree(view: ArrayView4<'_, usize>, tensor: Tensor<'_, usize>) -> bool {
    tensor.shape() == <[usize; 4]>::from(view.dim())
        && view.indexed_iter().all(|((b, h, i, d), value)| tensor.rows(b, h).row(i)[d] == *value)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 256 }) })]

    #[test]
    fn sliced_and_permuted_views_agree(
        shape in prop::array::uniform4(1usize..6), order in Just([0, 1, 2]).prop_shuffle(), step in 1isize..3, skip in 0usize..2,
    ) {
        let mut array = numbered(shape);
        let [a, b, c] = order;
        let skip = skip.min(shape[3] - 1);
        let view = array.slice(s![..;step, .., ..;step, skip..]).permuted_axes([a, b, c, 3]);
        prop_assert!(agree(view, view.try_into().unwrap()));

        let mut view = array.slice_mut(s![..;step, .., ..;step, skip..]).permuted_axes([a, b, c, 3]);
        let oracle = view.mapv(|value| value + 1000);
        let mut tensor = TensorMut::try_from(view.view_mut()).unwrap();
        for batch in 0..tensor.shape()[0] {
            for head in 0..tensor.shape()[1] {
                for row in tensor.rows_mut(batch, head).into_rows() {
                    row.iter_mut().for_each(|value| *value += 1000);
                }
            }
        }
        prop_assert_eq!(view, oracle);
    }
}

#[test]
fn what_runs_backwards_or_has_gaps_in_dim_is_refused() {
    let array = numbered([2, 2, 3, 4]);
    let refused = |view: ArrayView4<'_, usize>| matches!(Tensor::try_from(view), Err(Error::Strides { .. }));
    assert!(refused(array.slice(s![.., .., ..;-1, ..])));
    assert!(refused(array.slice(s![.., .., .., ..;2])));
    assert!(refused(array.view().permuted_axes([0, 1, 3, 2])));
    // A single row does not run at all.
    let view = array.slice(s![.., .., ..1;-1, ..]);
    assert!(agree(view, view.try_into().unwrap()));
}

#[test]
fn a_broadcast_view_is_read_without_a_copy() {
    let array = numbered([1, 1, 3, 4]);
    let view = array.broadcast([5, 2, 3, 4]).unwrap();
    assert!(agree(view, view.try_into().unwrap()));
}
