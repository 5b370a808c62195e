//! Softmax attention approximated by random features.

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use regard_attention::{Direction, Element, Favor, FavorFeatures, FavorGradients, FavorInputs, FavorOutputs, Shape};
use regard_threads::Pool;

use crate::arrays::{Copies, finish, new_like, pair, same_dtype};
use crate::attention::{expect_shape, fitting};
use crate::dtype::{Dtype, Scalar, with_narrow_type, with_type};
use crate::error::{of_attention, wrong_type};
use crate::foreign::{AXES, View};
use crate::linear::{LinearGradients, view_of};
use crate::numbers::{self, count, number, whole};
use crate::work::{detached, with_scratch};

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
    #[pyo3(signature = (dim, count, seed=None), text_signature = "(dim, count, seed=0)")]
    fn new(dim: &Bound<'_, PyAny>, count: &Bound<'_, PyAny>, seed: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let seed = seed.map_or(Ok(0), |seed| whole("seed", seed))?;
        FavorFeatures::new(numbers::count("dim", dim)?, numbers::count("count", count)?, seed)
            .map(PyFavorFeatures)
            .map_err(of_attention)
    }

    /// Numbers of a query.
    #[getter]
    fn dim(&self) -> usize {
        self.0.dim()
    }

    /// The directions, ``[count, dim]``: with ``w`` one of them, a query's feature is ``exp(√scale·w·q)`` and a key's is
    /// ``exp(√scale·w·k − scale·‖k‖²/2)``.
    #[getter]
    fn rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        PyArray1::from_slice(py, self.0.rows()).reshape([self.0.count(), self.0.dim()])
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
///     seed: of the features, where their number is given; 0 unless given.
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
#[pyo3(signature = (q, k, v, *, features=None, seed=None, scale=None, causal=true, state=None, return_state=false))]
#[allow(clippy::too_many_arguments, reason = "Python's arguments are named")]
pub(crate) fn favor_attention<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    features: Option<&Bound<'py, PyAny>>,
    seed: Option<&Bound<'py, PyAny>>,
    scale: Option<&Bound<'py, PyAny>>,
    causal: bool,
    state: Option<&Bound<'py, PyAny>>,
    return_state: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let options = Settings { features, seed, scale, causal, state };
    Approximated::of([q, k, v], options)?.run(return_state)
}

/// The exact gradients of :func:`favor_attention` with its features, from those of its results and of the sums of the state
/// after the last token.
///
/// Args:
///     q, k, v: as in the call; float32, bfloat16 or float16.
///     dout: the gradient of the results, ``[batch, heads, seq, dim_v]``, in the type of the query.
///     dstate: the gradient of the state's sums after the last token, float32; 0 unless given.
///
/// and the options of the call.
///
/// Returns:
///     :class:`LinearGradients` with ``q``, ``k``, ``v``, and as ``state`` that of the sums before, exponents held constant.
///
/// >>> import numpy as np, regard
/// >>> q, k, v = 0.5 * np.random.default_rng(0).standard_normal((3, 1, 4, 200, 32), dtype=np.float32)
/// >>> dq, dk, dv = regard.favor_attention_backward(q, k, v, np.ones_like(v), features=128)
/// >>> dk.shape
/// (1, 4, 200, 32)
#[pyfunction]
#[pyo3(signature = (q, k, v, dout, *, features=None, seed=None, scale=None, causal=true, state=None, dstate=None))]
#[allow(clippy::too_many_arguments, reason = "Python's arguments are named")]
pub(crate) fn favor_attention_backward<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    dout: &Bound<'py, PyAny>,
    features: Option<&Bound<'py, PyAny>>,
    seed: Option<&Bound<'py, PyAny>>,
    scale: Option<&Bound<'py, PyAny>>,
    causal: bool,
    state: Option<&Bound<'py, PyAny>>,
    dstate: Option<&Bound<'py, PyAny>>,
) -> PyResult<LinearGradients> {
    let options = Settings { features, seed, scale, causal, state };
    let call = Approximated::of([q, k, v], options)?;
    let dout = View::of("dout", dout)?.readable(Copies::Allowed)?;
    same_dtype(&call.q, &[&dout])?;
    let dstate = dstate.map(|array| view_of(Dtype::F32, "dstate", array)).transpose()?;
    with_narrow_type!(call.q, T => call.backward::<T>(&dout, dstate.as_ref()))
}

/// The options of a call.
struct Settings<'a, 'py> {
    features: Option<&'a Bound<'py, PyAny>>,
    seed: Option<&'a Bound<'py, PyAny>>,
    scale: Option<&'a Bound<'py, PyAny>>,
    causal: bool,
    state: Option<&'a Bound<'py, PyAny>>,
}

/// A call, whose arrays fit each other.
struct Approximated<'py> {
    q: View<'py>,
    k: View<'py>,
    v: View<'py>,
    features: Py<PyFavorFeatures>,
    scale: Option<f64>,
    direction: Direction,
    state: Option<(View<'py>, View<'py>)>,
}

impl<'py> Approximated<'py> {
    fn of([q, k, v]: [&Bound<'py, PyAny>; 3], options: Settings<'_, 'py>) -> PyResult<Self> {
        /// Features where nobody says how many.
        const FEATURES: usize = 256;

        let py = q.py();
        let view = |name, array| View::of(name, array)?.readable(Copies::Allowed);
        let (q, k, v) = (view("q", q)?, view("k", k)?, view("v", v)?);
        let Shape { batch, kv_heads, dim_k, dim_v, .. } = fitting(&q, &k, &v)?;
        let features = match options.features.map(|given| given.cast::<PyFavorFeatures>().map_err(|_| given)) {
            Some(Ok(_)) if options.seed.is_some() => {
                return Err(PyValueError::new_err(
                    "`features` are drawn already: `seed` is for those drawn in the call",
                ));
            }
            Some(Ok(features)) => features.clone().unbind(),
            number => {
                let number = number.and_then(Result::err);
                let number = number.map_or(Ok(FEATURES), |given| match count("features", given) {
                    Err(error) if error.is_instance_of::<PyTypeError>(py) => {
                        Err(wrong_type("features", "their number, or FavorFeatures", given))
                    }
                    number => number,
                })?;
                let seed = options.seed.map_or(Ok(0), |seed| whole("seed", seed))?;
                let features = FavorFeatures::new(dim_k, number, seed).map_err(of_attention)?;
                Py::new(py, PyFavorFeatures(features))?
            }
        };
        let of = features.get().0.dim();
        if of != dim_k {
            return Err(PyValueError::new_err(format!("`features` are of {of} numbers; `q` and `k` have {dim_k}")));
        }
        let state = match options.state.map(|state| pair("state", "(sums, exponents)", state)).transpose()? {
            Some((sums, exponents)) => {
                let wide = q.dtype.wide();
                let sums = view_of(wide, "sums of state", &sums)?;
                let exponents = view_of(wide, "exponents of state", &exponents)?;
                let expected = [batch, kv_heads, features.get().0.count(), dim_v + 1];
                expect_shape(&sums, &expected[AXES - q.axes()..])?;
                expect_shape(&exponents, &[batch, kv_heads, 1, 1][AXES - q.axes()..])?;
                Some((sums, exponents))
            }
            None => None,
        };
        let scale = options.scale.map(|scale| number("scale", scale)).transpose()?;
        let direction = if options.causal { Direction::Causal } else { Direction::Both };
        Ok(Approximated { q, k, v, features, scale, direction, state })
    }

    fn favor(&self) -> PyResult<Favor<'_>> {
        let favor = Favor::new(&self.features.get().0, None).map_err(of_attention)?.with_direction(self.direction);
        self.scale.map_or(Ok(favor.clone()), |scale| favor.with_scale(scale)).map_err(of_attention)
    }

    fn inputs<T: Scalar<Wide: Scalar>>(&self) -> PyResult<FavorInputs<'_, T, T::Wide>> {
        let state = self.state.as_ref().map(|(sums, exponents)| Ok::<_, PyErr>((sums.tensor()?, exponents.tensor()?)));
        Ok(FavorInputs { q: self.q.tensor()?, k: self.k.tensor()?, v: self.v.tensor()?, state: state.transpose()? })
    }

    /// The shape of a state's sums.
    fn sums(&self) -> [usize; AXES] {
        let ([batch, kv_heads, ..], [.., dim_v]) = (self.k.shape4(), self.v.shape4());
        [batch, kv_heads, self.features.get().0.count(), dim_v + 1]
    }

    fn run(&self, return_state: bool) -> PyResult<Bound<'py, PyAny>> {
        with_type!(self.q.dtype, T => self.run_of::<T>(return_state))
    }

    fn run_of<T: Scalar<Wide: Scalar>>(&self, return_state: bool) -> PyResult<Bound<'py, PyAny>> {
        let (q, py, axes) = (&self.q, self.q.object.py(), self.q.axes());
        let ([batch, heads, tokens, _], [_, kv_heads, ..], dim_v) = (q.shape4(), self.k.shape4(), self.v.shape4()[3]);
        let (favor, inputs) = (self.favor()?, self.inputs::<T>()?);
        let mut out = new_like(q, "out", [batch, heads, tokens, dim_v], T::DTYPE, axes)?;
        let mut sums = new_like(q, "sums", self.sums(), T::DTYPE.wide(), axes)?;
        let mut exponents = new_like(q, "exponents", [batch, kv_heads, 1, 1], T::DTYPE.wide(), axes)?;
        let outputs =
            FavorOutputs { out: out.tensor_mut::<T>(&[])?, state: (sums.tensor_mut(&[])?, exponents.tensor_mut(&[])?) };
        detached(py, || with_scratch(|scratch| T::favor(&favor, &inputs, outputs, scratch)))?.map_err(of_attention)?;
        let out = finish(out, q)?;
        if !return_state {
            return Ok(out);
        }
        let state = PyTuple::new(py, [finish(sums, q)?, finish(exponents, q)?])?;
        Ok(PyTuple::new(py, [out, state.into_any()])?.into_any())
    }

    fn backward<T: Element + Scalar<Wide = f32>>(
        &self,
        dout: &View<'py>,
        dstate: Option<&View<'py>>,
    ) -> PyResult<LinearGradients> {
        let (py, axes) = (self.q.object.py(), self.q.axes());
        let (favor, inputs) = (self.favor()?, self.inputs::<T>()?);
        let (dout, dstate) = (dout.tensor::<T>()?, dstate.map(View::tensor).transpose()?);
        let new = |name, shape| new_like(&self.q, name, shape, Dtype::F32, axes);
        let (mut dq, mut dk) = (new("dq", self.q.shape4())?, new("dk", self.k.shape4())?);
        let (mut dv, mut dbefore) = (new("dv", self.v.shape4())?, new("dstate", self.sums())?);
        let gradients = FavorGradients {
            q: dq.tensor_mut(&[])?,
            k: dk.tensor_mut(&[])?,
            v: dv.tensor_mut(&[])?,
            state: dbefore.tensor_mut(&[])?,
        };
        detached(py, || {
            with_scratch(|scratch| favor.backward(&inputs, dout, dstate, gradients, scratch, Pool::global()))
        })?
        .map_err(of_attention)?;
        let done = |view| finish(view, &self.q).map(Bound::unbind);
        let (decay, beta) = (None, None);
        Ok(LinearGradients { q: done(dq)?, k: done(dk)?, v: done(dv)?, decay, beta, state: done(dbefore)? })
    }
}
