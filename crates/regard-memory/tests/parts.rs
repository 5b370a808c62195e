//! Parts are disjoint and are all of it.

use proptest::prelude::*;
use regard_memory::{Indices, Parts, RowsMut, TensorMut, chunks_of, each_of, pieces_of};

/// All parts, each taken once and all alive together.
fn all<P: Parts>(parts: P) -> Vec<P::Part> {
    // SAFETY: each index is taken once.
    (0..parts.count()).map(|index| unsafe { parts.part(index) }).collect()
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 256 }) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn chunks_are_the_chunks_of_a_slice(data in prop::collection::vec(any::<u16>(), 0..50), each in 1usize..20) {
        let mut ours = data.clone();
        let mut theirs = data.clone();
        let mut ours = all(chunks_of(&mut ours, each));
        let mut theirs: Vec<_> = theirs.chunks_mut(each).collect();
        prop_assert_eq!(&ours, &theirs);
        for (ours, theirs) in ours.iter_mut().zip(&mut theirs) {
            ours.iter_mut().for_each(|value| *value ^= 0xaaaa);
            theirs.iter_mut().for_each(|value| *value ^= 0xaaaa);
        }
        prop_assert_eq!(&ours, &theirs);
    }

    #[test]
    fn pieces_are_those_between_ends(lengths in prop::collection::vec(0..9_usize, 0..9), behind in 0..4_usize) {
        let ends: Vec<usize> = (1..=lengths.len()).map(|n| lengths[..n].iter().sum()).collect();
        let mut data: Vec<usize> = (0..lengths.iter().sum::<usize>() + behind).collect();
        let mut first = 0;
        for (piece, length) in all(pieces_of(&mut data, &ends)).into_iter().zip(lengths) {
            prop_assert!(piece.iter().copied().eq(first..first + length));
            first += length;
        }
    }

    #[test]
    fn rows_and_columns_come_once(rows in 0usize..8, cols in 0usize..8, each in 1usize..5) {
        let mut data: Vec<usize> = (0..rows * cols).collect();
        let oracle = data.clone();
        for (i, mut part) in all(RowsMut::contiguous(&mut data, rows, cols).unwrap().row_parts(each)).into_iter().enumerate() {
            prop_assert_eq!((part.rows(), part.cols()), (each.min(rows - i * each), if rows == 0 { 0 } else { cols }));
            for r in 0..part.rows() {
                prop_assert_eq!(part.row(r), &oracle[(i * each + r) * cols..][..cols]);
                part.row_mut(r).iter_mut().for_each(|value| *value += 1000);
            }
        }
        prop_assert!(data.iter().zip(&oracle).all(|(new, old)| *new == old + 1000));
        for (i, mut part) in all(RowsMut::contiguous(&mut data, rows, cols).unwrap().column_parts(each)).into_iter().enumerate() {
            prop_assert_eq!((part.rows(), part.cols()), (rows, each.min(cols - i * each)));
            for r in 0..rows {
                for (c, value) in part.row_mut(r).iter_mut().enumerate() {
                    prop_assert_eq!(*value, 1000 + r * cols + i * each + c);
                    *value += 1000;
                }
            }
        }
        prop_assert!(data.iter().zip(&oracle).all(|(new, old)| *new == old + 2000));
    }

    #[test]
    fn blocks_of_a_grid_come_once(
        rows in 0usize..8, cols in 0usize..8, gap in 0usize..3, down in 1usize..5, across in 1usize..5,
    ) {
        let mut data = vec![0; rows * (cols + gap)];
        let view = RowsMut::new(&mut data, rows, cols, cols + gap).unwrap();
        let mut columns = 0;
        for ((row, col), mut part) in all(view.grid_parts(down, across)) {
            prop_assert!(col >= columns, "column by column");
            columns = col;
            prop_assert_eq!((part.rows(), part.cols()), (down.min(rows - row), across.min(cols - col)));
            for r in 0..part.rows() {
                for (c, value) in part.row_mut(r).iter_mut().enumerate() {
                    *value += 1 + (row + r) * cols + col + c;
                }
            }
        }
        for (at, value) in data.iter().enumerate() {
            let (row, col) = (at / (cols + gap), at % (cols + gap));
            prop_assert_eq!(*value, if col < cols { 1 + row * cols + col } else { 0 });
        }
    }

    #[test]
    fn blocks_of_a_tensor_come_in_order_and_are_all_of_it(
        shape in prop::array::uniform4(0usize..6), heads in 1usize..4, seq in 1usize..4, swapped in any::<bool>(),
    ) {
        let [n_batch, n_heads, n_seq, dim] = shape;
        // As [batch, heads, seq, dim] or, as projections leave them, [batch, seq, heads, dim] in memory.
        let (h, s) = if swapped { (dim, n_heads * dim) } else { (n_seq * dim, dim) };
        let strides = [n_heads * n_seq * dim, h, s];
        let mut data: Vec<usize> = (0..n_batch * strides[0]).collect();
        let oracle = data.clone();
        let mut parts = all(TensorMut::new(&mut data, shape, strides).unwrap().block_parts(heads, seq)).into_iter();
        for batch in 0..n_batch {
            for head in (0..n_heads).step_by(heads) {
                for row in (0..n_seq).step_by(seq) {
                    let mut part = parts.next().unwrap();
                    let part_shape = [1, heads.min(n_heads - head), seq.min(n_seq - row), dim];
                    prop_assert_eq!(part.shape(), part_shape);
                    for i in 0..part_shape[1] {
                        let mut rows = part.rows_mut(0, i);
                        for j in 0..part_shape[2] {
                            let first = batch * strides[0] + (head + i) * h + (row + j) * s;
                            prop_assert_eq!(rows.row(j), &oracle[first.min(oracle.len())..][..dim]);
                            rows.row_mut(j).iter_mut().for_each(|value| *value += 1000);
                        }
                    }
                }
            }
        }
        prop_assert!(parts.next().is_none());
        prop_assert!(data.iter().zip(&oracle).all(|(new, old)| *new == old + 1000));
    }

    #[test]
    fn tuples_take_the_same_index_of_each(data in prop::collection::vec(any::<i32>(), 0..40), each in 1usize..7) {
        let mut chunked = data.clone();
        let mut sums = vec![0i64; data.len().div_ceil(each)];
        for (chunk, sum, ()) in all((chunks_of(&mut chunked, each), each_of(&mut sums), Indices(data.len().div_ceil(each)))) {
            *sum = chunk.iter().map(|&value| i64::from(value)).sum();
        }
        let oracle: Vec<i64> = data.chunks(each).map(|chunk| chunk.iter().map(|&value| i64::from(value)).sum()).collect();
        prop_assert_eq!(sums, oracle);
    }
}

#[test]
#[should_panic(expected = "parts of different counts [3, 2] are taken together")]
fn tuples_of_different_counts_are_refused() {
    let _ = (Indices(3), Indices(2)).count();
}

#[test]
fn pieces_that_do_not_follow_each_other_are_refused() {
    for ends in [&[2, 1][..], &[1, 4]] {
        let panics = std::panic::catch_unwind(|| pieces_of(&mut [0; 3], ends).count());
        assert!(panics.is_err(), "{ends:?}");
    }
}
