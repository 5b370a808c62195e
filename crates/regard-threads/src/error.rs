//! Why there is no pool.

use std::io;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a pool could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A pool has at least one thread, its caller's, and a bounded number of others.
    #[error("a pool of {asked} threads was asked for; it has from 1 to {most}")]
    Threads {
        /// Threads asked for.
        asked: usize,
        /// The most that a pool may have.
        most: usize,
    },
    /// The setting `REGARD_THREADS` is not a number of threads.
    #[error("REGARD_THREADS is {value:?}; expected a whole number from 1 to {most}")]
    Setting {
        /// What it is set to.
        value: String,
        /// The most that a pool may have.
        most: usize,
    },
    /// The system refused a thread.
    #[error("a thread could not be started")]
    Spawn(#[source] io::Error),
}
