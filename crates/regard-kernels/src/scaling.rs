//! What a recurrence does to rows beside its products: it scales them, adds them up, and takes their dot products.

use regard_memory::{Rows, RowsMut};
use regard_simd::{Kernel, Simd, math};

use crate::{COLUMNS, Error, Kernels, Number};

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
        self.isa().run(ScaleRows { from, scaling, to });
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
        self.isa().run(AddScaledRows { from, scaling, to });
        Ok(())
    }

    /// `eˣ` of each number, in place.
    pub fn exp(self, numbers: &mut [f32]) {
        self.isa().run(Exp(numbers));
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

struct ScaleRows<'a, T> {
    from: Rows<'a, T>,
    scaling: Scaling<'a>,
    to: RowsMut<'a, f32>,
}

impl<T: Number> Kernel for ScaleRows<'_, T> {
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
                // SAFETY: `at + LANES ≤ columns`, which all rows have (`Kernels::scale_rows`).
                unsafe {
                    let factor = match factors {
                        Some(factors) => s.load(factors.as_ptr().add(at)),
                        None => s.splat(one),
                    };
                    s.store(out.as_mut_ptr().add(at), s.mul(factor, T::load(s, row.as_ptr().add(at))));
                }
            }
            for c in whole..columns {
                out[c] = row[c].to_f32() * factors.map_or(one, |factors| factors[c]);
            }
            out[columns..].fill(0.0);
        }
        for r in from.rows()..to.rows() {
            to.row_mut(r).fill(0.0);
        }
    }
}

struct Exp<'a>(&'a mut [f32]);

impl Kernel for Exp<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut chunks = self.0.chunks_exact_mut(S::LANES);
        for chunk in &mut chunks {
            // SAFETY: every chunk holds LANES floats.
            unsafe { s.store(chunk.as_mut_ptr(), math::exp(s, s.load(chunk.as_ptr()))) };
        }
        let rest = chunks.into_remainder();
        let mut tail = [0.0; COLUMNS];
        tail[..rest.len()].copy_from_slice(rest);
        // SAFETY: a vector is of 16 numbers at most.
        unsafe { s.store(tail.as_mut_ptr(), math::exp(s, s.load(tail.as_ptr()))) };
        rest.copy_from_slice(&tail[..rest.len()]);
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

struct AddScaledRows<'a> {
    from: Rows<'a, f32>,
    scaling: Scaling<'a>,
    to: RowsMut<'a, f32>,
}

impl Kernel for AddScaledRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AddScaledRows { from, scaling, mut to } = self;
        let columns = to.cols();
        let whole = columns / S::LANES * S::LANES;
        for r in 0..to.rows() {
            let (row, to) = (from.row(r), to.row_mut(r));
            let (factors, one) = scaling.of(r);
            for at in (0..whole).step_by(S::LANES) {
                // SAFETY: `at + LANES ≤ columns`, which all rows have (`Kernels::add_scaled_rows`).
                unsafe {
                    let factor = match factors {
                        Some(factors) => s.load(factors.as_ptr().add(at)),
                        None => s.splat(one),
                    };
                    let p = to.as_mut_ptr().add(at);
                    s.store(p, s.fma(factor, s.load(row.as_ptr().add(at)), s.load(p)));
                }
            }
            for c in whole..columns {
                to[c] += row[c] * factors.map_or(one, |factors| factors[c]);
            }
        }
    }
}
