//! The softmax mass that blocks of keys have, from every pair.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView4, Axis, Slice};
use regard_attention::Direction;
use regard_memory::chunks_of;
use regard_threads::Pool;

use crate::select::Heads;
use crate::summary::head;
use crate::{Blocks, Error};

/// The logarithms of the masses, `[batch · heads]` of `[rows, columns]`.
pub(crate) fn masses(q: ArrayView4<'_, f32>, k: ArrayView4<'_, f32>, blocks: Blocks, scale: f64) -> Vec<Array2<f64>> {
    let heads = Heads::of(q, k);
    let mut tables = Vec::with_capacity(heads.batch * heads.heads);
    let mut keys = Array2::zeros((0, 0));
    for at in 0..heads.batch * heads.heads {
        if at == 0 || heads.keys_of(at) != heads.keys_of(at - 1) {
            let of_keys = heads.keys_of(at);
            keys = head(k, of_keys / heads.kv_heads, of_keys % heads.kv_heads).mapv(f64::from);
        }
        let queries = head(q, at / heads.heads, at % heads.heads);
        let mut masses = vec![f64::NEG_INFINITY; blocks.rows() * blocks.columns()];
        Pool::global().run(chunks_of(&mut masses, blocks.columns()), |row, masses| {
            let of_row = blocks.queries_of(row);
            let seen = blocks.seen(row);
            let end = blocks.keys_of(seen - 1).end;
            let queries = queries.slice_axis(Axis(0), Slice::from(of_row.clone())).mapv(|x| f64::from(x) * scale);
            let keys = keys.slice_axis(Axis(0), Slice::from(..end));
            let mut weights = Array2::zeros((queries.nrows(), end));
            general_mat_mul(1.0, &queries, &keys.t(), 0.0, &mut weights);
            let masses = &mut masses[..seen];
            masses.fill(0.0);
            for (i, mut weights) in of_row.clone().zip(weights.rows_mut()) {
                let visible = match blocks.direction() {
                    Direction::Causal => end.min(i + blocks.offset() + 1),
                    Direction::Both => end,
                };
                let weights = &mut weights.as_slice_mut().expect("it was made so")[..visible];
                let most = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                weights.iter_mut().for_each(|weight| *weight = (*weight - most).exp());
                // Every query sees a key: the sum is 1 at least.
                let sum: f64 = weights.iter().sum();
                for (mass, weights) in masses.iter_mut().zip(weights.chunks(blocks.size())) {
                    *mass += weights.iter().sum::<f64>() / sum;
                }
            }
            masses.iter_mut().for_each(|mass| *mass = (*mass / of_row.len() as f64).ln());
        });
        let table = Array2::from_shape_vec((blocks.rows(), blocks.columns()), masses);
        tables.push(table.expect("the vector was made for the shape"));
    }
    tables
}

/// Numbers that must all be finite.
pub(crate) fn finite(tensor: &'static str, array: ArrayView4<'_, f32>) -> Result<(), Error> {
    if array.iter().all(|x| x.is_finite()) {
        return Ok(());
    }
    let found = array.indexed_iter().find(|(_, x)| !x.is_finite());
    let ((b, h, i, c), &has) = found.expect("one of them is not finite");
    Err(Error::NotFinite { tensor, has, at: [b, h, i, c] })
}
