//! A block of a transformer.

use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use regard_layers::{FeedForward, Norm, TransformerBlock};

use super::attention::{linear, local_global, set_indices, softmax, state_space};
use super::call::in_sequences;
use super::layer::PyLayer;
use super::settings::{RULES, Settings, size};
use super::stream::PyStreaming;
use crate::numbers::indices;
use crate::work::locked;

/// One block of a transformer, norms first: ``h = x + mixer(norm1(x))``, ``y = h + feed_forward(norm2(h))``. Parameters of its
/// parts, by the names ``norm1``, ``mixer``, ``norm2`` and ``feed_forward``.
///
/// Args:
///     dim: numbers of a row, in and out: arrays are ``[batch, seq, dim]`` or ``[seq, dim]``.
///     heads: heads of the mixer.
///     hidden: numbers between the products of the feed-forward layer; ``4·dim`` unless given.
///     mixer: ``"softmax"`` (:class:`FlashAttention`), ``"linear"``, ``"gated"``, ``"gated_by_channel"``, ``"delta"``,
///         ``"gated_delta"`` (:class:`LinearAttention` by that rule), ``"state_space"`` (:class:`StateSpace`) or ``"local_global"``
///         (:class:`LocalGlobalAttention`).
///     norm: ``"rms"`` or ``"layer"``; ``norm_eps`` keeps its root from 0.
///     activation, gated: of the feed-forward layer, as of :class:`FeedForward`; ``hidden_bias`` is its ``bias``.
///     seed: what the parameters are drawn by.
///     settings: those of the mixer's class, such as ``mask`` or ``rotary``.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> block = layers.TransformerBlock(32, 4, hidden=80, mask="causal", rotary=10_000)
/// >>> block(np.ones((2, 9, 32), dtype=np.float32)).shape
/// (2, 9, 32)
/// >>> mamba = layers.TransformerBlock(32, 4, mixer="state_space", state=16)
#[pyclass(frozen, extends = PyStreaming, module = "regard.layers", name = "TransformerBlock")]
pub(crate) struct PyTransformerBlock(Mutex<Arc<TransformerBlock>>);

#[pymethods]
impl PyTransformerBlock {
    #[new]
    #[pyo3(
        signature = (dim, heads, **settings),
        text_signature = "(dim, heads, *, hidden=None, mixer='softmax', norm='rms', norm_eps=1e-05, activation='silu', gated=True, hidden_bias=False, seed=0, **settings)"
    )]
    fn new(
        dim: &Bound<'_, PyAny>,
        heads: &Bound<'_, PyAny>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let mut settings = Settings::of("TransformerBlock", settings)?;
        let (dim, heads) = (size("dim", dim)?, size("heads", heads)?);
        let (norm, eps, kind) = (settings.norm("norm")?, settings.real("norm_eps", 1e-5)?, settings.feed_forward()?);
        let (hidden, bias) = (settings.size("hidden")?.unwrap_or(4 * dim), settings.bias("hidden_bias", false)?);
        let rules = RULES.map(|(name, rule)| (name, Mixing::Linear(rule)));
        let others =
            [("softmax", Mixing::Softmax), ("state_space", Mixing::StateSpace), ("local_global", Mixing::LocalGlobal)];
        let mixer = match settings.choice("mixer", &[&others[..], &rules[..]].concat(), "softmax")? {
            Mixing::Softmax => softmax(dim, heads, &mut settings)?,
            Mixing::Linear(rule) => linear(dim, heads, rule, &mut settings)?,
            Mixing::StateSpace => state_space(dim, heads, &mut settings)?,
            Mixing::LocalGlobal => local_global(dim, heads, &mut settings)?,
        };
        let seed = settings.seed()?;
        settings.end()?;
        let (base, block) = PyStreaming::of(seed, |scope| {
            let first = Norm::new(&mut scope.scope("norm1"), norm, dim, eps)?;
            let mixer = mixer(&mut scope.scope("mixer"))?;
            let second = Norm::new(&mut scope.scope("norm2"), norm, dim, eps)?;
            let feed_forward = FeedForward::new(&mut scope.scope("feed_forward"), kind, dim, hidden, bias)?;
            TransformerBlock::new([first, second], mixer, feed_forward)
        })?;
        Ok(base.add_subclass(PyTransformerBlock(Mutex::new(block))))
    }

    /// Replaces the tokens that all see, of the mixer ``"local_global"``.
    fn set_indices(slf: &Bound<'_, Self>, indices: &Bound<'_, PyAny>) -> PyResult<()> {
        let keys = self::indices("indices", indices)?;
        let mut block = locked(slf.py(), &slf.get().0)?;
        set_indices(Arc::make_mut(&mut block).mixer_mut(), &keys)?;
        let layer: &Bound<'_, PyLayer> = slf.as_super().as_super();
        PyLayer::replace(layer, in_sequences(&block))?;
        Ok(())
    }
}

/// What lets the tokens of a block see each other.
#[derive(Clone, Copy)]
enum Mixing {
    Softmax,
    Linear(regard_layers::LinearRule),
    StateSpace,
    LocalGlobal,
}
