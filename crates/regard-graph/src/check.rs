//! What arrays must be like, checked at the door.

use ndarray::{ArrayView, Dimension, IntoDimension};

use crate::Error;

/// An extent that must be another.
pub(crate) fn extent(tensor: &'static str, axis: &'static str, has: usize, expected: usize) -> Result<(), Error> {
    if has == expected {
        return Ok(());
    }
    Err(Error::Axis { tensor, axis, has, expected: expected.to_string() })
}

/// An extent that must not be 0.
pub(crate) fn some(tensor: &'static str, axis: &'static str, has: usize) -> Result<(), Error> {
    if has > 0 {
        return Ok(());
    }
    Err(Error::Axis { tensor, axis, has, expected: "at least 1".into() })
}

/// A number of something that must not be 0.
pub(crate) fn at_least_one(parameter: &'static str, has: usize) -> Result<(), Error> {
    if has > 0 {
        return Ok(());
    }
    Err(Error::Parameter { parameter, has: has.to_string(), expected: "at least 1".into() })
}

/// Numbers that must all be finite.
pub(crate) fn finite<D: Dimension>(tensor: &'static str, array: ArrayView<'_, f32, D>) -> Result<(), Error> {
    match array.indexed_iter().find(|(_, x)| !x.is_finite()) {
        Some((at, &has)) => {
            let at = at.into_dimension().as_array_view().to_vec();
            Err(Error::NotFinite { tensor, has, at })
        }
        None => Ok(()),
    }
}

/// What scores are multiplied by, if it is given: the keys with the largest products are those with the largest scores only
/// where it is positive. What does not fit in f32 attention itself refuses.
pub(crate) fn scale(scale: Option<f64>) -> Result<(), Error> {
    match scale {
        Some(has) if !(has > 0.0 && has.is_finite()) => {
            let expected = "positive and finite".into();
            Err(Error::Parameter { parameter: "scale", has: has.to_string(), expected })
        }
        _ => Ok(()),
    }
}
