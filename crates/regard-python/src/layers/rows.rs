//! Layers of rows by themselves: linear ones, norms, feed-forward layers, embeddings.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use regard_layers::{Embedding, Error, FeedForward, Gradients, Initial, Layer, Linear, Norm};

use super::arrays::Array;
use super::call::{Call, Function, OfRows, Tokens};
use super::layer::PyLayer;
use super::module::Ground;
use super::settings::{Settings, size};
use crate::foreign::AXES;
use crate::numbers::whole_numbers;

/// What binds a layer to rows that are each by themselves.
fn apart<L: Layer + Clone + Send + Sync + 'static>(layer: &L) -> Box<dyn Function> {
    Box::new(OfRows(Arc::new(layer.clone()), Tokens::Apart))
}

/// A linear layer, ``x·Wᵀ + b``. Parameters ``weight`` ``[outputs, inputs]`` and ``bias`` ``[outputs]``.
///
/// Args:
///     inputs: numbers of a row that goes in: arrays are ``[..., inputs]``.
///     outputs: numbers of a row that comes out.
///     bias: whether numbers are added that are learned.
///     seed: what the parameters are drawn by: uniform within ``1/√inputs``, as PyTorch's.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> layer = layers.Linear(8, 3, seed=7)
/// >>> layer(np.ones((2, 5, 8), dtype=np.float32)).shape
/// (2, 5, 3)
/// >>> layer
/// <Linear: 27 parameters in 2 tensors>
#[pyclass(frozen, extends = PyLayer, module = "regard.layers", name = "Linear")]
pub(crate) struct PyLinear;

#[pymethods]
impl PyLinear {
    #[new]
    #[pyo3(
        signature = (inputs, outputs, **settings),
        text_signature = "(inputs, outputs, *, bias=True, seed=0)"
    )]
    fn new(
        inputs: &Bound<'_, PyAny>,
        outputs: &Bound<'_, PyAny>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let mut settings = Settings::of("Linear", settings)?;
        let (inputs, outputs) = (size("inputs", inputs)?, size("outputs", outputs)?);
        let (bias, seed) = (settings.bias("bias", true)?, settings.seed()?);
        settings.end()?;
        let (layer, _) = PyLayer::of(seed, |scope| Linear::new(scope, inputs, outputs, bias), apart)?;
        Ok(layer.add_subclass(PyLinear))
    }
}

/// RMSNorm, ``x / √(mean(x²) + eps) · weight``, or LayerNorm, ``(x − mean(x)) / √(var(x) + eps) · weight + bias``. Parameters
/// ``weight`` ``[dim]`` and, of LayerNorm, ``bias`` ``[dim]``.
///
/// Args:
///     dim: numbers of a row: arrays are ``[..., dim]``.
///     kind: ``"rms"`` or ``"layer"``.
///     eps: what keeps the root from 0.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> layers.Norm(2, eps=0)(np.array([[3, 4]], dtype=np.float32)).round(4)
/// array([[0.8485, 1.1314]], dtype=float32)
#[pyclass(frozen, extends = PyLayer, module = "regard.layers", name = "Norm")]
pub(crate) struct PyNorm;

#[pymethods]
impl PyNorm {
    #[new]
    #[pyo3(signature = (dim, **settings), text_signature = "(dim, *, kind='rms', eps=1e-05)")]
    fn new(dim: &Bound<'_, PyAny>, settings: Option<&Bound<'_, PyDict>>) -> PyResult<PyClassInitializer<Self>> {
        let mut settings = Settings::of("Norm", settings)?;
        let (dim, kind, eps) = (size("dim", dim)?, settings.norm("kind")?, settings.real("eps", 1e-5)?);
        settings.end()?;
        let (layer, _) = PyLayer::of(0, |scope| Norm::new(scope, kind, dim, eps), apart)?;
        Ok(layer.add_subclass(PyNorm))
    }
}

/// A feed-forward layer, ``down(activation(gate(x))·up(x))``, or without a gate ``down(activation(up(x)))``. Parameters
/// ``gate_proj``, ``up_proj`` and ``down_proj``, each with those of :class:`Linear`.
///
/// Args:
///     dim: numbers of a row, in and out: arrays are ``[..., dim]``.
///     hidden: numbers between the products.
///     activation: ``"silu"``, ``"gelu"`` or ``"gelu_tanh"``.
///     gated: whether there is a gate: SwiGLU, GeGLU.
///     bias: whether the products add numbers that are learned.
///     seed: what the parameters are drawn by.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> layer = layers.FeedForward(16, 40, activation="gelu", gated=False)
/// >>> layer(np.ones((5, 16), dtype=np.float32)).shape
/// (5, 16)
#[pyclass(frozen, extends = PyLayer, module = "regard.layers", name = "FeedForward")]
pub(crate) struct PyFeedForward;

#[pymethods]
impl PyFeedForward {
    #[new]
    #[pyo3(
        signature = (dim, hidden, **settings),
        text_signature = "(dim, hidden, *, activation='silu', gated=True, bias=False, seed=0)"
    )]
    fn new(
        dim: &Bound<'_, PyAny>,
        hidden: &Bound<'_, PyAny>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let mut settings = Settings::of("FeedForward", settings)?;
        let (dim, hidden, kind) = (size("dim", dim)?, size("hidden", hidden)?, settings.feed_forward()?);
        let (bias, seed) = (settings.bias("bias", false)?, settings.seed()?);
        settings.end()?;
        let (layer, _) = PyLayer::of(seed, |scope| FeedForward::new(scope, kind, dim, hidden, bias), apart)?;
        Ok(layer.add_subclass(PyFeedForward))
    }
}

/// A table of rows, one for each token or position. Parameter ``weight`` ``[count, dim]``.
///
/// Args:
///     count: rows: tokens are whole numbers from 0 to below it, in an array of up to three axes.
///     dim: numbers of a row.
///     std: the standard deviation of the first numbers, which are normal.
///     seed: what they are drawn by.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> layer = layers.Embedding(50, 8)
/// >>> layer.forward(np.array([[3, 1, 3]])).shape
/// (1, 3, 8)
/// >>> layer.backward(np.ones((1, 3, 8), dtype=np.float32))
/// >>> float(layer.gradients["weight"][3, 0])
/// 2.0
#[pyclass(frozen, extends = PyLayer, module = "regard.layers", name = "Embedding")]
pub(crate) struct PyEmbedding;

#[pymethods]
impl PyEmbedding {
    #[new]
    #[pyo3(signature = (count, dim, **settings), text_signature = "(count, dim, *, std=1.0, seed=0)")]
    fn new(
        count: &Bound<'_, PyAny>,
        dim: &Bound<'_, PyAny>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let mut settings = Settings::of("Embedding", settings)?;
        let (count, dim) = (size("count", count)?, size("dim", dim)?);
        let (initial, seed) = (Initial::Normal(settings.real("std", 1.0)?), settings.seed()?);
        settings.end()?;
        let bind = |embedding: &Embedding| Box::new(OfTokens(*embedding)) as Box<dyn Function>;
        let (layer, _) = PyLayer::of(seed, |scope| Embedding::new(scope, count, dim, initial), bind)?;
        Ok(layer.add_subclass(PyEmbedding))
    }
}

/// A layer of tokens.
struct OfTokens(Embedding);

impl Function for OfTokens {
    fn bind(&self, x: &Bound<'_, PyAny>) -> PyResult<Box<dyn Call>> {
        let (tokens, shape) = whole_numbers("x", x)?;
        let count = self.0.count();
        if shape.len() >= AXES {
            let problem = format!("`x` has shape {shape:?}; expected tokens of up to three axes");
            return Err(pyo3::exceptions::PyValueError::new_err(problem));
        }
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= count) {
            let problem = format!("`x` has the token {token}; expected below {count}, the rows of the table");
            return Err(pyo3::exceptions::PyValueError::new_err(problem));
        }
        Ok(Box::new(CallOfTokens { layer: self.0, shape, tokens }))
    }
}

struct CallOfTokens {
    layer: Embedding,
    tokens: Vec<u32>,
    shape: Vec<usize>,
}

impl Call for CallOfTokens {
    fn shape(&self) -> Vec<usize> {
        self.shape.iter().copied().chain([self.layer.width()]).collect()
    }

    fn batch(&self) -> usize {
        1
    }

    fn forward(&self, ground: Ground<'_>) -> Result<Array, Error> {
        let Ground { parameters, workspace, mode } = ground;
        let (_, pass) = workspace.pass(parameters, mode, regard_memory::Need::NONE)?;
        let mut out = Array::zeros(self.shape())?;
        self.layer.forward(&pass, &self.tokens, &mut out.numbers)?;
        Ok(out)
    }

    fn backward(&self, ground: Ground<'_>, dout: &[f32], gradients: &mut Gradients) -> Result<Vec<Array>, Error> {
        let Ground { parameters, workspace, mode } = ground;
        let (_, pass) = workspace.pass(parameters, mode, regard_memory::Need::NONE)?;
        self.layer.backward(&pass, &self.tokens, dout, gradients)?;
        Ok(Vec::new())
    }
}
