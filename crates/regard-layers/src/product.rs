//! The matrix product under every linear layer, and under both of its gradients: `Y = X·Wᵀ`, `dX = dY·W`, `dW += dYᵀ·X`.
//!
//! After Goto and van de Geijn ("Anatomy of high-performance matrix multiplication", 2008): a block of the right side is
//! packed into panels that stay in the second-level cache, and the rows of the left side go by. What is transposed is
//! turned over on the way, a block at a time, so there is one loop for all forms.
//!
//! An element of the result is one chain of fused multiply-adds over the steps in their order, whatever the blocks: its
//! bits depend on its row, its column and what it began with, and not on threads, sizes or the rows beside it.

mod plan;
mod task;

use regard_kernels::Kernels;
use regard_memory::{Frame, Need, Rows, RowsMut};
use regard_threads::Pool;

use crate::Error;
use plan::Plan;
use task::Task;

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

/// The scratch that [`multiply`] takes for `[m, k]·[k, n]`, in any form.
pub fn product_need(m: usize, n: usize, k: usize, threads: usize) -> Need {
    [false, true].into_iter().fold(Need::NONE, |need, turned| need.or(Plan::new(m, n, k, turned, threads).need()))
}

/// `C ← before + A·B`: `A [m, k]`, `B [k, n]`, `C [m, n]`.
///
/// ```
/// use regard_kernels::Kernels;
/// use regard_layers::{Before, Side, multiply, product_need};
/// use regard_memory::{Arena, Rows, RowsMut};
/// use regard_simd::Isa;
/// use regard_threads::Pool;
///
/// let (pool, mut arena) = (Pool::new(2)?, Arena::new());
/// // A linear layer: two tokens of three features, one output.
/// let (x, weight, bias) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, -1.0], [10.0]);
/// let mut y = [0.0; 2];
/// multiply(
///     Kernels::new(Isa::best()),
///     &pool,
///     Side::AsIs(Rows::contiguous(&x, 2, 3)?),
///     Side::Transposed(Rows::contiguous(&weight, 1, 3)?),
///     Before::Bias(&bias),
///     RowsMut::contiguous(&mut y, 2, 1)?,
///     &mut arena.frame(product_need(2, 1, 3, pool.threads()))?,
/// )?;
/// assert_eq!(y, [8.0, 8.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The shapes do not fit.
///
/// # Panics
/// If `frame` has less than [`product_need`].
pub fn multiply(
    kernels: Kernels,
    pool: &Pool,
    a: Side<'_>,
    b: Side<'_>,
    before: Before<'_>,
    c: RowsMut<'_, f32>,
    frame: &mut Frame<'_>,
) -> Result<(), Error> {
    let ((m, k), n) = (a.shape(), b.shape().1);
    check(a, b, before, &c)?;
    let plan = Plan::new(m, n, k, a.is_transposed(), pool.threads());
    let task = Task { kernels, a, b, before, plan };
    let workers = frame.scope().split(pool.threads(), plan.worker());
    pool.run_in(workers, c.grid_parts(plan.rows, plan.columns), |frame, _, (place, c)| {
        task.run(place, c, &mut frame.scope());
    });
    Ok(())
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
