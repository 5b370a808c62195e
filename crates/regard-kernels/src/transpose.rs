//! Matrices turned over, so that a product reads both of its sides in the order of its steps.

use regard_memory::{Rows, RowsMut};
use regard_simd::{Kernel, Simd};

use crate::{Error, Kernels};

impl Kernels {
    /// `to ← fromᵀ`: column `j` of `from [rows, cols]` becomes row `j` of `to [cols, ≥ rows]`. What `to` has behind the last
    /// row of `from` becomes 0.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn transpose(self, from: Rows<'_, f32>, to: RowsMut<'_, f32>) -> Result<(), Error> {
        if to.rows() != from.cols() {
            return Err(Error::Length { name: "rows of a transposed matrix", has: to.rows(), expected: from.cols() });
        }
        Error::check_length("columns of a transposed matrix", to.cols(), from.rows())?;
        self.isa().run(Transpose { from, to });
        Ok(())
    }
}

struct Transpose<'a> {
    from: Rows<'a, f32>,
    to: RowsMut<'a, f32>,
}

impl Kernel for Transpose<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Transpose { from, mut to } = self;
        let (rows, cols) = (from.rows(), from.cols());
        let (whole_rows, whole_cols) = (rows / S::LANES * S::LANES, cols / S::LANES * S::LANES);
        let (from_stride, to_stride) = (from.stride(), to.stride());
        for row in (0..whole_rows).step_by(S::LANES) {
            for col in (0..whole_cols).step_by(S::LANES) {
                // SAFETY: both sides have the square: `to` has a row for each column and columns for all rows
                // (`Kernels::transpose`). Words of 32 bits.
                unsafe {
                    let square = from.as_ptr().add(row * from_stride + col);
                    let turned = to.as_mut_ptr().add(col * to_stride + row);
                    s.transpose(square.cast(), from_stride, turned.cast(), to_stride);
                }
            }
        }
        for col in 0..cols {
            let first = if col < whole_cols { whole_rows } else { 0 };
            let to = to.row_mut(col);
            for (row, to) in to.iter_mut().enumerate().take(rows).skip(first) {
                // SAFETY: a row and a column of `from`.
                *to = unsafe { *from.as_ptr().add(row * from_stride + col) };
            }
            to[rows..].fill(0.0);
        }
    }
}
