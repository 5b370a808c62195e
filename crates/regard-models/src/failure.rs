//! The first error among tasks that run side by side.

use std::sync::Mutex;

use crate::{Error, Result};

/// Keeps the first error that a task reports.
#[derive(Default)]
pub(crate) struct Failure(Mutex<Option<Error>>);

impl Failure {
    /// Reports how a task went.
    pub(crate) fn note<T>(&self, result: Result<T, impl Into<Error>>) {
        if let Err(error) = result {
            let mut first = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            first.get_or_insert_with(|| error.into());
        }
    }

    /// The first error, if there was one.
    pub(crate) fn into_result(self) -> Result<()> {
        self.0.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).map_or(Ok(()), Err)
    }
}
