//! Models from files: decoders that write, and encoders that make vectors.

mod decoder;
mod encoder;
mod perplexity;
mod request;
mod stream;
mod text;

use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::prelude::*;
use regard_models::{Error, LoadOptions};
use regard_simd::Isa;
use regard_threads::Pool;

use crate::error::of_model;
use crate::numbers::{count, indices};

pub(crate) use decoder::PyDecoder;
pub(crate) use encoder::PyEncoder;
pub(crate) use stream::PyStream;

/// What a model is loaded with. Its threads are as many as calls have, unless given: what `set_num_threads` said counts.
fn load_options(threads: Option<&Bound<'_, PyAny>>, isa: Option<&str>) -> PyResult<LoadOptions> {
    let isa = isa.map(Isa::named).transpose().map_err(|error| PyValueError::new_err(format!("`isa`: {error}")))?;
    let threads = threads.map_or_else(|| Ok(Pool::global().threads()), |threads| count("threads", threads))?;
    Ok(LoadOptions { threads: Some(threads), isa })
}

/// An error of the engine, by which memory that is not there can be told from a file that is wrong.
fn failed(error: Error) -> PyErr {
    match error {
        Error::TooLarge { .. }
        | Error::NoRoom { .. }
        | Error::Memory(regard_memory::Error::OutOfMemory { .. })
        | Error::Attention(regard_attention::Error::Memory(regard_memory::Error::OutOfMemory { .. })) => {
            PyMemoryError::new_err(error.to_string())
        }
        _ => of_model(&error),
    }
}

/// The ids of tokens, of which there are so many.
fn token_ids(name: &str, value: &Bound<'_, PyAny>, vocabulary: usize) -> PyResult<Vec<u32>> {
    let id = |id: usize| match u32::try_from(id) {
        Ok(token) if id < vocabulary => Ok(token),
        _ => Err(PyValueError::new_err(format!("`{name}`: token {id} is not in the vocabulary of {vocabulary}"))),
    };
    indices(name, value)?.into_iter().map(id).collect()
}
