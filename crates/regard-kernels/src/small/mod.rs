//! Attention over few keys: whole heads, in one call each.
//!
//! Where a head has 16 keys, calling a kernel for each step of a tile costs more than the tile's arithmetic. Here a head's
//! keys are transposed once, and its queries go through scores, softmax and values in one call, block by block, with all
//! that is between them in the first-level cache. What the products can read where it stands is not packed.

mod attend;
mod keys;
mod product;
mod softmax;

use std::any::TypeId;

use regard_memory::{Ahead, Rows, RowsMut, cast_slice_mut};

use crate::{COLUMNS, Error, Kernels, Number, PANEL, Transposable};
pub(crate) use attend::Attend;
use keys::Transpose;

/// Queries that go through the stages together: tiles of 6 and of 8 rows fit it. Its scores of 128 keys are 12 KiB, which
/// the first-level cache holds beside keys and values of 32 dimensions.
const BLOCK: usize = 24;

/// Queries of the last block at most: it takes with it what would be too few for whole tiles.
const MOST: usize = BLOCK + 11;

/// One key/value head of few keys, ready for the queries of the heads that share it.
///
/// ```
/// use regard_kernels::{F32, Kernels, SmallHead};
/// use regard_memory::{Ahead, Rows, RowsMut};
/// use regard_simd::Isa;
///
/// // Two keys of three dimensions, their values of two, and one query, which is much like the first key.
/// let (k, v) = ([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], [10.0, 20.0, 30.0, 40.0]);
/// let (q, mut out) = ([200.0, 0.0, 0.0], [0.0; 2]);
///
/// let mut scratch = vec![0.0; SmallHead::<F32>::words(2, 3, 2)];
/// let (k, v) = (Rows::contiguous(&k, 2, 3)?, Rows::contiguous(&v, 2, 2)?);
/// let mut head = SmallHead::<F32>::new(Kernels::new(Isa::best()), k, v, &mut scratch)?;
/// let (q, all) = (Rows::contiguous(&q, 1, 3)?, RowsMut::contiguous(&mut out, 1, 2)?);
/// head.attend(q, std::f32::consts::LOG2_E, None, all, None, &mut Ahead::default())?;
/// assert_eq!(out, [10.0, 20.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SmallHead<'a, E: Transposable> {
    kernels: Kernels,
    /// `[steps][columns]`.
    keys: &'a [E::B],
    /// Keys, to a whole multiple of 16.
    columns: usize,
    count: usize,
    dim_k: usize,
    /// `[⌈keys / DEPTH⌉, d_v]`, columns to a whole multiple of 16.
    values: Rows<'a, E::B>,
    dim_v: usize,
    /// Scores, products and queries of a block.
    work: &'a mut [f32],
}

impl<'a, E: Transposable> SmallHead<'a, E> {
    /// Words of scratch for a head of as many keys, of `dim_k` dimensions and with values of `dim_v`.
    pub const fn words(keys: usize, dim_k: usize, dim_v: usize) -> usize {
        let (columns, steps, width) = (pad(keys), pad(dim_k), pad(dim_v));
        let head = columns.saturating_mul(steps).saturating_add(keys.saturating_mul(width));
        let row = attend::score_stride(columns).saturating_add(width).saturating_add(steps);
        head.saturating_add(row.saturating_mul(MOST))
    }

    /// Takes up keys `[n, d_k]` and values `[n, d_v]`.
    ///
    /// # Errors
    /// There are not as many values as keys, or the scratch does not hold [`SmallHead::words`].
    pub fn new<T: Number>(
        kernels: Kernels,
        keys: Rows<'a, T>,
        values: Rows<'a, T>,
        scratch: &'a mut [f32],
    ) -> Result<Self, Error> {
        let (count, dim_k, dim_v) = (keys.rows(), keys.cols(), values.cols());
        check_equal("values", values.rows(), count)?;
        Error::check_length("scratch", scratch.len(), Self::words(count, dim_k, dim_v))?;
        let (columns, width) = (pad(count), pad(dim_v));
        let (panel, rest) = cast_slice_mut(scratch).split_at_mut(columns * pad(dim_k.div_ceil(E::DEPTH)));
        kernels.isa().run(Transpose::<E, T> { keys, panel, columns });
        let in_place = if dim_v == width { same(values) } else { None };
        let (values, work) = match in_place {
            Some(values) => (values, rest),
            None => {
                let rows = count.div_ceil(E::DEPTH);
                let (packed, rest) = rest.split_at_mut(rows * width);
                kernels.pack_values::<E, T>(values, 0, packed, width)?;
                (Rows::contiguous(packed, rows, width)?, rest)
            }
        };
        Ok(SmallHead { kernels, keys: panel, columns, count, dim_k, values, dim_v, work: cast_slice_mut(work) })
    }

    /// Computes `softmax(scale·Q·Kᵀ)·V` for the queries of one head, and where asked the log-sum-exps.
    ///
    /// - `queries`: `[n, d_k]`; `out`: `[n, d_v]`; `lse`: `[n, 1]`;
    /// - `factor`: `scale·log₂ e`;
    /// - `live`: `[n][⌈keys / 64⌉]`, a bit for each key that a row keeps; without it every row keeps all keys. What a row
    ///   does not keep may be NaN;
    /// - `ahead`: what the calls after this one will read, such as the next head's queries, keys and values. It is brought
    ///   near meanwhile.
    ///
    /// A row that keeps no key has the result 0 and the log-sum-exp −∞.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn attend<T: Number, O: Number>(
        &mut self,
        queries: Rows<'_, T>,
        factor: f32,
        live: Option<&[u64]>,
        out: RowsMut<'_, O>,
        lse: Option<RowsMut<'_, f32>>,
        ahead: &mut Ahead,
    ) -> Result<(), Error> {
        let rows = queries.rows();
        check_equal("query", queries.cols(), self.dim_k)?;
        check_equal("rows of out", out.rows(), rows)?;
        check_equal("row of out", out.cols(), self.dim_v)?;
        if let Some(lse) = &lse {
            check_equal("rows of lse", lse.rows(), rows)?;
            check_equal("row of lse", lse.cols(), 1)?;
        }
        if let Some(live) = live {
            Error::check_length("live bits", live.len(), rows.saturating_mul(self.count.div_ceil(PANEL)))?;
        }
        let (queries, out) = (T::rows(queries), O::rows_mut(out));
        E::attend(self.kernels.isa(), Attend { head: self, queries, factor, live, out, lse, ahead });
        Ok(())
    }
}

fn check_equal(name: &'static str, has: usize, expected: usize) -> Result<(), Error> {
    if has == expected { Ok(()) } else { Err(Error::Length { name, has, expected }) }
}

/// The next multiple of 16.
const fn pad(n: usize) -> usize {
    match n.checked_next_multiple_of(COLUMNS) {
        Some(n) => n,
        None => usize::MAX,
    }
}

/// The same rows, if `T` and `U` are one type.
#[inline(always)]
fn same<T: 'static, U: 'static>(rows: Rows<'_, T>) -> Option<Rows<'_, U>> {
    // SAFETY: the types are one, and so are those of the rows.
    (TypeId::of::<T>() == TypeId::of::<U>()).then(|| unsafe { std::mem::transmute_copy(&rows) })
}
