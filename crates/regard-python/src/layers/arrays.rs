//! Arrays as layers take them and give them: f32 without gaps, of up to four axes.

use std::ops::RangeInclusive;

use ndarray::{ArrayView3, ArrayView4, ArrayViewD, IxDyn};
use numpy::{PyArray1, PyArrayMethods, PyUntypedArray};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use regard_layers::{Error, Size};

use crate::arrays::{Copies, room};
use crate::dtype::Dtype;
use crate::error::of_memory;
use crate::foreign::{Torch, View};

/// Numbers, and how they lie.
pub(super) struct Array {
    pub(super) shape: Vec<usize>,
    pub(super) numbers: Vec<f32>,
}

impl Array {
    /// Zeros.
    ///
    /// # Errors
    /// There is no memory for them.
    pub(super) fn zeros(shape: Vec<usize>) -> Result<Array, Error> {
        let mut numbers = room(&shape)?;
        numbers.resize(shape.iter().product(), 0.0);
        Ok(Array { shape, numbers })
    }

    /// A copy of numbers, as many as the shape says.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn copy(shape: Vec<usize>, from: &[f32]) -> Result<Array, Error> {
        let mut numbers = room(&shape)?;
        numbers.extend_from_slice(from);
        Ok(Array { shape, numbers })
    }

    /// What an array of the caller holds.
    ///
    /// # Errors
    /// `TypeError` where it is no array of float32 on the CPU; `ValueError` where it has more than four axes.
    pub(super) fn read(name: &'static str, object: &Bound<'_, PyAny>) -> PyResult<Array> {
        let view = View::of(name, object)?.readable(Copies::Allowed)?;
        if view.dtype != Dtype::F32 {
            let has = view.dtype.name();
            return Err(PyTypeError::new_err(format!(
                "`{name}` has dtype {has}; layers compute in float32: .astype(numpy.float32) or .float() converts it"
            )));
        }
        let tensor = view.tensor::<f32>()?;
        let [batch, heads, ..] = tensor.shape();
        let mut numbers = room(view.shape()).map_err(of_memory)?;
        for rows in (0..batch).flat_map(|b| (0..heads).map(move |h| tensor.rows(b, h))) {
            rows.iter().for_each(|row| numbers.extend_from_slice(row));
        }
        Ok(Array { shape: view.shape().to_vec(), numbers })
    }

    /// What an array of rows holds, whose last axis is `width`, of so many axes.
    ///
    /// # Errors
    /// As [`Array::read`]; and `ValueError` where it has another shape.
    pub(super) fn rows(
        name: &'static str,
        object: &Bound<'_, PyAny>,
        width: usize,
        axes: &RangeInclusive<usize>,
    ) -> PyResult<Array> {
        let array = Array::read(name, object)?;
        if axes.contains(&array.shape.len()) && array.shape.last() == Some(&width) {
            return Ok(array);
        }
        let expected = match *axes.start() {
            1 => format!("[..., {width}]"),
            _ => format!("[batch, tokens, {width}] or [tokens, {width}]"),
        };
        Err(PyValueError::new_err(format!("`{name}` has shape {:?}; expected {expected}", array.shape)))
    }

    /// Refuses an array of another shape.
    ///
    /// # Errors
    /// `ValueError`.
    pub(super) fn expect(&self, name: &str, expected: &[usize]) -> PyResult<()> {
        if self.shape == expected {
            return Ok(());
        }
        Err(PyValueError::new_err(format!("`{name}` has shape {:?}; expected {expected:?}", self.shape)))
    }

    /// The sequences and tokens of rows; without an axis of sequences there is one.
    pub(super) fn size(&self) -> Size {
        match self.shape[..] {
            [.., batch, tokens, _] => Size { batch, tokens },
            [tokens, _] => Size { batch: 1, tokens },
            _ => Size { batch: 1, tokens: 1 },
        }
    }

    /// Rows that have nothing to do with each other.
    pub(super) fn apart(&self) -> Size {
        let rows = self.shape.split_last().map_or(1, |(_, rows)| rows.iter().product());
        Size { batch: 1, tokens: rows }
    }

    /// The shape of rows of another width in these places.
    pub(super) fn shape_of_width(&self, width: usize) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = width;
        }
        shape
    }

    /// As `[batch, tokens, width]`.
    pub(super) fn view3(&self) -> ArrayView3<'_, f32> {
        let Size { batch, tokens } = self.size();
        let width = self.shape.last().copied().unwrap_or(1);
        ArrayView3::from_shape((batch, tokens, width), &self.numbers).expect("as many numbers as the shape says")
    }

    /// As `[batch, tokens, heads, dim]`, of which the batch may be missing.
    pub(super) fn view4(&self) -> ArrayView4<'_, f32> {
        let [batch, tokens, heads, dim] = match self.shape[..] {
            [batch, tokens, heads, dim] => [batch, tokens, heads, dim],
            [tokens, heads, dim] => [1, tokens, heads, dim],
            _ => [1, 1, 1, self.numbers.len()],
        };
        let shape = (batch, tokens, heads, dim);
        ArrayView4::from_shape(shape, &self.numbers).expect("as many numbers as the shape says")
    }

    /// An array of the kind of `like`, be that an array of numbers or of tokens.
    pub(super) fn give<'py>(self, like: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = like.py();
        let array = PyArray1::from_vec(py, self.numbers).reshape(IxDyn(&self.shape))?.into_any();
        if like.is_instance_of::<PyUntypedArray>() {
            return Ok(array);
        }
        if Torch::get(py)?.is_some() {
            let torch = py.import(intern!(py, "torch"))?;
            if like.is_instance(&torch.getattr(intern!(py, "Tensor"))?)? {
                return torch.call_method1(intern!(py, "from_numpy"), (array,));
            }
        }
        if like.hasattr(intern!(py, "__array_namespace__"))? {
            let namespace = like.call_method0(intern!(py, "__array_namespace__"))?;
            return namespace.call_method1(intern!(py, "asarray"), (array,));
        }
        Ok(array)
    }
}

/// A NumPy array of its own with these numbers.
pub(super) fn numpy_copy<'py>(py: Python<'py>, view: &ArrayViewD<'_, f32>) -> PyResult<Bound<'py, PyAny>> {
    let mut numbers: Vec<f32> = room(view.shape()).map_err(of_memory)?;
    numbers.extend(view.iter());
    Ok(PyArray1::from_vec(py, numbers).reshape(IxDyn(view.shape()))?.into_any())
}
