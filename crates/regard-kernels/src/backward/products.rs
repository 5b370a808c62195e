//! The three products of the backward pass: over the rows of a block for keys and values, over its keys for queries.

use std::ops::Range;

use regard_simd::{Kernel, Simd};

use super::pairs::{Of, Pairs, Region, Transposable};
use crate::product::{Accumulators, multiply_add};
use crate::{COLUMNS, Error, Kernels, Operand, PANEL, ROWS};

impl Kernels {
    /// `dV += Pᵀ·dO` over a region of pairs.
    ///
    /// - `output_gradients`: `dO`, `[⌈rows / DEPTH⌉][width]` packed as values are, for the rows of the block;
    /// - `sums`: `[keys][width]` in f32, for the keys of the block.
    ///
    /// # Errors
    /// The region is not within the pairs or begins within a step, a slice is too short, or `width` is no multiple of 16.
    pub fn add_value_gradients<E: Transposable>(
        self,
        pairs: &Pairs<'_, E>,
        region: Region<'_>,
        output_gradients: &[E::B],
        width: usize,
        sums: &mut [f32],
    ) -> Result<(), Error> {
        self.add_over_rows(Of::Weights, pairs, region, output_gradients, width, sums)
    }

    /// `dK += dsᵀ·Q` over a region of pairs, without the factor `scale`.
    ///
    /// - `queries`: `[⌈rows / DEPTH⌉][width]` packed as values are, for the rows of the block;
    /// - `sums`: `[keys][width]` in f32, for the keys of the block.
    ///
    /// # Errors
    /// As [`Kernels::add_value_gradients`].
    pub fn add_key_gradients<E: Transposable>(
        self,
        pairs: &Pairs<'_, E>,
        region: Region<'_>,
        queries: &[E::B],
        width: usize,
        sums: &mut [f32],
    ) -> Result<(), Error> {
        self.add_over_rows(Of::Gradients, pairs, region, queries, width, sums)
    }

    fn add_over_rows<E: Transposable>(
        self,
        of: Of,
        pairs: &Pairs<'_, E>,
        region: Region<'_>,
        b: &[E::B],
        width: usize,
        sums: &mut [f32],
    ) -> Result<(), Error> {
        let (rows, keys) = region.check(pairs)?;
        check_sides::<E>("packed rows", b, rows, sums, keys, width)?;
        match region {
            Region::Whole { rows, keys } => {
                check_first::<E>("first row", &rows)?;
                E::over_rows(self.isa(), OverRows { of, pairs, rows, keys, b, width, sums });
            }
            Region::Kept { row, panel, live } => {
                check_first::<E>("first row", &(row..row))?;
                super::kept::add_over_rows::<E>(self.isa(), pairs.columns(panel, of), row, panel, live, b, width, sums);
            }
        }
        Ok(())
    }

    /// `dQ += ds·K` over a region of pairs, without the factor `scale`.
    ///
    /// - `keys`: `[⌈keys / DEPTH⌉][width]` packed as values are, for the keys of the block;
    /// - `sums`: `[rows][width]` in f32, for the rows of the block.
    ///
    /// # Errors
    /// As [`Kernels::add_value_gradients`].
    pub fn add_query_gradients<E: Transposable>(
        self,
        pairs: &Pairs<'_, E>,
        region: Region<'_>,
        keys: &[E::B],
        width: usize,
        sums: &mut [f32],
    ) -> Result<(), Error> {
        let (last_row, last_key) = region.check(pairs)?;
        check_sides::<E>("packed keys", keys, last_key, sums, last_row, width)?;
        match region {
            Region::Whole { rows, keys: of_keys } => {
                check_first::<E>("first key", &of_keys)?;
                E::over_keys(self.isa(), OverKeys { pairs, rows, keys: of_keys, b: keys, width, sums });
            }
            Region::Kept { row, panel, live } => {
                let a = pairs.gradient_rows(panel);
                super::kept::add_over_keys::<E>(self.isa(), a, row, panel, live, keys, width, sums);
            }
        }
        Ok(())
    }
}

/// `b` has `steps_of` rows in steps, and `sums` has `lines` rows, `width` wide both.
fn check_sides<E: Transposable>(
    name: &'static str,
    b: &[E::B],
    steps_of: usize,
    sums: &[f32],
    lines: usize,
    width: usize,
) -> Result<(), Error> {
    if !width.is_multiple_of(COLUMNS) {
        return Err(Error::Size { name: "gradient width", has: width, expected: "a multiple of 16" });
    }
    Error::check_length(name, b.len(), steps_of.div_ceil(E::DEPTH).saturating_mul(width))?;
    Error::check_length("gradient sums", sums.len(), lines.saturating_mul(width))
}

fn check_first<E: Transposable>(name: &'static str, range: &Range<usize>) -> Result<(), Error> {
    if range.start.is_multiple_of(E::DEPTH) {
        Ok(())
    } else {
        Err(Error::Size { name, has: range.start, expected: "a whole number of steps" })
    }
}

pub struct OverRows<'t, 'a, E: Transposable> {
    of: Of,
    pairs: &'t Pairs<'a, E>,
    rows: Range<usize>,
    keys: Range<usize>,
    b: &'t [E::B],
    width: usize,
    sums: &'t mut [f32],
}

impl<E: Transposable> Kernel for OverRows<'_, '_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let OverRows { of, pairs, rows, keys, b, width, sums } = self;
        let first = rows.start / E::DEPTH;
        let steps = rows.end.div_ceil(E::DEPTH).saturating_sub(first);
        if steps == 0 || width == 0 {
            return;
        }
        let b = b[first * width..].as_ptr();
        for (panel, keys) in panels_of(&keys) {
            let a = pairs.columns(panel, of)[first * PANEL..].as_ptr();
            let mut key = keys.start;
            while key < keys.end {
                let together = at_once(keys.end - key);
                // SAFETY: the words of these rows and keys are within the pairs, those of `b` and `sums` were counted
                // (`Kernels::add_over_rows`).
                unsafe {
                    let c = sums[(panel * PANEL + key) * width..].as_mut_ptr();
                    let piece = std::iter::once((a.add(key), b, steps));
                    add_lines::<S, E>(s, together, piece, (1, PANEL), width, c);
                }
                key += together;
            }
        }
    }
}

pub struct OverKeys<'t, 'a, E: Transposable> {
    pairs: &'t Pairs<'a, E>,
    rows: Range<usize>,
    keys: Range<usize>,
    b: &'t [E::B],
    width: usize,
    sums: &'t mut [f32],
}

impl<E: Transposable> Kernel for OverKeys<'_, '_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let OverKeys { pairs, rows, keys, b, width, sums } = self;
        if keys.is_empty() || width == 0 {
            return;
        }
        let mut row = rows.start;
        while row < rows.end {
            let together = at_once(rows.end - row);
            let pieces = panels_of(&keys).map(|(panel, keys)| {
                let (first, end) = (keys.start / E::DEPTH, keys.end.div_ceil(E::DEPTH));
                let a = pairs.gradient_rows(panel)[row * PANEL / E::DEPTH + first..].as_ptr();
                let b = b[(panel * PANEL / E::DEPTH + first) * width..].as_ptr();
                (a, b, end - first)
            });
            let c = sums[row * width..].as_mut_ptr();
            // SAFETY: the words of these rows and keys are within the pairs, those of `b` and `sums` were counted
            // (`Kernels::add_query_gradients`).
            unsafe { add_lines::<S, E>(s, together, pieces, (PANEL / E::DEPTH, 1), width, c) };
            row += together;
        }
    }
}

/// The panels of a range of keys, and which keys of each.
fn panels_of(keys: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> + Clone + use<> {
    let (first, end) = (keys.start, keys.end);
    (first / PANEL..end.div_ceil(PANEL)).map(move |panel| {
        let at = panel * PANEL;
        (panel, first.max(at) - at..end.min(at + PANEL) - at)
    })
}

/// Lines of a product that are computed at once when so many are left.
fn at_once(left: usize) -> usize {
    match left {
        ROWS.. => ROWS,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// Some steps of a product: where they begin on both sides, and how many there are.
type Piece<E> = (*const <E as Operand>::A, *const <E as Operand>::B, usize);

/// `C += A·B` for 1, 2, 4 or [`ROWS`] lines, over all columns.
///
/// # Safety
/// Every piece has its steps of so many lines on the left, `strides` apart, and so many rows of `width` words on the right;
/// `c` has so many lines of `width` floats.
#[inline(always)]
unsafe fn add_lines<S: Simd, E: Transposable>(
    s: S,
    lines: usize,
    pieces: impl Iterator<Item = Piece<E>> + Clone,
    strides: (usize, usize),
    width: usize,
    c: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        match lines {
            ROWS => add_columns::<S, E, ROWS>(s, pieces, strides, width, c),
            4 => add_columns::<S, E, 4>(s, pieces, strides, width, c),
            2 => add_columns::<S, E, 2>(s, pieces, strides, width, c),
            _ => add_columns::<S, E, 1>(s, pieces, strides, width, c),
        }
    }
}

/// # Safety
/// As [`add_lines`], for `R` lines.
#[inline(always)]
unsafe fn add_columns<S: Simd, E: Transposable, const R: usize>(
    s: S,
    pieces: impl Iterator<Item = Piece<E>> + Clone,
    strides: (usize, usize),
    width: usize,
    c: *mut f32,
) {
    let mut column = 0;
    while column < width {
        let left = (width - column) / S::LANES;
        // Two even halves, where a whole tile would leave a narrow one: that waits for its own sums.
        let strips = if left < 2 * S::STRIPS { left.div_ceil(left.div_ceil(S::STRIPS)) } else { S::STRIPS };
        let pieces = pieces.clone();
        // SAFETY: the strips end within the width.
        unsafe {
            let c = c.add(column);
            match strips {
                4 if S::STRIPS >= 4 => add_strips::<S, E, R, 4>(s, pieces, strides, column, width, c),
                3 if S::STRIPS >= 4 => add_strips::<S, E, R, 3>(s, pieces, strides, column, width, c),
                2 => add_strips::<S, E, R, 2>(s, pieces, strides, column, width, c),
                _ => add_strips::<S, E, R, 1>(s, pieces, strides, column, width, c),
            }
        }
        column += strips * S::LANES;
    }
}

/// # Safety
/// As [`add_lines`], for `R` lines and `W` vectors from `column` on; `c` points at that column.
#[inline(always)]
unsafe fn add_strips<S: Simd, E: Transposable, const R: usize, const W: usize>(
    s: S,
    pieces: impl Iterator<Item = Piece<E>>,
    strides: (usize, usize),
    column: usize,
    width: usize,
    c: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums: Accumulators<S, R, W> = [[s.splat(0.0); W]; R];
        for (r, row) in sums.iter_mut().enumerate() {
            for (w, sum) in row.iter_mut().enumerate() {
                *sum = s.load(c.add(r * width + w * S::LANES));
            }
        }
        for (a, b, steps) in pieces {
            sums = multiply_add::<S, E, R, W>(s, steps, a, strides, b.add(column), width, sums);
        }
        for (r, row) in sums.iter().enumerate() {
            for (w, &sum) in row.iter().enumerate() {
                s.store(c.add(r * width + w * S::LANES), sum);
            }
        }
    }
}
