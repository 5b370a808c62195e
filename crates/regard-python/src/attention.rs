//! Softmax attention: forward, backward, states that merge, scores on request.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use regard_attention::{
    Chosen, Gradients as GradientViews, Inputs, Outputs, Plan, Shape, Stage, Terms, Upstream, merge as merge_rows,
};
use regard_memory::{Tensor, TensorMut};
use regard_threads::Pool;

use crate::arrays::{Copies, finish, new_like};
use crate::dtype::{Dtype, Scalar, with_type};
use crate::error::{of_attention, wrong_type};
use crate::foreign::{AXES, View};
use crate::mask::mask_of;
use crate::options::{ATTENTION, BACKWARD, Call, PLAN, PLANNED, SCORES, indices, whole, widened};
use crate::work::{detached, with_scratch};

/// Queries, keys and values that fit each other.
pub(crate) struct Tensors<'py> {
    pub(crate) q: View<'py>,
    pub(crate) k: View<'py>,
    pub(crate) v: View<'py>,
    pub(crate) shape: Shape,
}

impl<'py> Tensors<'py> {
    pub(crate) fn of(
        q: &Bound<'py, PyAny>,
        k: &Bound<'py, PyAny>,
        v: &Bound<'py, PyAny>,
        copies: Copies,
    ) -> PyResult<Self> {
        let view = |name, array| View::of(name, array)?.readable(copies);
        let (q, k, v) = (view("q", q)?, view("k", k)?, view("v", v)?);
        let shape = fitting(&q, &k, &v)?;
        Ok(Tensors { q, k, v, shape })
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.q.dtype
    }
}

/// The shape of a call with these arrays.
pub(crate) fn fitting(q: &View<'_>, k: &View<'_>, v: &View<'_>) -> PyResult<Shape> {
    for (name, other) in [("k", k), ("v", v)] {
        if other.dtype != q.dtype {
            let (has, expected) = (other.dtype.name(), q.dtype.name());
            let problem = format!("`{name}` has dtype {has}, `q` {expected}: convert one, .astype or .to does");
            return Err(PyTypeError::new_err(problem));
        }
    }
    let all = || format!("q has shape {:?}, k {:?}, v {:?}", q.shape(), k.shape(), v.shape());
    let refuse = |problem: String| Err(PyValueError::new_err(format!("{problem}: {}", all())));
    if q.axes() < 2 || k.axes() != q.axes() || v.axes() != q.axes() {
        return refuse(
            "q, k and v must all be [batch, heads, seq, dim], or all [heads, seq, dim], or all [seq, dim]".into(),
        );
    }
    let ([batch, heads, queries, dim_k], [k_batch, kv_heads, keys, k_dim]) = (q.shape4(), k.shape4());
    let [v_batch, v_heads, v_keys, dim_v] = v.shape4();
    if k_batch != batch || v_batch != batch {
        return refuse("q, k and v must have the same batch size".into());
    }
    if v_heads != kv_heads || v_keys != keys {
        return refuse("k and v must have the same heads and the same length".into());
    }
    if k_dim != dim_k {
        return refuse("q and k must have the same last axis".into());
    }
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || heads == 0 {
        return refuse(format!("the {heads} heads of q must be a multiple of the {kv_heads} of k and v"));
    }
    if dim_k == 0 || dim_v == 0 {
        return refuse("the last axes must not be empty".into());
    }
    Ok(Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v })
}

/// What joins the scores, in the numbers of a call.
pub(crate) struct OwnTerms<'py, W> {
    bias: Option<Bias<'py, W>>,
    slopes: Option<Vec<W>>,
    sinks: Option<Vec<W>>,
    ids: Option<Vec<u64>>,
}

/// A bias where it lies, or in numbers of another type with its shape and its axes.
enum Bias<'py, W> {
    Borrowed(View<'py>),
    Converted(Vec<W>, [usize; AXES], usize),
}

impl<'py, W: Scalar<Wide = W>> OwnTerms<'py, W> {
    pub(crate) fn of(call: &Call<'py>, shape: Shape) -> PyResult<Self> {
        let Shape { batch, heads, queries, keys, .. } = shape;
        for (name, numbers) in [("alibi", &call.slopes), ("sinks", &call.sinks)] {
            if let Some(has) = numbers.as_ref().map(Vec::len).filter(|&has| has != heads) {
                return Err(PyValueError::new_err(format!("`{name}` has {has} numbers, expected {heads}, one a head")));
            }
        }
        let bias = match &call.bias {
            None => None,
            Some(bias) => {
                let view = View::of("bias", bias)?;
                // Before it is copied: a view may repeat one number more often than memory can hold it.
                let expected = [batch, heads, queries, keys];
                if view.shape4().iter().zip(expected).any(|(&has, expected)| has != 1 && has != expected) {
                    let problem = format!("`bias` has shape {:?}; expected {expected:?}, or 1 for any", view.shape());
                    return Err(PyValueError::new_err(problem));
                }
                if view.dtype == W::DTYPE {
                    Some(Bias::Borrowed(view.readable(call.copies)?))
                } else if call.copies == Copies::Refused {
                    let (has, expected) = (view.dtype.name(), W::DTYPE.name());
                    return Err(PyTypeError::new_err(format!(
                        "`bias` has dtype {has}, expected {expected}: convert it"
                    )));
                } else {
                    let numbers = with_type!(view.dtype, T => {
                        view.read_as::<T, _>(|x| W::wide(regard_attention::Real::to_f64(x)))?
                    });
                    Some(Bias::Converted(numbers, view.shape4(), view.axes()))
                }
            }
        };
        let (slopes, sinks) = (widened::<W>(call.slopes.as_ref()), widened::<W>(call.sinks.as_ref()));
        Ok(OwnTerms { bias, slopes, sinks, ids: call.sequence_ids.clone() })
    }

    pub(crate) fn terms(&self) -> PyResult<Terms<'_, W>> {
        let bias = match &self.bias {
            None => None,
            Some(Bias::Borrowed(view)) => Some(view.tensor::<W>()?),
            Some(Bias::Converted(numbers, shape, _)) => {
                Some(Tensor::contiguous(numbers, *shape).map_err(|error| of_attention(error.named("bias").into()))?)
            }
        };
        let (slopes, sinks) = (self.slopes.as_deref(), self.sinks.as_deref());
        Ok(Terms { bias, slopes, sinks, sequence_ids: self.ids.as_deref() })
    }

    /// All views that are read, with those of others.
    pub(crate) fn inputs<'a>(&'a self, others: impl IntoIterator<Item = &'a View<'py>>) -> Vec<&'a View<'py>> {
        let bias = match &self.bias {
            Some(Bias::Borrowed(view)) => Some(view),
            _ => None,
        };
        others.into_iter().chain(bias).collect()
    }

    fn bias_shape(&self) -> Option<([usize; AXES], usize)> {
        match &self.bias {
            None => None,
            Some(Bias::Borrowed(view)) => Some((view.shape4(), view.axes())),
            Some(Bias::Converted(_, shape, axes)) => Some((*shape, *axes)),
        }
    }
}

/// Exact softmax attention, ``softmax(scale·q·kᵀ restricted to a mask)·v``, in tiles that never leave the caches.
///
/// Args:
///     q: queries ``[batch, heads, seq, dim]``, also ``[heads, seq, dim]`` or ``[seq, dim]``: an array of NumPy, PyTorch,
///         JAX or anything with DLPack, in float32, bfloat16, float16 or float64. It is read where it lies, whatever its
///         strides, as long as the last axis is contiguous; else it is copied once.
///     k: keys ``[batch, kv_heads, keys, dim]``. Query head ``h`` reads key head ``h // (heads // kv_heads)``.
///     v: values ``[batch, kv_heads, keys, dim_v]``.
///     mask: a :class:`Mask`, its expression as a string such as ``"causal & window(31, inf)"``, or an array of booleans
///         ``[queries, keys]`` up to ``[batch or 1, heads or 1, queries, keys]``, True where a query sees a key. Every pair
///         unless given.
///     key_lengths, query_lengths: the real keys and queries of each batch entry, ``[batch]``, from its first on.
///     segments: sequences packed into a batch entry: their lengths one after the other, or tuples ``(batch, (first query,
///         end), (first key, end))``.
///     offset: query ``i`` stands at key ``i + offset``; one number, or one a batch entry. Unless given the last query
///         stands at the last key (``keys − queries``); 0 is PyTorch's top-left rule.
///     bias: added to the scores, ``[batch or 1, heads or 1, queries or 1, keys or 1]``; −inf masks.
///     scale: scores are multiplied by it; ``1/√dim`` unless given.
///     softcap: scores are bent into ``(−softcap, softcap)`` by a tanh.
///     alibi: a slope a head, ``[heads]``; ``slope·|position − key|`` is taken from the scores.
///     sinks: a logit a head, ``[heads]``, that joins the denominator and has no value.
///     dropout, seed: weights fall with this probability, which ones says the seed.
///     sequence_ids: the numbers that dropout knows the sequences by; 0, 1, 2 … unless given.
///     return_lse: also return the log-sum-exp of each query's scores; the result is then in float32 (float64 of float64),
///         ready for :func:`merge`.
///     out: an array to write the result to; with ``return_lse`` it may be of the query's type too.
///     copy: False raises ValueError where an array would have to be copied.
///
/// Returns:
///     ``[batch, heads, queries, dim_v]`` of the kind and type of the query, with as many axes; or ``(out, lse)``, the
///     log-sum-exps ``[batch, heads, queries]``. A query that sees no key has the result 0 and the log-sum-exp −inf.
///
/// Raises:
///     TypeError: no array of floating-point numbers on the CPU, or arrays of different types.
///     ValueError: shapes that do not fit, or an option out of its range.
///
/// >>> import numpy as np, regard
/// >>> rng = np.random.default_rng(0)
/// >>> q = rng.standard_normal((1, 8, 100, 64), dtype=np.float32)
/// >>> k, v = rng.standard_normal((2, 1, 2, 100, 64), dtype=np.float32)
/// >>> regard.attention(q, k, v, regard.Mask.causal()).shape
/// (1, 8, 100, 64)
/// >>> out, lse = regard.attention(q, k, v, "causal & window(15, inf)", return_lse=True)
/// >>> lse.shape
/// (1, 8, 100)
#[pyfunction]
#[pyo3(
    signature = (q, k, v, mask=None, **options),
    text_signature = "(q, k, v, mask=None, *, key_lengths=None, query_lengths=None, segments=None, offset=None, bias=None, scale=None, softcap=None, alibi=None, sinks=None, dropout=0.0, seed=None, sequence_ids=None, return_lse=False, out=None, copy=True)"
)]
pub(crate) fn attention<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    mask: Option<&Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let call = Call::of(&ATTENTION, options)?;
    let tensors = Tensors::of(q, k, v, call.copies)?;
    let mask = mask_of(mask, &tensors.shape, &call.options)?;
    let plan = call.plan(q.py(), tensors.shape, &mask)?;
    run(&plan, &tensors, &call)
}

/// Computes what a plan says.
pub(crate) fn run<'py>(plan: &Plan, tensors: &Tensors<'py>, call: &Call<'py>) -> PyResult<Bound<'py, PyAny>> {
    with_type!(tensors.dtype(), T => run_of::<T>(plan, tensors, call))
}

fn run_of<'py, T: Scalar>(plan: &Plan, tensors: &Tensors<'py>, call: &Call<'py>) -> PyResult<Bound<'py, PyAny>>
where
    T::Wide: Scalar<Wide = T::Wide>,
{
    let Tensors { q, k, v, .. } = tensors;
    let py = q.object.py();
    let Shape { batch, heads, queries, dim_v, .. } = plan.shape();
    let own = OwnTerms::<T::Wide>::of(call, plan.shape())?;
    let inputs = own.inputs([q, k, v]);
    let with_lse = call.flag("return_lse")?;
    let wide = T::DTYPE.wide();
    let dtypes = if with_lse { [wide, T::DTYPE] } else { [T::DTYPE; 2] };
    let mut out = result(call.own("out"), q, [batch, heads, queries, dim_v], dtypes)?;
    if !with_lse {
        let arguments = Inputs { q: q.tensor::<T>()?, k: k.tensor()?, v: v.tensor()?, terms: own.terms()? };
        let outputs = Outputs::new(out.tensor_mut::<T>(&inputs)?);
        let done = detached(py, || with_scratch(|scratch| T::run(plan, &arguments, outputs, scratch, Pool::global())))?;
        done.map_err(of_attention)?;
        return finish(out, q);
    }
    let mut lse = new_like(q, "lse", [1, batch, heads, queries], wide, q.axes() - 1)?.column();
    let arguments = Inputs { q: q.tensor::<T>()?, k: k.tensor()?, v: v.tensor()?, terms: own.terms()? };
    let lses = lse.tensor_mut::<T::Wide>(&inputs)?;
    let done = if out.dtype == wide {
        let outputs = Outputs::state(out.tensor_mut::<T::Wide>(&inputs)?, lses);
        detached(py, || with_scratch(|scratch| T::run_wide(plan, &arguments, outputs, scratch, Pool::global())))?
    } else {
        let outputs = Outputs::state(out.tensor_mut::<T>(&inputs)?, lses);
        detached(py, || with_scratch(|scratch| T::run(plan, &arguments, outputs, scratch, Pool::global())))?
    };
    done.map_err(of_attention)?;
    Ok(PyTuple::new(py, [finish(out, q)?, finish(lse, q)?])?.into_any())
}

/// The array that a caller gave for the result, of one of two types, or a new one of the first.
pub(crate) fn result<'py>(
    given: Option<&Bound<'py, PyAny>>,
    like: &View<'py>,
    shape: [usize; AXES],
    dtypes: [Dtype; 2],
) -> PyResult<View<'py>> {
    let Some(given) = given else { return new_like(like, "out", shape, dtypes[0], like.axes()) };
    let view = View::to_write("out", given)?;
    if !dtypes.contains(&view.dtype) {
        let (has, expected) = (view.dtype.name(), dtypes[0].name());
        return Err(PyTypeError::new_err(format!("`out` has dtype {has}, expected {expected}")));
    }
    expect_shape(&view, &shape[AXES - like.axes()..])?;
    Ok(view)
}

pub(crate) fn expect_shape(view: &View<'_>, expected: &[usize]) -> PyResult<()> {
    if view.shape() == expected {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("`{}` has shape {:?}, expected {expected:?}", view.name, view.shape())))
}

/// The gradients of a call of attention, as :func:`attention_backward` returns them.
///
/// ``q``, ``k`` and ``v`` are in the shapes and types of what they are of; ``bias`` and ``sinks``, where the call has them, in
/// float32 (float64 of float64), else None. ``dq, dk, dv = gradients`` takes the first three.
#[pyclass(frozen, module = "regard", name = "Gradients")]
pub(crate) struct Gradients {
    #[pyo3(get)]
    q: Py<PyAny>,
    #[pyo3(get)]
    k: Py<PyAny>,
    #[pyo3(get)]
    v: Py<PyAny>,
    #[pyo3(get)]
    bias: Option<Py<PyAny>>,
    #[pyo3(get)]
    sinks: Option<Py<PyAny>>,
}

#[pymethods]
impl Gradients {
    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyIterator>> {
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

/// Merges two states ``(out, lse)`` of the same queries over different keys into that over all of them.
///
/// Args:
///     a, b: pairs as ``attention(..., return_lse=True)`` gives them.
///
/// Returns:
///     ``(out, lse)``: with ``m = max(a, b)``, ``out = (e^(a−m)·out_a + e^(b−m)·out_b) / (e^(a−m) + e^(b−m))`` and ``lse = m +
///     log(e^(a−m) + e^(b−m))``. Two states that have seen no key make one that has seen none.
///
/// >>> import numpy as np, regard
/// >>> q, k, v = np.random.default_rng(0).standard_normal((3, 4, 60, 32), dtype=np.float32)
/// >>> halves = [regard.attention(q, k[:, at], v[:, at], return_lse=True) for at in (slice(0, 25), slice(25, 60))]
/// >>> out, lse = regard.merge(*halves)
/// >>> bool(np.allclose(out, regard.attention(q, k, v), atol=1e-6))
/// True
#[pyfunction]
pub(crate) fn merge<'py>(
    a: (Bound<'py, PyAny>, Bound<'py, PyAny>),
    b: (Bound<'py, PyAny>, Bound<'py, PyAny>),
) -> PyResult<Bound<'py, PyAny>> {
    let view = |name, array| View::of(name, array)?.readable(Copies::Allowed);
    let (a_out, a_lse, b_out, b_lse) =
        (view("out of a", &a.0)?, view("lse of a", &a.1)?, view("out of b", &b.0)?, view("lse of b", &b.1)?);
    let dtype = a_out.dtype;
    for view in [&a_out, &a_lse, &b_out, &b_lse] {
        if view.dtype != dtype || !matches!(dtype, Dtype::F32 | Dtype::F64) {
            let (name, has) = (view.name, view.dtype.name());
            let problem =
                format!("`{name}` has dtype {has}; expected all float32 or all float64, as return_lse=True gives them");
            return Err(PyTypeError::new_err(problem));
        }
    }
    let shape = a_out.shape();
    if shape.is_empty() {
        return Err(PyValueError::new_err("`out of a` has no axes; expected [..., queries, dim]"));
    }
    expect_shape(&b_out, shape)?;
    expect_shape(&a_lse, &shape[..shape.len() - 1])?;
    expect_shape(&b_lse, &shape[..shape.len() - 1])?;
    let states = [(a_out, a_lse.column()), (b_out, b_lse.column())];
    match dtype {
        Dtype::F64 => merge_of::<f64>(&states),
        _ => merge_of::<f32>(&states),
    }
}

fn merge_of<'py, W: Scalar<Wide = W>>(states: &[(View<'py>, View<'py>); 2]) -> PyResult<Bound<'py, PyAny>> {
    let [(a_out, a_lse), (b_out, b_lse)] = states;
    let (py, axes) = (a_out.object.py(), a_out.axes());
    let [batch, heads, queries, _] = a_out.shape4();
    let mut out = new_like(a_out, "out", a_out.shape4(), W::DTYPE, axes)?;
    let mut lse = new_like(a_out, "lse", [1, batch, heads, queries], W::DTYPE, axes - 1)?.column();
    {
        let (a_out, a_lse, b_out, b_lse) =
            (a_out.tensor::<W>()?, a_lse.tensor::<W>()?, b_out.tensor::<W>()?, b_lse.tensor::<W>()?);
        let (mut out, mut lse): (TensorMut<'_, W>, TensorMut<'_, W>) = (out.tensor_mut(&[])?, lse.tensor_mut(&[])?);
        let work = || {
            for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
                for i in 0..queries {
                    let (mut row, mut lses) = (out.rows_mut(b, h), lse.rows_mut(b, h));
                    row.row_mut(i).copy_from_slice(a_out.rows(b, h).row(i));
                    let (own, other) = (a_lse.rows(b, h).row(i)[0], b_lse.rows(b, h).row(i)[0]);
                    lses.row_mut(i)[0] = merge_rows(row.row_mut(i), own, b_out.rows(b, h).row(i), other)?;
                }
            }
            Ok(())
        };
        detached(py, work)?.map_err(of_attention)?;
    }
    Ok(PyTuple::new(py, [finish(out, a_out)?, finish(lse, a_out)?])?.into_any())
}

/// The scores of chosen rows, worked out in float64, without the rest: for pictures, and for tests.
///
/// Args:
///     q, k, mask: as in :func:`attention`, and its options.
///     stage: ``"raw"``, after the scale; ``"softcap"``, after the cap too; ``"biased"``, after bias, ALiBi and mask, which
///         the softmax takes, −inf where a pair is removed; ``"weights"``, after the softmax.
///     batch, heads, rows: which ones: a number, a sequence of numbers, or None for all.
///
/// Returns:
///     ``[batch, heads, rows, keys]`` of those chosen, with as many axes as the query, in float32 (float64 of float64).
///
/// >>> import numpy as np, regard
/// >>> q, k = np.random.default_rng(0).standard_normal((2, 1, 8, 50, 64), dtype=np.float32)
/// >>> weights = regard.scores(q, k, "causal", heads=3, rows=[0, 49])
/// >>> weights.shape
/// (1, 1, 2, 50)
/// >>> bool(np.allclose(weights.sum(-1), 1))
/// True
#[pyfunction]
#[pyo3(
    signature = (q, k, mask=None, **options),
    text_signature = "(q, k, mask=None, *, key_lengths=None, query_lengths=None, segments=None, offset=None, bias=None, scale=None, softcap=None, alibi=None, sinks=None, stage='weights', batch=None, heads=None, rows=None, copy=True)"
)]
pub(crate) fn scores<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    mask: Option<&Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let call = Call::of(&SCORES, options)?;
    // The values take no part.
    let tensors = Tensors::of(q, k, k, call.copies)?;
    let mask = mask_of(mask, &tensors.shape, &call.options)?;
    let plan = call.plan(q.py(), tensors.shape, &mask)?;
    let stage = match call.own("stage").map(|stage| stage.extract::<String>()).transpose()?.as_deref() {
        None | Some("weights") => Stage::Weights,
        Some("raw") => Stage::Raw,
        Some("softcap") => Stage::Capped,
        Some("biased") => Stage::Masked,
        Some(other) => {
            let expected = "expected 'raw', 'softcap', 'biased' or 'weights'";
            return Err(PyValueError::new_err(format!("`stage` is '{other}'; {expected}")));
        }
    };
    let chosen = |name: &str, all: usize| -> PyResult<Vec<usize>> {
        let Some(value) = call.own(name) else { return Ok((0..all).collect()) };
        let chosen = match whole(name, value) {
            Ok(one) => vec![one as usize],
            Err(error) if error.is_instance_of::<PyTypeError>(value.py()) => indices(name, value)?,
            Err(error) => return Err(error),
        };
        match chosen.iter().find(|&&index| index >= all) {
            Some(index) => Err(PyValueError::new_err(format!("`{name}` has {index}; there are {all}, from 0 on"))),
            None => Ok(chosen),
        }
    };
    let Shape { batch, heads, queries, .. } = tensors.shape;
    let (batch, heads, rows) = (chosen("batch", batch)?, chosen("heads", heads)?, chosen("rows", queries)?);
    let axes = tensors.q.axes();
    if (axes < 4 && batch.len() != 1) || (axes < 3 && heads.len() != 1) {
        return Err(PyValueError::new_err("`batch` and `heads` choose more than once what the query has no axis for"));
    }
    let chosen = Chosen { batch: &batch, heads: &heads, rows: &rows };
    with_type!(tensors.dtype(), T => scores_of::<T>(&plan, &tensors, &call, stage, chosen))
}

fn scores_of<'py, T: Scalar>(
    plan: &Plan,
    tensors: &Tensors<'py>,
    call: &Call<'py>,
    stage: Stage,
    chosen: Chosen<'_>,
) -> PyResult<Bound<'py, PyAny>>
where
    T::Wide: Scalar<Wide = T::Wide>,
{
    let Tensors { q, k, v, .. } = tensors;
    let own = OwnTerms::<T::Wide>::of(call, plan.shape())?;
    let inputs = Inputs { q: q.tensor::<T>()?, k: k.tensor()?, v: v.tensor()?, terms: own.terms()? };
    let scores = detached(q.object.py(), || plan.scores(&inputs, stage, chosen))?.map_err(of_attention)?;
    let (batch, heads, rows, keys) = scores.dim();
    let mut out = new_like(q, "scores", [batch, heads, rows, keys], T::Wide::DTYPE, q.axes())?;
    let numbers = scores.as_slice().unwrap_or_default();
    if keys > 0 {
        let mut tensor = out.tensor_mut::<T::Wide>(&[])?;
        for (at, row) in numbers.chunks(keys).enumerate() {
            tensor.rows_mut(at / rows / heads, at / rows % heads).row_mut(at % rows).copy_from_slice(row);
        }
    }
    finish(out, q)
}

/// Attention of one shape and mask, decided once and run many times: see :func:`plan`.
#[pyclass(frozen, module = "regard", name = "Plan")]
pub(crate) struct PyPlan {
    plan: Plan,
    dtype: Dtype,
}

#[pymethods]
impl PyPlan {
    /// Computes attention of arrays of the plan's shapes: as :func:`attention` with the plan's mask and options.
    ///
    /// Beside the arrays it takes ``bias``, ``alibi``, ``sinks``, ``sequence_ids``, ``return_lse``, ``out`` and ``copy``.
    #[pyo3(signature = (q, k, v, **options))]
    fn __call__<'py>(
        &self,
        q: &Bound<'py, PyAny>,
        k: &Bound<'py, PyAny>,
        v: &Bound<'py, PyAny>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let decided = ["scale", "softcap", "offset", "key_lengths", "query_lengths", "segments", "dropout", "seed"];
        if let Some(name) =
            decided.iter().find(|name| options.is_some_and(|options| options.contains(**name).unwrap_or(false)))
        {
            return Err(PyTypeError::new_err(format!("`{name}` was decided with the plan: make another one")));
        }
        let call = Call::of(&PLANNED, options)?;
        let tensors = Tensors::of(q, k, v, call.copies)?;
        if tensors.shape != self.plan.shape() || tensors.dtype() != self.dtype {
            let (has, expected) = (tensors.shape, self.plan.shape());
            let (of, planned) = (tensors.dtype().name(), self.dtype.name());
            return Err(PyValueError::new_err(format!(
                "the plan is of {planned} and {expected:?}; the arrays are {of} and {has:?}"
            )));
        }
        run(&self.plan, &tensors, &call)
    }

    /// Pairs of queries and keys that the mask keeps, over all batch entries and heads.
    #[getter]
    fn live_pairs(&self) -> u64 {
        self.plan.live_pairs()
    }

    /// The share of all pairs that the mask keeps.
    #[getter]
    fn density(&self) -> f64 {
        let pairs = self.plan.pairs();
        if pairs > 0.0 { self.plan.live_pairs() as f64 / pairs } else { 0.0 }
    }

    /// Floating-point operations of a call.
    #[getter]
    fn flops(&self) -> f64 {
        self.plan.flops()
    }

    /// How each sequence is computed: ``'strips'``, ``'blocks'``, ``'splits'`` or ``'edges'``.
    #[getter]
    fn regimes(&self) -> Vec<String> {
        self.plan.sequences().iter().map(|sequence| format!("{:?}", sequence.regime()).to_lowercase()).collect()
    }

    fn __str__(&self) -> String {
        self.plan.to_string()
    }

    fn __repr__(&self) -> String {
        self.plan.to_string()
    }
}

/// Decides how attention of a shape and mask is computed; ``print`` of the result explains it.
///
/// Args:
///     q, k, v: arrays as for :func:`attention`, or their shapes as tuples.
///     mask: as in :func:`attention`, and its options.
///     dtype: of the shapes: ``"float32"`` unless given.
///
/// Returns:
///     A :class:`Plan`. Called with arrays of these shapes it computes attention, without deciding anew.
///
/// >>> import regard
/// >>> plan = regard.plan((1, 8, 4096, 64), (1, 2, 4096, 64), (1, 2, 4096, 64), "causal & window(511, inf)")
/// >>> round(plan.density, 3)
/// 0.117
/// >>> print(plan)  # doctest: +ELLIPSIS
/// attention ...
#[pyfunction]
#[pyo3(
    signature = (q, k, v, mask=None, **options),
    text_signature = "(q, k, v, mask=None, *, key_lengths=None, query_lengths=None, segments=None, offset=None, scale=None, softcap=None, dropout=0.0, seed=None, dtype='float32')"
)]
pub(crate) fn plan<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    mask: Option<&Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<PyPlan> {
    let call = Call::of(&PLAN, options)?;
    let numpy = crate::foreign::numpy(q.py())?;
    let said = call.own("dtype").map(|dtype| dtype.extract::<String>()).transpose()?;
    let said = said.as_deref().unwrap_or("float32");
    let known = [Dtype::F32, Dtype::F64, Dtype::Bf16, Dtype::F16];
    let Some(dtype) = known.into_iter().find(|dtype| dtype.name() == said) else {
        let expected = "expected 'float32', 'bfloat16', 'float16' or 'float64'";
        return Err(PyValueError::new_err(format!("`dtype` is '{said}'; {expected}")));
    };
    // A view of one number stands for an array of the shape.
    let one = numpy.call_method1("zeros", ((), "float32"))?;
    let array = |name: &str, given: &Bound<'py, PyAny>| -> PyResult<(Bound<'py, PyAny>, bool)> {
        if !given.is_instance_of::<PyTuple>() && !given.is_instance_of::<pyo3::types::PyList>() {
            return Ok((given.clone(), false));
        }
        let shape = indices(name, given)?;
        let stands = numpy.call_method1("broadcast_to", (&one, PyTuple::new(given.py(), shape)?));
        Ok((stands.map_err(|_| wrong_type(name, "an array, or its shape", given))?, true))
    };
    let ((q, by_shape), (k, _), (v, _)) = (array("q", q)?, array("k", k)?, array("v", v)?);
    let (q, k, v) = (View::of("q", &q)?, View::of("k", &k)?, View::of("v", &v)?);
    let shape = fitting(&q, &k, &v)?;
    if !by_shape && call.own("dtype").is_some() {
        return Err(PyTypeError::new_err("`dtype` is that of shapes; arrays have their own: leave it out"));
    }
    let mask = mask_of(mask, &shape, &call.options)?;
    let plan = call.plan(q.object.py(), shape, &mask)?;
    Ok(PyPlan { plan, dtype: if by_shape { dtype } else { q.dtype } })
}
