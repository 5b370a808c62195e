//! The gradients of attention.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyTuple};
use regard_attention::{Gradients as GradientViews, Inputs, Plan, Shape, Upstream};

use crate::arrays::{finish, new_like};
use crate::attention::{Tensors, expect_shape};
use crate::dtype::{Scalar, with_type};
use crate::error::of_attention;
use crate::foreign::{AXES, View};
use crate::mask::mask_of;
use crate::options::{BACKWARD, Call};
use crate::terms::OwnTerms;
use crate::work::{detached, with_scratch};

/// The gradients of a call of attention, as :func:`attention_backward` returns them.
///
/// ``q``, ``k`` and ``v`` are in the shapes and types of what they are of; ``bias`` and ``sinks``, where the call has them, in
/// float32 (float64 of float64), else None. ``dq, dk, dv = gradients`` takes the first three.
#[pyclass(frozen, generic, module = "regard", name = "Gradients")]
pub(crate) struct Gradients {
    /// Of the queries.
    #[pyo3(get)]
    q: Py<PyAny>,
    /// Of the keys.
    #[pyo3(get)]
    k: Py<PyAny>,
    /// Of the values.
    #[pyo3(get)]
    v: Py<PyAny>,
    /// Of the bias, or None.
    #[pyo3(get)]
    bias: Option<Py<PyAny>>,
    /// Of the sinks, or None.
    #[pyo3(get)]
    sinks: Option<Py<PyAny>>,
}

#[pymethods]
impl Gradients {
    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        PyTuple::new(py, [&self.q, &self.k, &self.v])?.try_iter()
    }
}

/// The exact gradients of :func:`attention`.
///
/// Args:
///     q, k, v, mask: as in the call.
///     out, lse: its result and log-sum-exp, from ``attention(..., return_lse=True)``. ``out`` may be in float32 or in the
///         type of the query.
///     dout: the gradient of the result, in the type of ``out``.
///     dlse: the gradient of the log-sum-exp; 0 unless given.
///     bias_gradient: False leaves out the gradient of the bias, which is as large as the bias.
///
/// and the options of the call. They are used again: also its dropout, which drops the same weights.
///
/// Returns:
///     :class:`Gradients` with ``q``, ``k``, ``v``, ``bias`` and ``sinks``.
///
/// >>> import numpy as np, regard
/// >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 4, 50, 32), dtype=np.float32)
/// >>> out, lse = regard.attention(q, k, v, "causal", return_lse=True)
/// >>> dq, dk, dv = regard.attention_backward(q, k, v, out, lse, np.ones_like(out), "causal")
/// >>> dk.shape
/// (1, 4, 50, 32)
#[pyfunction]
#[pyo3(
    signature = (q, k, v, out, lse, dout, mask=None, *, dlse=None, bias_gradient=true, **options),
    text_signature = "(q, k, v, out, lse, dout, mask=None, *, dlse=None, bias_gradient=True, key_lengths=None, query_lengths=None, segments=None, offset=None, bias=None, scale=None, softcap=None, alibi=None, sinks=None, dropout=0.0, seed=None, sequence_ids=None, copy=True)"
)]
#[allow(clippy::too_many_arguments, reason = "Python's arguments are named")]
pub(crate) fn attention_backward<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    out: &Bound<'py, PyAny>,
    lse: &Bound<'py, PyAny>,
    dout: &Bound<'py, PyAny>,
    mask: Option<&Bound<'py, PyAny>>,
    dlse: Option<&Bound<'py, PyAny>>,
    bias_gradient: bool,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Gradients> {
    let call = Call::of(&BACKWARD, options)?;
    let tensors = Tensors::of(q, k, v, call.copies)?;
    let mask = mask_of(mask, &tensors.shape, &call.options)?;
    let plan = call.plan(q.py(), tensors.shape, &mask)?;
    let Shape { batch, heads, queries, dim_v, .. } = tensors.shape;
    let view = |name, array| View::of(name, array)?.readable(call.copies);
    let (out, lse, dout) = (view("out", out)?, view("lse", lse)?, view("dout", dout)?);
    let dlse = dlse.map(|array| view("dlse", array)).transpose()?;
    let (dtype, axes) = (tensors.dtype(), tensors.q.axes());
    for view in [&out, &dout] {
        expect_shape(view, &[batch, heads, queries, dim_v][AXES - axes..])?;
    }
    for view in [Some(&lse), dlse.as_ref()].into_iter().flatten() {
        expect_shape(view, &[batch, heads, queries][AXES - axes..])?;
        if view.dtype != dtype.wide() {
            let (name, has, expected) = (view.name, view.dtype.name(), dtype.wide().name());
            return Err(PyTypeError::new_err(format!("`{name}` has dtype {has}, expected {expected}")));
        }
    }
    if out.dtype != dout.dtype || (out.dtype != dtype && out.dtype != dtype.wide()) {
        let (out, dout, q, wide) = (out.dtype.name(), dout.dtype.name(), dtype.name(), dtype.wide().name());
        let expected = format!("both {q}, as the query, or both {wide}");
        return Err(PyTypeError::new_err(format!("`out` has dtype {out} and `dout` {dout}; expected {expected}")));
    }
    let back = Back { out, lse: lse.column(), dout, dlse: dlse.map(View::column) };
    with_type!(dtype, T => backward_of::<T>(&plan, &tensors, &call, &back, bias_gradient))
}

/// What flows back.
struct Back<'py> {
    out: View<'py>,
    lse: View<'py>,
    dout: View<'py>,
    dlse: Option<View<'py>>,
}

impl<'py> Back<'py> {
    fn upstream<O: Scalar, W: Scalar>(&self) -> PyResult<Upstream<'_, O, W>> {
        Ok(Upstream {
            out: self.out.tensor()?,
            lse: self.lse.tensor()?,
            out_gradient: self.dout.tensor()?,
            lse_gradient: self.dlse.as_ref().map(View::tensor).transpose()?,
        })
    }
}

fn backward_of<'py, T: Scalar>(
    plan: &Plan,
    tensors: &Tensors<'py>,
    call: &Call<'py>,
    back: &Back<'py>,
    bias_gradient: bool,
) -> PyResult<Gradients>
where
    T::Wide: Scalar<Wide = T::Wide>,
{
    let Tensors { q, k, v, .. } = tensors;
    let py = q.object.py();
    let own = OwnTerms::<T::Wide>::of(call, plan.shape())?;
    let new = |name, like: &View<'py>| new_like(q, name, like.shape4(), T::DTYPE, q.axes());
    let (mut dq, mut dk, mut dv) = (new("dq", q)?, new("dk", k)?, new("dv", v)?);
    let wide = T::Wide::DTYPE;
    let mut dbias = own
        .bias_shape()
        .filter(|_| bias_gradient)
        .map(|(shape, axes)| new_like(q, "dbias", shape, wide, axes))
        .transpose()?;
    let heads = plan.shape().heads;
    let mut dsinks = own.sinks.as_ref().map(|_| new_like(q, "dsinks", [1, 1, 1, heads], wide, 1)).transpose()?;
    let mut sink_sums = own.sinks.as_ref().map(|sinks| vec![T::Wide::default(); sinks.len()]);
    let inputs = Inputs { q: q.tensor::<T>()?, k: k.tensor()?, v: v.tensor()?, terms: own.terms()? };
    let gradients = GradientViews {
        bias: dbias.as_mut().map(|view| view.tensor_mut(&[])).transpose()?,
        sinks: sink_sums.as_deref_mut(),
        ..GradientViews::new(dq.tensor_mut::<T>(&[])?, dk.tensor_mut(&[])?, dv.tensor_mut(&[])?)
    };
    let done = if back.out.dtype == T::DTYPE {
        let upstream = back.upstream::<T, T::Wide>()?;
        detached(py, || with_scratch(|scratch| T::backward(plan, &inputs, &upstream, gradients, scratch)))?
    } else {
        let upstream = back.upstream::<T::Wide, T::Wide>()?;
        detached(py, || with_scratch(|scratch| T::backward_wide(plan, &inputs, &upstream, gradients, scratch)))?
    };
    done.map_err(of_attention)?;
    if let (Some(sums), Some(view)) = (&sink_sums, &mut dsinks) {
        view.tensor_mut::<T::Wide>(&[])?.rows_mut(0, 0).row_mut(0).copy_from_slice(sums);
    }
    let done = |view| finish(view, q).map(Bound::unbind);
    Ok(Gradients {
        q: done(dq)?,
        k: done(dk)?,
        v: done(dv)?,
        bias: dbias.map(done).transpose()?,
        sinks: dsinks.map(done).transpose()?,
    })
}
