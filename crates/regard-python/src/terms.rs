//! What joins the scores of a call.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use regard_attention::{Real, Shape, Terms};
use regard_memory::Tensor;

use crate::arrays::Copies;
use crate::dtype::{Scalar, with_type};
use crate::error::of_attention;
use crate::foreign::{AXES, View};
use crate::numbers::widened;
use crate::options::Call;

/// What joins the scores, in the numbers of a call.
pub(crate) struct OwnTerms<'py, W> {
    bias: Option<Bias<'py, W>>,
    slopes: Option<Vec<W>>,
    pub(crate) sinks: Option<Vec<W>>,
    ids: Option<Vec<u64>>,
}

/// A bias where it lies, or in numbers of another type with its shape and its axes.
enum Bias<'py, W> {
    Borrowed(View<'py>),
    Converted(Vec<W>, [usize; AXES], usize),
}

impl<'py, W: Scalar<Wide = W>> OwnTerms<'py, W> {
    pub(crate) fn of(call: &Call<'py>, shape: Shape) -> PyResult<Self> {
        let Shape { batch, heads, queries, keys, .. } = shape;
        for (name, numbers) in [("alibi", &call.slopes), ("sinks", &call.sinks)] {
            if let Some(has) = numbers.as_ref().map(Vec::len).filter(|&has| has != heads) {
                return Err(PyValueError::new_err(format!("`{name}` has {has} numbers, expected {heads}, one a head")));
            }
        }
        let steep = |slope: &&f64| !W::wide(**slope).to_f64().is_finite();
        if let Some(slope) = call.slopes.iter().flatten().find(steep) {
            let problem = format!("`alibi` holds {slope:e}; expected slopes that are finite in {}", W::DTYPE.name());
            return Err(PyValueError::new_err(problem));
        }
        let bias = match &call.bias {
            None => None,
            Some(bias) => {
                let view = View::of("bias", bias)?;
                // Before it is copied: a view may repeat one number more often than memory can hold it.
                let expected = [batch, heads, queries, keys];
                if view.shape4().iter().zip(expected).any(|(&has, expected)| has != 1 && has != expected) {
                    let problem = format!("`bias` has shape {:?}; expected {expected:?}, or 1 for any", view.shape());
                    return Err(PyValueError::new_err(problem));
                }
                if view.dtype == W::DTYPE {
                    Some(Bias::Borrowed(view.readable(call.copies)?))
                } else if call.copies == Copies::Refused {
                    let (has, expected) = (view.dtype.name(), W::DTYPE.name());
                    return Err(PyTypeError::new_err(format!(
                        "`bias` has dtype {has}, expected {expected}: convert it"
                    )));
                } else {
                    let numbers = with_type!(view.dtype, T => {
                        view.read_as::<T, _>(|x| W::wide(Real::to_f64(x)))?
                    });
                    Some(Bias::Converted(numbers, view.shape4(), view.axes()))
                }
            }
        };
        let (slopes, sinks) = (widened::<W>(call.slopes.as_ref()), widened::<W>(call.sinks.as_ref()));
        Ok(OwnTerms { bias, slopes, sinks, ids: call.sequence_ids.clone() })
    }

    pub(crate) fn terms(&self) -> PyResult<Terms<'_, W>> {
        let bias = match &self.bias {
            None => None,
            Some(Bias::Borrowed(view)) => Some(view.tensor::<W>()?),
            Some(Bias::Converted(numbers, shape, _)) => {
                Some(Tensor::contiguous(numbers, *shape).map_err(|error| of_attention(error.named("bias").into()))?)
            }
        };
        let (slopes, sinks) = (self.slopes.as_deref(), self.sinks.as_deref());
        Ok(Terms { bias, slopes, sinks, sequence_ids: self.ids.as_deref() })
    }

    /// All views that are read, with those of others.
    pub(crate) fn inputs<'a>(&'a self, others: impl IntoIterator<Item = &'a View<'py>>) -> Vec<&'a View<'py>> {
        let bias = match &self.bias {
            Some(Bias::Borrowed(view)) => Some(view),
            _ => None,
        };
        others.into_iter().chain(bias).collect()
    }

    pub(crate) fn bias_shape(&self) -> Option<([usize; AXES], usize)> {
        match &self.bias {
            None => None,
            Some(Bias::Borrowed(view)) => Some((view.shape4(), view.axes())),
            Some(Bias::Converted(_, shape, axes)) => Some((*shape, *axes)),
        }
    }
}
