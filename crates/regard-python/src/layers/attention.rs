//! What lets the tokens of a sequence see each other.

use std::sync::{Arc, Mutex};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use regard_attention::Direction;
use regard_layers::{
    Bias, Error, FlashAttention, FlashConfig, LinearAttention, LinearConfig, LinearRule, LocalGlobalAttention,
    LocalGlobalConfig, LocalGlobalForm, Mixer, Scope, Sight, Sinks, StateSpace, StateSpaceConfig,
};

use super::call::in_sequences;
use super::layer::PyLayer;
use super::settings::{RULES, Settings, size, split};
use super::stream::PyStreaming;
use crate::numbers::indices;
use crate::work::locked;

/// How a mixer is made in a scope, once its settings are read.
pub(super) type Make = Box<dyn FnOnce(&mut Scope<'_>) -> Result<Mixer, Error>>;

/// Softmax attention.
pub(super) fn softmax(dim: usize, heads: usize, settings: &mut Settings<'_>) -> PyResult<Make> {
    let mut config = FlashConfig::new(settings.heads(dim, heads)?, settings.mask()?);
    if let Some(theta) = settings.rotary()? {
        config = config.with_rotary(theta);
    }
    (config.scale, config.softcap) = (settings.number("scale")?, settings.number("softcap")?);
    config.sinks = if settings.flag("sinks", false)? { Sinks::Learned } else { Sinks::None };
    let bias = settings.bias("bias", false)?;
    config.bias = [bias, settings.bias("out_bias", bias == Bias::Learned)?];
    config.dropout = settings.real("dropout", 0.0)?;
    Ok(Box::new(|scope| FlashAttention::new(scope, config).map(Mixer::Softmax)))
}

/// Linear attention by a rule.
pub(super) fn linear(dim: usize, heads: usize, rule: LinearRule, settings: &mut Settings<'_>) -> PyResult<Make> {
    let mut config = LinearConfig::new(settings.heads(dim, heads)?, rule);
    if let Some(theta) = settings.rotary()? {
        config = config.with_rotary(theta);
    }
    config.direction = if settings.flag("causal", true)? { Direction::Causal } else { Direction::Both };
    Ok(Box::new(|scope| LinearAttention::new(scope, config).map(Mixer::Linear)))
}

/// Mamba-2's mixer.
pub(super) fn state_space(dim: usize, heads: usize, settings: &mut Settings<'_>) -> PyResult<Make> {
    let head_dim = settings.size("head_dim")?;
    let head_dim = head_dim.map_or_else(|| split("2·dim", 2 * dim, heads, "head_dim"), Ok)?;
    let usual = StateSpaceConfig::new(dim, heads);
    let config = StateSpaceConfig {
        head_dim,
        groups: settings.size("groups")?.unwrap_or(usual.groups),
        state: settings.size("state")?.unwrap_or(usual.state),
        taps: settings.size("taps")?.unwrap_or(usual.taps),
        eps: settings.real("eps", usual.eps)?,
        ..usual
    };
    Ok(Box::new(move |scope| StateSpace::new(scope, config).map(Mixer::StateSpace)))
}

/// Local-global attention, and the keys that all see.
fn local_global_config(
    dim: usize,
    heads: usize,
    settings: &mut Settings<'_>,
) -> PyResult<(LocalGlobalConfig, Vec<usize>)> {
    let usual = LocalGlobalConfig::new(settings.heads(dim, heads)?);
    let config = LocalGlobalConfig {
        window: usize::try_from(settings.count("window", usual.window as u64)?).unwrap_or(usize::MAX),
        sight: if settings.flag("causal", false)? { Sight::Causal } else { Sight::Both },
        form: if settings.flag("joint", false)? { LocalGlobalForm::Joint } else { LocalGlobalForm::TwoSoftmaxes },
        ..usual
    };
    let keys = settings.take("indices").map_or(Ok(Vec::new()), |given| indices("indices", &given))?;
    Ok((config, keys))
}

/// Local-global attention.
pub(super) fn local_global(dim: usize, heads: usize, settings: &mut Settings<'_>) -> PyResult<Make> {
    let (config, keys) = local_global_config(dim, heads, settings)?;
    Ok(Box::new(move |scope| {
        let mut layer = LocalGlobalAttention::new(scope, config)?;
        layer.set_indices(&keys);
        Ok(Mixer::LocalGlobal(layer))
    }))
}

/// Exact softmax attention of tokens among each other between its projections, ``out(attention(q(x), k(x), v(x)))``. Parameters
/// ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj``, each with those of :class:`Linear`, and with sinks ``sinks`` ``[heads]``.
///
/// Args:
///     dim: numbers of a row, in and out: arrays are ``[batch, seq, dim]`` or ``[seq, dim]``.
///     heads: query heads.
///     kv_heads: key/value heads, which divide the query heads; as many unless given.
///     dim_k: numbers of a query and of a key; ``dim / heads`` unless given.
///     dim_v: numbers of a value; as of a key unless given.
///     mask: a :class:`regard.Mask` or its expression; every pair unless given.
///     scale, softcap: as in :func:`regard.attention`.
///     rotary: the base of rotary positions of queries and keys (half-split, as in Hugging Face's models); none unless given.
///     sinks: whether each head learns a logit that joins the denominator.
///     bias: whether the projections add numbers that are learned; ``out_bias`` of the last one, the same unless given.
///     dropout: the probability that a weight falls, in :meth:`forward`.
///     seed: what the parameters, and the weights that fall, are drawn by.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> layer = layers.FlashAttention(32, 4, kv_heads=2, mask="causal & window(7, inf)", rotary=10_000)
/// >>> x = np.random.default_rng(0).standard_normal((2, 9, 32), dtype=np.float32)
/// >>> layer(x).shape
/// (2, 9, 32)
/// >>> layer.parameters["k_proj.weight"].shape
/// (16, 32)
#[pyclass(frozen, extends = PyStreaming, module = "regard.layers", name = "FlashAttention")]
pub(crate) struct PyFlashAttention;

#[pymethods]
impl PyFlashAttention {
    #[new]
    #[pyo3(
        signature = (dim, heads, **settings),
        text_signature = "(dim, heads, *, kv_heads=None, dim_k=None, dim_v=None, mask=None, scale=None, softcap=None, rotary=None, sinks=False, bias=False, out_bias=None, dropout=0.0, seed=0)"
    )]
    fn new(
        dim: &Bound<'_, PyAny>,
        heads: &Bound<'_, PyAny>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let mut settings = Settings::of("FlashAttention", settings)?;
        let (make, seed) = (softmax(size("dim", dim)?, size("heads", heads)?, &mut settings)?, settings.seed()?);
        settings.end()?;
        Ok(PyStreaming::of(seed, make)?.0.add_subclass(PyFlashAttention))
    }
}

/// Linear attention between its projections, ``out(norm(recurrence(q(x), k(x), v(x))))``, where each head's results are divided by
/// their root mean square. Parameters ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj`` and ``norm.weight`` ``[dim_v]``; of gated rules
/// ``decay_proj``, of which ``ln a = ln σ(z) / 16``; of delta rules ``beta_proj``, ``β = σ(z)``, with queries and keys of length 1.
///
/// Args:
///     dim, heads, kv_heads, dim_k, dim_v, rotary, seed: as of :class:`FlashAttention`.
///     rule: ``"linear"``, ``"gated"`` (a gate for each key/value head), ``"gated_by_channel"`` (for each channel of the keys),
///         ``"delta"`` or ``"gated_delta"``.
///     causal: False lets every token see all of them; of the rule ``"linear"``, which alone has such a form.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> layer = layers.LinearAttention(32, 4, rule="gated_delta")
/// >>> layer(np.ones((2, 9, 32), dtype=np.float32)).shape
/// (2, 9, 32)
#[pyclass(frozen, extends = PyStreaming, module = "regard.layers", name = "LinearAttention")]
pub(crate) struct PyLinearAttention;

#[pymethods]
impl PyLinearAttention {
    #[new]
    #[pyo3(
        signature = (dim, heads, **settings),
        text_signature = "(dim, heads, *, kv_heads=None, dim_k=None, dim_v=None, rule='linear', causal=True, rotary=None, seed=0)"
    )]
    fn new(
        dim: &Bound<'_, PyAny>,
        heads: &Bound<'_, PyAny>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let mut settings = Settings::of("LinearAttention", settings)?;
        let rule = settings.choice("rule", &RULES, "linear")?;
        let make = linear(size("dim", dim)?, size("heads", heads)?, rule, &mut settings)?;
        let seed = settings.seed()?;
        settings.end()?;
        Ok(PyStreaming::of(seed, make)?.0.add_subclass(PyLinearAttention))
    }
}

/// The mixer of Mamba-2 (Dao and Gu, 2024, section 7). Parameters by the names that ``transformers`` has: ``in_proj.weight``,
/// ``conv1d.weight``, ``conv1d.bias``, ``A_log``, ``D``, ``dt_bias``, ``norm.weight`` and ``out_proj.weight``.
///
/// Args:
///     dim: numbers of a row, in and out: arrays are ``[batch, seq, dim]`` or ``[seq, dim]``.
///     heads: heads, each with a gate and a state of its own.
///     head_dim: numbers of a value; ``2·dim / heads`` unless given.
///     groups: keys and queries of a row, which heads share; they divide the heads.
///     state: numbers of a key and of a query.
///     taps: rows that the convolution sees.
///     eps: what keeps the norm's root from 0.
///     seed: what the parameters are drawn by.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> layer = layers.StateSpace(32, 4, state=16)
/// >>> layer(np.ones((2, 9, 32), dtype=np.float32)).shape
/// (2, 9, 32)
#[pyclass(frozen, extends = PyStreaming, module = "regard.layers", name = "StateSpace")]
pub(crate) struct PyStateSpace;

#[pymethods]
impl PyStateSpace {
    #[new]
    #[pyo3(
        signature = (dim, heads, **settings),
        text_signature = "(dim, heads, *, head_dim=None, groups=1, state=64, taps=4, eps=1e-05, seed=0)"
    )]
    fn new(
        dim: &Bound<'_, PyAny>,
        heads: &Bound<'_, PyAny>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let mut settings = Settings::of("StateSpace", settings)?;
        let (make, seed) = (state_space(size("dim", dim)?, size("heads", heads)?, &mut settings)?, settings.seed()?);
        settings.end()?;
        Ok(PyStreaming::of(seed, make)?.0.add_subclass(PyStateSpace))
    }
}

/// Local-global attention between its projections. Two softmaxes, of the keys within a window and of the keys of a list, meet in a
/// gate that is learned for each head and channel: ``out = g·local + (1 − g)·global``, ``g = σ(gate[h, c])``. A row that sees no key
/// of the list returns its local part alone. Parameters ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj``, and of two softmaxes ``gate``
/// ``[heads, dim_v]``.
///
/// Args:
///     dim, heads, kv_heads, dim_k, dim_v, seed: as of :class:`FlashAttention`.
///     window: how far a row sees to each side, ``|i − j| ≤ window``.
///     causal: whether a row sees only itself and those before it.
///     joint: one softmax over the keys of both, without a gate.
///     indices: the tokens that all see; :meth:`set_indices` replaces them.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> layer = layers.LocalGlobalAttention(32, 4, window=2, indices=[0, 5])
/// >>> layer(np.ones((2, 9, 32), dtype=np.float32)).shape
/// (2, 9, 32)
#[pyclass(frozen, extends = PyLayer, module = "regard.layers", name = "LocalGlobalAttention")]
pub(crate) struct PyLocalGlobalAttention(Mutex<Arc<LocalGlobalAttention>>);

#[pymethods]
impl PyLocalGlobalAttention {
    #[new]
    #[pyo3(
        signature = (dim, heads, **settings),
        text_signature = "(dim, heads, *, kv_heads=None, dim_k=None, dim_v=None, window=64, causal=False, joint=False, indices=(), seed=0)"
    )]
    fn new(
        dim: &Bound<'_, PyAny>,
        heads: &Bound<'_, PyAny>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let mut settings = Settings::of("LocalGlobalAttention", settings)?;
        let (config, keys) = local_global_config(size("dim", dim)?, size("heads", heads)?, &mut settings)?;
        let seed = settings.seed()?;
        settings.end()?;
        let make = |scope: &mut Scope<'_>| {
            let mut layer = LocalGlobalAttention::new(scope, config)?;
            layer.set_indices(&keys);
            Ok(Arc::new(layer))
        };
        let (base, layer) = PyLayer::of(seed, make, in_sequences)?;
        Ok(base.add_subclass(PyLocalGlobalAttention(Mutex::new(layer))))
    }

    /// Replaces the tokens that all see, those of a level of an index, say. One that is there twice counts once.
    fn set_indices(slf: &Bound<'_, Self>, indices: &Bound<'_, PyAny>) -> PyResult<()> {
        let keys = self::indices("indices", indices)?;
        let mut layer = locked(slf.py(), &slf.get().0)?;
        Arc::make_mut(&mut layer).set_indices(&keys);
        PyLayer::replace(slf.as_super(), in_sequences(&layer))?;
        Ok(())
    }

    /// The tokens that all see, in order, each once.
    #[getter]
    fn indices(&self, py: Python<'_>) -> PyResult<Vec<usize>> {
        Ok(locked(py, &self.0)?.indices().to_vec())
    }
}

/// The error of a mixer that has no such tokens.
pub(super) fn set_indices(mixer: &mut Mixer, keys: &[usize]) -> PyResult<()> {
    match mixer {
        Mixer::LocalGlobal(layer) => {
            layer.set_indices(keys);
            Ok(())
        }
        _ => Err(PyValueError::new_err("only the mixer 'local_global' has tokens that all see")),
    }
}
