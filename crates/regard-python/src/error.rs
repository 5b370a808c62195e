//! What goes wrong, as Python's exceptions.

use std::fs::File;
use std::io;
use std::path::Path;

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
    match error {
        regard_graph::Error::Attention(error) => of_attention(error),
        _ => PyValueError::new_err(error.to_string()),
    }
}

/// An error of a choice of blocks.
pub(crate) fn of_select(error: regard_select::Error) -> PyErr {
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

/// `FileNotFoundError` and its like before anything is read, where there is nothing to read.
pub(crate) fn check_readable(path: &Path) -> PyResult<()> {
    let there = path.metadata().and_then(|about| if about.is_dir() { Ok(()) } else { File::open(path).map(drop) });
    there.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())).into())
}

/// A value of the wrong type.
pub(crate) fn wrong_type(name: &str, expected: &str, has: &Bound<'_, PyAny>) -> PyErr {
    let has = crate::foreign::article(&crate::foreign::type_name(has));
    PyTypeError::new_err(format!("`{name}` is {has}; expected {expected}"))
}
