//! What all layers do: results, and on the way back gradients.

use std::sync::Mutex;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use regard_layers::{Error, Mode, Scope};

use super::arrays::Array;
use super::call::{Call, Function};
use super::error::refused;
use super::module::PyModule;
use crate::work::{detached, locked};

/// A layer: called it gives results, :meth:`forward` and :meth:`backward` also gradients.
///
/// Results are of the kind of what goes in: NumPy arrays, tensors of PyTorch, arrays of JAX. All is computed in float32, on the
/// threads of :func:`regard.set_num_threads`, and gives the same bits for any number of them.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> layer = layers.FeedForward(16, 40, seed=7)
/// >>> x = np.random.default_rng(0).standard_normal((2, 9, 16), dtype=np.float32)
/// >>> np.array_equal(layer.forward(x), layer(x))
/// True
/// >>> layer.backward(np.ones((2, 9, 16), dtype=np.float32)).shape
/// (2, 9, 16)
/// >>> {name: gradient.shape for name, gradient in layer.gradients.items()}
/// {'gate_proj.weight': (40, 16), 'up_proj.weight': (40, 16), 'down_proj.weight': (16, 40)}
/// >>> parameters = layer.parameters
/// >>> for name, gradient in layer.gradients.items():
/// ...     parameters[name] -= 0.1 * gradient
/// >>> layer.parameters = parameters
#[pyclass(frozen, subclass, extends = PyModule, module = "regard.layers", name = "Layer")]
pub(crate) struct PyLayer(Mutex<Inner>);

struct Inner {
    function: Box<dyn Function>,
    tape: Option<Tape>,
    /// How many sequences have gone through [`PyLayer::train`]: the next one's number.
    sequences: u64,
}

/// What a forward pass leaves for the backward pass.
struct Tape {
    call: Box<dyn Call>,
    mode: Mode,
    version: u64,
}

impl PyLayer {
    /// A layer with its parameters.
    pub(super) fn of<T>(
        seed: u64,
        make: impl FnOnce(&mut Scope<'_>) -> Result<T, Error>,
        function: impl FnOnce(&T) -> Box<dyn Function>,
    ) -> PyResult<(PyClassInitializer<PyLayer>, T)> {
        let (module, made) = PyModule::of(seed, make)?;
        let inner = Inner { function: function(&made), tape: None, sequences: 0 };
        Ok((PyClassInitializer::from(module).add_subclass(PyLayer(Mutex::new(inner))), made))
    }

    /// Replaces what is computed.
    pub(super) fn replace(slf: &Bound<'_, Self>, function: Box<dyn Function>) -> PyResult<()> {
        let py = slf.py();
        locked(py, &slf.get().0)?.function = function;
        slf.as_super().get().lock(py)?.version += 1;
        Ok(())
    }

    /// The results of a call: nothing falls out, and nothing is kept.
    pub(super) fn evaluate<'py>(
        slf: &Bound<'py, Self>,
        call: &dyn Call,
        like: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut guard = slf.as_super().get().lock(slf.py())?;
        let state = &mut *guard;
        let work = || call.forward(state.ground(Mode::Evaluation)?);
        detached(slf.py(), work)?.map_err(refused)?.give(like)
    }

    /// The results of a call in training, which is kept for [`PyLayer::backward`].
    pub(super) fn train<'py>(
        slf: &Bound<'py, Self>,
        call: Box<dyn Call>,
        like: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let mut inner = locked(py, &slf.get().0)?;
        inner.tape = None;
        let mut guard = slf.as_super().get().lock(py)?;
        let state = &mut *guard;
        let mode = Mode::Training { first_sequence: inner.sequences };
        let work = || call.forward(state.ground(mode)?);
        let out = detached(py, work)?.map_err(refused)?;
        inner.sequences = inner.sequences.wrapping_add(call.batch() as u64);
        inner.tape = Some(Tape { call, mode, version: guard.version });
        out.give(like)
    }

    fn bind(slf: &Bound<'_, Self>, x: &Bound<'_, PyAny>) -> PyResult<Box<dyn Call>> {
        locked(slf.py(), &slf.get().0)?.function.bind(x)
    }
}

#[pymethods]
impl PyLayer {
    /// The results of ``x``: nothing falls out, and nothing is kept.
    fn __call__<'py>(slf: &Bound<'py, Self>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let call = PyLayer::bind(slf, x)?;
        PyLayer::evaluate(slf, &*call, x)
    }

    /// The results of ``x`` in training, for :meth:`backward`: weights of attention fall where the layer has dropout, others each
    /// time. A copy of ``x`` is kept; what lies between is computed again on the way back.
    fn forward<'py>(slf: &Bound<'py, Self>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let call = PyLayer::bind(slf, x)?;
        PyLayer::train(slf, call, x)
    }

    /// The gradients of the last :meth:`forward`. Those of the parameters are added to :attr:`gradients`.
    ///
    /// Args:
    ///     dy: the gradient of the results, in their shape.
    ///
    /// Returns:
    ///     The gradient of what went in, of the kind of ``dy``; a tuple where several arrays did, None where tokens did.
    ///
    /// Raises:
    ///     ValueError: there was no forward pass since the last backward pass, parameters have changed since, or ``dy`` is of
    ///         another shape.
    ///
    /// Where it is interrupted by Ctrl-C all gradients are 0.
    fn backward<'py>(slf: &Bound<'py, Self>, dy: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let dout = Array::read("dy", dy)?;
        let mut inner = locked(py, &slf.get().0)?;
        let Some(shape) = inner.tape.as_ref().map(|tape| tape.call.shape()) else {
            return Err(PyValueError::new_err(
                "backward() goes back over what forward() has kept, and there is nothing: call forward(x) first, once for each \
                 backward()",
            ));
        };
        dout.expect("dy", &shape)?;
        let mut guard = slf.as_super().get().lock(py)?;
        let state = &mut *guard;
        let tape = inner.tape.take().filter(|tape| tape.version == state.version).ok_or_else(|| {
            PyValueError::new_err(
                "the layer has changed since forward(): go back before parameters are replaced or a step is taken",
            )
        })?;
        let work = || {
            let (ground, gradients) = state.with_gradients(tape.mode)?;
            tape.call.backward(ground, &dout.numbers, gradients)
        };
        let failed = match detached(py, work) {
            Ok(Ok(found)) => return given(found, dy),
            Ok(Err(error)) => refused(error),
            Err(error) => error,
        };
        // What was added is anything.
        guard.clear_gradients();
        Err(failed)
    }
}

/// Gradients as the caller has them.
fn given<'py>(found: Vec<Array>, like: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let mut found = found.into_iter().map(|array| array.give(like)).collect::<PyResult<Vec<_>>>()?;
    match found.len() {
        0 => Ok(like.py().None().into_bound(like.py())),
        1 => Ok(found.remove(0)),
        _ => Ok(PyTuple::new(like.py(), found)?.into_any()),
    }
}
