//! A model that writes.

use std::path::PathBuf;
use std::sync::Arc;

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use regard_models::encoder::EncoderDescription;
use regard_models::tokenizer::Special;
use regard_models::{CacheDtype, Folder, Model};

use super::perplexity::{Windows, perplexity};
use super::request::writing;
use super::stream::PyStream;
use super::{failed, load_options, token_ids};
use crate::dtype;
use crate::error::check_readable;
use crate::numbers::count;
use crate::work::detached;

/// A language model from a file: a Llama, Mistral, Qwen, Gemma or Phi, in GGUF or as Hugging Face's libraries save it.
///
/// It may be used by several threads at a time; each text has keys and values of its own.
///
/// >>> import regard
/// >>> decoder = regard.Decoder.load("SmolLM2-135M-Instruct.Q4_1.gguf")  # doctest: +SKIP
/// >>> decoder.generate("Name the capital of France.", temperature=0)  # doctest: +SKIP
/// 'The capital of France is Paris.'
/// >>> for piece in decoder.stream("Tell me a story.", seed=7):  # doctest: +SKIP
/// ...     print(piece, end="", flush=True)
#[pyclass(frozen, module = "regard", name = "Decoder")]
pub(crate) struct PyDecoder(Arc<Model>);

impl PyDecoder {
    /// The model.
    pub(super) fn model(&self) -> Arc<Model> {
        Arc::clone(&self.0)
    }
}

#[pymethods]
impl PyDecoder {
    /// Loads a GGUF file, or a folder with ``config.json``, ``model.safetensors`` or its shards, and ``tokenizer.json``.
    ///
    /// Args:
    ///     path: the file or the folder.
    ///     threads: threads that compute; as many as ``num_threads()`` says now unless given.
    ///     isa: the instruction set, such as ``"avx2"``; the best of this CPU, or what ``REGARD_ISA`` says, unless given.
    ///
    /// Raises:
    ///     OSError: there is no such file, or it cannot be read.
    ///     ValueError: what is there is no sound model of a family that runs; the message names the file and the field.
    ///     MemoryError: there is no memory for it.
    #[staticmethod]
    #[pyo3(signature = (path, *, threads=None, isa=None))]
    fn load(py: Python<'_>, path: PathBuf, threads: Option<&Bound<'_, PyAny>>, isa: Option<&str>) -> PyResult<Self> {
        check_readable(&path)?;
        let options = load_options(threads, isa)?;
        let model = detached(py, || {
            Model::load(&path, &options).map_err(|error| {
                if !is_encoder(&path) {
                    return failed(error);
                }
                let path = path.display();
                PyValueError::new_err(format!(
                    "{path} is an encoder, which writes no text: regard.Encoder.load reads it"
                ))
            })
        })?;
        model.map(|model| PyDecoder(Arc::new(model)))
    }

    /// The text that the model writes after a prompt.
    ///
    /// What the model's own ``generation_config.json`` says of sampling takes the place of what is usual; what is given here wins.
    ///
    /// Args:
    ///     prompt: a text, or messages such as ``[{"role": "user", "content": "Hi!"}]``. A text is the user's message where the
    ///         model has a chat template.
    ///     max_tokens: tokens to write, at most.
    ///     temperature: below 1 sharpens the choice, above 1 flattens it; 0 takes the best token always. Usually 0.8.
    ///     top_k: choose among this many of the best tokens; 0 is all. Usually 40.
    ///     top_p: choose among the fewest best tokens that hold this share of the probability; 1 is all. Usually 0.95.
    ///     min_p: choose among tokens at least this fraction as probable as the best; 0 is all. Usually 0.05.
    ///     repeat_penalty: above 1 makes tokens of the recent text less likely. Usually 1.
    ///     repeat_last_n: how many tokens count as recent.
    ///     seed: the same one gives the same text, on any number of threads; another one each time unless given.
    ///     stop: a string, or several: the text ends before the first that comes.
    ///     raw: continue a text as it stands, without the chat template.
    ///     json_schema: let the text be JSON that this JSON schema describes, a dict or its text.
    ///     draft: a smaller :class:`Decoder` of the same vocabulary that guesses tokens: the text is the same.
    ///     context: tokens that prompt and text may have together; what the prompt and ``max_tokens`` need, within the model's
    ///         limit, unless given.
    ///     cache_dtype: how keys and values are stored: ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"int8"``.
    ///
    /// Returns:
    ///     The text, without the prompt.
    ///
    /// Raises:
    ///     ValueError: an option is out of its range, the prompt does not fit, the chat template refuses it, or the text was to be
    ///         JSON and was cut.
    ///
    /// >>> name = {"properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": False}
    /// >>> decoder.generate("Invent a sailor.", json_schema={"type": "object", **name}, temperature=0)  # doctest: +SKIP
    /// '{ "name": "Sailor" }'
    #[pyo3(
        signature = (prompt, **options),
        text_signature = "($self, prompt, *, max_tokens=512, temperature=None, top_k=None, top_p=None, min_p=None, repeat_penalty=None, repeat_last_n=64, seed=None, stop=None, raw=False, json_schema=None, draft=None, context=None, cache_dtype='float16')"
    )]
    fn generate(
        &self,
        py: Python<'_>,
        prompt: &Bound<'_, PyAny>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<String> {
        let writing = writing("generate", &self.0, prompt, options)?;
        detached(py, || {
            let mut text = String::new();
            let mut take = |piece: String| {
                text += &piece;
                true
            };
            writing.write(&self.0, &mut take).map(|()| text)
        })?
    }

    /// The pieces of the text that :meth:`generate` returns, as they come; it takes the same options.
    ///
    /// The text is written by a thread of its own, one piece ahead. It ends with the iterator: by ``break``, ``close()`` or when
    /// nobody holds it.
    ///
    /// Returns:
    ///     An iterator of strings, each of whole characters.
    #[pyo3(
        signature = (prompt, **options),
        text_signature = "($self, prompt, *, max_tokens=512, temperature=None, top_k=None, top_p=None, min_p=None, repeat_penalty=None, repeat_last_n=64, seed=None, stop=None, raw=False, json_schema=None, draft=None, context=None, cache_dtype='float16')"
    )]
    fn stream(&self, prompt: &Bound<'_, PyAny>, options: Option<&Bound<'_, PyDict>>) -> PyResult<PyStream> {
        PyStream::new(self.model(), writing("stream", &self.0, prompt, options)?)
    }

    /// The logits of what may follow each token, given those before it.
    ///
    /// Args:
    ///     ids: tokens ``[len]``: a list, or an array of whole numbers.
    ///     cache_dtype: how keys and values are stored: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"int8"``.
    ///
    /// Returns:
    ///     A NumPy array ``[len, vocabulary]`` of float32.
    ///
    /// >>> decoder.logits(decoder.tokenize("Once upon a")).argmax(-1)[-1]  # doctest: +SKIP
    /// 655
    #[pyo3(signature = (ids, *, cache_dtype="float32"))]
    fn logits<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'_, PyAny>,
        cache_dtype: &str,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (vocabulary, cache) = (self.vocabulary(), dtype::cache_dtype("cache_dtype", cache_dtype)?);
        let ids = token_ids("ids", ids, vocabulary)?;
        let logits = detached(py, || all_logits(&self.0, &ids, cache))??;
        PyArray1::from_vec(py, logits).reshape([ids.len(), vocabulary])
    }

    /// How well the model foresees a text: the exponential of the mean negative log-likelihood of its tokens, as ``regard
    /// perplexity`` has it.
    ///
    /// Args:
    ///     text: the text. Its tokens are cut into consecutive windows; a last, shorter one is left out. Each window is read by
    ///         itself, and every token of it but the first is scored. The first becomes the token that begins a sequence, where
    ///         the model asks for one.
    ///     context: tokens of a window, at least 2.
    ///     windows: read this many windows at most; all unless given.
    ///     cache_dtype: as in :meth:`generate`.
    ///
    /// Raises:
    ///     ValueError: the text is shorter than a window.
    #[pyo3(
        signature = (text, *, context=None, windows=None, cache_dtype="float16"),
        text_signature = "($self, text, *, context=512, windows=None, cache_dtype='float16')"
    )]
    fn perplexity(
        &self,
        py: Python<'_>,
        text: &str,
        context: Option<&Bound<'_, PyAny>>,
        windows: Option<&Bound<'_, PyAny>>,
        cache_dtype: &str,
    ) -> PyResult<f64> {
        /// Tokens of a window where nobody says how many.
        const CONTEXT: usize = 512;

        let context = context.map_or(Ok(CONTEXT), |context| count("context", context))?;
        let windows = windows.map(|windows| count("windows", windows)).transpose()?;
        if windows == Some(0) {
            return Err(PyValueError::new_err("`windows` is 0; expected at least 1"));
        }
        let cache = dtype::cache_dtype("cache_dtype", cache_dtype)?;
        let windows = Windows { context, most: windows.unwrap_or(usize::MAX), cache };
        detached(py, || perplexity(&self.0, text, &windows))?
    }

    /// The tokens of a text.
    ///
    /// Args:
    ///     text: the text.
    ///     sequence: with the token that begins a sequence, and the one that ends one, where the model asks for them.
    ///     special: read the names of control tokens, such as ``<|im_end|>``, as these tokens: not for what a user typed.
    #[pyo3(signature = (text, *, sequence=true, special=false))]
    fn tokenize(&self, py: Python<'_>, text: &str, sequence: bool, special: bool) -> PyResult<Vec<u32>> {
        let special = if special { Special::Parse } else { Special::AsText };
        let tokenizer = self.0.tokenizer();
        let tokens = py.detach(|| match sequence {
            true => tokenizer.encode_sequence(text, special),
            false => tokenizer.encode(text, special),
        });
        tokens.map_err(failed)
    }

    /// The text of tokens. Control tokens have none; bytes that are no characters come out as U+FFFD.
    fn detokenize(&self, ids: &Bound<'_, PyAny>) -> PyResult<String> {
        let tokenizer = self.0.tokenizer();
        let ids = token_ids("ids", ids, tokenizer.vocab_size().max(self.vocabulary()))?;
        Ok(tokenizer.decode(&ids))
    }

    /// The family's name, as files have it.
    #[getter]
    fn architecture(&self) -> &str {
        &self.0.description().architecture
    }

    /// Tokens that have a logit.
    #[getter]
    fn vocabulary(&self) -> usize {
        self.0.description().vocabulary
    }

    /// Tokens that the model was trained to see at once.
    #[getter]
    fn context(&self) -> usize {
        self.0.description().context
    }

    /// Numbers of a token between blocks.
    #[getter]
    fn width(&self) -> usize {
        self.0.description().width
    }

    /// How many blocks there are.
    #[getter]
    fn blocks(&self) -> usize {
        self.0.description().blocks.len()
    }

    /// Bytes of the weights in memory.
    #[getter]
    fn nbytes(&self) -> usize {
        self.0.weight_bytes()
    }

    /// Threads that compute.
    #[getter]
    fn threads(&self) -> usize {
        self.0.threads()
    }

    /// Whether the model was made for conversation.
    #[getter]
    fn has_chat_template(&self) -> bool {
        self.0.chat_template().is_some()
    }

    fn __repr__(&self) -> String {
        let (architecture, blocks, width) = (self.architecture(), self.blocks(), self.width());
        let (vocabulary, context) = (self.vocabulary(), self.context());
        format!(
            "<Decoder {architecture}: {blocks} blocks of width {width}, vocabulary {vocabulary}, context {context}>"
        )
    }
}

/// Whether a folder is one that the other kind of model reads.
fn is_encoder(path: &std::path::Path) -> bool {
    path.is_dir() && Folder::open(path).is_ok_and(|folder| EncoderDescription::from_folder(&folder).is_ok())
}

/// `[len][vocabulary]`.
fn all_logits(model: &Model, ids: &[u32], cache: CacheDtype) -> PyResult<Vec<f32>> {
    let (len, vocabulary) = (ids.len(), model.description().vocabulary);
    let mut logits = Vec::new();
    let needed = len.saturating_mul(vocabulary);
    let free = regard_memory::available().unwrap_or(u64::MAX);
    if needed as u64 > free / size_of::<f32>() as u64 || logits.try_reserve_exact(needed).is_err() {
        let problem = format!("there is no memory for logits [{len}, {vocabulary}] of float32");
        return Err(PyMemoryError::new_err(problem));
    }
    // There is no session of nothing.
    let mut session = model.session(len.max(1), cache).map_err(failed)?;
    session.feed_all(ids, &mut |_, row| logits.extend_from_slice(row)).map_err(failed)?;
    Ok(logits)
}
