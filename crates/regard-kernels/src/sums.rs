//! Sums of slices and of rows into others, and of squares: gradients that meet, and their norm.

use regard_memory::Rows;
use regard_simd::{Kernel, Simd};

use crate::each::{each, fold};
use crate::{Error, Kernels};

/// Numbers whose squares are summed in f32, in four sums a lane.
const BLOCK: usize = 2048;

impl Kernels {
    /// `Σ x²`: in f32 over blocks, which are added up in f64. A NaN gives NaN, and a number whose square is beyond f32 gives
    /// ∞. A square below f32 counts as 0.
    ///
    /// ```
    /// use regard_kernels::Kernels;
    /// use regard_simd::Isa;
    ///
    /// assert_eq!(Kernels::new(Isa::best()).sum_of_squares(&[3.0, 4.0]), 25.0);
    /// ```
    pub fn sum_of_squares(self, x: &[f32]) -> f64 {
        self.isa().run(SumOfSquares(x))
    }

    /// `y += x`.
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn add(self, x: &[f32], y: &mut [f32]) -> Result<(), Error> {
        Error::check_same("what is added", x.len(), y.len())?;
        self.isa().run(Add([x], y));
        Ok(())
    }

    /// `y += a·x`.
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn add_scaled(self, a: f32, x: &[f32], y: &mut [f32]) -> Result<(), Error> {
        Error::check_same("what is added", x.len(), y.len())?;
        self.isa().run(AddScaled(a, x, y));
        Ok(())
    }

    /// `y += a∘x`, number by number.
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn add_products(self, a: &[f32], x: &[f32], y: &mut [f32]) -> Result<(), Error> {
        Error::check_same("factors", a.len(), y.len())?;
        Error::check_same("what is added", x.len(), y.len())?;
        self.isa().run(AddProducts(a, x, y));
        Ok(())
    }

    /// `out += Σ rows`, one row after the other: the gradient of a bias. A column's bits do not depend on the columns beside
    /// it, so they may be shared out.
    ///
    /// ```
    /// use regard_kernels::Kernels;
    /// use regard_memory::Rows;
    /// use regard_simd::Isa;
    ///
    /// let mut out = [0.5, 0.0];
    /// Kernels::new(Isa::best()).add_rows(Rows::contiguous(&[1.0, 2.0, 3.0, 4.0], 2, 2)?, &mut out)?;
    /// assert_eq!(out, [4.5, 6.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if `out` has not as many numbers as a row.
    pub fn add_rows(self, rows: Rows<'_, f32>, out: &mut [f32]) -> Result<(), Error> {
        Error::check_same("sums of columns", out.len(), rows.cols())?;
        // Four at a time, so that the sums are read and written a quarter as often.
        let whole = rows.rows() / 4 * 4;
        for r in (0..whole).step_by(4) {
            self.isa().run(Add([0, 1, 2, 3].map(|i| rows.row(r + i)), out));
        }
        for r in whole..rows.rows() {
            self.isa().run(Add([rows.row(r)], out));
        }
        Ok(())
    }
}

struct SumOfSquares<'a>(&'a [f32]);

impl Kernel for SumOfSquares<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let mut sum = 0.0;
        let (blocks, rest) = self.0.as_chunks::<BLOCK>();
        for block in blocks {
            // Four quarters in step: a sum waits for the one before.
            let (left, right) = block.split_at(BLOCK / 2);
            let ((a, b), (c, d)) = (left.split_at(BLOCK / 4), right.split_at(BLOCK / 4));
            let [a, b, c, d] = fold(
                s,
                [a, b, c, d],
                0.0,
                [s.splat(0.0); 4],
                #[inline(always)]
                |[p, q, r, t], [a, b, c, d]| [s.fma(a, a, p), s.fma(b, b, q), s.fma(c, c, r), s.fma(d, d, t)],
            );
            sum += f64::from(s.reduce_add(s.add(s.add(a, b), s.add(c, d))));
        }
        let [squares] = fold(
            s,
            [rest],
            0.0,
            [s.splat(0.0)],
            #[inline(always)]
            |[squares], [x]| [s.fma(x, x, squares)],
        );
        sum + f64::from(s.reduce_add(squares))
    }
}

/// `y += x`, for each `x` in turn.
struct Add<'a, const N: usize>([&'a [f32]; N], &'a mut [f32]);

impl<const N: usize> Kernel for Add<'_, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        each(
            s,
            self.0,
            [self.1],
            #[inline(always)]
            |all, [mut y]| {
                for x in all {
                    y = s.add(y, x);
                }
                [y]
            },
        );
    }
}

struct AddScaled<'a>(f32, &'a [f32], &'a mut [f32]);

impl Kernel for AddScaled<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AddScaled(a, x, y) = self;
        let a = s.splat(a);
        each(
            s,
            [x],
            [y],
            #[inline(always)]
            |[x], [y]| [s.fma(a, x, y)],
        );
    }
}

struct AddProducts<'a>(&'a [f32], &'a [f32], &'a mut [f32]);

impl Kernel for AddProducts<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        each(
            s,
            [self.0, self.1],
            [self.2],
            #[inline(always)]
            |[a, x], [y]| [s.fma(a, x, y)],
        );
    }
}
