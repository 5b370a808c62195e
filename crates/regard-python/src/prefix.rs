//! Attention of sequences that begin alike.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use regard_attention::{Element, Inputs, Shape, SharedPrefix};
use regard_kernels::Number;
use regard_memory::Arena;
use regard_threads::Pool;

use crate::arrays::{Copies, same_dtype};
use crate::attention::Tensors;
use crate::dtype::{Scalar, with_narrow_type};
use crate::error::of_attention;
use crate::foreign::View;
use crate::mask::mask_of;
use crate::options::{Call, PREFIX};
use crate::results::{Results, results};
use crate::terms::OwnTerms;

/// Attention of a batch whose sequences begin with the same keys, which are read once and not once a sequence: many texts that
/// go on from one prompt.
///
/// Args:
///     q, k, v: as in :func:`attention`, ``k`` and ``v`` of each sequence's own keys, behind the shared ones; float32, bfloat16 or
///         float16.
///     prefix_k, prefix_v: what all sequences share, ``[kv_heads, prefix, dim]`` and ``[kv_heads, prefix, dim_v]``, or with a
///         batch axis of 1 in front. Every query sees all of it.
///     mask: over a sequence's own keys; the last query stands at the last of them. Causal unless given.
///
/// and ``scale``, ``softcap``, ``sinks``, ``return_lse`` and ``out`` as there.
///
/// Returns:
///     What :func:`attention` returns over the shared and the own keys, within rounding.
///
/// >>> import numpy as np, regard
/// >>> rng = np.random.default_rng(0)
/// >>> prefix_k, prefix_v = rng.standard_normal((2, 2, 100, 64), dtype=np.float32)
/// >>> q = rng.standard_normal((8, 4, 1, 64), dtype=np.float32)
/// >>> k, v = rng.standard_normal((2, 8, 2, 5, 64), dtype=np.float32)
/// >>> out = regard.prefix_attention(q, k, v, prefix_k, prefix_v)
/// >>> whole = [np.concatenate([np.broadcast_to(a, (8, 2, 100, 64)), b], 2) for a, b in [(prefix_k, k), (prefix_v, v)]]
/// >>> bool(np.allclose(out, regard.attention(q, *whole, "causal"), atol=1e-6))
/// True
#[pyfunction]
#[pyo3(
    signature = (q, k, v, prefix_k, prefix_v, mask=None, **options),
    text_signature = "(q, k, v, prefix_k, prefix_v, mask=None, *, scale=None, softcap=None, sinks=None, return_lse=False, out=None, copy=True)"
)]
pub(crate) fn prefix_attention<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    prefix_k: &Bound<'py, PyAny>,
    prefix_v: &Bound<'py, PyAny>,
    mask: Option<&Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let call = Call::of(&PREFIX, options)?;
    let own = Tensors::of(q, k, v, call.copies)?;
    let mask = match mask {
        None => regard_masks::Mask::causal(),
        Some(_) => mask_of(mask, &own.shape, &call.options)?,
    };
    let shared = [shared("prefix_k", prefix_k, call.copies)?, shared("prefix_v", prefix_v, call.copies)?];
    same_dtype(&own.q, &[&shared[0], &shared[1]])?;
    let (Shape { kv_heads, dim_k, dim_v, .. }, prefix) = (own.shape, shared[0].shape4()[2]);
    for (view, dim) in shared.iter().zip([dim_k, dim_v]) {
        if view.axes() < 3 || view.shape4() != [1, kv_heads, prefix, dim] {
            let (name, shape, expected) = (view.name, view.shape(), format!("[{kv_heads}, {prefix}, {dim}]"));
            return Err(PyValueError::new_err(format!("`{name}` has shape {shape:?}; expected {expected}")));
        }
    }
    let mut attention = SharedPrefix::new(own.shape, prefix, &mask, &call.options).map_err(of_attention)?;
    with_narrow_type!(own.q, T => run::<T>(&mut attention, &own, &shared, &call))
}

fn shared<'py>(name: &'static str, array: &Bound<'py, PyAny>, copies: Copies) -> PyResult<View<'py>> {
    View::of(name, array)?.readable(copies)
}

fn run<'py, T: Element + Number + Scalar<Wide = f32>>(
    attention: &mut SharedPrefix,
    own: &Tensors<'py>,
    shared: &[View<'py>; 2],
    call: &Call<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let (Tensors { q, k, v, shape }, [prefix_k, prefix_v]) = (own, shared);
    let terms = OwnTerms::<f32>::of(call, *shape)?;
    let inputs = Inputs { q: q.tensor::<T>()?, k: k.tensor()?, v: v.tensor()?, terms: terms.terms()? };
    let (keys, values) = (prefix_k.tensor::<T>()?, prefix_v.tensor::<T>()?);
    let compute = |results: Results<'_, T, f32>, scratch: &mut Arena| match results {
        Results::Same(outputs) => attention.run(&inputs, keys, values, outputs, scratch, Pool::global()),
        Results::Wide(outputs) => attention.run(&inputs, keys, values, outputs, scratch, Pool::global()),
    };
    results(call, q, *shape, &[q, k, v, prefix_k, prefix_v], compute)
}
