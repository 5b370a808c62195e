//! Linear attention: recurrences, and FAVOR+.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use regard_attention::{
    Direction, Favor, FavorFeatures, FavorInputs, FavorOutputs, Recurrence, RecurrentInputs, RecurrentOutputs,
};

use crate::arrays::{Copies, finish, new_like};
use crate::attention::{expect_shape, fitting};
use crate::dtype::{Dtype, Scalar, with_type};
use crate::error::{of_attention, wrong_type};
use crate::foreign::View;
use crate::options::number;
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
    let q = view("q", q)?;
    let wide = q.dtype.wide();
    let optional = |name, array: Option<&Bound<'py, PyAny>>| array.map(|array| view_of(wide, name, array)).transpose();
    let call = Recurrent {
        q,
        k: view("k", k)?,
        v: view("v", v)?,
        decay: optional("decay", decay)?,
        beta: optional("beta", beta)?.map(View::column),
        state: optional("state", state)?,
        scale: scale.map(|scale| number("scale", scale)).transpose()?,
        direction: if causal { Direction::Causal } else { Direction::Both },
        return_state,
    };
    by_dtype(&call.q, &[&call.k, &call.v])?;
    let axes = call.q.axes();
    for (view, expected) in [(&call.k, axes), (&call.v, axes)]
        .into_iter()
        .chain(call.decay.iter().map(|view| (view, axes)))
        .chain(call.beta.iter().map(|view| (view, axes - 1)))
        .chain(call.state.iter().map(|view| (view, axes)))
    {
        if view.axes() != expected || axes < 2 {
            let (name, has) = (view.name, view.axes());
            return Err(PyValueError::new_err(format!(
                "`{name}` has {has} axes; expected {expected}, as `q` has {axes}"
            )));
        }
    }
    with_type!(call.q.dtype, T => call.run::<T>())
}

struct Recurrent<'py> {
    q: View<'py>,
    k: View<'py>,
    v: View<'py>,
    decay: Option<View<'py>>,
    beta: Option<View<'py>>,
    state: Option<View<'py>>,
    scale: Option<f64>,
    direction: Direction,
    return_state: bool,
}

impl<'py> Recurrent<'py> {
    fn run<T: Scalar<Wide: Scalar>>(&self) -> PyResult<Bound<'py, PyAny>> {
        let py = self.q.object.py();
        let inputs = RecurrentInputs {
            q: self.q.tensor::<T>()?,
            k: self.k.tensor()?,
            v: self.v.tensor()?,
            log_decay: self.decay.as_ref().map(View::tensor).transpose()?,
            beta: self.beta.as_ref().map(View::tensor).transpose()?,
            state: self.state.as_ref().map(View::tensor).transpose()?,
        };
        let mut recurrence = Recurrence::new(None).map_err(of_attention)?.with_direction(self.direction);
        if let Some(scale) = self.scale {
            recurrence = recurrence.with_scale(scale).map_err(of_attention)?;
        }
        let ([batch, q_heads, tokens, dim_k], [.., dim_v]) = (self.q.shape4(), self.v.shape4());
        let heads = |view: Option<&View<'_>>| view.map_or(0, |view| view.shape4()[1]);
        // A column's heads are where they were.
        let states =
            [heads(Some(&self.k)), heads(Some(&self.v)), heads(self.decay.as_ref()), heads(self.beta.as_ref())];
        let states = states.into_iter().max().unwrap_or(0);
        let results = states.max(q_heads);
        let axes = self.q.axes();
        if axes < 3 && results != 1 {
            return Err(PyValueError::new_err("arrays [seq, dim] have one head: give [heads, seq, dim]"));
        }
        let mut out = new_like(&self.q, "out", [batch, results, tokens, dim_v], T::DTYPE, axes)?;
        let mut after = new_like(&self.q, "state", [batch, states, dim_k, dim_v], T::DTYPE.wide(), axes)?;
        let outputs = RecurrentOutputs { out: out.tensor_mut::<T>(&[])?, state: after.tensor_mut(&[])? };
        detached(py, || with_scratch(|scratch| T::recur(&recurrence, &inputs, outputs, scratch)))?
            .map_err(of_attention)?;
        let out = finish(out, &self.q)?;
        if !self.return_state {
            return Ok(out);
        }
        Ok(PyTuple::new(py, [out, finish(after, &self.q)?])?.into_any())
    }
}

/// The random features of FAVOR+: orthogonal directions with the norms of Gaussian ones.
///
/// Args:
///     dim: numbers of a query.
///     count: features: the error against exact attention falls as ``1/√count``.
///     seed: another seed, other features.
#[pyclass(frozen, module = "regard", name = "FavorFeatures")]
pub(crate) struct PyFavorFeatures(FavorFeatures);

#[pymethods]
impl PyFavorFeatures {
    #[new]
    #[pyo3(signature = (dim, count, seed=0))]
    fn new(dim: usize, count: usize, seed: u64) -> PyResult<Self> {
        FavorFeatures::new(dim, count, seed).map(PyFavorFeatures).map_err(of_attention)
    }

    /// Numbers of a query.
    #[getter]
    fn dim(&self) -> usize {
        self.0.dim()
    }

    /// Features.
    #[getter]
    fn count(&self) -> usize {
        self.0.count()
    }

    fn __repr__(&self) -> String {
        format!("FavorFeatures(dim={}, count={})", self.0.dim(), self.0.count())
    }
}

/// Softmax attention approximated by positive random features (FAVOR+), at a cost that grows with the length and not with its
/// square. Its error against :func:`attention` depends on the features, the length and the size of the scores: measure it.
///
/// Args:
///     q, k, v: as in :func:`attention`; float64 is computed token by token.
///     features: how many, or :class:`FavorFeatures`.
///     seed: of the features, where their number is given.
///     scale: of the scores; ``1/√dim`` unless given.
///     causal: whether a token sees those up to itself, or all of them.
///     state: what an earlier call returned, ``(sums, exponents)``.
///     return_state: also return the state after the last token.
///
/// Returns:
///     ``[batch, heads, seq, dim_v]`` as the query is; or ``(out, (sums, exponents))``.
///
/// >>> import numpy as np, regard
/// >>> q, k, v = 0.5 * np.random.default_rng(0).standard_normal((3, 1, 4, 200, 32), dtype=np.float32)
/// >>> error = regard.favor_attention(q, k, v, features=512) - regard.attention(q, k, v, "causal")
/// >>> bool(np.abs(error).mean() < 0.03)
/// True
#[pyfunction]
#[pyo3(signature = (q, k, v, *, features=None, seed=0, scale=None, causal=true, state=None, return_state=false))]
#[allow(clippy::too_many_arguments, reason = "Python's arguments are named")]
pub(crate) fn favor_attention<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    features: Option<&Bound<'py, PyAny>>,
    seed: u64,
    scale: Option<&Bound<'py, PyAny>>,
    causal: bool,
    state: Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)>,
    return_state: bool,
) -> PyResult<Bound<'py, PyAny>> {
    /// Features where nobody says how many.
    const FEATURES: usize = 256;

    let view = |name, array| View::of(name, array)?.readable(Copies::Allowed);
    let (q, k, v) = (view("q", q)?, view("k", k)?, view("v", v)?);
    fitting(&q, &k, &v)?;
    let made;
    let features = match features.map(|given| (given.cast::<PyFavorFeatures>(), given)) {
        Some((Ok(features), _)) => &features.get().0,
        Some((Err(_), count)) => {
            let count = crate::options::whole("features", count)
                .map_err(|_| wrong_type("features", "their number, or FavorFeatures", count))?;
            made = FavorFeatures::new(q.shape4()[3], count as usize, seed).map_err(of_attention)?;
            &made
        }
        None => {
            made = FavorFeatures::new(q.shape4()[3], FEATURES, seed).map_err(of_attention)?;
            &made
        }
    };
    let mut favor = Favor::new(features, None).map_err(of_attention)?;
    favor = favor.with_direction(if causal { Direction::Causal } else { Direction::Both });
    if let Some(scale) = scale {
        favor = favor.with_scale(number("scale", scale)?).map_err(of_attention)?;
    }
    let state = match &state {
        Some((sums, exponents)) => {
            let (sums, exponents) = (
                view_of(q.dtype.wide(), "sums of state", sums)?,
                view_of(q.dtype.wide(), "exponents of state", exponents)?,
            );
            let [batch, kv_heads, ..] = k.shape4();
            let expected = [batch, kv_heads, features.count(), v.shape4()[3] + 1];
            expect_shape(&sums, &expected[4 - q.axes()..])?;
            expect_shape(&exponents, &[batch, kv_heads, 1, 1][4 - q.axes()..])?;
            Some((sums, exponents))
        }
        None => None,
    };
    with_type!(q.dtype, T => favor_of::<T>(&favor, [&q, &k, &v], state, features.count(), return_state))
}

fn favor_of<'py, T: Scalar<Wide: Scalar>>(
    favor: &Favor<'_>,
    [q, k, v]: [&View<'py>; 3],
    state: Option<(View<'py>, View<'py>)>,
    count: usize,
    return_state: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let (py, axes) = (q.object.py(), q.axes());
    let ([batch, heads, tokens, _], [_, kv_heads, ..], dim_v) = (q.shape4(), k.shape4(), v.shape4()[3]);
    let inputs = FavorInputs {
        q: q.tensor::<T>()?,
        k: k.tensor()?,
        v: v.tensor()?,
        state: match &state {
            Some((sums, exponents)) => Some((sums.tensor()?, exponents.tensor()?)),
            None => None,
        },
    };
    let mut out = new_like(q, "out", [batch, heads, tokens, dim_v], T::DTYPE, axes)?;
    let mut sums = new_like(q, "sums", [batch, kv_heads, count, dim_v + 1], T::DTYPE.wide(), axes)?;
    let mut exponents = new_like(q, "exponents", [batch, kv_heads, 1, 1], T::DTYPE.wide(), axes)?;
    let outputs =
        FavorOutputs { out: out.tensor_mut::<T>(&[])?, state: (sums.tensor_mut(&[])?, exponents.tensor_mut(&[])?) };
    detached(py, || with_scratch(|scratch| T::favor(favor, &inputs, outputs, scratch)))?.map_err(of_attention)?;
    let out = finish(out, q)?;
    if !return_state {
        return Ok(out);
    }
    let state = PyTuple::new(py, [finish(sums, q)?, finish(exponents, q)?])?;
    Ok(PyTuple::new(py, [out, state.into_any()])?.into_any())
}

fn view_of<'py>(dtype: Dtype, name: &'static str, array: &Bound<'py, PyAny>) -> PyResult<View<'py>> {
    let view = View::of(name, array)?.readable(Copies::Allowed)?;
    if view.dtype == dtype {
        return Ok(view);
    }
    let (has, expected) = (view.dtype.name(), dtype.name());
    Err(PyTypeError::new_err(format!("`{name}` has dtype {has}; expected {expected}: convert it")))
}

/// Refuses arrays of different types.
fn by_dtype(q: &View<'_>, others: &[&View<'_>]) -> PyResult<()> {
    match others.iter().find(|other| other.dtype != q.dtype) {
        None => Ok(()),
        Some(other) => {
            let (name, has, expected) = (other.name, other.dtype.name(), q.dtype.name());
            Err(PyTypeError::new_err(format!("`{name}` has dtype {has}, `q` {expected}: convert one")))
        }
    }
}
