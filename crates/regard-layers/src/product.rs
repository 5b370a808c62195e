//! The matrix product under every linear layer, and under both of its gradients: `Y = X·Wᵀ`, `dX = dY·W`, `dW += dYᵀ·X`.
//!
//! After Goto and van de Geijn ("Anatomy of high-performance matrix multiplication", 2008): a block of the right side is
//! packed into panels that stay in the second-level cache, and the rows of the left side go by. What is transposed is
//! turned over on the way, a block at a time, so there is one loop for all forms.
//!
//! An element of the result is one chain of fused multiply-adds over the steps in their order, whatever the blocks: its
//! bits depend on its row, its column and what it began with, and not on threads, sizes or the rows beside it.
//!
//! In bf16 a step is a pair of them: a block of either side is rounded to pairs when it is packed, and all else is the same.

mod plan;
mod task;
mod word;

use std::ops::Range;

use regard_kernels::Kernels;
use regard_memory::{Frame, Need, Rows, RowsMut};
use regard_threads::Pool;

use crate::Error;
use plan::Plan;
use task::Task;
use word::Word;

/// One side of a product, as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub enum Side<'a> {
    /// The matrix itself.
    AsIs(Rows<'a, f32>),
    /// The matrix that is this one transposed.
    Transposed(Rows<'a, f32>),
}

impl Side<'_> {
    /// Rows and columns of the matrix that is meant.
    fn shape(&self) -> (usize, usize) {
        match self {
            Side::AsIs(x) => (x.rows(), x.cols()),
            Side::Transposed(x) => (x.cols(), x.rows()),
        }
    }

    /// Whether it is to be turned over.
    fn is_transposed(&self) -> bool {
        matches!(self, Side::Transposed(_))
    }
}

impl<'a> Side<'a> {
    /// A part of the matrix that is meant.
    fn block(self, rows: Range<usize>, cols: Range<usize>) -> Side<'a> {
        match self {
            Side::AsIs(x) => Side::AsIs(x.block(rows, cols)),
            Side::Transposed(x) => Side::Transposed(x.block(cols, rows)),
        }
    }
}

/// What the sides of a product are rounded to before they are multiplied. Sums are in f32, and so is what goes in and comes out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Nothing: they are in f32.
    #[default]
    F32,
    /// The nearest bf16, to even between two: 8 bits of a number are left, and all of its range.
    Bf16,
}

/// What the product is added to.
#[derive(Clone, Copy, Debug)]
pub enum Before<'a> {
    /// Nothing: what the result held is forgotten.
    Replaced,
    /// What the result holds.
    Kept,
    /// A number for each column, the same in all rows; what the result held is forgotten.
    Bias(&'a [f32]),
}

/// Multiplies: on an instruction set, on threads, in a precision.
///
/// ```
/// use regard_kernels::Kernels;
/// use regard_layers::{Before, Multiplier, Side};
/// use regard_memory::{Arena, Rows, RowsMut};
/// use regard_simd::Isa;
/// use regard_threads::Pool;
///
/// let (pool, mut arena) = (Pool::new(2)?, Arena::new());
/// let multiplier = Multiplier::new(Kernels::new(Isa::best()), &pool);
/// // A linear layer: two tokens of three features, one output.
/// let (x, weight, bias) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, -1.0], [10.0]);
/// let mut y = [0.0; 2];
/// multiplier.multiply(
///     Side::AsIs(Rows::contiguous(&x, 2, 3)?),
///     Side::Transposed(Rows::contiguous(&weight, 1, 3)?),
///     Before::Bias(&bias),
///     RowsMut::contiguous(&mut y, 2, 1)?,
///     &mut arena.frame(multiplier.need(2, 1, 3))?,
/// )?;
/// assert_eq!(y, [8.0, 8.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Multiplier<'p> {
    kernels: Kernels,
    pool: &'p Pool,
    precision: Precision,
}

impl<'p> Multiplier<'p> {
    /// One in f32.
    pub fn new(kernels: Kernels, pool: &'p Pool) -> Multiplier<'p> {
        Multiplier { kernels, pool, precision: Precision::F32 }
    }

    /// The same in another precision.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Multiplier<'p> {
        Multiplier { precision, ..self }
    }

    /// The scratch that [`Multiplier::multiply`] takes for `[m, k]·[k, n]`, in any form.
    pub fn need(&self, m: usize, n: usize, k: usize) -> Need {
        let threads = self.pool.threads();
        match self.precision {
            Precision::F32 => [false, true]
                .into_iter()
                .fold(Need::NONE, |need, turned| need.or(Plan::of::<f32>([m, n, k], turned, threads).need())),
            Precision::Bf16 => Plan::of::<u32>([m, n, k], true, threads).need(),
        }
    }

    /// `C ← before + A·B`: `A [m, k]`, `B [k, n]`, `C [m, n]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    ///
    /// # Panics
    /// If `frame` has less than [`Multiplier::need`].
    pub fn multiply(
        &self,
        a: Side<'_>,
        b: Side<'_>,
        before: Before<'_>,
        c: RowsMut<'_, f32>,
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        check(a, b, before, &c)?;
        match self.precision {
            Precision::F32 => self.run::<f32>(a, b, before, c, frame),
            Precision::Bf16 => self.run::<u32>(a, b, before, c, frame),
        }
        Ok(())
    }

    fn run<W: Word>(&self, a: Side<'_>, b: Side<'_>, before: Before<'_>, c: RowsMut<'_, f32>, frame: &mut Frame<'_>) {
        let ((m, k), n) = (a.shape(), b.shape().1);
        let plan = Plan::of::<W>([m, n, k], a.is_transposed(), self.pool.threads());
        let task = Task { kernels: self.kernels, a, b, before, plan };
        let workers = frame.scope().split(self.pool.threads(), plan.worker());
        self.pool.run_in(workers, c.grid_parts(plan.rows, plan.columns), |frame, _, (place, c)| {
            task.run::<W>(place, c, &mut frame.scope());
        });
    }
}

fn check(a: Side<'_>, b: Side<'_>, before: Before<'_>, c: &RowsMut<'_, f32>) -> Result<(), Error> {
    let ((m, k), (steps, n)) = (a.shape(), b.shape());
    let wrong =
        |tensor: &str, has: Vec<usize>, expected| Err(Error::Shape { tensor: tensor.to_owned(), has, expected });
    if steps != k {
        let expected = format!("[{k}, {n}], as the left side has shape [{m}, {k}]");
        return wrong("right side of a product", vec![steps, n], expected);
    }
    if (c.rows(), c.cols()) != (m, n) {
        let expected = format!("[{m}, {n}], as the sides have shapes [{m}, {k}] and [{k}, {n}]");
        return wrong("result of a product", vec![c.rows(), c.cols()], expected);
    }
    match before {
        Before::Bias(bias) if bias.len() != n => {
            wrong("bias", vec![bias.len()], format!("[{n}], as the result has shape [{m}, {n}]"))
        }
        _ => Ok(()),
    }
}
