//! A model that makes vectors of texts.

use std::path::{Path, PathBuf};

use numpy::{PyArray1, PyArrayDyn, PyArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use regard_models::encoder::EncoderDescription;
use regard_models::{Description, Encoder, Error, Folder, Precision};
use regard_threads::interrupted;

use super::{failed, load_options};
use crate::error::{check_readable, wrong_type};
use crate::work::detached;

/// Texts between which Ctrl-C is heard: their tokens are made at one go, in some tenths of a second. Of so many enough have the
/// same length to attend together.
const AT_ONCE: usize = 2048;

/// A sentence encoder from a folder: a BERT (MiniLM), RoBERTa or MPNet as sentence-transformers or transformers saves it.
///
/// >>> import regard
/// >>> encoder = regard.Encoder.load("all-MiniLM-L6-v2")  # doctest: +SKIP
/// >>> vectors = encoder.encode(["A cat sleeps.", "A kitten naps.", "Stocks fell."])  # doctest: +SKIP
/// >>> vectors.shape  # doctest: +SKIP
/// (3, 384)
/// >>> (vectors @ vectors[0]).round(2)  # doctest: +SKIP
/// array([1.  , 0.71, 0.01], dtype=float32)
#[pyclass(frozen, module = "regard", name = "Encoder")]
pub(crate) struct PyEncoder(Encoder);

#[pymethods]
impl PyEncoder {
    /// Loads a folder with ``config.json``, ``model.safetensors`` and ``tokenizer.json``, and what sentence-transformers' modules
    /// say of pooling, normalisation and lengths.
    ///
    /// Args:
    ///     path: the folder.
    ///     precision: what products are computed in: ``"float32"``, ``"bfloat16"`` or ``"int8"``. Unless given bfloat16, whose
    ///         vectors have a cosine of about 0.9999 with those in float32; for MPNet float32.
    ///     threads: threads that compute; as many as ``num_threads()`` says now unless given.
    ///     isa: the instruction set, such as ``"avx2"``; the best of this CPU, or what ``REGARD_ISA`` says, unless given.
    ///
    /// Raises:
    ///     OSError: there is no such folder, or it cannot be read.
    ///     ValueError: the folder is no sound encoder of a family that runs; the message names the file and the field.
    ///     MemoryError: there is no memory for it.
    #[staticmethod]
    #[pyo3(signature = (path, *, precision=None, threads=None, isa=None))]
    fn load(
        py: Python<'_>,
        path: PathBuf,
        precision: Option<&str>,
        threads: Option<&Bound<'_, PyAny>>,
        isa: Option<&str>,
    ) -> PyResult<Self> {
        check_readable(&path)?;
        let (precision, options) = (precision.map(precision_of).transpose()?, load_options(threads, isa)?);
        let encoder = detached(py, || {
            let load = || {
                let folder = Folder::open(&path)?;
                let precision = match precision {
                    Some(precision) => precision,
                    None => EncoderDescription::from_folder(&folder)?.precision(),
                };
                Encoder::from_folder(&folder, precision, &options)
            };
            load().map_err(|error| {
                if !is_decoder(&path) {
                    return failed(error);
                }
                let path = path.display();
                PyValueError::new_err(format!("{path} writes text and embeds none: regard.Decoder.load reads it"))
            })
        })?;
        encoder.map(PyEncoder)
    }

    /// The vectors of texts, pooled and normalised as the folder says. A text's vector is the same to the bit in any company; what
    /// is longer than the model sees counts as far as it sees, and a text without a token has the vector 0.
    ///
    /// Args:
    ///     texts: a list of strings, or one.
    ///
    /// Returns:
    ///     A NumPy array ``[texts, width]`` of float32; of one string ``[width]``.
    fn encode<'py>(&self, py: Python<'py>, texts: &Bound<'_, PyAny>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let width = self.width();
        let (texts, shape) = match texts.cast::<PyString>() {
            Ok(one) => (vec![one.to_str()?.to_owned()], vec![width]),
            Err(_) => {
                let texts = strings(texts)?;
                let count = texts.len();
                (texts, vec![count, width])
            }
        };
        let vectors = detached(py, || all_vectors(&self.0, &texts))?;
        PyArray1::from_vec(py, vectors.map_err(failed)?).reshape(shape)
    }

    /// The family's name, as config.json has it.
    #[getter]
    fn architecture(&self) -> &str {
        &self.0.description().architecture
    }

    /// Numbers of a vector.
    #[getter]
    fn width(&self) -> usize {
        self.0.description().width
    }

    /// The most tokens of a text.
    #[getter]
    fn context(&self) -> usize {
        self.0.description().context
    }

    /// Tokens that have an embedding.
    #[getter]
    fn vocabulary(&self) -> usize {
        self.0.description().vocabulary
    }

    /// Whether vectors are scaled to length 1.
    #[getter]
    fn normalized(&self) -> bool {
        self.0.description().normalized
    }

    /// What products are computed in.
    #[getter]
    fn precision(&self) -> &'static str {
        match self.0.precision() {
            Precision::F32 => "float32",
            Precision::Bf16 => "bfloat16",
            Precision::Int8 => "int8",
        }
    }

    /// Threads that compute.
    #[getter]
    fn threads(&self) -> usize {
        self.0.threads()
    }

    fn __repr__(&self) -> String {
        let (architecture, layers) = (self.architecture(), self.0.description().layers);
        let (width, context, precision) = (self.width(), self.context(), self.precision());
        format!("<Encoder {architecture}: {layers} layers of width {width}, context {context}, {precision}>")
    }
}

/// `[texts][width]`.
fn all_vectors(encoder: &Encoder, texts: &[String]) -> regard_models::Result<Vec<f32>> {
    let mut vectors = Vec::new();
    for (part, texts) in texts.chunks(AT_ONCE).enumerate() {
        if interrupted() {
            break;
        }
        let of_part = encoder.encode(texts).map_err(|error| match error {
            Error::Vector { index } => Error::Vector { index: part * AT_ONCE + index },
            other => other,
        })?;
        vectors.extend(of_part.into_iter().flatten());
    }
    Ok(vectors)
}

fn precision_of(name: &str) -> PyResult<Precision> {
    match name {
        "float32" => Ok(Precision::F32),
        "bfloat16" => Ok(Precision::Bf16),
        "int8" => Ok(Precision::Int8),
        other => {
            let problem = format!("`precision` is '{other}'; expected 'float32', 'bfloat16' or 'int8'");
            Err(PyValueError::new_err(problem))
        }
    }
}

fn strings(texts: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    const EXPECTED: &str = "a string, or a list of strings";
    let each = texts.try_iter().map_err(|_| wrong_type("texts", EXPECTED, texts))?;
    let string = |(index, text): (usize, PyResult<Bound<'_, PyAny>>)| {
        let text = text?;
        let text = text.cast::<PyString>().map_err(|_| wrong_type(&format!("texts[{index}]"), "a string", &text))?;
        text.to_str().map(str::to_owned)
    };
    each.enumerate().map(string).collect()
}

/// Whether a path is one that the other kind of model reads.
fn is_decoder(path: &Path) -> bool {
    if path.is_dir() {
        return Folder::open(path).is_ok_and(|folder| Description::from_folder(&folder).is_ok());
    }
    regard_models::gguf::Gguf::open(path).is_ok()
}
