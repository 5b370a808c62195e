//! What can be wrong with a kernel's arguments.

/// An argument does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A slice is shorter or longer than the shapes say.
    #[error("{name} holds {has} elements, {expected} were expected")]
    Length {
        /// The argument.
        name: &'static str,
        /// What it has.
        has: usize,
        /// What the shapes ask for.
        expected: usize,
    },
    /// A size is outside of what the kernel takes.
    #[error("{name} is {has}, it must be {expected}")]
    Size {
        /// The argument.
        name: &'static str,
        /// What it is.
        has: usize,
        /// What is allowed, in words.
        expected: &'static str,
    },
    /// Memory for a result could not be had.
    #[error(transparent)]
    Memory(#[from] regard_memory::Error),
}

impl Error {
    /// Whether a slice holds what a kernel reads or writes. Longer is fine: a buffer may be used for less than it holds.
    pub(crate) fn check_length(name: &'static str, has: usize, expected: usize) -> Result<(), Error> {
        if has >= expected { Ok(()) } else { Err(Error::Length { name, has, expected }) }
    }

    /// Whether a slice is as long as another, number beside number.
    pub(crate) fn check_same(name: &'static str, has: usize, expected: usize) -> Result<(), Error> {
        if has == expected { Ok(()) } else { Err(Error::Length { name, has, expected }) }
    }
}
