//! What can be refused.

/// What no layer can be made of, or cannot compute.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor whose shape does not fit.
    #[error("`{tensor}` has shape {has:?}, expected {expected}")]
    Shape {
        /// Which tensor.
        tensor: String,
        /// The shape it has.
        has: Vec<usize>,
        /// The shape it should have, in words.
        expected: String,
    },
    /// A setting out of its range.
    #[error("{setting} is {has}, it must be {expected}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What it is.
        has: String,
        /// What it may be.
        expected: String,
    },
    /// A tensor's name that cannot be.
    #[error("`{name}` {problem}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file that cannot be read or written.
    #[error("{file}: {problem}")]
    File {
        /// Which one.
        file: String,
        /// What went wrong.
        problem: String,
    },
    /// A gradient that is no finite number.
    #[error("the gradient of `{name}` is not finite")]
    NotFinite {
        /// Of which parameter.
        name: String,
    },
    /// Attention refused its inputs.
    #[error(transparent)]
    Attention(#[from] regard_attention::Error),
    /// A kernel refused its inputs.
    #[error(transparent)]
    Kernel(#[from] regard_kernels::Error),
    /// Memory that cannot be had, or cannot be looked at so.
    #[error(transparent)]
    Memory(#[from] regard_memory::Error),
}

impl Error {
    pub(crate) fn shape(tensor: &str, has: &[usize], expected: String) -> Error {
        Error::Shape { tensor: tensor.to_owned(), has: has.to_vec(), expected }
    }

    pub(crate) fn file(path: &std::path::Path, problem: String) -> Error {
        Error::File { file: path.display().to_string(), problem }
    }

    pub(crate) fn setting(setting: &'static str, has: impl ToString, expected: impl ToString) -> Error {
        Error::Setting { setting, has: has.to_string(), expected: expected.to_string() }
    }
}
