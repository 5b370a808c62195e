//! Multi-head attention, of a sequence among itself or of another one.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use regard_layers::{
    Error, Gradients, KeyGradients, KeyHeads, Keys, Mode, MultiHeadAttention, MultiHeadCache, MultiHeadConfig, Scope,
};

use super::arrays::Array;
use super::call::{Call, Tokens, in_sequences};
use super::error::refused;
use super::layer::PyLayer;
use super::module::Ground;
use super::settings::{Settings, size, split};
use super::stream::{Remembered, capacity};
use crate::work::detached;

/// Multi-head attention (Vaswani et al., 2017): of the tokens of ``x`` among each other, or, where the caller says so, over those of
/// another sequence, over keys and values that are given, or over a cache.
///
/// Parameters, with ``H`` heads, ``H_kv = H / share_kv_across_n_heads``: ``w_qkv`` ``[3, H, d_k, dim]`` where ``d_k = d_v`` and no
/// heads share keys; else ``w_q`` ``[1, H, d_k, dim]`` with ``w_kv`` ``[2, H_kv, d_k, dim]``, or where ``d_k ≠ d_v`` with ``w_k``
/// ``[H_kv, d_k, dim]`` and ``w_v`` ``[H_kv, d_v, dim]``. Always ``w_out`` ``[H, d_v, dim_out]``; with biases ``b_q``, ``b_k``,
/// ``b_v``, ``b_out``.
///
/// Args:
///     dim: numbers of a row that goes in: arrays are ``[batch, seq, dim]`` or ``[seq, dim]``.
///     heads: query heads.
///     dim_out: numbers of a row that comes out; ``dim`` unless given.
///     share_kv_across_n_heads: how many query heads read the same keys and values.
///     dim_k: numbers of a query and of a key; ``dim / heads`` unless given.
///     dim_v: numbers of a value; as of a key unless given.
///     mask: a :class:`regard.Mask` or its expression; every pair unless given.
///     scale: of the scores; ``1/√dim_k`` unless given.
///     bias: whether the projections add numbers that are learned; they begin at 0.
///     dropout: the probability that a weight falls, in :meth:`forward`.
///     seed: what the parameters, and the weights that fall, are drawn by.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> layer = layers.MultiHeadAttention(32, 4, share_kv_across_n_heads=2)
/// >>> x, memory = np.ones((2, 6, 32), dtype=np.float32), np.ones((2, 8, 32), dtype=np.float32)
/// >>> layer(x).shape, layer(x, kv=memory).shape
/// ((2, 6, 32), (2, 6, 32))
/// >>> cache = layer.cache(2, capacity=8)
/// >>> layer.write(memory, cache)
/// >>> bool(np.allclose(layer(x, cache=cache), layer(x, kv=memory), atol=1e-6))
/// True
#[pyclass(frozen, extends = PyLayer, module = "regard.layers", name = "MultiHeadAttention")]
pub(crate) struct PyMultiHeadAttention(Arc<MultiHeadAttention>);

/// Where keys and values come from.
enum Source {
    Own,
    Other(Array),
    Given(Array, Array),
}

impl Source {
    fn of(
        layer: &MultiHeadAttention,
        x: &Array,
        heads: KeyHeads,
        kv: Option<&Bound<'_, PyAny>>,
        keys: Option<&Bound<'_, PyAny>>,
        values: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Source> {
        let config = layer.config();
        let batch = x.size().batch;
        match (kv, keys, values) {
            (None, None, None) => Ok(Source::Own),
            (Some(kv), None, None) => {
                let axes = x.shape.len();
                let kv = Array::rows("kv", kv, config.inputs, &(axes..=axes))?;
                match kv.size().batch == batch {
                    true => Ok(Source::Other(kv)),
                    false => {
                        let problem = format!("`kv` has shape {:?}; expected a batch of {batch}, as of `x`", kv.shape);
                        Err(PyValueError::new_err(problem))
                    }
                }
            }
            (None, Some(keys), Some(values)) => {
                let (keys, values) = (Array::read("keys", keys)?, Array::read("values", values)?);
                let tokens = keys.shape.get(x.shape.len() - 2).copied().unwrap_or(0);
                let kv_heads = match heads {
                    KeyHeads::All => config.heads / config.share_kv_across_n_heads,
                    KeyHeads::First => 1,
                };
                let expected = |dim| match x.shape.len() {
                    2 => vec![tokens, kv_heads, dim],
                    _ => vec![batch, tokens, kv_heads, dim],
                };
                keys.expect("keys", &expected(config.dim_k))?;
                values.expect("values", &expected(config.dim_v))?;
                Ok(Source::Given(keys, values))
            }
            _ => Err(PyValueError::new_err(
                "keys and values are of `x`, or of `kv`, or given by both `keys` and `values`: give one of these",
            )),
        }
    }

    fn keys(&self) -> Keys<'_> {
        match self {
            Source::Own => Keys::Own,
            Source::Other(kv) => Keys::Memory { rows: &kv.numbers, tokens: kv.size().tokens },
            Source::Given(k, v) => Keys::Given { k: &k.numbers, v: &v.numbers, tokens: k.view4().dim().1 },
        }
    }
}

fn key_heads(reuse_first_head_kv: bool) -> KeyHeads {
    if reuse_first_head_kv { KeyHeads::First } else { KeyHeads::All }
}

#[pymethods]
impl PyMultiHeadAttention {
    #[new]
    #[pyo3(
        signature = (dim, heads, **settings),
        text_signature = "(dim, heads, *, dim_out=None, share_kv_across_n_heads=1, dim_k=None, dim_v=None, mask=None, scale=None, bias=False, dropout=0.0, seed=0)"
    )]
    fn new(
        dim: &Bound<'_, PyAny>,
        heads: &Bound<'_, PyAny>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let mut settings = Settings::of("MultiHeadAttention", settings)?;
        let (dim, heads) = (size("dim", dim)?, size("heads", heads)?);
        let dim_k = settings.size("dim_k")?.map_or_else(|| split("dim", dim, heads, "dim_k"), Ok)?;
        let config = MultiHeadConfig {
            outputs: settings.size("dim_out")?.unwrap_or(dim),
            share_kv_across_n_heads: settings.size("share_kv_across_n_heads")?.unwrap_or(1),
            dim_k,
            dim_v: settings.size("dim_v")?.unwrap_or(dim_k),
            mask: settings.mask()?,
            scale: settings.number("scale")?,
            bias: settings.bias("bias", false)?,
            dropout: settings.real("dropout", 0.0)?,
            ..MultiHeadConfig::new(dim, heads)
        };
        let seed = settings.seed()?;
        settings.end()?;
        let make = |scope: &mut Scope<'_>| MultiHeadAttention::new(scope, config).map(Arc::new);
        let (base, layer) = PyLayer::of(seed, make, in_sequences)?;
        Ok(base.add_subclass(PyMultiHeadAttention(layer)))
    }

    /// The results ``[batch, seq, dim_out]``: nothing falls out, and nothing is kept.
    ///
    /// Args:
    ///     x: the tokens that attend, ``[batch, seq, dim]`` or ``[seq, dim]``.
    ///     kv: the tokens that are attended to, ``[batch, tokens, dim]``: cross-attention.
    ///     keys, values: or their keys ``[batch, tokens, kv_heads, dim_k]`` and values ``[batch, tokens, kv_heads, dim_v]``.
    ///     cache: or a cache that another sequence was written to.
    ///     reuse_first_head_kv: all queries read the first key/value head, and no other is projected. (A cache knows what it holds.)
    ///     add_input: ``x`` is added to the results.
    ///     batch_chunk: so many sequences at a time: the same results with less memory. Not over a cache.
    #[pyo3(
        signature = (x, *, kv=None, keys=None, values=None, cache=None, reuse_first_head_kv=false, add_input=false, batch_chunk=None)
    )]
    #[allow(clippy::too_many_arguments, reason = "Python's arguments are named")]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        x: &Bound<'py, PyAny>,
        kv: Option<&Bound<'py, PyAny>>,
        keys: Option<&Bound<'py, PyAny>>,
        values: Option<&Bound<'py, PyAny>>,
        cache: Option<&Bound<'py, PyMultiHeadCache>>,
        reuse_first_head_kv: bool,
        add_input: bool,
        batch_chunk: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, layer, heads) = (slf.py(), &*slf.get().0, key_heads(reuse_first_head_kv));
        let rows = Array::rows("x", x, layer.config().inputs, &Tokens::InSequences.axes())?;
        let source = Source::of(layer, &rows, heads, kv, keys, values)?;
        let batch_chunk = batch_chunk.map(|chunk| size("batch_chunk", chunk)).transpose()?;
        let shape = rows.shape_of_width(layer.config().outputs);
        let mut results = Array::zeros(shape).map_err(refused)?;
        if rows.numbers.is_empty() {
            return results.give(x);
        }
        let mut module = slf.as_super().as_super().get().lock(py)?;
        let state = &mut *module;
        let mut run = |cache: Option<&MultiHeadCache>| {
            let Ground { parameters, workspace, .. } = state.ground(Mode::Evaluation)?;
            let mut call = layer.call(rows.view3());
            match (&source, cache) {
                (_, Some(cache)) => call = call.cache(cache),
                (Source::Own, None) => {}
                (Source::Other(kv), None) => call = call.memory(kv.view3()),
                (Source::Given(k, v), None) => call = call.keys(k.view4(), v.view4()),
            }
            if reuse_first_head_kv {
                call = call.reuse_first_head_kv();
            }
            if add_input {
                call = call.add_input();
            }
            if let Some(sequences) = batch_chunk {
                call = call.batch_chunk(sequences);
            }
            call.run(parameters, workspace)
        };
        let out = match cache {
            None => detached(py, || run(None))?.map_err(refused)?,
            Some(_) if !matches!(source, Source::Own) || reuse_first_head_kv => {
                let problem =
                    "a `cache` has its own keys and values: leave out `kv`, `keys`, `values` and `reuse_first_head_kv`";
                return Err(PyValueError::new_err(problem));
            }
            Some(cache) => cache.get().0.read(py, |cache| run(Some(cache)))?,
        };
        results.numbers.iter_mut().zip(out).for_each(|(to, number)| *to = number);
        results.give(x)
    }

    /// The results in training, for :meth:`backward`, which then returns the gradient of ``x``; with ``kv`` the tuple ``(dx, dkv)``,
    /// with ``keys`` and ``values`` ``(dx, dkeys, dvalues)``.
    ///
    /// Args:
    ///     x, kv, keys, values, reuse_first_head_kv, add_input: as of a call.
    #[pyo3(signature = (x, *, kv=None, keys=None, values=None, reuse_first_head_kv=false, add_input=false))]
    fn forward<'py>(
        slf: &Bound<'py, Self>,
        x: &Bound<'py, PyAny>,
        kv: Option<&Bound<'py, PyAny>>,
        keys: Option<&Bound<'py, PyAny>>,
        values: Option<&Bound<'py, PyAny>>,
        reuse_first_head_kv: bool,
        add_input: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (layer, heads) = (&slf.get().0, key_heads(reuse_first_head_kv));
        let &MultiHeadConfig { inputs, outputs, .. } = layer.config();
        if add_input && inputs != outputs {
            let problem = format!("`add_input` adds rows of {inputs} numbers to results of {outputs}: leave it out");
            return Err(PyValueError::new_err(problem));
        }
        let rows = Array::rows("x", x, inputs, &Tokens::InSequences.axes())?;
        let source = Source::of(layer, &rows, heads, kv, keys, values)?;
        let call = Attending { layer: layer.clone(), x: rows, source, heads, add_input };
        PyLayer::train(slf.as_super(), Box::new(call), x)
    }

    /// An empty cache for the keys and values of sequences.
    ///
    /// Args:
    ///     batch: sequences.
    ///     capacity: tokens of each, at most.
    ///     first_head: it holds the first key/value head alone, which all queries then read.
    #[pyo3(
        signature = (batch=None, *, capacity=None, first_head=false),
        text_signature = "($self, batch=1, *, capacity=1024, first_head=False)"
    )]
    fn cache(
        &self,
        batch: Option<&Bound<'_, PyAny>>,
        capacity: Option<&Bound<'_, PyAny>>,
        first_head: bool,
    ) -> PyResult<PyMultiHeadCache> {
        let batch = batch.map_or(Ok(1), |batch| size("batch", batch))?;
        let capacity = self::capacity(capacity)?;
        let cache = MultiHeadCache::new(&self.0, key_heads(first_head), batch, capacity).map_err(refused)?;
        Ok(PyMultiHeadCache(Remembered::new(cache)))
    }

    /// Appends the keys and values of another sequence's tokens, ``[batch, tokens, dim]``, to a cache, for calls with ``cache``.
    fn write(slf: &Bound<'_, Self>, kv: &Bound<'_, PyAny>, cache: &Bound<'_, PyMultiHeadCache>) -> PyResult<()> {
        let (py, layer) = (slf.py(), &*slf.get().0);
        let kv = Array::rows("kv", kv, layer.config().inputs, &Tokens::InSequences.axes())?;
        let mut module = slf.as_super().as_super().get().lock(py)?;
        let state = &mut *module;
        cache.get().0.go_on(py, kv.size().tokens, |cache| {
            let Ground { parameters, workspace, .. } = state.ground(Mode::Evaluation)?;
            layer.fill(kv.view3(), cache, parameters, workspace)
        })
    }

    /// The results of the next tokens of sequences, whose keys and values go into the cache, and which attend to all that is there.
    /// With a causal mask all tokens in pieces are all in one pass, within rounding.
    ///
    /// Args:
    ///     x: the next tokens, ``[batch, tokens, dim]`` or ``[tokens, dim]``.
    ///     cache: what :meth:`cache` gave, for these sequences alone.
    fn stream<'py>(
        slf: &Bound<'py, Self>,
        x: &Bound<'py, PyAny>,
        cache: &Bound<'py, PyMultiHeadCache>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, layer) = (slf.py(), &*slf.get().0);
        let rows = Array::rows("x", x, layer.config().inputs, &Tokens::InSequences.axes())?;
        let mut module = slf.as_super().as_super().get().lock(py)?;
        let state = &mut *module;
        let out = cache.get().0.go_on(py, rows.size().tokens, |cache| {
            let Ground { parameters, workspace, .. } = state.ground(Mode::Evaluation)?;
            layer.next(rows.view3(), cache, parameters, workspace)
        })?;
        let shape = rows.shape_of_width(layer.config().outputs);
        Array { shape, numbers: out.into_iter().collect() }.give(x)
    }
}

/// Keys and values that a :class:`MultiHeadAttention` has projected: what its :meth:`~MultiHeadAttention.cache` returns. Its ``len``
/// is the tokens of each sequence that it holds.
#[pyclass(frozen, module = "regard.layers", name = "MultiHeadCache")]
pub(crate) struct PyMultiHeadCache(Remembered<MultiHeadCache>);

#[pymethods]
impl PyMultiHeadCache {
    /// Forgets all tokens.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.0.clear(py, MultiHeadCache::clear)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.0.tokens(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<MultiHeadCache of {} tokens>", self.0.tokens(py)?))
    }
}

/// A call in training.
struct Attending {
    layer: Arc<MultiHeadAttention>,
    x: Array,
    source: Source,
    heads: KeyHeads,
    add_input: bool,
}

impl Call for Attending {
    fn shape(&self) -> Vec<usize> {
        self.x.shape_of_width(self.layer.config().outputs)
    }

    fn batch(&self) -> usize {
        self.x.size().batch
    }

    fn forward(&self, ground: Ground<'_>) -> Result<Array, Error> {
        if self.x.numbers.is_empty() {
            return Array::zeros(self.shape());
        }
        let Ground { parameters, workspace, mode } = ground;
        let (size, keys) = (self.x.size(), self.source.keys());
        let need = self.layer.attend_need(size, &keys, self.heads);
        let (mut tape, mut pass) = workspace.pass(parameters, mode, need)?;
        let (out, _) = self.layer.attend(&mut pass, size, &self.x.numbers, keys, self.heads, &mut tape)?;
        let mut out = Array::copy(self.shape(), out)?;
        if self.add_input {
            out.numbers.iter_mut().zip(&self.x.numbers).for_each(|(out, x)| *out += x);
        }
        Ok(out)
    }

    fn backward(&self, ground: Ground<'_>, dout: &[f32], gradients: &mut Gradients) -> Result<Vec<Array>, Error> {
        let zeros = |array: &Array| Array::zeros(array.shape.clone());
        let mut found = vec![zeros(&self.x)?];
        match &self.source {
            Source::Own => {}
            Source::Other(kv) => found.push(zeros(kv)?),
            Source::Given(k, v) => found.extend([zeros(k)?, zeros(v)?]),
        }
        if self.x.numbers.is_empty() {
            return Ok(found);
        }
        let (Ground { parameters, workspace, mode }, layer) = (ground, &self.layer);
        let (size, keys) = (self.x.size(), self.source.keys());
        let need = layer.attend_need(size, &keys, self.heads);
        let need = need.and(layer.attend_backward_need(size, &keys, self.heads));
        let (mut tape, mut pass) = workspace.pass(parameters, mode, need)?;
        let (_, kept) = layer.attend(&mut pass, size, &self.x.numbers, keys, self.heads, &mut tape)?;
        let (dx, dkeys) = match &mut found[..] {
            [dx, dkv] => (dx, KeyGradients::Memory(&mut dkv.numbers)),
            [dx, dk, dv] => (dx, KeyGradients::Given { k: &mut dk.numbers, v: &mut dv.numbers }),
            others => (&mut others[0], KeyGradients::None),
        };
        layer.attend_backward(&mut pass, size, kept, dout, gradients, &mut dx.numbers, dkeys, &mut tape)?;
        if self.add_input {
            dx.numbers.iter_mut().zip(dout).for_each(|(dx, d)| *dx += d);
        }
        Ok(found)
    }
}
