//! Products with rows that are read where they lie, each by its number: for masks that keep too little for panels.

use regard_memory::{Rows, prefetch_row};
use regard_simd::{Kernel, Simd};

use crate::backward::Weigh;
use crate::{COLUMNS, Error, F32, Kernels, Number, PANEL, RowState, ScoreTile, Weighing};

/// Rows whose products with one row are summed side by side.
const TOGETHER: usize = 4;

/// Vectors of a sum of rows that stay in registers.
const STRIPS: usize = 4;

/// Rows that are asked for ahead of those that are read.
const AHEAD: usize = 8;

impl Kernels {
    /// The products `x·row` of a row with each listed one.
    ///
    /// - `x`: `[cols]`; `list`: numbers of rows; `products`: `[list]`.
    ///
    /// ```
    /// use regard_kernels::Kernels;
    /// use regard_memory::Rows;
    /// use regard_simd::Isa;
    ///
    /// let rows = Rows::contiguous(&[1f32, 0.0, 0.0, 1.0, 2.0, 3.0], 3, 2)?;
    /// let mut products = [0.0; 2];
    /// Kernels::new(Isa::best()).dot_listed(&[10.0, 1.0], rows, &[2, 0], &mut products)?;
    /// assert_eq!(products, [23.0, 10.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A slice is too short, or a number is that of no row.
    pub fn dot_listed<T: Number>(
        self,
        x: &[f32],
        rows: Rows<'_, T>,
        list: &[u32],
        products: &mut [f32],
    ) -> Result<(), Error> {
        check(rows, list)?;
        Error::check_length("row", x.len(), rows.cols())?;
        Error::check_length("products", products.len(), list.len())?;
        self.isa().run(Dots { x, rows, list, products });
        Ok(())
    }

    /// `sums += Σ weight·row` over the listed rows, in their order.
    ///
    /// - `weights`: `[list]`; `sums`: `[cols]`.
    ///
    /// # Errors
    /// A slice is too short, or a number is that of no row.
    pub fn add_listed<T: Number>(
        self,
        weights: &[f32],
        rows: Rows<'_, T>,
        list: &[u32],
        sums: &mut [f32],
    ) -> Result<(), Error> {
        check(rows, list)?;
        Error::check_length("weights", weights.len(), list.len())?;
        Error::check_length("sums", sums.len(), rows.cols())?;
        self.isa().run(Sum { weights, rows, list, factor: 1.0, sums });
        Ok(())
    }

    /// The scores of one query with the listed keys, in the place of what the tile's first row holds.
    ///
    /// # Errors
    /// A slice is too short, a number is that of no key, or the tile has no room for the list.
    pub fn score_listed<T: Number>(
        self,
        query: &[f32],
        keys: Rows<'_, T>,
        list: &[u32],
        tile: &mut ScoreTile<'_>,
    ) -> Result<(), Error> {
        check(keys, list)?;
        Error::check_length("query", query.len(), keys.cols())?;
        tile.begin(list.len())?;
        let (scores, maxima) = tile.row_mut(0);
        let (products, behind) = scores.split_at_mut(list.len());
        behind.fill(f32::NEG_INFINITY);
        self.isa().run(Dots { x: query, rows: keys, list, products });
        self.isa().run(Maxima { scores, maxima });
        Ok(())
    }

    /// `O ← correction·O + P·V` for the tile's first row, whose columns are the listed values; the correction is the state's,
    /// and is spent.
    ///
    /// - `sums`: `[cols]` in f32.
    ///
    /// # Errors
    /// A slice is too short, a number is that of no value, or the tile has fewer columns.
    pub fn accumulate_listed<T: Number>(
        self,
        tile: &mut ScoreTile<'_>,
        values: Rows<'_, T>,
        list: &[u32],
        state: &mut RowState,
        sums: &mut [f32],
    ) -> Result<(), Error> {
        check(values, list)?;
        Error::check_length("tile columns", tile.columns(), list.len())?;
        Error::check_length("sums", sums.len(), values.cols())?;
        let factor = state.take_correction(0);
        self.isa().run(Sum { weights: tile.weights_mut::<F32>(0), rows: values, list, factor, sums });
        Ok(())
    }

    /// Makes the products of one query with some keys its weights `P = exp(ŝ − lse)`, and the products `dO·Vᵀ` the
    /// gradients `ds` of its scores, as [`Kernels::recompute`] does. The row is the first of the weighing's.
    ///
    /// - `products`: `[2][count]`, scores and `dO·Vᵀ`, each with room for `count` in whole times 16.
    ///
    /// # Errors
    /// A slice is too short, or the weighing is of fewer keys.
    pub fn weigh_listed(
        self,
        weighing: &mut Weighing<'_>,
        (lse, delta): (f32, f32),
        count: usize,
        [scores, d_weights]: [&mut [f32]; 2],
    ) -> Result<(), Error> {
        let columns = count.next_multiple_of(COLUMNS);
        Error::check_length("scores", scores.len(), columns)?;
        Error::check_length("gradients of weights", d_weights.len(), columns)?;
        weighing.check(1, columns)?;
        let (lse, delta) = ([lse], [delta]);
        for first in (0..count).step_by(PANEL) {
            let here = PANEL.min(count - first);
            let mut bits = [0; crate::ROWS];
            bits[0] = u64::MAX >> (PANEL - here);
            let live = (0, here.next_multiple_of(COLUMNS));
            let weigh = weighing.panel(self, (&lse, &delta), bits, live, (first, columns));
            let (scores, d_weights) = (&mut scores[first..first + live.1], &mut d_weights[first..first + live.1]);
            self.isa().run(WeighRow { weigh, scores, d_weights });
        }
        Ok(())
    }
}

fn check<T>(rows: Rows<'_, T>, list: &[u32]) -> Result<(), Error> {
    let most = list.iter().fold(0, |most, &row| most.max(row)) as usize;
    if list.is_empty() || most < rows.rows() {
        return Ok(());
    }
    Err(Error::Length { name: "listed rows", has: rows.rows(), expected: most.saturating_add(1) })
}

/// The last numbers of a row, fewer than a vector, and 0 behind them.
///
/// # Safety
/// `from` must be readable for `count` numbers, at most 16.
#[inline(always)]
unsafe fn load_part<S: Simd, T: Number>(s: S, from: *const T, count: usize) -> S::F32 {
    let mut some = [T::default(); COLUMNS];
    // SAFETY: the caller's; a vector is of 16 numbers at most.
    unsafe {
        std::ptr::copy_nonoverlapping(from, some.as_mut_ptr(), count);
        T::load(s, some.as_ptr())
    }
}

struct Dots<'t, T> {
    x: &'t [f32],
    rows: Rows<'t, T>,
    list: &'t [u32],
    products: &'t mut [f32],
}

impl<T: Number> Kernel for Dots<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Dots { x, rows, list, products } = self;
        list.iter().take(AHEAD).for_each(|&row| prefetch_row(rows.row(row as usize)));
        let mut at = 0;
        while at < list.len() {
            list[at..].iter().skip(AHEAD).take(TOGETHER).for_each(|&row| prefetch_row(rows.row(row as usize)));
            if list.len() - at >= TOGETHER {
                dots::<S, T, TOGETHER>(s, x, rows, &list[at..], &mut products[at..]);
                at += TOGETHER;
            } else {
                dots::<S, T, 1>(s, x, rows, &list[at..], &mut products[at..]);
                at += 1;
            }
        }
    }
}

/// The products with the first `N` of the list. Each is summed in one order, whatever stands beside it.
#[inline(always)]
fn dots<S: Simd, T: Number, const N: usize>(s: S, x: &[f32], rows: Rows<'_, T>, list: &[u32], products: &mut [f32]) {
    let rows: [&[T]; N] = std::array::from_fn(|n| rows.row(list[n] as usize));
    let dim = rows[0].len();
    let whole = dim / S::LANES * S::LANES;
    let mut sums = [s.splat(0.0); N];
    for at in (0..whole).step_by(S::LANES) {
        // SAFETY: rows and `x` have `dim` numbers.
        unsafe {
            let x = s.load(x[at..].as_ptr());
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = s.fma(x, T::load(s, row.as_ptr().add(at)), *sum);
            }
        }
    }
    if whole < dim {
        // SAFETY: as above.
        unsafe {
            let x = load_part(s, x[whole..].as_ptr(), dim - whole);
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = s.fma(x, load_part(s, row.as_ptr().add(whole), dim - whole), *sum);
            }
        }
    }
    products.iter_mut().zip(sums).for_each(|(product, sum)| *product = s.reduce_add(sum));
}

struct Sum<'t, T> {
    weights: &'t [f32],
    rows: Rows<'t, T>,
    list: &'t [u32],
    /// What the sums are multiplied by first.
    factor: f32,
    sums: &'t mut [f32],
}

impl<T: Number> Kernel for Sum<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let dim = self.rows.cols();
        let mut at = 0;
        while dim - at >= STRIPS * S::LANES {
            self.strips::<S, STRIPS>(s, at);
            at += STRIPS * S::LANES;
        }
        while dim - at >= S::LANES {
            self.strips::<S, 1>(s, at);
            at += S::LANES;
        }
        if at < dim {
            self.rest(s, at);
        }
    }
}

impl<T: Number> Sum<'_, T> {
    /// `W` vectors of the sums, from column `at` on.
    #[inline(always)]
    fn strips<S: Simd, const W: usize>(&mut self, s: S, at: usize) {
        let to = self.sums[at..][..W * S::LANES].as_mut_ptr();
        let factor = s.splat(self.factor);
        let mut sums = [s.splat(0.0); W];
        for (w, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `to` is of W vectors.
            *sum = s.mul(unsafe { s.load(to.add(w * S::LANES)) }, factor);
        }
        for (&row, &weight) in self.list.iter().zip(self.weights) {
            let from = self.rows.row(row as usize)[at..][..W * S::LANES].as_ptr();
            let weight = s.splat(weight);
            for (w, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `from` is of W vectors.
                *sum = s.fma(weight, unsafe { T::load(s, from.add(w * S::LANES)) }, *sum);
            }
        }
        for (w, &sum) in sums.iter().enumerate() {
            // SAFETY: `to` is of W vectors.
            unsafe { s.store(to.add(w * S::LANES), sum) };
        }
    }

    /// What is behind the last whole vector, from column `at` on.
    #[inline(always)]
    fn rest<S: Simd>(&mut self, s: S, at: usize) {
        let count = self.rows.cols() - at;
        let to = &mut self.sums[at..][..count];
        // SAFETY: `to` and each row's end are of `count` numbers, fewer than a vector.
        let mut sums = s.mul(unsafe { load_part(s, to.as_ptr(), count) }, s.splat(self.factor));
        for (&row, &weight) in self.list.iter().zip(self.weights) {
            let from = &self.rows.row(row as usize)[at..][..count];
            // SAFETY: as above.
            sums = s.fma(s.splat(weight), unsafe { load_part(s, from.as_ptr(), count) }, sums);
        }
        let mut all = [0.0; COLUMNS];
        // SAFETY: a vector is of 16 numbers at most.
        unsafe { s.store(all.as_mut_ptr(), sums) };
        to.copy_from_slice(&all[..count]);
    }
}

/// The maxima of every 16th score.
struct Maxima<'t> {
    scores: &'t [f32],
    maxima: &'t mut [f32; COLUMNS],
}

impl Kernel for Maxima<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Maxima { scores, maxima } = self;
        // SAFETY: COLUMNS floats, which LANES divides, and so it does the scores.
        let mut max = unsafe { s.load(maxima.as_ptr()) };
        for scores in scores.chunks_exact(S::LANES) {
            // The running maximum stands second: it survives a NaN, which the weights will show.
            // SAFETY: a chunk is a vector.
            max = s.max(unsafe { s.load(scores.as_ptr()) }, max);
        }
        // SAFETY: as above.
        unsafe { s.store(maxima.as_mut_ptr(), max) };
    }
}

struct WeighRow<'t> {
    weigh: Weigh<'t>,
    scores: &'t mut [f32],
    d_weights: &'t mut [f32],
}

impl Kernel for WeighRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let vectors = self.scores.chunks_exact_mut(S::LANES).zip(self.d_weights.chunks_exact_mut(S::LANES));
        for (at, (scores, d_weights)) in vectors.enumerate() {
            // SAFETY: chunks are vectors.
            unsafe {
                let vectors = ([s.load(scores.as_ptr())], [s.load(d_weights.as_ptr())]);
                let ([weights], [gradients]) = self.weigh.one_row::<S, 1>(s, at * S::LANES, vectors.0, vectors.1);
                s.store(scores.as_mut_ptr(), weights);
                s.store(d_weights.as_mut_ptr(), gradients);
            }
        }
    }
}
