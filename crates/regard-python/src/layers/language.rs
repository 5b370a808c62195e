//! Language models.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use regard_layers::{
    Batch, ContextUse, Head, LanguageConfig, LanguageModel, LanguageState, LinearRule, MixerKind, Mode, Objective,
    Parameters, Precision, Recomputation, SharedAttentionContext, Size, StoredTensors, write_tensors,
};
use regard_models::sampling::{Sampler, SamplingOptions};

use super::arrays::Array;
use super::error::{not_written, refused};
use super::module::{Ground, PyModule};
use super::settings::{RULES, Settings, size, split};
use super::stream::{Remembered, capacity};
use crate::error::{check_readable, of_model};
use crate::numbers::{whole, whole_numbers};
use crate::work::{detached, locked};

/// The largest vocabulary.
const MOST_TOKENS: u64 = 1 << 31;

/// The shared context's name among a model's tensors.
const CONTEXT: &str = "shared_context.matrix";

/// What a language model is made of, of keywords.
pub(super) fn language_config(
    vocabulary: &Bound<'_, PyAny>,
    dim: &Bound<'_, PyAny>,
    settings: &mut Settings<'_>,
) -> PyResult<LanguageConfig> {
    let vocabulary = match whole("vocabulary", vocabulary)? {
        vocabulary @ 1..=MOST_TOKENS => vocabulary as usize,
        other => {
            let problem = format!("`vocabulary` is {other}; expected from 1 to {MOST_TOKENS}");
            return Err(PyValueError::new_err(problem));
        }
    };
    let (width, heads) = (size("dim", dim)?, settings.size("heads")?.unwrap_or(4));
    let head_dim = settings.size("head_dim")?.map_or_else(|| split("dim", width, heads, "head_dim"), Ok)?;
    let others = [("softmax", MixerKind::Softmax), ("state_space", MixerKind::StateSpace)];
    let rules = RULES.map(|(name, rule): (_, LinearRule)| (name, MixerKind::Linear(rule)));
    let mixer = settings.choice("mixer", &[&others[..], &rules[..]].concat(), "softmax")?;
    let objectives = [("causal", Objective::Causal), ("denoising", Objective::Denoising)];
    Ok(LanguageConfig {
        vocabulary,
        width,
        layers: settings.size("layers")?.unwrap_or(4),
        heads,
        kv_heads: settings.size("kv_heads")?.unwrap_or(heads),
        head_dim,
        hidden: settings.size("hidden")?.unwrap_or(width.saturating_mul(8) / 3),
        mixer,
        objective: settings.choice("objective", &objectives, "causal")?,
        eps: settings.real("eps", 1e-5)?,
        rope_theta: settings.rotary()?.unwrap_or(10_000.0),
        head: if settings.flag("tied", true)? { Head::Tied } else { Head::Own },
        context: if settings.flag("shared_context", false)? { ContextUse::Shared } else { ContextUse::None },
        dropout: settings.real("dropout", 0.0)?,
    })
}

/// What products are rounded to.
pub(super) fn precision(settings: &mut Settings<'_>) -> PyResult<Precision> {
    settings.choice("precision", &[("float32", Precision::F32), ("bfloat16", Precision::Bf16)], "float32")
}

/// Whether activations are kept.
pub(super) fn recomputation(recompute: bool) -> Recomputation {
    if recompute { Recomputation::Blocks } else { Recomputation::None }
}

/// A language model of pre-norm blocks: token embedding, blocks (RMSNorm, a mixer, SwiGLU), a norm, and logits. With softmax
/// attention it is a Llama, and its parameters have the names that these have in ``transformers``.
///
/// Args:
///     vocabulary: tokens that have an embedding and a logit.
///     dim: numbers of a token between blocks.
///     layers: blocks.
///     heads: query heads.
///     kv_heads: key/value heads, which divide the query heads; as many unless given.
///     head_dim: numbers of a head; ``dim / heads`` unless given.
///     hidden: numbers within a feed-forward layer; ``8·dim / 3`` unless given.
///     mixer: ``"softmax"``, ``"linear"``, ``"gated"``, ``"gated_by_channel"``, ``"delta"``, ``"gated_delta"`` or
///         ``"state_space"``.
///     objective: ``"causal"``, each token from those before it, or ``"denoising"``, masked tokens from all others.
///     eps: what keeps the norms' roots from 0.
///     rotary: the base of rotary positions of softmax attention, and of linear attention that denoises; 10000 unless given.
///     tied: whether logits are made with the embedding's weights.
///     shared_context: whether blocks share a context, as :class:`SharedAttentionContext` has it.
///     dropout: the probability that a weight of softmax attention falls, in :meth:`learn`.
///     precision: ``"bfloat16"`` rounds both sides of matrix products; sums and all else are in float32.
///     seed: what the parameters are drawn by.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> model = layers.LanguageModel(10, 32, layers=2, heads=4, seed=7)
/// >>> text = np.arange(200).reshape(4, 50) % 10
/// >>> optimiser = layers.AdamW(model, rate=0.01)
/// >>> for _ in range(30):
/// ...     model.zero_gradients()
/// ...     loss = model.learn(text)
/// ...     length = optimiser.step()
/// >>> loss < 0.1
/// True
/// >>> model.generate([3, 4, 5], max_tokens=6, temperature=0)
/// [6, 7, 8, 9, 0, 1]
#[pyclass(frozen, extends = PyModule, module = "regard.layers", name = "LanguageModel")]
pub(crate) struct PyLanguageModel {
    model: LanguageModel,
    context: Option<Mutex<SharedAttentionContext>>,
    /// How many sequences were learned from: the next one's number.
    sequences: AtomicU64,
}

/// Tokens, what shall be said at each place, and what each place counts.
struct Rows {
    size: Size,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

impl Rows {
    fn batch(&self) -> Batch<'_> {
        Batch { size: self.size, tokens: &self.tokens, targets: &self.targets, weights: &self.weights }
    }
}

impl PyLanguageModel {
    /// A model that has what `fill` makes of its first parameters.
    pub(super) fn make(
        config: LanguageConfig,
        seed: u64,
        precision: Precision,
        context: Option<&SharedAttentionContext>,
        fill: impl FnOnce(&mut Parameters),
    ) -> PyResult<PyClassInitializer<Self>> {
        let (base, model) = PyModule::with(seed, precision, |parameters| {
            let model = LanguageModel::new(parameters, config)?;
            fill(parameters);
            Ok(model)
        })?;
        let own = match config.context {
            ContextUse::None => None,
            ContextUse::Shared => {
                let mut own = SharedAttentionContext::new(config.width).map_err(refused)?;
                if let Some(context) = context {
                    own.set_matrix(context.matrix()).map_err(refused)?;
                }
                Some(Mutex::new(own))
            }
        };
        let model = PyLanguageModel { model, context: own, sequences: AtomicU64::new(0) };
        Ok(PyClassInitializer::from(base).add_subclass(model))
    }

    /// Tokens `[batch, tokens]` or `[tokens]`, all of the vocabulary.
    fn tokens(&self, name: &str, object: &Bound<'_, PyAny>) -> PyResult<(Vec<u32>, Vec<usize>)> {
        let (tokens, shape) = whole_numbers(name, object)?;
        if !matches!(shape.len(), 1 | 2) {
            let problem = format!("`{name}` has shape {shape:?}; expected [batch, tokens] or [tokens]");
            return Err(PyValueError::new_err(problem));
        }
        let vocabulary = self.model.config().vocabulary;
        match tokens.iter().find(|&&token| token as usize >= vocabulary) {
            None => Ok((tokens, shape)),
            Some(token) => {
                let problem = format!("`{name}`: token {token} is not in the vocabulary of {vocabulary}");
                Err(PyValueError::new_err(problem))
            }
        }
    }

    /// What is learned from.
    fn rows(
        &self,
        tokens: &Bound<'_, PyAny>,
        targets: Option<&Bound<'_, PyAny>>,
        weights: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Rows> {
        let (mut tokens, mut shape) = self.tokens("tokens", tokens)?;
        let targets = match targets {
            Some(targets) => {
                let (targets, has) = self.tokens("targets", targets)?;
                if has != shape {
                    let problem = format!("`targets` has shape {has:?}; expected {shape:?}, as `tokens`");
                    return Err(PyValueError::new_err(problem));
                }
                targets
            }
            None if self.model.config().objective == Objective::Denoising => {
                return Err(PyValueError::new_err(
                    "a model that denoises is shown masked `tokens`: give the `targets`, and `weights` that are 0 where nothing is \
                     masked",
                ));
            }
            None => {
                // Each token from those before it.
                let each = shape[shape.len() - 1];
                if each < 2 {
                    let problem = format!("`tokens` has shape {shape:?}; expected at least two, or `targets` too");
                    return Err(PyValueError::new_err(problem));
                }
                let targets = tokens.chunks_exact(each).flat_map(|text| &text[1..]).copied().collect();
                tokens = tokens.chunks_exact(each).flat_map(|text| &text[..each - 1]).copied().collect();
                *shape.last_mut().expect("there is an axis") = each - 1;
                targets
            }
        };
        if tokens.is_empty() {
            let problem = format!("`tokens` has shape {shape:?}; expected at least one token");
            return Err(PyValueError::new_err(problem));
        }
        let weights = match weights {
            Some(weights) => {
                let weights = Array::read("weights", weights)?;
                weights.expect("weights", &shape)?;
                weights.numbers
            }
            None => vec![1.0 / tokens.len() as f32; tokens.len()],
        };
        Ok(Rows { size: size_of(&shape), tokens, targets, weights })
    }
}

/// Texts and tokens of each.
fn size_of(shape: &[usize]) -> Size {
    match *shape {
        [batch, tokens] => Size { batch, tokens },
        _ => Size { batch: 1, tokens: shape.iter().product() },
    }
}

#[pymethods]
impl PyLanguageModel {
    #[new]
    #[pyo3(
        signature = (vocabulary, dim, **settings),
        text_signature = "(vocabulary, dim, *, layers=4, heads=4, kv_heads=None, head_dim=None, hidden=None, mixer='softmax', objective='causal', eps=1e-05, rotary=10000.0, tied=True, shared_context=False, dropout=0.0, precision='float32', seed=0)"
    )]
    fn new(
        vocabulary: &Bound<'_, PyAny>,
        dim: &Bound<'_, PyAny>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let mut settings = Settings::of("LanguageModel", settings)?;
        let config = language_config(vocabulary, dim, &mut settings)?;
        let (precision, seed) = (precision(&mut settings)?, settings.seed()?);
        settings.end()?;
        PyLanguageModel::make(config, seed, precision, None, |_| {})
    }

    /// The logits ``[batch, tokens, vocabulary]`` of tokens ``[batch, tokens]``; with one axis less where these have.
    fn __call__<'py>(slf: &Bound<'py, Self>, tokens: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (py, own) = (slf.py(), slf.get());
        let (numbers, mut shape) = own.tokens("tokens", tokens)?;
        let size = size_of(&shape);
        shape.push(own.model.config().vocabulary);
        if numbers.is_empty() {
            return Array::zeros(shape).map_err(refused)?.give(tokens);
        }
        let mut module = slf.as_super().get().lock(py)?;
        let (state, context) = (&mut *module, own.context.as_ref().map(|context| locked(py, context)).transpose()?);
        let context = context.as_deref();
        let work = || {
            let Ground { parameters, workspace, .. } = state.ground(Mode::Evaluation)?;
            let mut logits = Array::zeros(shape)?;
            own.model.predict(parameters, workspace, size, &numbers, context, &mut logits.numbers)?;
            Ok(logits)
        };
        detached(py, work)?.map_err(refused)?.give(tokens)
    }

    /// The loss, in nats: ``Σ weight · −ln p(target)``, without gradients.
    ///
    /// Args:
    ///     tokens: what the model is shown, ``[batch, tokens]`` or ``[tokens]``.
    ///     targets: what it shall say at each place, in the same shape; of a causal model the next token of each unless given, of
    ///         which there is none behind the last.
    ///     weights: what each place counts, float32 in the shape of the targets; each the same, and all 1 together, unless given.
    #[pyo3(signature = (tokens, targets=None, *, weights=None))]
    fn loss(
        slf: &Bound<'_, Self>,
        tokens: &Bound<'_, PyAny>,
        targets: Option<&Bound<'_, PyAny>>,
        weights: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<f64> {
        let (py, own) = (slf.py(), slf.get());
        let rows = own.rows(tokens, targets, weights)?;
        let mut module = slf.as_super().get().lock(py)?;
        let (state, context) = (&mut *module, own.context.as_ref().map(|context| locked(py, context)).transpose()?);
        let context = context.as_deref();
        let work = || {
            let Ground { parameters, workspace, .. } = state.ground(Mode::Evaluation)?;
            own.model.evaluate(parameters, workspace, rows.batch(), context)
        };
        detached(py, work)?.map_err(refused)
    }

    /// The loss, as :meth:`loss` has it but with dropout; the gradients of the parameters are added to :attr:`gradients`.
    ///
    /// Args:
    ///     tokens, targets, weights: as of :meth:`loss`.
    ///     recompute: keep only the input of each block, and compute the rest again on the way back: the same bits in less memory.
    ///
    /// What blocks see of each other goes into a shared context, where there is one; :meth:`update_context` moves it after a step.
    /// Where a call is interrupted by Ctrl-C all gradients are 0.
    #[pyo3(signature = (tokens, targets=None, *, weights=None, recompute=false))]
    fn learn(
        slf: &Bound<'_, Self>,
        tokens: &Bound<'_, PyAny>,
        targets: Option<&Bound<'_, PyAny>>,
        weights: Option<&Bound<'_, PyAny>>,
        recompute: bool,
    ) -> PyResult<f64> {
        let (py, own) = (slf.py(), slf.get());
        let rows = own.rows(tokens, targets, weights)?;
        let mut module = slf.as_super().get().lock(py)?;
        let mut context = own.context.as_ref().map(|context| locked(py, context)).transpose()?;
        let first_sequence = own.sequences.fetch_add(rows.size.batch as u64, Ordering::Relaxed);
        let (state, seen) = (&mut *module, context.as_deref_mut());
        let work = || {
            let (ground, gradients) = state.with_gradients(Mode::Training { first_sequence })?;
            let Ground { parameters, workspace, mode } = ground;
            let recomputation = recomputation(recompute);
            own.model.learn(parameters, workspace, mode, rows.batch(), recomputation, gradients, seen)
        };
        let failed = match detached(py, work) {
            Ok(Ok(loss)) => return Ok(loss),
            Ok(Err(error)) => refused(error),
            Err(error) => error,
        };
        // What was added is anything.
        module.clear_gradients();
        context.iter_mut().for_each(|context| context.forget());
        Err(failed)
    }

    /// Moves the shared context by what :meth:`learn` saw since the last time.
    ///
    /// Raises:
    ///     ValueError: the model has none.
    fn update_context(&self, py: Python<'_>) -> PyResult<()> {
        match &self.context {
            Some(context) => {
                locked(py, context)?.update();
                Ok(())
            }
            None => Err(PyValueError::new_err("the model has no shared context: shared_context=True gives it one")),
        }
    }

    /// What the model remembers of texts before their first token, for :meth:`stream`.
    ///
    /// Args:
    ///     batch: texts.
    ///     capacity: tokens of each that softmax attention has room for.
    #[pyo3(signature = (batch=None, *, capacity=None), text_signature = "($self, batch=1, *, capacity=1024)")]
    fn state(
        &self,
        batch: Option<&Bound<'_, PyAny>>,
        capacity: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyLanguageState> {
        let batch = batch.map_or(Ok(1), |batch| size("batch", batch))?;
        let state = self.model.state(batch, self::capacity(capacity)?).map_err(refused)?;
        Ok(PyLanguageState(Remembered::new(state)))
    }

    /// Reads the next tokens of texts, and gives the logits of what may follow the last ones.
    ///
    /// Args:
    ///     tokens: ``[batch, tokens]``, at least one of each text; or ``[tokens]`` of a single one.
    ///     state: what :meth:`state` gave; it remembers these tokens then.
    ///
    /// Returns:
    ///     ``[batch, vocabulary]``, or ``[vocabulary]``.
    fn stream<'py>(
        slf: &Bound<'py, Self>,
        tokens: &Bound<'py, PyAny>,
        state: &Bound<'py, PyLanguageState>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, own) = (slf.py(), slf.get());
        let (numbers, mut shape) = own.tokens("tokens", tokens)?;
        let size = size_of(&shape);
        *shape.last_mut().expect("there is an axis") = own.model.config().vocabulary;
        let mut module = slf.as_super().get().lock(py)?;
        let (ground, context) = (&mut *module, own.context.as_ref().map(|context| locked(py, context)).transpose()?);
        let context = context.as_deref();
        let logits = state.get().0.go_on(py, size.tokens, |state| {
            let Ground { parameters, workspace, .. } = ground.ground(Mode::Evaluation)?;
            let mut logits = Array::zeros(shape)?;
            own.model.stream(parameters, workspace, size, &numbers, state, context, &mut logits.numbers)?;
            Ok(logits)
        })?;
        logits.give(tokens)
    }

    /// The tokens that the model writes after others.
    ///
    /// Args:
    ///     tokens: what the text begins with, ``[tokens]``, at least one.
    ///     max_tokens: tokens to write.
    ///     temperature, top_k, top_p, min_p, seed: as of :meth:`regard.Decoder.generate`.
    #[pyo3(
        signature = (tokens, *, max_tokens=64, temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, seed=0)
    )]
    #[allow(clippy::too_many_arguments, reason = "Python's arguments are named")]
    fn generate(
        slf: &Bound<'_, Self>,
        tokens: &Bound<'_, PyAny>,
        max_tokens: usize,
        temperature: f32,
        top_k: usize,
        top_p: f32,
        min_p: f32,
        seed: u64,
    ) -> PyResult<Vec<u32>> {
        let (py, own) = (slf.py(), slf.get());
        let (mut next, shape) = own.tokens("tokens", tokens)?;
        if shape.len() != 1 || next.is_empty() {
            let problem = format!("`tokens` has shape {shape:?}; expected [tokens], at least one");
            return Err(PyValueError::new_err(problem));
        }
        let vocabulary = own.model.config().vocabulary;
        let options = SamplingOptions { temperature, top_k, top_p, min_p, seed, ..SamplingOptions::default() };
        let mut sampler = Sampler::new(options, vocabulary).map_err(|error| of_model(&error))?;
        let mut remembered = own.model.state(1, next.len().saturating_add(max_tokens)).map_err(refused)?;
        let mut module = slf.as_super().get().lock(py)?;
        let (state, context) = (&mut *module, own.context.as_ref().map(|context| locked(py, context)).transpose()?);
        let context = context.as_deref();
        let work = || {
            let (mut written, mut logits) = (Vec::new(), vec![0.0; vocabulary]);
            let Ground { parameters, workspace, .. } = state.ground(Mode::Evaluation).map_err(refused)?;
            while written.len() < max_tokens && !regard_threads::interrupted() {
                let size = Size { batch: 1, tokens: next.len() };
                own.model
                    .stream(parameters, workspace, size, &next, &mut remembered, context, &mut logits)
                    .map_err(refused)?;
                next = vec![sampler.sample(&mut logits).map_err(|error| of_model(&error))?];
                written.push(next[0]);
            }
            Ok(written)
        };
        detached(py, work)?
    }

    /// Writes the parameters, and the shared context where there is one, to a file of safetensors, all of it or nothing.
    fn save(slf: &Bound<'_, Self>, path: PathBuf) -> PyResult<()> {
        let (py, own) = (slf.py(), slf.get());
        let module = slf.as_super().get().lock(py)?;
        let parameters = &module.parameters;
        let all: Vec<_> = parameters
            .names()
            .map(|name| (name, parameters.get(name).expect("it is a name of one")))
            .map(|(name, view)| (name, view.shape().to_vec(), view))
            .collect();
        let tensors = all
            .iter()
            .map(|(name, shape, view)| (*name, &shape[..], view.to_slice().expect("a tensor lies without gaps")));
        let context = own.context.as_ref().map(|context| locked(py, context)).transpose()?;
        let shape = [own.model.config().width; 2];
        let matrix = context.iter().map(|context| (CONTEXT, &shape[..], context.matrix()));
        write_tensors(&path, tensors.chain(matrix), &[("format", "pt")]).map_err(not_written)
    }

    /// Reads what :meth:`save` or a run of training has written.
    fn load(slf: &Bound<'_, Self>, path: PathBuf) -> PyResult<()> {
        check_readable(&path)?;
        let (py, own) = (slf.py(), slf.get());
        let stored = py.detach(|| StoredTensors::read(&path)).map_err(refused)?;
        let mut module = slf.as_super().get().lock(py)?;
        let width = own.model.config().width;
        let matrix = own.context.as_ref().map(|_| stored.get(CONTEXT, &[width, width])).transpose();
        let matrix = matrix.map_err(refused)?;
        module.parameters.take(&stored).map_err(refused)?;
        module.version += 1;
        if let (Some(context), Some(matrix)) = (&own.context, matrix) {
            locked(py, context)?.set_matrix(matrix).map_err(refused)?;
        }
        Ok(())
    }
}

/// What a language model remembers of texts, so that their next tokens can be read: what :meth:`LanguageModel.state` returns. Its
/// ``len`` is the tokens that were read of each.
#[pyclass(frozen, module = "regard.layers", name = "LanguageState")]
pub(crate) struct PyLanguageState(Remembered<LanguageState>);

#[pymethods]
impl PyLanguageState {
    /// Forgets all tokens.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.0.clear(py, LanguageState::clear)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.0.tokens(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<LanguageState of {} tokens>", self.0.tokens(py)?))
    }
}
