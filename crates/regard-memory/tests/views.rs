//! Views against plain index arithmetic.

use std::collections::HashSet;

use proptest::prelude::*;
use regard_memory::{Error, Rows, RowsMut, Tensor, TensorMut};

/// Offsets of all elements of a view `[batch, heads, seq, dim]`, in that order.
fn offsets([batch, heads, seq, dim]: [usize; 4], [b, h, s]: [usize; 3]) -> Vec<usize> {
    let mut offsets = Vec::new();
    for i in 0..batch {
        for j in 0..heads {
            for k in 0..seq {
                offsets.extend((0..dim).map(|l| i * b + j * h + k * s + l));
            }
        }
    }
    offsets
}

/// Elements that a slice must have, by looking at all of them.
fn needed(offsets: &[usize]) -> usize {
    offsets.iter().map(|offset| offset + 1).max().unwrap_or(0)
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 512 }) }
}

/// The strides of an array that is stored in some order of axes with some padding, and is then seen as
/// `[batch, heads, seq, dim]`.
fn stored() -> impl Strategy<Value = ([usize; 4], [usize; 3])> {
    (prop::array::uniform4(1usize..5), Just([0, 1, 2]).prop_shuffle(), prop::array::uniform3(0usize..3)).prop_map(
        |(shape, order, padding)| {
            let mut strides = [0; 3];
            let mut within = shape[3];
            for (axis, pad) in order.into_iter().zip(padding) {
                strides[axis] = within + pad;
                within = strides[axis] * shape[axis];
            }
            (shape, strides)
        },
    )
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn rows_are_where_their_stride_says(rows in 0usize..6, cols in 0usize..6, stride in 0usize..9, len in 0usize..60) {
        let data: Vec<usize> = (0..len).collect();
        let all = offsets([1, 1, rows, cols], [0, 0, stride]);
        match Rows::new(&data, rows, cols, stride) {
            Ok(view) => {
                prop_assert!(needed(&all) <= len);
                prop_assert_eq!((view.rows(), view.cols()), (rows, cols));
                prop_assert_eq!(view.iter().flatten().copied().collect::<Vec<_>>(), all);
            }
            Err(error) => {
                let expected = needed(&all);
                prop_assert!(expected > len);
                prop_assert_eq!(error, Error::TooShort { tensor: "rows", has: len, expected });
            }
        }
    }

    #[test]
    fn rows_to_be_written_do_not_overlap(rows in 0usize..6, cols in 0usize..6, stride in 0usize..9) {
        let all = offsets([1, 1, rows, cols], [0, 0, stride]);
        let mut data = vec![0; needed(&all)];
        let distinct = all.iter().collect::<HashSet<_>>().len() == all.len();
        prop_assert_eq!(RowsMut::new(&mut data, rows, cols, stride).is_ok(), distinct);
    }

    #[test]
    fn blocks_split_a_matrix_into_all_of_it(
        rows in 0usize..6, cols in 0usize..6, pad in 0usize..3, i in any::<prop::sample::Index>(), j in any::<prop::sample::Index>(),
    ) {
        let (i, j) = (i.index(rows + 1), j.index(cols + 1));
        let stride = cols + pad;
        let mut data = vec![usize::MAX; (rows * stride).max(1)];
        let whole = RowsMut::new(&mut data, rows, cols, stride).unwrap();
        let (above, below) = whole.split_rows_at(i);
        let (above_left, above_right) = above.split_columns_at(j);
        let (below_left, below_right) = below.split_columns_at(j);
        let mut quarters = [above_left, above_right, below_left, below_right];
        // Interleaved, so that one quarter's references live between another's.
        for r in 0..rows {
            for (number, quarter) in quarters.iter_mut().enumerate() {
                if r < quarter.rows() {
                    quarter.row_mut(r).fill(number);
                }
            }
        }
        for (number, quarter) in quarters.into_iter().enumerate() {
            prop_assert!(quarter.into_rows().all(|row| row.iter().all(|&value| value == number)));
        }
        let read = Rows::new(&data, rows, cols, stride).unwrap();
        for r in 0..rows {
            for c in 0..cols {
                prop_assert_eq!(read.row(r)[c], 2 * usize::from(r >= i) + usize::from(c >= j));
            }
            // What lies between the rows is untouched.
            prop_assert!(data[r * stride + cols..(r + 1) * stride].iter().all(|&value| value == usize::MAX));
        }
        let (_, right) = read.split_columns_at(j);
        let (_, corner) = right.split_rows_at(i);
        prop_assert!(corner.iter().flatten().all(|&value| value == 3));
        prop_assert_eq!((corner.rows(), corner.cols()), (rows - i, cols - j));
    }

    #[test]
    fn tensors_are_where_their_strides_say(
        shape in prop::array::uniform4(0usize..4), strides in prop::array::uniform3(0usize..20), len in 0usize..120,
    ) {
        let data: Vec<usize> = (0..len).collect();
        let all = offsets(shape, strides);
        match Tensor::new(&data, shape, strides) {
            Ok(view) => {
                prop_assert!(needed(&all) <= len);
                let mut read = Vec::new();
                for batch in 0..shape[0] {
                    for head in 0..shape[1] {
                        read.extend(view.rows(batch, head).iter().flatten().copied());
                    }
                }
                prop_assert_eq!(read, all);
            }
            Err(error) => {
                let expected = needed(&all);
                prop_assert!(expected > len);
                prop_assert_eq!(error, Error::TooShort { tensor: "tensor", has: len, expected });
            }
        }
    }

    #[test]
    fn a_tensor_to_be_written_has_no_place_twice(
        shape in prop::array::uniform4(0usize..4), strides in prop::array::uniform3(0usize..20),
    ) {
        let all = offsets(shape, strides);
        let mut data = vec![0; needed(&all)];
        if TensorMut::new(&mut data, shape, strides).is_ok() {
            prop_assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        }
    }

    #[test]
    fn permuted_and_padded_arrays_can_be_written((shape, strides) in stored()) {
        let all = offsets(shape, strides);
        let mut data = vec![usize::MAX; needed(&all)];
        let mut view = TensorMut::new(&mut data, shape, strides).unwrap();
        for batch in 0..shape[0] {
            for head in 0..shape[1] {
                let mut rows = view.rows_mut(batch, head);
                for i in 0..shape[2] {
                    for (l, value) in rows.row_mut(i).iter_mut().enumerate() {
                        *value = ((batch * shape[1] + head) * shape[2] + i) * shape[3] + l;
                    }
                }
            }
        }
        prop_assert_eq!(view.as_tensor().rows(0, 0).row(0)[0], 0);
        for (order, offset) in all.into_iter().enumerate() {
            prop_assert_eq!(data[offset], order);
        }
    }
}

#[test]
fn one_sequence_can_stand_for_a_batch() {
    let data: Vec<i32> = (0..6).collect();
    let tensor = Tensor::new(&data, [1000, 1, 2, 3], [0, 0, 3]).unwrap();
    assert_eq!(tensor.rows(999, 0).row(1), [3, 4, 5]);
}

#[test]
fn shapes_beyond_the_address_space_are_errors() {
    let mut data = [0u8; 4];
    let huge = usize::MAX / 2;
    assert!(matches!(Rows::new(&data, huge, 1, 3), Err(Error::Overflow { .. })));
    assert!(matches!(Rows::new(&data, 2, 2, usize::MAX), Err(Error::Overflow { .. })));
    assert!(matches!(RowsMut::new(&mut data, 2, 2, usize::MAX), Err(Error::Overflow { .. })));
    assert!(matches!(Rows::contiguous(&data, huge, huge), Err(Error::ShapeMismatch { .. })));
    assert!(matches!(Tensor::new(&data, [huge, 2, 1, 1], [3, 1, 1]), Err(Error::Overflow { .. })));
    assert!(matches!(Tensor::contiguous(&data, [2, huge, 2, 2]), Err(Error::ShapeMismatch { .. })));
    // No elements, so nothing is out of reach, and nothing overlaps.
    assert!(TensorMut::new(&mut data, [0, huge, huge, 1], [1, huge, huge]).is_ok());
    assert!(Rows::new(&data, huge, 0, huge).unwrap().row(huge - 1).is_empty());
}

#[test]
fn errors_name_the_tensor_and_both_sides() {
    let data = [0.5f32; 12];
    let error = Tensor::contiguous(&data, [1, 2, 3, 4]).unwrap_err().named("values");
    assert_eq!(error.to_string(), "`values` has shape [12], expected [1, 2, 3, 4]");
    let tensor = Tensor::contiguous(&data, [1, 2, 3, 2]).unwrap();
    assert_eq!(tensor.expect_shape("keys", [1, 2, 3, 2]), Ok(()));
    assert_eq!(
        tensor.expect_shape("keys", [1, 2, 4, 2]).unwrap_err().to_string(),
        "`keys` has shape [1, 2, 3, 2], expected [1, 2, 4, 2]"
    );
}

#[test]
#[should_panic(expected = "row 2 of 2")]
fn a_row_beyond_the_last_panics_although_memory_goes_on() {
    let _ = Rows::new(&[1, 2, 3, 4, 5, 6], 2, 2, 2).unwrap().row(2);
}

#[test]
#[should_panic(expected = "batch entry 0 and head 2 of [1, 2, 1, 1]")]
fn a_head_beyond_the_last_panics_although_memory_goes_on() {
    let _ = Tensor::new(&[1, 2, 3], [1, 2, 1, 1], [0, 1, 0]).unwrap().rows(0, 2);
}
