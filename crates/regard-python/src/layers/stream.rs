//! Layers that read the next tokens of sequences.

use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use regard_layers::{Error, Layer, Mixer, MixerState, Mode, Pass, Scope, Size, TransformerBlock};
use regard_memory::{Frame, Need};

use super::arrays::Array;
use super::call::{Tokens, in_sequences};
use super::error::refused;
use super::layer::PyLayer;
use super::module::Ground;
use super::settings::size;
use crate::numbers::count;
use crate::work::{detached, locked};

/// What reads the next tokens of sequences.
pub(super) trait Streams: Send + Sync {
    /// Numbers of a row, in and out.
    fn width(&self) -> usize;

    /// What [`Streams::next`] takes from the tape.
    fn need(&self, size: Size) -> Need;

    /// What is remembered before the first tokens.
    ///
    /// # Errors
    /// As [`Mixer::state`].
    fn first(&self, batch: usize, capacity: usize) -> Result<MixerState, Error>;

    /// The results of the next tokens.
    ///
    /// # Errors
    /// As [`Mixer::stream`].
    fn next<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        state: &mut MixerState,
        tape: &mut Frame<'a>,
    ) -> Result<&'a mut [f32], Error>;
}

macro_rules! streams {
    ($Layer:ty, $layer:ident => $mixer:expr) => {
        impl Streams for $Layer {
            fn width(&self) -> usize {
                self.inputs()
            }

            fn need(&self, size: Size) -> Need {
                self.forward_need(size)
            }

            fn first(&self, batch: usize, capacity: usize) -> Result<MixerState, Error> {
                let $layer = self;
                $mixer.state(batch, capacity)
            }

            fn next<'a>(
                &self,
                pass: &mut Pass<'_>,
                size: Size,
                x: &'a [f32],
                state: &mut MixerState,
                tape: &mut Frame<'a>,
            ) -> Result<&'a mut [f32], Error> {
                self.stream(pass, size, x, state, tape)
            }
        }
    };
}
streams!(Mixer, mixer => mixer);
streams!(TransformerBlock, block => block.mixer());

/// A layer of sequences that also reads them in pieces, as they come.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> layer = layers.LinearAttention(32, 4, rule="gated_delta")
/// >>> x = np.random.default_rng(0).standard_normal((1, 9, 32), dtype=np.float32)
/// >>> state = layer.state()
/// >>> pieces = [layer.stream(part, state) for part in np.split(x, [5, 6], axis=1)]
/// >>> len(state)
/// 9
/// >>> bool(np.allclose(np.concatenate(pieces, axis=1), layer(x), atol=1e-5))
/// True
#[pyclass(frozen, subclass, extends = PyLayer, module = "regard.layers", name = "Streaming")]
pub(crate) struct PyStreaming(Arc<dyn Streams>);

impl PyStreaming {
    /// A layer with its parameters.
    pub(super) fn of<L: Layer + Streams + 'static>(
        seed: u64,
        make: impl FnOnce(&mut Scope<'_>) -> Result<L, Error>,
    ) -> PyResult<(PyClassInitializer<PyStreaming>, Arc<L>)> {
        let make = |scope: &mut Scope<'_>| make(scope).map(Arc::new);
        let (base, layer) = PyLayer::of(seed, make, in_sequences)?;
        Ok((base.add_subclass(PyStreaming(layer.clone())), layer))
    }
}

/// Tokens of a sequence that softmax attention has room for, where nobody says how many.
const CAPACITY: usize = 1024;

/// Tokens of a sequence, at most.
const MOST: usize = 1 << 31;

/// A number of tokens to make room for.
pub(super) fn capacity(value: Option<&Bound<'_, PyAny>>) -> PyResult<usize> {
    let Some(value) = value else { return Ok(CAPACITY) };
    match count("capacity", value)? {
        capacity @ 1..=MOST => Ok(capacity),
        other => Err(PyValueError::new_err(format!("`capacity` is {other}; expected from 1 to {MOST}"))),
    }
}

#[pymethods]
impl PyStreaming {
    /// What the layer remembers of sequences before their first token, for :meth:`stream`.
    ///
    /// Args:
    ///     batch: sequences.
    ///     capacity: tokens of each that softmax attention has room for; recurrences remember the same few numbers of any.
    ///
    /// Raises:
    ///     ValueError: the layer reads whole sequences: local-global attention, or a recurrence in both directions.
    #[pyo3(signature = (batch=None, *, capacity=None), text_signature = "($self, batch=1, *, capacity=1024)")]
    fn state(&self, batch: Option<&Bound<'_, PyAny>>, capacity: Option<&Bound<'_, PyAny>>) -> PyResult<PyState> {
        let batch = batch.map_or(Ok(1), |batch| size("batch", batch))?;
        let state = self.0.first(batch, self::capacity(capacity)?).map_err(refused)?;
        Ok(PyState(Remembered::new(state)))
    }

    /// The results of the next tokens of sequences, behind those that the state remembers. With a causal mask all tokens in pieces
    /// are all in one pass, within rounding. Nothing falls out, and there is no backward pass.
    ///
    /// Args:
    ///     x: the next tokens, ``[batch, tokens, dim]`` or ``[tokens, dim]``.
    ///     state: what :meth:`state` gave; it remembers these tokens then.
    fn stream<'py>(
        slf: &Bound<'py, Self>,
        x: &Bound<'py, PyAny>,
        state: &Bound<'py, PyState>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, layer) = (slf.py(), &*slf.get().0);
        let rows = Array::rows("x", x, layer.width(), &Tokens::InSequences.axes())?;
        let mut module = slf.as_super().as_super().get().lock(py)?;
        let (ground, size) = (&mut *module, rows.size());
        let shape = rows.shape.clone();
        let results = state.get().0.go_on(py, size.tokens, |state| {
            let Ground { parameters, workspace, mode } = ground.ground(Mode::Evaluation)?;
            let (mut tape, mut pass) = workspace.pass(parameters, mode, layer.need(size))?;
            Array::copy(shape, layer.next(&mut pass, size, &rows.numbers, state, &mut tape)?)
        })?;
        results.give(x)
    }
}

/// What sequences leave behind, which their next tokens go on from.
pub(super) struct Remembered<S>(Mutex<Behind<S>>);

struct Behind<S> {
    state: S,
    tokens: usize,
    /// Whether the last call came to its end.
    whole: bool,
}

impl<S: Send> Remembered<S> {
    pub(super) fn new(state: S) -> Self {
        Remembered(Mutex::new(Behind { state, tokens: 0, whole: true }))
    }

    /// Reads so many more tokens of each sequence.
    ///
    /// # Errors
    /// What `work` refuses, which then has read none; or the state is half written, by a call that was interrupted.
    pub(super) fn go_on<R: Send>(
        &self,
        py: Python<'_>,
        tokens: usize,
        work: impl FnOnce(&mut S) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        let mut behind = self.whole(py)?;
        let behind = &mut *behind;
        behind.whole = false;
        let done = detached(py, || work(&mut behind.state))?;
        behind.whole = true;
        let result = done.map_err(refused)?;
        behind.tokens += tokens;
        Ok(result)
    }

    /// Looks at it.
    ///
    /// # Errors
    /// As [`Remembered::go_on`].
    pub(super) fn read<R: Send>(&self, py: Python<'_>, work: impl FnOnce(&S) -> Result<R, Error> + Send) -> PyResult<R>
    where
        S: Sync,
    {
        let behind = self.whole(py)?;
        let state = &behind.state;
        detached(py, || work(state))?.map_err(refused)
    }

    fn whole(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, Behind<S>>> {
        let behind = locked(py, &self.0)?;
        match behind.whole {
            true => Ok(behind),
            false => Err(PyValueError::new_err("an interrupted call has left the state half written: clear() it")),
        }
    }

    /// Forgets all tokens.
    pub(super) fn clear(&self, py: Python<'_>, clear: impl FnOnce(&mut S)) -> PyResult<()> {
        let mut behind = locked(py, &self.0)?;
        clear(&mut behind.state);
        (behind.tokens, behind.whole) = (0, true);
        Ok(())
    }

    /// Tokens of each sequence that were read.
    pub(super) fn tokens(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(locked(py, &self.0)?.tokens)
    }
}

/// What a layer remembers of sequences, so that their next tokens can be read: what :meth:`Streaming.state` returns. Its ``len`` is
/// the tokens that were read of each.
#[pyclass(frozen, module = "regard.layers", name = "State")]
pub(crate) struct PyState(Remembered<MixerState>);

#[pymethods]
impl PyState {
    /// Forgets all tokens.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.0.clear(py, MixerState::clear)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.0.tokens(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<State of {} tokens>", self.0.tokens(py)?))
    }
}
