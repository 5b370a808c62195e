//! What sizes and numbers must be like, checked at the door.

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

/// A number within a range that is said in words; NaN is in none.
pub(crate) fn within(parameter: &'static str, has: f64, is_within: bool, expected: &str) -> Result<(), Error> {
    if is_within {
        return Ok(());
    }
    Err(Error::Parameter { parameter, has: has.to_string(), expected: expected.into() })
}
