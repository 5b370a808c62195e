//! Products of small matrices that lie in a core's caches, and triangular systems of them: what a chunk of a recurrence is
//! made of.

use regard_memory::{Rows, RowsMut};
use regard_simd::{Kernel, Simd};

use crate::product::{Accumulators, multiply_add};
use crate::{Bf16, COLUMNS, Error, F32, Kernels, Operand};

/// The left side of a product, in words: numbers in f32, or pairs of bf16.
#[derive(Clone, Copy, Debug)]
pub enum Left<'a, W = f32> {
    /// `A [rows, steps]`.
    Rows(Rows<'a, W>),
    /// `Aᵀ` of this `[steps, rows]`.
    Columns(Rows<'a, W>),
}

/// What of a product is wanted, where its left side or its result is triangular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Band {
    /// All of it.
    Whole,
    /// Of row `r` the columns up to `r`; those behind may be left as they were.
    ColumnsTo,
    /// Of row `r` the steps up to `r`: the left side is lower triangular.
    StepsTo,
    /// Of row `r` the steps from `r` on: the left side is upper triangular.
    StepsFrom,
}

/// What becomes of the numbers that a product is written over.
#[derive(Clone, Copy, Debug)]
pub enum Before<'a> {
    /// They are forgotten.
    Replaced,
    /// The product is added to them.
    Kept,
    /// The product is added to each row times its number.
    Times(&'a [f32]),
}

impl<W> Left<'_, W> {
    /// Rows and steps.
    fn shape(&self) -> (usize, usize) {
        match self {
            Left::Rows(a) => (a.rows(), a.cols()),
            Left::Columns(a) => (a.cols(), a.rows()),
        }
    }

    /// The first word, and how far it is to the next row and step.
    fn place(&self) -> (*const W, (usize, usize)) {
        match self {
            Left::Rows(a) => (a.as_ptr(), (a.stride(), 1)),
            Left::Columns(a) => (a.as_ptr(), (1, a.stride())),
        }
    }
}

impl Kernels {
    /// `C ← before + A·B` in single precision: `A [rows, steps]`, `B [steps, ≥ columns]`, `C [rows, columns]`, `columns` a
    /// multiple of 16.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn multiply(
        self,
        left: Left<'_>,
        right: Rows<'_, f32>,
        band: Band,
        before: Before<'_>,
        out: RowsMut<'_, f32>,
    ) -> Result<(), Error> {
        self.multiply_as::<F32>(left, right, band, before, out)
    }

    /// `C ← before + A·B` of pairs of bf16, accumulated in single precision: a step is a pair, element `2k` of the sum in the low
    /// half of its word `k` ([`Kernels::round_to_bf16`], [`Kernels::pair_rows`]). The sizes are as of [`Kernels::multiply`].
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn multiply_pairs(
        self,
        left: Left<'_, u32>,
        right: Rows<'_, u32>,
        before: Before<'_>,
        out: RowsMut<'_, f32>,
    ) -> Result<(), Error> {
        self.multiply_as::<Bf16>(left, right, Band::Whole, before, out)
    }

    fn multiply_as<E: Operand>(
        self,
        left: Left<'_, E::A>,
        right: Rows<'_, E::B>,
        band: Band,
        before: Before<'_>,
        out: RowsMut<'_, f32>,
    ) -> Result<(), Error> {
        let (rows, steps) = left.shape();
        check_same("rows of a product", out.rows(), rows)?;
        check_same("steps of a product", right.rows(), steps)?;
        Error::check_length("columns of a product", right.cols(), out.cols())?;
        check_columns(out.cols())?;
        if let Before::Times(factors) = before {
            Error::check_length("row factors", factors.len(), rows)?;
        }
        E::run(self.isa(), Multiply::<E> { left, right, band, before, out });
        Ok(())
    }

    /// Solves `(I − T)·X = B` in place: row `i` becomes `xᵢ = bᵢ + Σ_{j<i} Tᵢⱼ·xⱼ`. `T [n, n]` is strictly lower triangular, and
    /// nothing else of it is read; `X [n, columns]`, `columns` a multiple of 16.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn solve(self, t: Rows<'_, f32>, x: RowsMut<'_, f32>) -> Result<(), Error> {
        self.solve_either::<false>(t, x)
    }

    /// Solves `(I − T)ᵀ·X = B` in place: row `i` becomes `xᵢ = bᵢ + Σ_{j>i} Tⱼᵢ·xⱼ`. As [`Kernels::solve`] but for that.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn solve_transposed(self, t: Rows<'_, f32>, x: RowsMut<'_, f32>) -> Result<(), Error> {
        self.solve_either::<true>(t, x)
    }

    fn solve_either<const TRANSPOSED: bool>(self, t: Rows<'_, f32>, x: RowsMut<'_, f32>) -> Result<(), Error> {
        check_same("rows of a triangle", t.rows(), x.rows())?;
        check_same("columns of a triangle", t.cols(), x.rows())?;
        check_columns(x.cols())?;
        self.isa().run(Solve::<TRANSPOSED> { t, x });
        Ok(())
    }
}

fn check_same(name: &'static str, has: usize, expected: usize) -> Result<(), Error> {
    if has == expected { Ok(()) } else { Err(Error::Length { name, has, expected }) }
}

fn check_columns(columns: usize) -> Result<(), Error> {
    match columns.is_multiple_of(COLUMNS) {
        true => Ok(()),
        false => Err(Error::Size { name: "columns of a product", has: columns, expected: "a multiple of 16" }),
    }
}

/// Rows of the tile that begins where so many rows are left: six, and at the end four, two and one. The same for every kernel
/// of this file.
fn tile_rows(left: usize) -> usize {
    match left {
        0..=1 => left,
        2..=3 => 2,
        4..=5 => 4,
        _ => 6,
    }
}

/// Calls a body for a tile of rows and for vectors of columns side by side: as many of both as there are, up to what the
/// registers hold. Gives the vectors.
macro_rules! for_tile {
    ($s:ty, $e:ty, $rows:expr, $vectors:expr, $body:ident($($argument:expr),*)) => {{
        let (rows, vectors): (usize, usize) = ($rows, $vectors);
        macro_rules! with_rows {
            ($w:literal) => {
                match rows {
                    6 => $body::<$s, $e, 6, $w>($($argument),*),
                    4 => $body::<$s, $e, 4, $w>($($argument),*),
                    2 => $body::<$s, $e, 2, $w>($($argument),*),
                    _ => $body::<$s, $e, 1, $w>($($argument),*),
                }
            };
        }
        match vectors.min(<$s>::STRIPS) {
            4 if <$s>::STRIPS >= 4 => { with_rows!(4); 4 }
            3 if <$s>::STRIPS >= 4 => { with_rows!(3); 3 }
            0 | 1 => { with_rows!(1); 1 }
            _ => { with_rows!(2); 2 }
        }
    }};
}

struct Multiply<'a, E: Operand> {
    left: Left<'a, E::A>,
    right: Rows<'a, E::B>,
    band: Band,
    before: Before<'a>,
    out: RowsMut<'a, f32>,
}

impl<E: Operand> Kernel for Multiply<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Multiply { left, right, band, before, mut out } = self;
        let ((rows, steps), (a, strides)) = (left.shape(), left.place());
        let (columns, stride) = (out.cols(), out.stride());
        let mut row = 0;
        while row < rows {
            let count = tile_rows(rows - row);
            let end = row + count;
            // The steps of all rows of the tile; those of some stand before or behind them.
            let (first, last) = match band {
                Band::StepsTo => (0, row.min(steps)),
                Band::StepsFrom => (end.min(steps), steps),
                _ => (0, steps),
            };
            let columns = if band == Band::ColumnsTo { end.next_multiple_of(S::LANES).min(columns) } else { columns };
            let mut column = 0;
            while column < columns {
                // SAFETY: `Kernels::multiply_as` has checked that the rows, steps and columns exist on all sides; the tile ends
                // within them, and `first ≤ steps`.
                unsafe {
                    let product = Product::<E> {
                        steps: last - first,
                        a: a.add(row * strides.0 + first * strides.1),
                        strides,
                        b: right.as_ptr().add(first * right.stride() + column),
                        b_step: right.stride(),
                    };
                    // The corner of the triangle.
                    let corner = Product {
                        steps: steps.saturating_sub(row).min(count),
                        a: a.wrapping_add(row * (strides.0 + strides.1)),
                        b: right.as_ptr().wrapping_add(row * right.stride() + column),
                        ..product
                    };
                    let c = out.as_mut_ptr().add(row * stride + column);
                    let vectors = (columns - column) / S::LANES;
                    column += S::LANES
                        * for_tile!(S, E, count, vectors, tile(s, product, corner, band, before, row, c, stride));
                }
            }
            row = end;
        }
    }
}

/// One product of a tile.
#[derive(Clone, Copy)]
struct Product<E: Operand> {
    steps: usize,
    a: *const E::A,
    strides: (usize, usize),
    b: *const E::B,
    b_step: usize,
}

/// # Safety
/// All that the products name is readable, `R` rows of `W` vectors at `c` are writable, and factors are those of the rows from
/// `row` on.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the innermost level: everything is a pointer or a count")]
unsafe fn tile<S: Simd, E: Operand, const R: usize, const W: usize>(
    s: S,
    product: Product<E>,
    corner: Product<E>,
    band: Band,
    before: Before<'_>,
    row: usize,
    c: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums: Accumulators<S, R, W> = match before {
            Before::Replaced => [[s.splat(0.0); W]; R],
            _ => load(s, c, stride),
        };
        if let Before::Times(factors) = before {
            for (r, sums) in sums.iter_mut().enumerate() {
                let factor = s.splat(*factors.get_unchecked(row + r));
                sums.iter_mut().for_each(|sum| *sum = s.mul(factor, *sum));
            }
        }
        if band == Band::StepsFrom {
            sums = add_corner::<S, E, R, W, false>(s, corner, sums);
        }
        let Product { steps, a, strides, b, b_step } = product;
        sums = multiply_add::<S, E, R, W>(s, steps, a, strides, b, b_step, sums);
        if band == Band::StepsTo {
            sums = add_corner::<S, E, R, W, true>(s, corner, sums);
        }
        store(s, &sums, c, stride);
    }
}

/// Adds of a square the lower triangle, or the upper one, and nothing of the other: what a step there holds may be no number.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn add_corner<S: Simd, E: Operand, const R: usize, const W: usize, const LOWER: bool>(
    s: S,
    corner: Product<E>,
    mut sums: Accumulators<S, R, W>,
) -> Accumulators<S, R, W> {
    for step in 0..corner.steps {
        for (r, sums) in sums.iter_mut().enumerate() {
            if (LOWER && r < step) || (!LOWER && r > step) {
                continue;
            }
            // SAFETY: the caller's.
            unsafe {
                let factor = E::spread(s, corner.a.add(r * corner.strides.0 + step * corner.strides.1));
                let b = corner.b.add(step * corner.b_step);
                for (w, sum) in sums.iter_mut().enumerate() {
                    *sum = E::multiply_add(s, *sum, factor, E::load(s, b.add(w * S::LANES)));
                }
            }
        }
    }
    sums
}

/// # Safety
/// `R` rows of `W` vectors at `c` are writable.
#[inline(always)]
unsafe fn store<S: Simd, const R: usize, const W: usize>(
    s: S,
    sums: &Accumulators<S, R, W>,
    c: *mut f32,
    stride: usize,
) {
    for (r, sums) in sums.iter().enumerate() {
        for (w, &sum) in sums.iter().enumerate() {
            // SAFETY: the caller's.
            unsafe { s.store(c.add(r * stride + w * S::LANES), sum) };
        }
    }
}

struct Solve<'a, const TRANSPOSED: bool> {
    t: Rows<'a, f32>,
    x: RowsMut<'a, f32>,
}

impl<const TRANSPOSED: bool> Kernel for Solve<'_, TRANSPOSED> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Solve { t, mut x } = self;
        let (n, columns, stride) = (x.rows(), x.cols(), x.stride());
        let (t, t_stride) = (t.as_ptr(), t.stride());
        let x = x.as_mut_ptr();
        let mut done = 0;
        while done < n {
            let count = tile_rows(n - done);
            // The rows that are known, and those of the tile.
            let (known, first) = if TRANSPOSED { (n - done, n - done - count) } else { (0, done) };
            let mut column = 0;
            while column < columns {
                // SAFETY: `solve_either` has checked that `T` is `n` by `n`, and the tile's rows and columns are within `X`; of
                // the step where nothing is known yet, nothing is read.
                unsafe {
                    let (a, strides) = match TRANSPOSED {
                        true => (t.add((known * t_stride + first) * usize::from(done > 0)), (1, t_stride)),
                        false => (t.add(first * t_stride), (t_stride, 1)),
                    };
                    let b = x.add((known * stride) * usize::from(done > 0) + column).cast_const();
                    let product = Product::<F32> { steps: done, a, strides, b, b_step: stride };
                    let within = t.add(first * t_stride + first);
                    let c = x.add(first * stride + column);
                    let vectors = (columns - column) / S::LANES;
                    let unknown = (within, t_stride, TRANSPOSED);
                    column += S::LANES * for_tile!(S, F32, count, vectors, substitute(s, product, unknown, c, stride));
                }
            }
            done += count;
        }
    }
}

/// `x += T·known`, then each row of the tile takes those before it; or, `transposed`, `x += Tᵀ·known`, and each takes those
/// behind it.
///
/// # Safety
/// As [`tile`]; `within` is the tile's own triangle, rows `t_stride` apart.
#[inline(always)]
unsafe fn substitute<S: Simd, E: Operand<A = f32, B = f32>, const R: usize, const W: usize>(
    s: S,
    Product { steps, a, strides, b, b_step }: Product<E>,
    (within, t_stride, transposed): (*const f32, usize, bool),
    c: *mut f32,
    stride: usize,
) {
    let turned = |r: usize| if transposed { R - 1 - r } else { r };
    // SAFETY: the caller's.
    unsafe {
        let sums = load::<S, R, W>(s, c, stride);
        let mut x = multiply_add::<S, E, R, W>(s, steps, a, strides, b, b_step, sums);
        for done in 1..R {
            let r = turned(done);
            for known in (0..done).map(turned) {
                let at = if transposed { known * t_stride + r } else { r * t_stride + known };
                let (factor, known) = (s.splat(*within.add(at)), x[known]);
                x[r].iter_mut().zip(known).for_each(|(x, known)| *x = s.fma(factor, known, *x));
            }
        }
        store(s, &x, c, stride);
    }
}

/// # Safety
/// `R` rows of `W` vectors at `c` are readable.
#[inline(always)]
unsafe fn load<S: Simd, const R: usize, const W: usize>(s: S, c: *const f32, stride: usize) -> Accumulators<S, R, W> {
    let mut sums: Accumulators<S, R, W> = [[s.splat(0.0); W]; R];
    for (r, sums) in sums.iter_mut().enumerate() {
        for (w, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's.
            *sum = unsafe { s.load(c.add(r * stride + w * S::LANES)) };
        }
    }
    sums
}
