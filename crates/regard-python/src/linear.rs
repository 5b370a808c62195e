//! Linear attention: recurrences.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyTuple};
use regard_attention::{Direction, Element, Recurrence, RecurrentGradients, RecurrentInputs, RecurrentOutputs};
use regard_memory::TensorMut;
use regard_threads::Pool;

use crate::arrays::{Copies, finish, new_like, same_dtype};
use crate::dtype::{Dtype, Scalar, with_narrow_type, with_type};
use crate::error::{of_attention, of_memory};
use crate::foreign::{AXES, View};
use crate::numbers::number;
use crate::work::{detached, with_scratch};

/// Linear attention: a state that is read by each token and written by it, in chunks of tokens.
///
/// ``S̃ = diag(exp(decay_t))·S_{t−1}``, ``S_t = S̃ + k_t ⊗ u_t``, ``o_t = scale·S_tᵀq_t``, where ``u_t`` is ``v_t``, or by the
/// delta rule ``beta_t·(v_t − S̃ᵀk_t)``.
///
/// Args:
///     q, k: ``[batch, heads, seq, dim]``, also with fewer axes in front; float32, bfloat16, float16, or float64, which is
///         computed token by token.
///     v: ``[batch, heads, seq, dim_v]``. Heads of q, k and v may be fewer where some share a state.
///     rule: ``"linear"``, ``"gated"`` (RetNet, GLA, Mamba-2), ``"delta"`` (DeltaNet) or ``"gated_delta"``.
///     decay: the logarithm of what each token leaves of the state, ``[batch, heads, seq, dim or 1]``, float32, or
///         float64 beside a float64 query; 0 keeps all.
///     beta: how much of what the state lacks is written, ``[batch, heads, seq]``, in the type of decay.
///     state: the state before the first token, ``[batch, heads, dim, dim_v]``, likewise; 0 unless given.
///     scale: of the results; ``1/√dim`` unless given.
///     causal: False lets every token see all of them; of the plain rule, which alone has such a form.
///     return_state: also return the state after the last token.
///
/// Returns:
///     ``[batch, heads, seq, dim_v]`` as the query is; or ``(out, state)``.
///
/// >>> import numpy as np, regard
/// >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 4, 100, 16), dtype=np.float32)
/// >>> decay = np.full((1, 4, 100, 1), np.log(0.9), dtype=np.float32)
/// >>> out, state = regard.linear_attention(q, k, v, rule="gated", decay=decay, return_state=True)
/// >>> out.shape, state.shape
/// ((1, 4, 100, 16), (1, 4, 16, 16))
#[pyfunction]
#[pyo3(signature = (q, k, v, *, rule="linear", decay=None, beta=None, state=None, scale=None, causal=true, return_state=false))]
#[allow(clippy::too_many_arguments, reason = "Python's arguments are named")]
pub(crate) fn linear_attention<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    rule: &str,
    decay: Option<&Bound<'py, PyAny>>,
    beta: Option<&Bound<'py, PyAny>>,
    state: Option<&Bound<'py, PyAny>>,
    scale: Option<&Bound<'py, PyAny>>,
    causal: bool,
    return_state: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let given = Given { decay, beta, state, scale, causal };
    let call = Recurrent::of([q, k, v], rule, given)?;
    with_type!(call.q.dtype, T => call.run::<T>(return_state))
}

/// The gradients of a call of linear attention, as :func:`linear_attention_backward` and :func:`favor_attention_backward` return
/// them, in float32 and in the shapes of what they are of.
///
/// ``decay`` and ``beta`` are None where the call has none. ``dq, dk, dv = gradients`` takes the first three.
#[pyclass(frozen, generic, module = "regard", name = "LinearGradients")]
pub(crate) struct LinearGradients {
    /// Of the queries.
    #[pyo3(get)]
    pub(crate) q: Py<PyAny>,
    /// Of the keys.
    #[pyo3(get)]
    pub(crate) k: Py<PyAny>,
    /// Of the values.
    #[pyo3(get)]
    pub(crate) v: Py<PyAny>,
    /// Of the logarithms of decays, or None.
    #[pyo3(get)]
    pub(crate) decay: Option<Py<PyAny>>,
    /// Of the betas, or None.
    #[pyo3(get)]
    pub(crate) beta: Option<Py<PyAny>>,
    /// Of the state before the first token.
    #[pyo3(get)]
    pub(crate) state: Py<PyAny>,
}

#[pymethods]
impl LinearGradients {
    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        PyTuple::new(py, [&self.q, &self.k, &self.v])?.try_iter()
    }
}

/// The exact gradients of :func:`linear_attention`, from those of its results and of the state after the last token.
///
/// Args:
///     q, k, v: as in the call; float32, bfloat16 or float16.
///     dout: the gradient of the results, ``[batch, heads, seq, dim_v]``, in the type of the query.
///     dstate: the gradient of the state after the last token, ``[batch, heads, dim, dim_v]``, float32; 0 unless given.
///
/// and the options of the call.
///
/// Returns:
///     :class:`LinearGradients` with ``q``, ``k``, ``v``, ``decay``, ``beta`` and ``state``, that of the state before.
///
/// >>> import numpy as np, regard
/// >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 4, 100, 16), dtype=np.float32)
/// >>> decay = np.full((1, 4, 100, 1), np.log(0.9), dtype=np.float32)
/// >>> gradients = regard.linear_attention_backward(q, k, v, np.ones_like(v), rule="gated", decay=decay)
/// >>> gradients.k.shape, gradients.decay.shape, gradients.state.shape
/// ((1, 4, 100, 16), (1, 4, 100, 1), (1, 4, 16, 16))
#[pyfunction]
#[pyo3(signature = (q, k, v, dout, *, rule="linear", decay=None, beta=None, state=None, scale=None, causal=true, dstate=None))]
#[allow(clippy::too_many_arguments, reason = "Python's arguments are named")]
pub(crate) fn linear_attention_backward<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    dout: &Bound<'py, PyAny>,
    rule: &str,
    decay: Option<&Bound<'py, PyAny>>,
    beta: Option<&Bound<'py, PyAny>>,
    state: Option<&Bound<'py, PyAny>>,
    scale: Option<&Bound<'py, PyAny>>,
    causal: bool,
    dstate: Option<&Bound<'py, PyAny>>,
) -> PyResult<LinearGradients> {
    let given = Given { decay, beta, state, scale, causal };
    let call = Recurrent::of([q, k, v], rule, given)?;
    let dout = View::of("dout", dout)?.readable(Copies::Allowed)?;
    same_dtype(&call.q, &[&dout])?;
    let dstate = dstate.map(|array| view_of(Dtype::F32, "dstate", array)).transpose()?;
    with_narrow_type!(call.q, T => call.backward::<T>(&dout, dstate.as_ref()))
}

/// The options of a recurrence.
struct Given<'a, 'py> {
    decay: Option<&'a Bound<'py, PyAny>>,
    beta: Option<&'a Bound<'py, PyAny>>,
    state: Option<&'a Bound<'py, PyAny>>,
    scale: Option<&'a Bound<'py, PyAny>>,
    causal: bool,
}

struct Recurrent<'py> {
    q: View<'py>,
    k: View<'py>,
    v: View<'py>,
    decay: Option<View<'py>>,
    beta: Option<View<'py>>,
    state: Option<View<'py>>,
    recurrence: Recurrence,
    /// States of a batch entry, and results.
    heads: [usize; 2],
}

impl<'py> Recurrent<'py> {
    fn of([q, k, v]: [&Bound<'py, PyAny>; 3], rule: &str, given: Given<'_, 'py>) -> PyResult<Self> {
        let Given { decay, beta, state, scale, causal } = given;
        let (gated, delta) = match rule {
            "linear" => (false, false),
            "gated" => (true, false),
            "delta" => (false, true),
            "gated_delta" => (true, true),
            _ => {
                let expected = "expected 'linear', 'gated', 'delta' or 'gated_delta'";
                return Err(PyValueError::new_err(format!("`rule` is '{rule}'; {expected}")));
            }
        };
        for (name, given, wanted) in [("decay", decay.is_some(), gated), ("beta", beta.is_some(), delta)] {
            if given != wanted {
                let problem = if wanted { "needs" } else { "takes no" };
                return Err(PyValueError::new_err(format!("the rule '{rule}' {problem} `{name}`")));
            }
        }
        let view = |name, array| View::of(name, array)?.readable(Copies::Allowed);
        let (q, k, v) = (view("q", q)?, view("k", k)?, view("v", v)?);
        same_dtype(&q, &[&k, &v])?;
        let (wide, axes) = (q.dtype.wide(), q.axes());
        let optional =
            |name, array: Option<&Bound<'py, PyAny>>| array.map(|array| view_of(wide, name, array)).transpose();
        let (decay, beta, state) = (optional("decay", decay)?, optional("beta", beta)?, optional("state", state)?);
        let like_q = [&k, &v].into_iter().chain(&decay).chain(&state).map(|view| (view, axes));
        for (view, expected) in like_q.chain(beta.iter().map(|view| (view, axes.saturating_sub(1)))) {
            if view.axes() != expected || axes < 2 {
                let (name, has) = (view.name, view.axes());
                return Err(PyValueError::new_err(format!(
                    "`{name}` has {has} axes; expected {expected}, as `q` has {axes}"
                )));
            }
        }
        let beta = beta.map(View::column);
        let mut recurrence = Recurrence::new(None).map_err(of_attention)?;
        recurrence = recurrence.with_direction(if causal { Direction::Causal } else { Direction::Both });
        if let Some(scale) = scale {
            recurrence = recurrence.with_scale(number("scale", scale)?).map_err(of_attention)?;
        }
        let states = [Some(&k), Some(&v), decay.as_ref(), beta.as_ref()];
        let states = states.into_iter().flatten().map(|view| view.shape4()[1]).max().unwrap_or(0);
        let results = states.max(q.shape4()[1]);
        if axes < 3 && results != 1 {
            return Err(PyValueError::new_err("arrays [seq, dim] have one head: give [heads, seq, dim]"));
        }
        Ok(Recurrent { q, k, v, decay, beta, state, recurrence, heads: [states, results] })
    }

    fn inputs<T: Scalar<Wide: Scalar>>(&self) -> PyResult<RecurrentInputs<'_, T, T::Wide>> {
        Ok(RecurrentInputs {
            q: self.q.tensor()?,
            k: self.k.tensor()?,
            v: self.v.tensor()?,
            log_decay: self.decay.as_ref().map(View::tensor).transpose()?,
            beta: self.beta.as_ref().map(View::tensor).transpose()?,
            state: self.state.as_ref().map(View::tensor).transpose()?,
        })
    }

    /// The shape of the states of a call.
    fn states(&self) -> [usize; AXES] {
        [self.q.shape4()[0], self.heads[0], self.q.shape4()[3], self.v.shape4()[3]]
    }

    fn run<T: Scalar<Wide: Scalar>>(&self, return_state: bool) -> PyResult<Bound<'py, PyAny>> {
        let (py, axes) = (self.q.object.py(), self.q.axes());
        let (recurrence, inputs) = (self.recurrence, self.inputs::<T>()?);
        let ([batch, _, tokens, _], [.., dim_v]) = (self.q.shape4(), self.v.shape4());
        let mut out = new_like(&self.q, "out", [batch, self.heads[1], tokens, dim_v], T::DTYPE, axes)?;
        let mut after = new_like(&self.q, "state", self.states(), T::DTYPE.wide(), axes)?;
        let outputs = RecurrentOutputs { out: out.tensor_mut::<T>(&[])?, state: after.tensor_mut(&[])? };
        detached(py, || with_scratch(|scratch| T::recur(&recurrence, &inputs, outputs, scratch)))?
            .map_err(of_attention)?;
        let out = finish(out, &self.q)?;
        if !return_state {
            return Ok(out);
        }
        Ok(PyTuple::new(py, [out, finish(after, &self.q)?])?.into_any())
    }

    fn backward<T: Element + Scalar<Wide = f32>>(
        &self,
        dout: &View<'py>,
        dstate: Option<&View<'py>>,
    ) -> PyResult<LinearGradients> {
        let (py, axes) = (self.q.object.py(), self.q.axes());
        let (recurrence, inputs) = (self.recurrence, self.inputs::<T>()?);
        let (dout, dstate) = (dout.tensor::<T>()?, dstate.map(View::tensor).transpose()?);
        let new = |name, shape| new_like(&self.q, name, shape, Dtype::F32, axes);
        let like = |name, view: &View<'_>| new(name, view.shape4());
        let (mut dq, mut dk, mut dv) = (like("dq", &self.q)?, like("dk", &self.k)?, like("dv", &self.v)?);
        let mut ddecay = self.decay.as_ref().map(|view| like("ddecay", view)).transpose()?;
        let of_beta = |view: &View<'_>| {
            let [batch, heads, tokens, _] = view.shape4();
            Ok::<_, PyErr>(new_like(&self.q, "dbeta", [1, batch, heads, tokens], Dtype::F32, axes - 1)?.column())
        };
        let mut dbeta = self.beta.as_ref().map(of_beta).transpose()?;
        let mut dbefore = new("dstate", self.states())?;
        let gradients = RecurrentGradients {
            q: dq.tensor_mut(&[])?,
            k: dk.tensor_mut(&[])?,
            v: dv.tensor_mut(&[])?,
            log_decay: tensor_or_none(&mut ddecay)?,
            beta: tensor_or_none(&mut dbeta)?,
            state: dbefore.tensor_mut(&[])?,
        };
        detached(py, || {
            with_scratch(|scratch| recurrence.backward(&inputs, dout, dstate, gradients, scratch, Pool::global()))
        })?
        .map_err(of_attention)?;
        let done = |view| finish(view, &self.q).map(Bound::unbind);
        Ok(LinearGradients {
            q: done(dq)?,
            k: done(dk)?,
            v: done(dv)?,
            decay: ddecay.map(done).transpose()?,
            beta: dbeta.map(done).transpose()?,
            state: done(dbefore)?,
        })
    }
}

/// A tensor to write to, without numbers where there is none.
fn tensor_or_none<'a>(view: &'a mut Option<View<'_>>) -> PyResult<TensorMut<'a, f32>> {
    match view {
        Some(view) => view.tensor_mut(&[]),
        None => TensorMut::contiguous(&mut [], [0; AXES]).map_err(of_memory),
    }
}

/// An array of this type, copied where it cannot be read where it lies.
pub(crate) fn view_of<'py>(dtype: Dtype, name: &'static str, array: &Bound<'py, PyAny>) -> PyResult<View<'py>> {
    let view = View::of(name, array)?.readable(Copies::Allowed)?;
    if view.dtype == dtype {
        return Ok(view);
    }
    let (has, expected) = (view.dtype.name(), dtype.name());
    Err(PyTypeError::new_err(format!("`{name}` has dtype {has}; expected {expected}: convert it")))
}
