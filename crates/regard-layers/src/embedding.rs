//! A row for each token of a vocabulary.

use regard_memory::chunks_of;

use crate::{Error, Gradients, Initial, Parameter, Pass, Scope};

/// Numbers of a task.
const BLOCK: usize = 1 << 13;

/// A table of rows, one for each number: of tokens, or of positions. Parameter `weight [count, width]`.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    weight: Parameter,
    count: usize,
    width: usize,
}

impl Embedding {
    /// A table whose numbers begin so.
    ///
    /// # Errors
    /// The scope has such a parameter, or there is no memory for it.
    pub fn new(scope: &mut Scope<'_>, count: usize, width: usize, initial: Initial) -> Result<Embedding, Error> {
        Ok(Embedding { weight: scope.add("weight", &[count, width], initial)?, count, width })
    }

    /// Rows of the table.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Numbers of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The table itself: `[count, width]`.
    pub fn weight(&self) -> Parameter {
        self.weight
    }

    /// Writes the rows of these numbers to `out [numbers, width]`.
    ///
    /// # Errors
    /// A number is beyond the table, or `out` has another size.
    pub fn forward(&self, pass: &Pass<'_>, numbers: &[u32], out: &mut [f32]) -> Result<(), Error> {
        self.check(numbers, out.len())?;
        let (width, table) = (self.width, pass.parameters.of(self.weight));
        let rows = (BLOCK / width.max(1)).max(1);
        pass.pool.run(chunks_of(out, (rows * width).max(1)), |index, out| {
            for (out, &number) in out.chunks_exact_mut(width).zip(&numbers[index * rows..]) {
                out.copy_from_slice(&table[number as usize * width..][..width]);
            }
        });
        Ok(())
    }

    /// Adds the gradients of the rows of these numbers, `dout [numbers, width]`, to those of the table, in their order.
    ///
    /// # Errors
    /// As [`Embedding::forward`].
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        numbers: &[u32],
        dout: &[f32],
        gradients: &mut Gradients,
    ) -> Result<(), Error> {
        self.check(numbers, dout.len())?;
        let (width, table) = (self.width, gradients.of_mut(self.weight));
        for (dout, &number) in dout.chunks_exact(width.max(1)).zip(numbers) {
            pass.kernels.add(dout, &mut table[number as usize * width..][..width])?;
        }
        Ok(())
    }

    /// Refuses numbers beyond the table.
    pub(crate) fn check_numbers(&self, numbers: &[u32]) -> Result<(), Error> {
        match numbers.iter().find(|&&number| number as usize >= self.count) {
            Some(number) => {
                Err(Error::setting("token", number, format!("below {}, the rows of the table", self.count)))
            }
            None => Ok(()),
        }
    }

    fn check(&self, numbers: &[u32], len: usize) -> Result<(), Error> {
        self.check_numbers(numbers)?;
        if len != numbers.len().saturating_mul(self.width) {
            let expected = format!("[{}, {}]", numbers.len(), self.width);
            return Err(Error::shape("rows of an embedding", &[len], expected));
        }
        Ok(())
    }
}
