//! Matrices as products read them: turned over, and two rows as one of pairs.

use regard_memory::{Pod, Rows, RowsMut};
use regard_simd::{Kernel, Simd};

use crate::{Bf16, Error, Kernels, Operand, PANEL};

impl Kernels {
    /// `to ← fromᵀ`: column `j` of `from [rows, cols]` becomes row `j` of `to [cols, ≥ rows]`. What `to` has behind the last
    /// row of `from` becomes 0. A word is a number in f32 or a pair of bf16: 32 bits.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn transpose<W: Pod>(self, from: Rows<'_, W>, to: RowsMut<'_, W>) -> Result<(), Error> {
        const { assert!(size_of::<W>() == 4) };
        if to.rows() != from.cols() {
            return Err(Error::Length { name: "rows of a transposed matrix", has: to.rows(), expected: from.cols() });
        }
        Error::check_length("columns of a transposed matrix", to.cols(), from.rows())?;
        self.isa().run(Transpose { from, to });
        Ok(())
    }

    /// Rounds every two rows of `from [rows, cols]` to a row of pairs of bf16 of `to [⌈rows / 2⌉, ≥ cols]`, the nearest ones: the
    /// first of the two to the low halves. Beside an odd last row stands 0, and 0 is what `to` has behind the columns of `from`.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn pair_rows(self, from: Rows<'_, f32>, to: RowsMut<'_, u32>) -> Result<(), Error> {
        let expected = from.rows().div_ceil(Bf16::DEPTH);
        if to.rows() != expected {
            return Err(Error::Length { name: "rows of pairs", has: to.rows(), expected });
        }
        Error::check_length("columns of pairs", to.cols(), from.cols())?;
        self.isa().run_bf16(PairRows { from, to });
        Ok(())
    }
}

struct Transpose<'a, W> {
    from: Rows<'a, W>,
    to: RowsMut<'a, W>,
}

impl<W: Pod> Kernel for Transpose<'_, W> {
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
            to[rows..].fill(W::zeroed());
        }
    }
}

struct PairRows<'a> {
    from: Rows<'a, f32>,
    to: RowsMut<'a, u32>,
}

impl Kernel for PairRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PairRows { from, to } = self;
        let whole = from.cols() / S::LANES * S::LANES;
        let rest = from.cols() - whole;
        for (pair, to) in to.into_rows().enumerate() {
            let even = from.row(2 * pair);
            let odd = (2 * pair + 1 < from.rows()).then(|| from.row(2 * pair + 1));
            let (body, end) = to.split_at_mut(whole);
            pair_vectors(s, &even[..whole], odd.map(|odd| &odd[..whole]), body);
            // The end of a row as vectors too: the bits of a number do not depend on where it stands.
            let last =
                |row: &[f32]| -> [f32; PANEL] { std::array::from_fn(|i| row[whole..].get(i).copied().unwrap_or(0.0)) };
            let mut words = [0; PANEL];
            if rest > 0 {
                pair_vectors(s, &last(even), odd.map(last).as_ref().map(|odd| &odd[..]), &mut words);
            }
            end[..rest].copy_from_slice(&words[..rest]);
            end[rest..].fill(0);
        }
    }
}

/// Rounds two rows of whole vectors to pairs; where there is no second one, with 0.
#[inline(always)]
fn pair_vectors<S: Simd>(s: S, even: &[f32], odd: Option<&[f32]>, to: &mut [u32]) {
    for at in (0..to.len()).step_by(S::LANES) {
        // SAFETY: a vector of each slice.
        unsafe {
            let even = s.load(even[at..][..S::LANES].as_ptr());
            let odd = match odd {
                Some(odd) => s.load(odd[at..][..S::LANES].as_ptr()),
                None => s.splat(0.0),
            };
            s.store_i32(to[at..][..S::LANES].as_mut_ptr().cast(), s.pair_bf16(even, odd));
        }
    }
}
