//! Runs of training.

use std::path::PathBuf;
use std::sync::Mutex;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use regard_layers::{NotFinite, Precision, Schedule, Trainer, TrainingConfig, Workspace};

use super::error::{not_written, refused};
use super::language::{PyLanguageModel, language_config, precision, recomputation};
use super::optimiser::{optimiser_config, rate};
use super::settings::Settings;
use crate::error::check_readable;
use crate::numbers::whole_numbers;
use crate::work::{detached, locked};

/// A language model in training on windows of a text, as ``regard train`` does it. All that a step depends on is the model, the
/// moments and the number of the step: with what :meth:`save_model` and :meth:`save_state` write it goes on as if it had never
/// stopped, bit for bit.
///
/// Args:
///     vocabulary, dim: of the model, and all other settings of :class:`LanguageModel` by their names. Of a model that denoises the
///         last token of the vocabulary is the mask.
///     batch: windows that go through the model at once.
///     tokens: of each window.
///     accumulation: batches whose gradients a step adds up.
///     rate: the highest learning rate, which ``warmup`` steps lead up to; then it falls along half a cosine to ``last·rate`` at
///         step ``steps``.
///     betas, decay, clip: as of :class:`AdamW`; ``adam_eps`` is its ``eps``.
///     recompute: keep only the input of each block, and compute the rest again on the way back.
///     not_finite: ``"stop"`` raises ValueError where a gradient is no finite number, ``"skip"`` leaves the step out.
///     seed: what the parameters, the windows, and what falls out or is masked are drawn by.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> trainer = layers.Trainer(10, 32, layers=1, heads=4, batch=4, tokens=20, rate=0.02, warmup=2, steps=40, seed=7)
/// >>> text = np.arange(1000) % 10
/// >>> reports = [trainer.step(text) for _ in range(40)]
/// >>> reports[0]["loss"] > 2, reports[-1]["loss"] < 0.2
/// (True, True)
/// >>> trainer.model.generate([3, 4, 5], max_tokens=3, temperature=0)
/// [6, 7, 8]
#[pyclass(frozen, module = "regard.layers", name = "Trainer")]
pub(crate) struct PyTrainer {
    trainer: Mutex<Trainer>,
    precision: Precision,
}

/// Tokens of a batch, at most: they are drawn before it is asked whether there is memory for what becomes of them.
const MOST: usize = 1 << 26;

/// The tokens of a text.
fn text_of(text: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    let (tokens, shape) = whole_numbers("text", text)?;
    match shape.len() {
        1 => Ok(tokens),
        _ => Err(PyValueError::new_err(format!("`text` has shape {shape:?}; expected [tokens]"))),
    }
}

#[pymethods]
impl PyTrainer {
    #[new]
    #[pyo3(
        signature = (vocabulary, dim, **settings),
        text_signature = "(vocabulary, dim, *, batch=8, tokens=128, accumulation=1, rate=0.002, warmup=100, steps=1000, last=0.1, betas=(0.9, 0.95), adam_eps=1e-08, decay=0.1, clip=1.0, recompute=False, not_finite='stop', precision='float32', seed=0, **settings)"
    )]
    fn new(
        vocabulary: &Bound<'_, PyAny>,
        dim: &Bound<'_, PyAny>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let mut settings = Settings::of("Trainer", settings)?;
        let model = language_config(vocabulary, dim, &mut settings)?;
        let precision = precision(&mut settings)?;
        let schedule = Schedule {
            rate: rate(settings.real("rate", 2e-3)?)?,
            warmup: settings.count("warmup", 100)?,
            steps: settings.count("steps", 1000)?,
            last: settings.real("last", 0.1)?,
        };
        let config = TrainingConfig {
            batch: settings.size("batch")?.unwrap_or(8),
            tokens: settings.size("tokens")?.unwrap_or(128),
            accumulation: settings.size("accumulation")?.unwrap_or(1),
            schedule,
            optimiser: optimiser_config(&mut settings, "adam_eps")?,
            recomputation: recomputation(settings.flag("recompute", false)?),
            seed: settings.seed()?,
            not_finite: settings.choice(
                "not_finite",
                &[("stop", NotFinite::Stop), ("skip", NotFinite::Skip)],
                "stop",
            )?,
        };
        settings.end()?;
        if config.batch.saturating_mul(config.tokens) > MOST {
            let problem = format!(
                "`batch` × `tokens` is {} × {}; expected at most {MOST}: `accumulation` adds up smaller ones",
                config.batch, config.tokens
            );
            return Err(PyValueError::new_err(problem));
        }
        let workspace = Workspace::new().map_err(refused)?.with_precision(precision);
        let trainer = Trainer::new(model, config, workspace).map_err(refused)?;
        Ok(PyTrainer { trainer: Mutex::new(trainer), precision })
    }

    /// One step on windows of a text that the seed and the number of the step draw.
    ///
    /// Args:
    ///     text: its tokens, ``[tokens]``, more than a window has.
    ///
    /// Returns:
    ///     A dict: ``step``, with this one; ``loss`` before it, in nats a token; ``gradient_norm`` before it was clipped; ``rate``;
    ///     and ``skipped``, the name of the parameter whose gradient was no finite number where the step was left out for that, else
    ///     None.
    ///
    /// Ctrl-C ends a step between its batches; then nothing has changed.
    fn step<'py>(&self, py: Python<'py>, text: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
        let text = text_of(text)?;
        let mut trainer = locked(py, &self.trainer)?;
        let trainer = &mut *trainer;
        let mut signal = None;
        let done = py.detach(|| {
            trainer.step_while(&text, &mut |_, _| {
                signal = Python::attach(|py| py.check_signals()).err();
                signal.is_none()
            })
        });
        let report = match (done.map_err(refused)?, signal) {
            (_, Some(signal)) => return Err(signal),
            (report, None) => report.expect("nothing has ended it"),
        };
        let dict = PyDict::new(py);
        dict.set_item("step", report.step)?;
        dict.set_item("loss", report.loss)?;
        dict.set_item("gradient_norm", report.gradient_norm)?;
        dict.set_item("rate", report.rate)?;
        dict.set_item("skipped", report.skipped)?;
        Ok(dict)
    }

    /// The mean loss over up to ``windows`` windows evenly over a text: always the same ones, masked in the same way.
    #[pyo3(signature = (text, *, windows=16))]
    fn evaluate(&self, text: &Bound<'_, PyAny>, windows: usize) -> PyResult<f64> {
        let py = text.py();
        let text = text_of(text)?;
        let mut trainer = locked(py, &self.trainer)?;
        let trainer = &mut *trainer;
        detached(py, || trainer.evaluate(&text, windows))?.map_err(refused)
    }

    /// A copy of the model as it is now, with its parameters.
    #[getter]
    fn model(&self, py: Python<'_>) -> PyResult<Py<PyLanguageModel>> {
        let trainer = locked(py, &self.trainer)?;
        let (config, seed) = (*trainer.model().config(), trainer.parameters().seed());
        let fill = |parameters: &mut regard_layers::Parameters| {
            parameters.values_mut().copy_from_slice(trainer.parameters().values());
        };
        Py::new(py, PyLanguageModel::make(config, seed, self.precision, trainer.context(), fill)?)
    }

    /// Steps so far, those that were left out included.
    #[getter]
    fn steps(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(locked(py, &self.trainer)?.steps())
    }

    /// Tokens that a step learns from.
    #[getter]
    fn tokens_of_step(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(locked(py, &self.trainer)?.tokens_of_step())
    }

    /// Writes what was learned to a file of safetensors, which :meth:`LanguageModel.load` reads too.
    fn save_model(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        locked(py, &self.trainer)?.save_model(&path).map_err(not_written)
    }

    /// Writes what else the next steps depend on: the moments, and how many steps there were.
    fn save_state(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        locked(py, &self.trainer)?.save_state(&path).map_err(not_written)
    }

    /// Goes on where a run left off.
    ///
    /// Args:
    ///     model: the file of :meth:`save_model`.
    ///     state: the file of :meth:`save_state`.
    ///
    /// Raises:
    ///     OSError: there is no such file.
    ///     ValueError: a file is of another model; then nothing has changed.
    fn restore(&self, py: Python<'_>, model: PathBuf, state: PathBuf) -> PyResult<()> {
        check_readable(&model)?;
        check_readable(&state)?;
        locked(py, &self.trainer)?.restore(&model, &state).map_err(refused)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let trainer = locked(py, &self.trainer)?;
        Ok(format!("<Trainer of {} parameters after {} steps>", trainer.parameters().count(), trainer.steps()))
    }
}
