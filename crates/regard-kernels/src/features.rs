//! Exponentials: of numbers, and of rows, each row's from a place of its own, such as its largest number.

use regard_memory::{Rows, RowsMut};
use regard_simd::{Kernel, Simd, math};

use crate::{COLUMNS, Error, Kernels};

impl Kernels {
    /// The largest number of each row; a NaN may be ignored.
    ///
    /// # Errors
    /// There are fewer maxima than rows.
    pub fn row_maxima(self, x: Rows<'_, f32>, maxima: &mut [f32]) -> Result<(), Error> {
        Error::check_length("maxima of rows", maxima.len(), x.rows())?;
        self.isa().run(RowMaxima { x, maxima });
        Ok(())
    }

    /// `eˣ` of each number, in place.
    pub fn exp(self, numbers: &mut [f32]) {
        let live = numbers.len();
        let x = RowsMut::contiguous(numbers, 1, live).expect("a slice is a row");
        self.isa().run(ExpRows { x, live, shifts: &[0.0], factor: 1.0 });
    }

    /// `x ← factor·e^(x − shiftᵣ)` in the first `live` columns of each row `r`, and 0 in the others.
    ///
    /// # Errors
    /// There are fewer shifts than rows, or fewer columns than that.
    pub fn exp_rows(self, x: RowsMut<'_, f32>, live: usize, shifts: &[f32], factor: f32) -> Result<(), Error> {
        Error::check_length("shifts of rows", shifts.len(), x.rows())?;
        Error::check_length("columns of exponents", x.cols(), live)?;
        self.isa().run(ExpRows { x, live, shifts, factor });
        Ok(())
    }
}

struct RowMaxima<'a> {
    x: Rows<'a, f32>,
    maxima: &'a mut [f32],
}

impl Kernel for RowMaxima<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RowMaxima { x, maxima } = self;
        let whole = x.cols() / S::LANES * S::LANES;
        for (maximum, row) in maxima.iter_mut().zip(x.iter()) {
            let mut most = s.splat(f32::NEG_INFINITY);
            for chunk in row[..whole].chunks_exact(S::LANES) {
                // SAFETY: a chunk holds LANES floats.
                most = s.max(unsafe { s.load(chunk.as_ptr()) }, most);
            }
            *maximum = row[whole..].iter().fold(s.reduce_max(most), |most, &x| if x > most { x } else { most });
        }
    }
}

struct ExpRows<'a> {
    x: RowsMut<'a, f32>,
    live: usize,
    shifts: &'a [f32],
    factor: f32,
}

impl Kernel for ExpRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ExpRows { mut x, live, shifts, factor } = self;
        let factors = s.splat(factor);
        let whole = live / S::LANES * S::LANES;
        for (r, &shift) in shifts.iter().enumerate().take(x.rows()) {
            let row = x.row_mut(r);
            let shift_each = s.splat(shift);
            for chunk in row[..whole].chunks_exact_mut(S::LANES) {
                // SAFETY: a chunk holds LANES floats.
                unsafe {
                    let y = math::exp(s, s.sub(s.load(chunk.as_ptr()), shift_each));
                    s.store(chunk.as_mut_ptr(), s.mul(factors, y));
                }
            }
            let mut tail = [0.0; COLUMNS];
            tail.iter_mut().zip(&row[whole..live]).for_each(|(to, x)| *to = x - shift);
            // SAFETY: a vector is of 16 numbers at most.
            unsafe { s.store(tail.as_mut_ptr(), math::exp(s, s.load(tail.as_ptr()))) };
            row[whole..live].iter_mut().zip(tail).for_each(|(x, y)| *x = factor * y);
            row[live..].fill(0.0);
        }
    }
}
