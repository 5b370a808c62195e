//! Numbers that callers give, by themselves and in lists.

use numpy::{PyArrayDescrMethods, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt};
use regard_attention::Real;

use crate::dtype::with_type;
use crate::error::wrong_type;
use crate::foreign::{View, is_array, numpy};

/// Numbers in the width of scores.
pub(crate) fn widened<T: Real>(numbers: Option<&Vec<f64>>) -> Option<Vec<T::Wide>> {
    numbers.map(|numbers| numbers.iter().map(|&x| T::wide(x)).collect())
}

/// A finite number; a truth is none.
pub(crate) fn number(name: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    if value.is_instance_of::<PyBool>() {
        return Err(wrong_type(name, "a number", value));
    }
    let number: f64 = value.extract().map_err(|problem: PyErr| {
        // A whole number of Python's that no float holds.
        if problem.is_instance_of::<PyOverflowError>(value.py()) {
            return PyValueError::new_err(format!("`{name}` is beyond float64; expected a finite number"));
        }
        wrong_type(name, "a number", value)
    })?;
    if number.is_finite() {
        return Ok(number);
    }
    Err(PyValueError::new_err(format!("`{name}` is {number}; expected a finite number")))
}

/// A whole number, not below zero.
pub(crate) fn whole(name: &str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    let number = index(name, "a whole number", value)?;
    let expected = "a whole number, not below 0 and below 2**64";
    number.extract().map_err(|_| PyValueError::new_err(format!("`{name}` is {number}; expected {expected}")))
}

/// A whole number that says where something stands.
pub(crate) fn position(name: &str, expected: &str, value: &Bound<'_, PyAny>) -> PyResult<i64> {
    let number = index(name, expected, value)?;
    let expected = "a whole number within ±2**63";
    number.extract().map_err(|_| PyValueError::new_err(format!("`{name}` is {number}; expected {expected}")))
}

/// What is a number of Python's, or can be one, as NumPy's can; a truth is none.
fn index<'py>(name: &str, expected: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if value.is_exact_instance_of::<PyInt>() {
        return Ok(value.clone());
    }
    if value.is_instance_of::<PyBool>() {
        return Err(wrong_type(name, expected, value));
    }
    value.call_method0(intern!(value.py(), "__index__")).map_err(|_| wrong_type(name, expected, value))
}

/// A whole number, not below zero, that counts what memory holds.
pub(crate) fn count(name: &str, value: &Bound<'_, PyAny>) -> PyResult<usize> {
    Ok(whole(name, value)? as usize)
}

/// Numbers of Python's that are read between two looks for Ctrl-C.
const LONG: usize = 1 << 16;

/// A sequence or an array of whole numbers, not below zero.
pub(crate) fn indices(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    let list = as_list(value)?;
    let each = list.try_iter().map_err(|_| wrong_type(name, "a sequence of whole numbers", value))?;
    let one = |(at, number): (usize, PyResult<Bound<'_, PyAny>>)| {
        if at % LONG == LONG - 1 {
            value.py().check_signals()?;
        }
        count(name, &number?)
    };
    each.enumerate().map(one).collect()
}

/// Arrays as lists of Python's numbers; all else as it is.
pub(crate) fn as_list<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let method = pyo3::intern!(value.py(), "tolist");
    if value.hasattr(method)? { value.call_method0(method) } else { Ok(value.clone()) }
}

/// A sequence or an array of one axis of numbers.
pub(crate) fn numbers(name: &'static str, value: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
    match View::of(name, value) {
        Ok(view) => {
            if view.axes() != 1 {
                let shape = view.shape();
                return Err(PyValueError::new_err(format!(
                    "`{name}` has shape {shape:?}; expected [heads], one number a head"
                )));
            }
            return with_type!(view.dtype, T => view.read_as::<T, _>(Real::to_f64));
        }
        // What an array is refused for is so of a list of its numbers too: a gradient that is lost, another device.
        Err(refused) if is_array(value)? && !has_whole_numbers(value) => return Err(refused),
        Err(_) => {}
    }
    let expected = "a sequence of numbers, one a head";
    let list = as_list(value)?;
    let each = list.try_iter().map_err(|_| wrong_type(name, expected, value))?;
    each.map(|number| {
        let number = number?;
        let holds = |_| number.get_type().name().map(|kind| format!("`{name}` holds a {kind}; expected {expected}"));
        number.extract().or_else(|problem: PyErr| Err(PyTypeError::new_err(holds(problem)?)))
    })
    .collect()
}

/// Whether an array says that its numbers are whole ones.
fn has_whole_numbers(array: &Bound<'_, PyAny>) -> bool {
    let dtype = array.getattr(pyo3::intern!(array.py(), "dtype"));
    dtype.is_ok_and(|dtype| dtype.to_string().contains("int"))
}

/// The whole numbers of a list or an array, not below zero, and their shape.
///
/// # Errors
/// `TypeError` where there is something else; `ValueError` where one does not fit.
pub(crate) fn whole_numbers<N: TryFrom<i64>>(name: &str, object: &Bound<'_, PyAny>) -> PyResult<(Vec<N>, Vec<usize>)> {
    let py = object.py();
    let array = numpy(py)?.call_method1(intern!(py, "asarray"), (object,))?.cast_into::<PyUntypedArray>()?;
    let shape = array.shape().to_vec();
    if shape.contains(&0) {
        return Ok((Vec::new(), shape));
    }
    if !matches!(array.dtype().getattr(intern!(py, "kind"))?.extract::<char>()?, 'i' | 'u') {
        return Err(wrong_type(name, "an array of whole numbers", object));
    }
    if array.dtype().kind() == b'u' && array.dtype().itemsize() == 8 {
        let largest = array.call_method0(intern!(py, "max"))?;
        largest.call_method0(intern!(py, "item"))?.extract::<i64>().map_err(|_| {
            PyValueError::new_err(format!("`{name}` has {largest}; expected whole numbers below 2**63"))
        })?;
    }
    let wide = array.call_method1(intern!(py, "astype"), (intern!(py, "int64"),))?;
    let wide: PyReadonlyArrayDyn<'_, i64> = wide.extract()?;
    let number = |&number: &i64| {
        N::try_from(number)
            .map_err(|_| PyValueError::new_err(format!("`{name}` has {number}; expected whole numbers, 0 or more")))
    };
    Ok((wide.as_array().iter().map(number).collect::<PyResult<_>>()?, shape))
}
