//! Attention that is decided once and run many times.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use regard_attention::{Plan, Shape};

use crate::attention::{Tensors, fitting, run};
use crate::dtype::Dtype;
use crate::error::wrong_type;
use crate::foreign::{View, numpy};
use crate::mask::mask_of;
use crate::numbers::indices;
use crate::options::{Call, PLAN, PLANNED};

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
            let (planned, has) = (told(self.plan.shape(), self.dtype), told(tensors.shape, tensors.dtype()));
            let problem = format!("the plan is of {planned}; the arrays are {has}: make a plan of these");
            return Err(match tensors.dtype() == self.dtype {
                true => PyValueError::new_err(problem),
                false => PyTypeError::new_err(problem),
            });
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

/// The arrays of a call.
fn told(shape: Shape, dtype: Dtype) -> String {
    let Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = shape;
    let (q, k, v) = ([batch, heads, queries, dim_k], [batch, kv_heads, keys, dim_k], [batch, kv_heads, keys, dim_v]);
    format!("{} q {q:?}, k {k:?} and v {v:?}", dtype.name())
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
    let numpy = numpy(q.py())?;
    let said =
        call.own("dtype").map(|dtype| dtype.extract().map_err(|_| wrong_type("dtype", "its name, a string", dtype)));
    let said: Option<String> = said.transpose()?;
    let said = said.as_deref().unwrap_or("float32");
    let known = [Dtype::F32, Dtype::F64, Dtype::Bf16, Dtype::F16];
    let Some(dtype) = known.into_iter().find(|dtype| dtype.name() == said) else {
        let expected = "expected 'float32', 'bfloat16', 'float16' or 'float64'";
        return Err(PyValueError::new_err(format!("`dtype` is '{said}'; {expected}")));
    };
    // A view of one number stands for an array of the shape.
    let one = numpy.call_method1("zeros", ((), "float32"))?;
    let array = |name: &str, given: &Bound<'py, PyAny>| -> PyResult<(Bound<'py, PyAny>, bool)> {
        if !given.is_instance_of::<PyTuple>() && !given.is_instance_of::<PyList>() {
            return Ok((given.clone(), false));
        }
        let shape = indices(name, given)?;
        let stands = numpy.call_method1("broadcast_to", (&one, PyTuple::new(given.py(), shape)?));
        Ok((stands.map_err(|_| wrong_type(name, "an array, or its shape", given))?, true))
    };
    let ((q, by_shape), (k, k_by_shape), (v, v_by_shape)) = (array("q", q)?, array("k", k)?, array("v", v)?);
    if k_by_shape != by_shape || v_by_shape != by_shape {
        return Err(PyTypeError::new_err(
            "some of `q`, `k` and `v` are shapes and some arrays: give all as one or the other",
        ));
    }
    let (q, k, v) = (View::of("q", &q)?, View::of("k", &k)?, View::of("v", &v)?);
    let shape = fitting(&q, &k, &v)?;
    if !by_shape && call.own("dtype").is_some() {
        return Err(PyTypeError::new_err("`dtype` is that of shapes; arrays have their own: leave it out"));
    }
    let mask = mask_of(mask, &shape, &call.options)?;
    let plan = call.plan(q.object.py(), shape, &mask)?;
    Ok(PyPlan { plan, dtype: if by_shape { dtype } else { q.dtype } })
}
