//! The door for `ndarray`.

use ndarray::{Array3, Array4, ArrayView4};
use regard_masks::Mask;
use regard_memory::{Arena, Tensor, TensorMut};
use regard_threads::Pool;

use crate::{Error, Inputs, Options, Outputs, Plan, Real, Shape};

/// Softmax attention: `q [batch, heads, queries, dim_k]`, `k [batch, kv_heads, keys, dim_k]`,
/// `v [batch, kv_heads, keys, dim_v]` give `[batch, heads, queries, dim_v]`.
///
/// Scores are scaled by `1/√dim_k`; the last query stands at the last key. Any strides will do as long as `dim` is
/// contiguous and no axis runs backwards; other views are copied by the caller (`as_standard_layout`).
///
/// # Errors
/// The shapes do not fit, or the strides are not such.
pub fn attention<T: Real>(
    q: ArrayView4<'_, T>,
    k: ArrayView4<'_, T>,
    v: ArrayView4<'_, T>,
    mask: &Mask,
) -> Result<Array4<T>, Error> {
    Ok(attention_with(q, k, v, mask, &Options::default())?.0)
}

/// [`attention`] with options; beside the result it gives the log-sum-exp of every query, `[batch, heads, queries]`.
///
/// # Errors
/// As [`attention`], and where an option is not usable.
pub fn attention_with<T: Real>(
    q: ArrayView4<'_, T>,
    k: ArrayView4<'_, T>,
    v: ArrayView4<'_, T>,
    mask: &Mask,
    options: &Options,
) -> Result<(Array4<T>, Array3<T::Wide>), Error> {
    let view = |name, array| Tensor::try_from(array).map_err(|error: regard_memory::Error| error.named(name));
    let (q, k, v) = (view("queries", q)?, view("keys", k)?, view("values", v)?);
    let shape = Shape::of(&q, &k, &v)?;
    let Shape { batch, heads, queries, dim_v, .. } = shape;
    let plan = Plan::new(shape, mask, options)?;
    let mut out = vec_of("out", [batch, heads, queries, dim_v], T::default())?;
    let mut lse = vec_of("lse", [batch, heads, queries, 1], T::Wide::default())?;
    let outputs = Outputs::state(
        TensorMut::contiguous(&mut out, [batch, heads, queries, dim_v])?,
        TensorMut::contiguous(&mut lse, [batch, heads, queries, 1])?,
    );
    T::run(&plan, &Inputs::new(q, k, v), outputs, &mut Arena::new(), Pool::global())?;
    let out = Array4::from_shape_vec((batch, heads, queries, dim_v), out).expect("the vector was made for the shape");
    let lse = Array3::from_shape_vec((batch, heads, queries), lse).expect("the vector was made for the shape");
    Ok((out, lse))
}

/// As many of a number as a shape has, if there is memory for them.
pub(crate) fn vec_of<W: Clone>(what: &'static str, shape: [usize; 4], number: W) -> Result<Vec<W>, Error> {
    let len = shape.iter().try_fold(1usize, |len, &extent| len.checked_mul(extent));
    let len = len.ok_or(regard_memory::Error::Overflow { what })?;
    let mut numbers = Vec::new();
    let bytes = len.saturating_mul(size_of::<W>());
    numbers.try_reserve_exact(len).map_err(|_| regard_memory::Error::OutOfMemory { bytes })?;
    numbers.resize(len, number);
    Ok(numbers)
}
