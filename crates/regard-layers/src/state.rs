//! What recurrences remember.

use crate::{Error, Size};

/// Numbers that each sequence of a batch has, all 0 before its first token.
#[derive(Clone, Debug)]
pub(crate) struct BatchState {
    batch: usize,
    numbers: Vec<f32>,
}

impl BatchState {
    /// `each` numbers of each sequence.
    pub(crate) fn new(batch: usize, each: usize) -> Result<BatchState, Error> {
        let mut numbers = Vec::new();
        let len = batch.checked_mul(each).filter(|&len| numbers.try_reserve_exact(len).is_ok());
        let Some(len) = len else {
            return Err(Error::setting(
                "batch",
                batch,
                format!("so small that there is memory for {each} numbers each"),
            ));
        };
        numbers.resize(len, 0.0);
        Ok(BatchState { batch, numbers })
    }

    pub(crate) fn numbers(&self) -> &[f32] {
        &self.numbers
    }

    pub(crate) fn numbers_mut(&mut self) -> &mut [f32] {
        &mut self.numbers
    }

    pub(crate) fn replace(&mut self, numbers: &[f32]) {
        self.numbers.copy_from_slice(numbers);
    }

    pub(crate) fn clear(&mut self) {
        self.numbers.fill(0.0);
    }

    /// Refuses a batch of another size, and numbers of another layer.
    pub(crate) fn check(&self, size: Size, expected: usize) -> Result<(), Error> {
        if size.batch != self.batch {
            return Err(Error::setting("batch", size.batch, format!("{}, as of the state", self.batch)));
        }
        if self.numbers.len() != expected {
            let expected = format!("[{expected}], as the layer's");
            return Err(Error::shape("state", &[self.numbers.len()], expected));
        }
        Ok(())
    }
}
