//! What can go wrong when memory is asked for or looked at.

use std::ops::Range;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why memory could not be had, or a view could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape differs from the one expected.
    #[error("`{tensor}` has shape {has:?}, expected {expected:?}")]
    ShapeMismatch {
        /// Which tensor.
        tensor: &'static str,
        /// The shape it has.
        has: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// The slice behind a view ends before the view's last element.
    #[error("`{tensor}` has {has} elements behind it, but its shape and strides reach over {expected}")]
    TooShort {
        /// Which tensor.
        tensor: &'static str,
        /// Elements in the slice.
        has: usize,
        /// Elements that the shape and strides reach over.
        expected: usize,
    },
    /// Two places of a view to be written are one place in memory, or could not be shown to differ.
    #[error("`{tensor}` is to be written, but shape {shape:?} with strides {strides:?} overlaps itself")]
    Overlap {
        /// Which tensor.
        tensor: &'static str,
        /// Its shape.
        shape: Vec<usize>,
        /// Its strides in elements, without the last axis' stride of one.
        strides: Vec<usize>,
    },
    /// A view runs backwards, or its last axis is not contiguous.
    #[error("`{tensor}` has strides {strides:?}; expected none below zero, and 1 on the last axis")]
    Strides {
        /// Which tensor.
        tensor: &'static str,
        /// Its strides in elements.
        strides: Vec<isize>,
    },
    /// Two stretches that are to be written share rows.
    #[error("rows {first:?} and {second:?} of batch entry {batch} overlap")]
    Stretches {
        /// The batch entry.
        batch: usize,
        /// The stretch that begins first.
        first: Range<usize>,
        /// The other one.
        second: Range<usize>,
    },
    /// A size is larger than the address space.
    #[error("the size of `{what}` overflows")]
    Overflow {
        /// What was being sized.
        what: &'static str,
    },
    /// The system has no more memory.
    #[error("out of memory: {bytes} bytes were refused")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
}

impl Error {
    /// The same error, about the tensor of this name. Views do not know what they hold; their callers do.
    ///
    /// ```
    /// use regard_memory::{Error, Rows};
    ///
    /// let error = Rows::new(&[0.0f32; 5], 2, 3, 3).unwrap_err().named("keys");
    /// assert_eq!(error, Error::TooShort { tensor: "keys", has: 5, expected: 6 });
    /// ```
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        match &mut self {
            Self::ShapeMismatch { tensor, .. }
            | Self::TooShort { tensor, .. }
            | Self::Overlap { tensor, .. }
            | Self::Strides { tensor, .. } => *tensor = name,
            Self::Overflow { what } => *what = name,
            Self::Stretches { .. } | Self::OutOfMemory { .. } => {}
        }
        self
    }
}
