//! What goes wrong, as Python's exceptions.

use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;

/// An error of memory or shapes.
pub(crate) fn of_memory(error: regard_memory::Error) -> PyErr {
    match error {
        regard_memory::Error::OutOfMemory { .. } => PyMemoryError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}

/// An error of a mask.
pub(crate) fn of_mask(error: regard_masks::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// An error of a call of attention.
pub(crate) fn of_attention(error: regard_attention::Error) -> PyErr {
    match error {
        regard_attention::Error::Memory(error) => of_memory(error),
        regard_attention::Error::Isa(_) => PyRuntimeError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}

/// An error of an index.
pub(crate) fn of_graph(error: regard_graph::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// An error of a picture.
pub(crate) fn of_draw(error: regard_draw::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// An error of reading or running a model; with what lies under it.
pub(crate) fn of_model(error: &regard_models::Error) -> PyErr {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    let mut missing = false;
    while let Some(below) = source {
        text += &format!(": {below}");
        missing |= below.downcast_ref::<std::io::Error>().is_some();
        source = below.source();
    }
    if missing { PyOSError::new_err(text) } else { PyValueError::new_err(text) }
}

/// A value of the wrong type.
pub(crate) fn wrong_type(name: &str, expected: &str, has: &Bound<'_, PyAny>) -> PyErr {
    let has = crate::foreign::article(&crate::foreign::type_name(has));
    PyTypeError::new_err(format!("`{name}` is {has}; expected {expected}"))
}
