//! Softmax attention, forward.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use regard_attention::{Inputs, Plan, Shape};
use regard_memory::Arena;
use regard_threads::Pool;

use crate::arrays::{Copies, same_dtype};
use crate::dtype::{Dtype, Scalar, with_type};
use crate::foreign::View;
use crate::mask::mask_of;
use crate::options::{ATTENTION, Call};
use crate::results::{Results, results};
use crate::terms::OwnTerms;

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
    same_dtype(q, &[k, v])?;
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

/// Exact softmax attention, ``softmax(scale·q·kᵀ restricted to a mask)·v``, in tiles that never leave the caches.
///
/// Args:
///     q: queries ``[batch, heads, seq, dim]``, also ``[heads, seq, dim]`` or ``[seq, dim]``: an array of NumPy, PyTorch,
///         JAX or anything with DLPack, in float32, bfloat16, float16 or float64. It is read where it lies, whatever its
///         strides, as long as the last axis is contiguous; else it is copied once.
///     k: keys ``[batch, kv_heads, keys, dim]``. Query head ``h`` reads key head ``h // (heads // kv_heads)``.
///     v: values ``[batch, kv_heads, keys, dim_v]``.
///     mask: a :class:`Mask`, its expression as a string such as ``"causal & window(31, inf)"``, or an array of booleans
///         ``[batch or 1, heads or 1, queries or 1, keys or 1]``, also without its first axes, True where a query sees a key.
///         Every pair unless given.
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
    let own = OwnTerms::<T::Wide>::of(call, plan.shape())?;
    let arguments = Inputs { q: q.tensor::<T>()?, k: k.tensor()?, v: v.tensor()?, terms: own.terms()? };
    let compute = |results: Results<'_, T, T::Wide>, scratch: &mut Arena| match results {
        Results::Same(outputs) => T::run(plan, &arguments, outputs, scratch, Pool::global()),
        Results::Wide(outputs) => T::run_wide(plan, &arguments, outputs, scratch, Pool::global()),
    };
    results(call, q, plan.shape(), &own.inputs([q, k, v]), compute)
}

pub(crate) fn expect_shape(view: &View<'_>, expected: &[usize]) -> PyResult<()> {
    if view.shape() == expected {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("`{}` has shape {:?}, expected {expected:?}", view.name, view.shape())))
}
