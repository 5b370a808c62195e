//! The door for `ndarray`.

use ndarray::{Array3, Array4, ArrayView4};
use regard_masks::Mask;
use regard_memory::{Tensor, TensorMut};
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
    let mut out = vec![T::default(); batch * heads * queries * dim_v];
    let mut lse = vec![T::Wide::default(); batch * heads * queries];
    let outputs = Outputs::state(
        TensorMut::contiguous(&mut out, [batch, heads, queries, dim_v])?,
        TensorMut::contiguous(&mut lse, [batch, heads, queries, 1])?,
    );
    T::run(&plan, &Inputs::new(q, k, v), outputs, Pool::global())?;
    let out = Array4::from_shape_vec((batch, heads, queries, dim_v), out).expect("the vector was made for the shape");
    let lse = Array3::from_shape_vec((batch, heads, queries), lse).expect("the vector was made for the shape");
    Ok((out, lse))
}
