//! How parameters follow their gradients.

use std::path::PathBuf;
use std::sync::Mutex;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use regard_layers::{Optimiser, OptimiserConfig, StoredTensors, gradient_norm, write_tensors};

use super::error::{not_written, refused};
use super::module::PyModule;
use super::settings::Settings;
use crate::error::check_readable;
use crate::numbers::number;
use crate::work::locked;

/// AdamW (Loshchilov and Hutter, 2019) over the parameters of layers and models. Matrices decay; norms, biases and gates do not.
///
/// Args:
///     modules: layers or models, each once.
///     rate: the learning rate; it may be assigned to between steps.
///     betas: what the moments keep of themselves from step to step.
///     eps: what keeps the denominator from 0.
///     decay: what matrices lose of themselves in a step, times the rate.
///     clip: gradients longer than this, all together, are shortened to it first; None leaves them.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> layer = layers.Linear(4, 1, seed=7)
/// >>> optimiser = layers.AdamW(layer, rate=0.05, decay=0)
/// >>> x = np.random.default_rng(0).standard_normal((64, 4), dtype=np.float32)
/// >>> y = x @ np.float32([[1], [2], [3], [4]]) + 5
/// >>> for _ in range(500):
/// ...     layer.zero_gradients()
/// ...     _ = layer.backward(2 * (layer.forward(x) - y) / len(x))
/// ...     length = optimiser.step()
/// >>> layer.parameters["weight"].round(1)
/// array([[1., 2., 3., 4.]], dtype=float32)
#[pyclass(frozen, module = "regard.layers", name = "AdamW")]
pub(crate) struct PyAdamW {
    modules: Vec<Py<PyModule>>,
    inner: Mutex<Inner>,
}

struct Inner {
    optimisers: Vec<Optimiser>,
    rate: f32,
    clip: Option<f64>,
}

/// What AdamW goes by, of keywords.
pub(super) fn optimiser_config(settings: &mut Settings<'_>, eps: &str) -> PyResult<OptimiserConfig> {
    let usual = OptimiserConfig::default();
    let betas = match settings.take("betas") {
        None => usual.betas,
        Some(betas) => {
            let expected = |_| crate::error::wrong_type("betas", "a tuple of two numbers", &betas);
            let (first, second): (f32, f32) = betas.extract().map_err(expected)?;
            [first, second]
        }
    };
    let clip = match settings.given("clip") {
        true => settings.number("clip")?.map(|clip| clip as f32),
        false => usual.clip,
    };
    Ok(OptimiserConfig {
        betas,
        eps: settings.real(eps, usual.eps)?,
        decay: settings.real("decay", usual.decay)?,
        clip,
    })
}

/// A learning rate.
pub(super) fn rate(value: f32) -> PyResult<f32> {
    match value >= 0.0 && value.is_finite() {
        true => Ok(value),
        false => Err(PyValueError::new_err(format!("`rate` is {value}; expected a finite number, at least 0"))),
    }
}

#[pymethods]
impl PyAdamW {
    #[new]
    #[pyo3(
        signature = (*modules, **settings),
        text_signature = "(*modules, rate=0.001, betas=(0.9, 0.95), eps=1e-08, decay=0.1, clip=1.0)"
    )]
    fn new(modules: &Bound<'_, PyTuple>, settings: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let mut settings = Settings::of("AdamW", settings)?;
        let (rate, config) = (rate(settings.real("rate", 1e-3)?)?, optimiser_config(&mut settings, "eps")?);
        settings.end()?;
        // Gradients of all modules are clipped together, and not by the optimiser of each.
        let clip = config.clip.map(f64::from);
        if let Some(clip) = clip.filter(|clip| *clip < 0.0) {
            return Err(PyValueError::new_err(format!("`clip` is {clip}; expected a number, at least 0, or None")));
        }
        let config = OptimiserConfig { clip: None, ..config };
        let (mut all, mut optimisers): (Vec<Py<PyModule>>, _) = (Vec::new(), Vec::new());
        for module in modules {
            let Ok(module) = module.cast::<PyModule>() else {
                return Err(crate::error::wrong_type("modules", "layers or models of regard.layers", &module));
            };
            if all.iter().any(|other| other.is(module)) {
                return Err(PyValueError::new_err("a module is there twice: each has one step"));
            }
            let optimiser = Optimiser::new(&module.get().lock(module.py())?.parameters, config);
            optimisers.push(optimiser.map_err(refused)?);
            all.push(module.clone().unbind());
        }
        if all.is_empty() {
            return Err(PyTypeError::new_err("AdamW() takes at least one layer or model"));
        }
        Ok(PyAdamW { modules: all, inner: Mutex::new(Inner { optimisers, rate, clip }) })
    }

    /// The learning rate.
    #[getter]
    fn get_rate(&self, py: Python<'_>) -> PyResult<f32> {
        Ok(locked(py, &self.inner)?.rate)
    }

    #[setter]
    fn set_rate(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let rate = rate(number("rate", value)? as f32)?;
        locked(value.py(), &self.inner)?.rate = rate;
        Ok(())
    }

    /// Steps that were taken.
    #[getter]
    fn steps(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(locked(py, &self.inner)?.optimisers.first().map_or(0, Optimiser::steps))
    }

    /// One step by the gradients that the modules have. These stay, clipped, until :meth:`Module.zero_gradients`.
    ///
    /// Returns:
    ///     The length of all gradients together, before they were clipped.
    ///
    /// Raises:
    ///     ValueError: a gradient is no finite number; then nothing has changed.
    fn step(&self, py: Python<'_>) -> PyResult<f64> {
        let mut inner = locked(py, &self.inner)?;
        let Inner { optimisers, rate, clip } = &mut *inner;
        let mut squares = 0.0;
        for module in &self.modules {
            let mut state = module.get().lock(py)?;
            let (parameters, gradients, workspace) = state.learning().map_err(refused)?;
            squares += gradient_norm(workspace, parameters, gradients).map_err(refused)?.powi(2);
        }
        let length = squares.sqrt();
        let scale = clip.filter(|clip| length > *clip).map(|clip| (clip / length) as f32);
        for (module, optimiser) in self.modules.iter().zip(optimisers) {
            let mut state = module.get().lock(py)?;
            let state = &mut *state;
            state.version += 1;
            let (parameters, gradients, workspace) = state.learning().map_err(refused)?;
            let step = || {
                if let Some(scale) = scale {
                    gradients.values_mut().iter_mut().for_each(|gradient| *gradient *= scale);
                }
                optimiser.step(workspace, parameters, gradients, *rate)
            };
            py.detach(step).map_err(refused)?;
        }
        Ok(length)
    }

    /// Writes the moments and the number of steps to a file of safetensors.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let inner = locked(py, &self.inner)?;
        let names: Vec<[String; 2]> =
            (0..self.modules.len()).map(|module| [format!("{module}.first"), format!("{module}.second")]).collect();
        let shapes: Vec<[usize; 1]> = inner.optimisers.iter().map(|o| [o.moments()[0].len()]).collect();
        let tensors = inner.optimisers.iter().zip(&names).zip(&shapes).flat_map(|((optimiser, names), shape)| {
            let [first, second] = optimiser.moments();
            [(names[0].as_str(), &shape[..], first), (names[1].as_str(), &shape[..], second)]
        });
        let steps = inner.optimisers.first().map_or(0, Optimiser::steps).to_string();
        write_tensors(&path, tensors, &[("steps", &steps)]).map_err(not_written)
    }

    /// Goes on where another left off, which was of modules of the same sizes in the same order.
    fn load(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        check_readable(&path)?;
        let stored = StoredTensors::read(&path).map_err(refused)?;
        let steps = stored.number("steps").map_err(refused)?;
        let mut inner = locked(py, &self.inner)?;
        let mut all = Vec::new();
        for (module, optimiser) in inner.optimisers.iter().enumerate() {
            let shape = [optimiser.moments()[0].len()];
            let moment = |name: &str| stored.get(&format!("{module}.{name}"), &shape).map_err(refused);
            all.push([moment("first")?, moment("second")?]);
        }
        for (optimiser, moments) in inner.optimisers.iter_mut().zip(all) {
            optimiser.restore(steps, moments).map_err(refused)?;
        }
        Ok(())
    }
}
