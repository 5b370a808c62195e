//! New arrays of the kind that came in.

use ndarray::Array4;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::dtype::Dtype;
use crate::error::wrong_type;
use crate::foreign::{AXES, Kind, Torch, View, numpy};

/// Whether arrays that the engine cannot read where they lie are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Copies {
    /// Once.
    #[default]
    Allowed,
    Refused,
}

/// A new array of so many axes, the last of `shape`, of the kind that `like` is.
pub(crate) fn new_like<'py>(
    like: &View<'py>,
    name: &'static str,
    shape: [usize; AXES],
    dtype: Dtype,
    axes: usize,
) -> PyResult<View<'py>> {
    let py = like.object.py();
    let shape = &shape[AXES - axes..];
    let array = match (like.kind, Torch::get(py)?) {
        (Kind::Torch, Some(torch)) => {
            // As NumPy does for its own: on pages of 4 KiB the system takes longer to give memory than we to fill it.
            return Ok(View::of(name, &torch.empty(py, shape, dtype)?)?.on_huge_pages());
        }
        _ => {
            let dtype = numpy_dtype(like, dtype)?;
            numpy(py)?.call_method1(intern!(py, "empty"), (PyTuple::new(py, shape)?, dtype))?
        }
    };
    View::of(name, &array)
}

/// Refuses arrays of other types than that of the first.
///
/// # Errors
/// `TypeError`.
pub(crate) fn same_dtype(first: &View<'_>, others: &[&View<'_>]) -> PyResult<()> {
    let Some(other) = others.iter().find(|other| other.dtype != first.dtype) else { return Ok(()) };
    let (name, has, expected) = (other.name, other.dtype.name(), first.dtype.name());
    let first = first.name;
    let problem = format!("`{name}` has dtype {has}, `{first}` {expected}: convert one, .astype or .to does");
    Err(PyTypeError::new_err(problem))
}

/// Two arrays in a tuple, or in a list.
pub(crate) fn pair<'py>(
    name: &str,
    of: &str,
    given: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    if given.is_instance_of::<PyTuple>() || given.is_instance_of::<PyList>() {
        let arrays: Vec<Bound<'py, PyAny>> = given.extract()?;
        if let Ok([first, second]) = <[_; 2]>::try_from(arrays) {
            return Ok((first, second));
        }
        let has = given.len()?;
        return Err(PyValueError::new_err(format!("`{name}` has {has} parts; expected two, {of}")));
    }
    Err(wrong_type(name, &format!("a pair {of}"), given))
}

/// An array of float32 without gaps, `[batch, heads, seq, dim]`, for what is computed from a copy.
pub(crate) fn single<'py>(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<(View<'py>, Array4<f32>)> {
    let view = View::of(name, object)?.readable(Copies::Allowed)?;
    if view.dtype != Dtype::F32 {
        let has = view.dtype.name();
        let problem = format!("`{name}` has dtype {has}, expected float32: .astype or .to converts it");
        return Err(PyTypeError::new_err(problem));
    }
    let array = Array4::from_shape_vec(view.shape4(), view.read_as(|number: f32| number)?);
    Ok((view, array.expect("as many as were read")))
}

/// Bytes from which on it is asked whether the system has them: it promises more than that.
const LARGE: usize = 64 << 20;

/// Room for an array.
///
/// # Errors
/// There is no memory for it.
pub(crate) fn room<N>(shape: &[usize]) -> regard_memory::Result<Vec<N>> {
    let len = shape.iter().try_fold(1_usize, |len, &extent| len.checked_mul(extent));
    let bytes = len.and_then(|len| len.checked_mul(size_of::<N>()));
    let (Some(len), Some(bytes)) = (len, bytes) else {
        return Err(regard_memory::Error::Overflow { what: "array" });
    };
    let mut numbers = Vec::new();
    let there = bytes < LARGE || regard_memory::available().is_none_or(|free| bytes as u64 <= free);
    if !there || numbers.try_reserve_exact(len).is_err() {
        return Err(regard_memory::Error::OutOfMemory { bytes });
    }
    Ok(numbers)
}

/// NumPy's object for a type.
fn numpy_dtype<'py>(like: &View<'py>, dtype: Dtype) -> PyResult<Bound<'py, PyAny>> {
    let py = like.object.py();
    Ok(match dtype {
        Dtype::F32 => numpy::dtype::<f32>(py).into_any(),
        Dtype::F64 => numpy::dtype::<f64>(py).into_any(),
        Dtype::F16 => numpy(py)?.getattr(intern!(py, "float16"))?,
        Dtype::Bf16 if like.kind == Kind::NumPy => like.object.getattr(intern!(py, "dtype"))?,
        Dtype::Bf16 => py.import(intern!(py, "ml_dtypes"))?.getattr(intern!(py, "bfloat16"))?,
    })
}

/// A result as the library of `like` has it.
pub(crate) fn finish<'py>(result: View<'py>, like: &View<'py>) -> PyResult<Bound<'py, PyAny>> {
    let py = result.object.py();
    if like.kind != Kind::Other || !like.object.hasattr(intern!(py, "__array_namespace__"))? {
        return Ok(result.object);
    }
    like.object.call_method0(intern!(py, "__array_namespace__"))?.call_method1(intern!(py, "asarray"), (result.object,))
}
