//! What can be refused.

use crate::grid::{MAX_KEYS, MAX_RUNS};

/// What no picture can be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to draw.
    #[error("picture: {n_q} queries × {n_k} keys; expected at least one of each")]
    Empty {
        /// Queries to draw.
        n_q: usize,
        /// Keys to draw.
        n_k: usize,
    },
    /// More keys than are drawn.
    #[error("keys: {n_k}; a picture is made of at most {MAX_KEYS}")]
    TooManyKeys {
        /// Keys to draw.
        n_k: usize,
    },
    /// More runs of keys than are worth counting for a picture.
    #[error("picture: {n_q} queries × {n_k} keys may have more than {MAX_RUNS} runs of keys; draw fewer")]
    TooManyRuns {
        /// Queries to draw.
        n_q: usize,
        /// Keys to draw.
        n_k: usize,
    },
    /// A size that no picture has.
    #[error("style: {what} {has}; expected {expected}")]
    Style {
        /// The field.
        what: &'static str,
        /// What it is.
        has: usize,
        /// What it may be.
        expected: String,
    },
}
