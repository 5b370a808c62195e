//! What all that learns has in common: named parameters, their gradients, and memory to work in.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping, PyString};
use regard_layers::{Error, Gradients, Mode, Parameters, Precision, Scope, Workspace};
use regard_threads::Pool;

use super::arrays::{Array, numpy_copy};
use super::error::{not_written, refused};
use crate::error::check_readable;
use crate::work::locked;

/// What learns: the base of all layers and models.
#[pyclass(frozen, subclass, module = "regard.layers", name = "Module")]
pub(crate) struct PyModule(Mutex<State>);

/// What a module has.
pub(super) struct State {
    pub(super) parameters: Parameters,
    /// None as long as nobody has asked.
    gradients: Option<Gradients>,
    workspace: Workspace,
    pool: &'static Pool,
    precision: Precision,
    /// Counts the changes of what is computed: a tape that was kept before one is of another function.
    pub(super) version: u64,
}

impl State {
    fn new(parameters: Parameters, precision: Precision) -> PyResult<State> {
        let pool = Pool::global();
        let workspace = Workspace::new().map_err(refused)?.with_precision(precision);
        Ok(State { parameters, gradients: None, workspace, pool, precision, version: 0 })
    }

    /// What a pass goes over and works in.
    ///
    /// # Errors
    /// `REGARD_ISA` names what this CPU does not have.
    pub(super) fn ground(&mut self, mode: Mode) -> Result<Ground<'_>, Error> {
        // As many threads as calls have now.
        if !std::ptr::eq(self.pool, Pool::global()) {
            self.pool = Pool::global();
            self.workspace = Workspace::new()?.with_precision(self.precision);
        }
        Ok(Ground { parameters: &self.parameters, workspace: &mut self.workspace, mode })
    }

    /// The same, and where gradients go.
    ///
    /// # Errors
    /// There is no memory for them.
    pub(super) fn with_gradients(&mut self, mode: Mode) -> Result<(Ground<'_>, &mut Gradients), Error> {
        self.ground(mode)?;
        let gradients = match &mut self.gradients {
            Some(gradients) => gradients,
            none => none.insert(Gradients::new(&self.parameters)?),
        };
        Ok((Ground { parameters: &self.parameters, workspace: &mut self.workspace, mode }, gradients))
    }

    /// What an optimiser's step goes over.
    ///
    /// # Errors
    /// As [`State::with_gradients`].
    pub(super) fn learning(&mut self) -> Result<(&mut Parameters, &mut Gradients, &Workspace), Error> {
        self.with_gradients(Mode::Evaluation)?;
        let gradients = self.gradients.as_mut().expect("they were made above");
        Ok((&mut self.parameters, gradients, &self.workspace))
    }

    /// Makes all gradients 0.
    pub(super) fn clear_gradients(&mut self) {
        self.gradients.iter_mut().for_each(Gradients::clear);
    }
}

/// What a pass goes over and works in.
pub(super) struct Ground<'w> {
    pub(super) parameters: &'w Parameters,
    pub(super) workspace: &'w mut Workspace,
    pub(super) mode: Mode,
}

impl PyModule {
    /// A module whose parameters are drawn by a seed, and what `make` makes of them.
    pub(super) fn with<T>(
        seed: u64,
        precision: Precision,
        make: impl FnOnce(&mut Parameters) -> Result<T, Error>,
    ) -> PyResult<(PyModule, T)> {
        let mut parameters = Parameters::new(seed);
        let made = make(&mut parameters).map_err(refused)?;
        Ok((PyModule(Mutex::new(State::new(parameters, precision)?)), made))
    }

    /// The same of a layer, whose parameters have names of their own.
    pub(super) fn of<T>(seed: u64, make: impl FnOnce(&mut Scope<'_>) -> Result<T, Error>) -> PyResult<(PyModule, T)> {
        PyModule::with(seed, Precision::F32, |parameters| make(&mut parameters.root()))
    }

    pub(super) fn lock(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, State>> {
        locked(py, &self.0)
    }
}

/// Writes what a mapping holds over the parameters, or nothing where a name or a shape does not fit.
fn load(py: Python<'_>, module: &PyModule, state: &Bound<'_, PyAny>, strict: bool) -> PyResult<()> {
    let Ok(mapping) = state.cast::<PyMapping>() else {
        return Err(crate::error::wrong_type("state", "a mapping of names to arrays", state));
    };
    let mut arrays = Vec::new();
    for item in mapping.items()? {
        let (name, array): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        let name = name.cast::<PyString>().map_err(|_| PyTypeError::new_err("names of parameters are strings"))?;
        arrays.push((name.to_str()?.to_owned(), array));
    }
    let mut own = module.lock(py)?;
    let missing = own.parameters.names().find(|name| !arrays.iter().any(|(has, _)| has == name));
    if let (Some(name), true) = (missing, strict) {
        return Err(PyValueError::new_err(format!("there is no `{name}` among the parameters that were given")));
    }
    let mut numbers = Vec::new();
    for (name, array) in &arrays {
        let Some(has) = own.parameters.get(name) else {
            if !strict {
                continue;
            }
            let names: Vec<&str> = own.parameters.names().collect();
            let problem = format!("there is no parameter `{name}`; there are {}", names.join(", "));
            return Err(PyValueError::new_err(problem));
        };
        let array = Array::read("parameter", array).map_err(|error| named(py, name, &error))?;
        array.expect(name, has.shape())?;
        numbers.push((name, array.numbers));
    }
    for (name, numbers) in numbers {
        let mut to = own.parameters.get_mut(name).expect("it was found above");
        to.iter_mut().zip(numbers).for_each(|(to, number)| *to = number);
    }
    own.version += 1;
    Ok(())
}

/// An error of one of several arrays.
fn named(py: Python<'_>, name: &str, error: &PyErr) -> PyErr {
    let text = format!("{name}: {}", error.value(py));
    if error.is_instance_of::<PyTypeError>(py) { PyTypeError::new_err(text) } else { PyValueError::new_err(text) }
}

#[pymethods]
impl PyModule {
    /// What is learned, by name: NumPy arrays with copies of the numbers. Assigning a mapping with all names, of NumPy arrays or
    /// tensors, replaces the numbers, as :meth:`load_state_dict` does.
    #[getter]
    fn parameters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (state, all) = (self.lock(py)?, PyDict::new(py));
        for name in state.parameters.names() {
            let view = state.parameters.get(name).expect("it is a name of one");
            all.set_item(name, numpy_copy(py, &view)?)?;
        }
        Ok(all)
    }

    #[setter]
    fn set_parameters(&self, py: Python<'_>, parameters: &Bound<'_, PyAny>) -> PyResult<()> {
        load(py, self, parameters, true)
    }

    /// The gradients of the parameters, by name, summed over all backward passes since :meth:`zero_gradients`: NumPy arrays with
    /// copies of the numbers.
    #[getter]
    fn gradients<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let mut state = self.lock(py)?;
        let (ground, gradients) = state.with_gradients(Mode::Evaluation).map_err(refused)?;
        let all = PyDict::new(py);
        for name in ground.parameters.names() {
            let view = gradients.get(ground.parameters, name).expect("it is a name of one");
            all.set_item(name, numpy_copy(py, &view)?)?;
        }
        Ok(all)
    }

    /// Makes all gradients 0.
    fn zero_gradients(&self, py: Python<'_>) -> PyResult<()> {
        self.lock(py)?.clear_gradients();
        Ok(())
    }

    /// How many numbers are learned.
    #[getter]
    fn num_parameters(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.lock(py)?.parameters.count())
    }

    /// Replaces the numbers of parameters; where one does not fit, none.
    ///
    /// Args:
    ///     state: a mapping of names to NumPy arrays or tensors of float32, each in the shape that :attr:`parameters` has.
    ///     strict: False leaves parameters alone that the mapping lacks, and ignores names that there are not.
    #[pyo3(signature = (state, *, strict=true))]
    fn load_state_dict(&self, py: Python<'_>, state: &Bound<'_, PyAny>, strict: bool) -> PyResult<()> {
        load(py, self, state, strict)
    }

    /// Draws all parameters again, as they were at first.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.lock(py)?;
        state.parameters.reset();
        state.version += 1;
        Ok(())
    }

    /// Writes the parameters to a file of safetensors, all of it or nothing.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let state = self.lock(py)?;
        py.detach(|| state.parameters.save(&path)).map_err(not_written)
    }

    /// Reads the parameters from a file of safetensors. Others that it holds are left alone.
    ///
    /// Raises:
    ///     OSError: there is no such file, or it cannot be read.
    ///     ValueError: it lacks a parameter, or has one in another shape; then nothing has changed.
    fn load(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        check_readable(&path)?;
        let mut guard = self.lock(py)?;
        let state = &mut *guard;
        py.detach(|| state.parameters.load(&path)).map_err(refused)?;
        state.version += 1;
        Ok(())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let state = slf.get().lock(slf.py())?;
        let (class, tensors, numbers) =
            (slf.get_type().name()?, state.parameters.names().count(), state.parameters.count());
        Ok(format!("<{class}: {numbers} parameters in {tensors} tensors>"))
    }
}
