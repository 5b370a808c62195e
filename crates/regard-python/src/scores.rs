//! Scores on request.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use regard_attention::{Chosen, Inputs, Plan, Shape, Stage};

use crate::arrays::{finish, new_like};
use crate::attention::Tensors;
use crate::dtype::{Scalar, with_type};
use crate::error::{of_attention, wrong_type};
use crate::mask::mask_of;
use crate::numbers::{count, indices};
use crate::options::{Call, SCORES};
use crate::terms::OwnTerms;
use crate::work::detached;

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
    let stage =
        call.own("stage").map(|stage| stage.extract().map_err(|_| wrong_type("stage", "its name, a string", stage)));
    let stage: Option<String> = stage.transpose()?;
    let stage = match stage.as_deref() {
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
        let chosen = match count(name, value) {
            Ok(one) => vec![one],
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
