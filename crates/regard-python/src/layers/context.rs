//! What blocks tell each other beside their results.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use regard_layers::{ContextInlet, Error, Gradients, Mode, SharedAttentionContext, Size};

use super::arrays::Array;
use super::call::{Call, Function, Tokens};
use super::error::refused;
use super::layer::PyLayer;
use super::module::Ground;
use super::settings::{Settings, size};
use crate::numbers::count;
use crate::work::locked;

/// The shared attention context: ``S`` ``[dim, dim]``, the running correlation between the input channels of blocks and the output
/// channels of their mixers. A block takes it in by a scalar of its own, ``X' = X + (s/dim)·X·S``. Parameters ``0.scale``,
/// ``1.scale`` …, one for each inlet; they begin at 0.
///
/// ``S`` is no parameter: it is a constant to gradients, and :meth:`update` moves it after a step of training by what
/// :meth:`observe` saw in it. So no token of a sequence reaches an earlier one through it.
///
/// Args:
///     dim: channels: arrays are ``[batch, seq, dim]`` or ``[seq, dim]``.
///     inlets: how many blocks take it in.
///
/// >>> import numpy as np
/// >>> from regard import layers
/// >>> context = layers.SharedAttentionContext(16, inlets=2)
/// >>> x, y = np.random.default_rng(0).standard_normal((2, 3, 40, 16), dtype=np.float32)
/// >>> context.observe(x, y)
/// >>> context.update()
/// >>> bool((context.matrix != 0).all())
/// True
/// >>> np.array_equal(context(x, inlet=1), x)
/// True
#[pyclass(frozen, extends = PyLayer, module = "regard.layers", name = "SharedAttentionContext")]
pub(crate) struct PySharedAttentionContext {
    context: Arc<Mutex<SharedAttentionContext>>,
    inlets: Vec<ContextInlet>,
}

impl PySharedAttentionContext {
    fn bind(&self, py: Python<'_>, x: &Bound<'_, PyAny>, inlet: Option<&Bound<'_, PyAny>>) -> PyResult<Box<dyn Call>> {
        let inlet = inlet.map_or(Ok(0), |inlet| count("inlet", inlet))?;
        let Some(&inlet) = self.inlets.get(inlet) else {
            let inlets = self.inlets.len();
            return Err(PyValueError::new_err(format!("`inlet` is {inlet}; expected below {inlets}, the inlets")));
        };
        let width = locked(py, &self.context)?.width();
        let x = Array::rows("x", x, width, &Tokens::InSequences.axes())?;
        Ok(Box::new(CallOfContext { context: self.context.clone(), inlet, x }))
    }

    /// Counts a change of ``S``: what was kept before is of another one.
    fn changed(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.as_super().as_super().get().lock(slf.py())?.version += 1;
        Ok(())
    }
}

#[pymethods]
impl PySharedAttentionContext {
    #[new]
    #[pyo3(signature = (dim, **settings), text_signature = "(dim, *, inlets=1)")]
    fn new(dim: &Bound<'_, PyAny>, settings: Option<&Bound<'_, PyDict>>) -> PyResult<PyClassInitializer<Self>> {
        let mut settings = Settings::of("SharedAttentionContext", settings)?;
        let (dim, count) = (size("dim", dim)?, settings.size("inlets")?.unwrap_or(1));
        settings.end()?;
        let context = Arc::new(Mutex::new(SharedAttentionContext::new(dim).map_err(refused)?));
        let make = |scope: &mut regard_layers::Scope<'_>| {
            (0..count).map(|inlet| ContextInlet::new(&mut scope.scope(&inlet.to_string()))).collect::<Result<_, _>>()
        };
        let (base, inlets) = PyLayer::of(0, make, |inlets: &Vec<_>| {
            Box::new(OfContext { context: context.clone(), inlet: inlets[0], width: dim })
        })?;
        Ok(base.add_subclass(PySharedAttentionContext { context, inlets }))
    }

    /// What the block of an inlet takes in: ``X + (s/dim)·X·S``.
    #[pyo3(signature = (x, *, inlet=None))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        x: &Bound<'py, PyAny>,
        inlet: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let call = slf.get().bind(slf.py(), x, inlet)?;
        PyLayer::evaluate(slf.as_super(), &*call, x)
    }

    /// The same, for :meth:`backward`.
    #[pyo3(signature = (x, *, inlet=None), text_signature = "($self, x, *, inlet=0)")]
    fn forward<'py>(
        slf: &Bound<'py, Self>,
        x: &Bound<'py, PyAny>,
        inlet: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let call = slf.get().bind(slf.py(), x, inlet)?;
        PyLayer::train(slf.as_super(), call, x)
    }

    /// Takes in how the channels of a block's input go with those of its mixer's results: the mean over the sequences of
    /// ``tanh(x̂ᵢ·ŷⱼ / (‖x̂ᵢ‖·‖ŷⱼ‖))``, centred, at up to 32 rows evenly over all of a sequence.
    ///
    /// Args:
    ///     x: the block's input ``[batch, seq, dim]``.
    ///     y: its mixer's results, in the same shape.
    fn observe(slf: &Bound<'_, Self>, x: &Bound<'_, PyAny>, y: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, own) = (slf.py(), slf.get());
        let width = locked(py, &own.context)?.width();
        let x = Array::rows("x", x, width, &Tokens::InSequences.axes())?;
        let y = Array::read("y", y)?;
        y.expect("y", &x.shape)?;
        let mut module = slf.as_super().as_super().get().lock(py)?;
        let (state, mut context) = (&mut *module, locked(py, &own.context)?);
        let context = &mut *context;
        let work = || {
            let Ground { parameters, workspace, mode } = state.ground(Mode::Evaluation)?;
            let (mut frame, mut pass) = workspace.pass(parameters, mode, context.observe_need())?;
            context.observe(&mut pass, x.size(), &x.numbers, &y.numbers, &mut frame)
        };
        py.detach(work).map_err(refused)
    }

    /// Moves ``S`` by what was observed since the last time: ``S ← (1 − r)·S + r·sim`` for each observation, ``r = 0.01``.
    fn update(slf: &Bound<'_, Self>) -> PyResult<()> {
        PySharedAttentionContext::changed(slf)?;
        locked(slf.py(), &slf.get().context)?.update();
        Ok(())
    }

    /// Forgets what was observed since the last update.
    fn forget(&self, py: Python<'_>) -> PyResult<()> {
        locked(py, &self.context)?.forget();
        Ok(())
    }

    /// ``S`` ``[dim, dim]``, a copy. Assigning another one replaces it and forgets what was observed.
    #[getter]
    fn matrix<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let context = locked(py, &self.context)?;
        let copy = Array::copy(vec![context.width(); 2], context.matrix()).map_err(refused)?;
        copy.give(&py.None().into_bound(py))
    }

    #[setter]
    fn set_matrix(slf: &Bound<'_, Self>, matrix: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let matrix = Array::read("matrix", matrix)?;
        let mut context = locked(py, &slf.get().context)?;
        matrix.expect("matrix", &[context.width(); 2])?;
        context.set_matrix(&matrix.numbers).map_err(refused)?;
        drop(context);
        PySharedAttentionContext::changed(slf)?;
        Ok(())
    }
}

/// The context, by its first inlet.
struct OfContext {
    context: Arc<Mutex<SharedAttentionContext>>,
    inlet: ContextInlet,
    width: usize,
}

impl Function for OfContext {
    fn bind(&self, x: &Bound<'_, PyAny>) -> PyResult<Box<dyn Call>> {
        let x = Array::rows("x", x, self.width, &Tokens::InSequences.axes())?;
        Ok(Box::new(CallOfContext { context: self.context.clone(), inlet: self.inlet, x }))
    }
}

struct CallOfContext {
    context: Arc<Mutex<SharedAttentionContext>>,
    inlet: ContextInlet,
    x: Array,
}

impl CallOfContext {
    fn context(&self) -> MutexGuard<'_, SharedAttentionContext> {
        self.context.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call for CallOfContext {
    fn shape(&self) -> Vec<usize> {
        self.x.shape.clone()
    }

    fn batch(&self) -> usize {
        self.x.size().batch
    }

    fn forward(&self, ground: Ground<'_>) -> Result<Array, Error> {
        let (Ground { parameters, workspace, mode }, context) = (ground, self.context());
        let need = context.need(Size::rows(self.x.size()));
        let (mut tape, mut pass) = workspace.pass(parameters, mode, need)?;
        let out = context.apply(&mut pass, self.inlet, &self.x.numbers, &mut tape)?;
        Array::copy(self.shape(), out)
    }

    fn backward(&self, ground: Ground<'_>, dout: &[f32], gradients: &mut Gradients) -> Result<Vec<Array>, Error> {
        let (Ground { parameters, workspace, mode }, context) = (ground, self.context());
        let need = context.need(Size::rows(self.x.size()));
        let (mut frame, mut pass) = workspace.pass(parameters, mode, need)?;
        let mut d = Array::copy(self.shape(), dout)?;
        context.apply_backward(&mut pass, self.inlet, &self.x.numbers, &mut d.numbers, gradients, &mut frame)?;
        Ok(vec![d])
    }
}
