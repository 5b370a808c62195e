//! What layers refuse, as Python's exceptions.

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use regard_layers::Error;

use crate::error::{of_attention, of_memory};

/// An error of a layer.
pub(super) fn refused(error: Error) -> PyErr {
    match error {
        Error::Memory(error) => of_memory(error),
        Error::Attention(error) => of_attention(error),
        Error::Kernel(error) => PyRuntimeError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}

/// An error of a file that was to be written.
pub(super) fn not_written(error: Error) -> PyErr {
    match error {
        Error::File { .. } => PyOSError::new_err(error.to_string()),
        _ => refused(error),
    }
}
