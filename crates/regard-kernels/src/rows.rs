//! What is done to the rows of a matrix: they are scaled, added to others, and multiplied with them.

use regard_memory::{Rows, RowsMut};
use regard_simd::{Kernel, Simd};

use crate::{Error, Kernels, Number};

/// What a matrix is multiplied by, number by number.
#[derive(Clone, Copy, Debug)]
pub enum Scaling<'a> {
    /// All by one number.
    All(f32),
    /// Each row by its own.
    Rows(&'a [f32]),
    /// Each number by its own.
    Each(Rows<'a, f32>),
}

impl<'a> Scaling<'a> {
    fn check(&self, rows: usize, cols: usize) -> Result<(), Error> {
        match self {
            Scaling::All(_) => Ok(()),
            Scaling::Rows(factors) => Error::check_length("row factors", factors.len(), rows),
            Scaling::Each(factors) => {
                Error::check_length("rows of factors", factors.rows(), rows)?;
                Error::check_length("columns of factors", factors.cols(), cols)
            }
        }
    }

    /// The factors of a row: each its own, or one for all.
    #[inline(always)]
    fn of(&self, row: usize) -> (Option<&'a [f32]>, f32) {
        match self {
            Scaling::All(factor) => (None, *factor),
            Scaling::Rows(factors) => (None, factors[row]),
            Scaling::Each(factors) => (Some(factors.row(row)), 1.0),
        }
    }
}

impl Kernels {
    /// Writes `scaling ∘ from` in single precision into the upper left of `to`, and 0 elsewhere.
    ///
    /// # Errors
    /// `to` or the scaling is smaller than `from`.
    pub fn scale_rows<T: Number>(
        self,
        from: Rows<'_, T>,
        scaling: Scaling<'_>,
        to: RowsMut<'_, f32>,
    ) -> Result<(), Error> {
        Error::check_length("rows of a scaled matrix", to.rows(), from.rows())?;
        Error::check_length("columns of a scaled matrix", to.cols(), from.cols())?;
        scaling.check(from.rows(), from.cols())?;
        self.isa().run(ScaleRows::<T, false> { from, scaling, to });
        Ok(())
    }

    /// `to += scaling ∘ from`.
    ///
    /// # Errors
    /// `from` or the scaling is smaller than `to`.
    pub fn add_scaled_rows(self, from: Rows<'_, f32>, scaling: Scaling<'_>, to: RowsMut<'_, f32>) -> Result<(), Error> {
        Error::check_length("rows of what is added", from.rows(), to.rows())?;
        Error::check_length("columns of what is added", from.cols(), to.cols())?;
        scaling.check(to.rows(), to.cols())?;
        let from = from.block(0..to.rows(), 0..to.cols());
        self.isa().run(ScaleRows::<f32, true> { from, scaling, to });
        Ok(())
    }

    /// `sumsᵣ += Σ x·y` over the columns of each row `r`.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn add_dots(self, x: Rows<'_, f32>, y: Rows<'_, f32>, sums: &mut [f32]) -> Result<(), Error> {
        Error::check_length("rows of a dot product", y.rows(), x.rows())?;
        Error::check_length("columns of a dot product", y.cols(), x.cols())?;
        Error::check_length("sums of rows", sums.len(), x.rows())?;
        self.isa().run(AddDots { x, y, sums });
        Ok(())
    }
}

/// Scaled rows, which are added to what stands there or take its place; then what is beyond them becomes 0.
struct ScaleRows<'a, T, const ADD: bool> {
    from: Rows<'a, T>,
    scaling: Scaling<'a>,
    to: RowsMut<'a, f32>,
}

impl<T: Number, const ADD: bool> Kernel for ScaleRows<'_, T, ADD> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ScaleRows { from, scaling, mut to } = self;
        let columns = from.cols();
        let whole = columns / S::LANES * S::LANES;
        for r in 0..from.rows() {
            let (row, out) = (from.row(r), to.row_mut(r));
            let (factors, one) = scaling.of(r);
            for at in (0..whole).step_by(S::LANES) {
                // SAFETY: `at + LANES ≤ columns`, which all rows have (`Kernels::scale_rows`, `Kernels::add_scaled_rows`).
                unsafe {
                    let factor = match factors {
                        Some(factors) => s.load(factors.as_ptr().add(at)),
                        None => s.splat(one),
                    };
                    let (x, p) = (T::load(s, row.as_ptr().add(at)), out.as_mut_ptr().add(at));
                    s.store(p, if ADD { s.fma(factor, x, s.load(p)) } else { s.mul(factor, x) });
                }
            }
            for c in whole..columns {
                let x = row[c].to_f32() * factors.map_or(one, |factors| factors[c]);
                out[c] = if ADD { out[c] + x } else { x };
            }
            // Nothing, where rows are added.
            out[columns..].fill(0.0);
        }
        for r in from.rows()..to.rows() {
            to.row_mut(r).fill(0.0);
        }
    }
}

struct AddDots<'a> {
    x: Rows<'a, f32>,
    y: Rows<'a, f32>,
    sums: &'a mut [f32],
}

impl Kernel for AddDots<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AddDots { x, y, sums } = self;
        let whole = x.cols() / S::LANES * S::LANES;
        for (r, sum) in sums.iter_mut().enumerate().take(x.rows()) {
            let (x, y) = (x.row(r), y.row(r));
            let mut dots = s.splat(0.0);
            for at in (0..whole).step_by(S::LANES) {
                // SAFETY: `at + LANES` columns, which both have (`Kernels::add_dots`).
                dots = unsafe { s.fma(s.load(x.as_ptr().add(at)), s.load(y.as_ptr().add(at)), dots) };
            }
            let tail: f32 = x[whole..].iter().zip(&y[whole..]).map(|(x, y)| x * y).sum();
            *sum += s.reduce_add(dots) + tail;
        }
    }
}
