//! One tile of attention: `ROWS` query rows against a block of keys, and the state that it folds into.
//!
//! The online softmax of Milakov and Gimelshein (2018), tiled as in FlashAttention (Dao et al., 2022, algorithm 1).

use std::ops::Range;

use regard_simd::{Kernel, Simd};

use crate::kept::AddKept;
use crate::product::{Accumulators, multiply_add};
use crate::{Error, Kernels, Operand, PANEL, ROWS};

/// Columns are dealt with in multiples of this on every instruction set.
pub const COLUMNS: usize = 16;

/// The scores of `ROWS` query rows against a block of keys, then their softmax weights.
///
/// The buffer is the caller's: [`ScoreTile::words`] for a block of some number of keys.
#[derive(Debug)]
pub struct ScoreTile<'a> {
    words: &'a mut [f32],
    stride: usize,
    columns: usize,
    /// Per row the maxima of every 16th score.
    maxima: [[f32; COLUMNS]; ROWS],
}

impl<'a> ScoreTile<'a> {
    /// Words of buffer that a tile of `keys` keys needs.
    pub const fn words(keys: usize) -> usize {
        ROWS.saturating_mul(Self::stride(keys))
    }

    /// Words from row to row. Not a multiple of a page's fraction, so that rows do not crowd into the same cache sets.
    const fn stride(keys: usize) -> usize {
        match keys.checked_next_multiple_of(PANEL) {
            Some(keys) => keys.saturating_add(COLUMNS),
            None => usize::MAX,
        }
    }

    /// An empty tile for blocks of at most `keys` keys.
    ///
    /// # Errors
    /// The buffer does not hold [`ScoreTile::words`]`(keys)`.
    pub fn new(buffer: &'a mut [f32], keys: usize) -> Result<Self, Error> {
        Error::check_length("score tile", buffer.len(), Self::words(keys))?;
        Ok(ScoreTile { words: buffer, stride: Self::stride(keys), columns: 0, maxima: [[f32::NEG_INFINITY; 16]; ROWS] })
    }

    /// Forgets the scores.
    pub fn clear(&mut self) {
        self.columns = 0;
        self.forget_maxima();
    }

    /// Forgets the maxima, which the scores' adjustment takes anew ([`Kernels::adjust`]).
    pub fn forget_maxima(&mut self) {
        self.maxima = [[f32::NEG_INFINITY; COLUMNS]; ROWS];
    }

    /// The scores of a row, and the maxima of every 16th.
    pub(crate) fn row_mut(&mut self, r: usize) -> (&mut [f32], &mut [f32; COLUMNS]) {
        (&mut self.words[r * self.stride..][..self.columns], &mut self.maxima[r])
    }

    /// The softmax weights of a row, which lie in the place of its scores.
    pub(crate) fn weights_mut<E: Operand>(&mut self, r: usize) -> &mut [E::A] {
        let (scores, _) = self.row_mut(r);
        // SAFETY: words of 32 bits both, without invalid values; a weight's word is no wider than a score's.
        unsafe { std::slice::from_raw_parts_mut(scores.as_mut_ptr().cast(), scores.len()) }
    }

    /// Makes room for so many keys, in the place of those that stand there; their scores are whatever was there.
    pub(crate) fn begin(&mut self, keys: usize) -> Result<(), Error> {
        Error::check_length("columns of a score tile", self.stride - COLUMNS, keys)?;
        self.clear();
        self.columns = keys.next_multiple_of(COLUMNS);
        Ok(())
    }

    /// Keys that stand in the tile so far, in whole multiples of 16.
    pub fn columns(&self) -> usize {
        self.columns
    }
}

/// The running maximum and sum of `ROWS` softmax rows, in base 2; the weighted sum of values stands beside it.
///
/// With the sum of values `o`, a row's result is `o / sum` and its log-sum-exp `ln 2 · (max + log₂ sum)`.
#[derive(Clone, Copy, Debug)]
pub struct RowState {
    /// The largest score so far, times `log₂ e`; −∞ where no key was seen.
    pub max: [f32; COLUMNS],
    /// The sum of `2^(score − max)`.
    pub sum: [f32; COLUMNS],
    /// What the last block asks the older sum of values to be multiplied by.
    correction: [f32; COLUMNS],
}

impl Default for RowState {
    fn default() -> Self {
        RowState { max: [f32::NEG_INFINITY; COLUMNS], sum: [0.0; COLUMNS], correction: [1.0; COLUMNS] }
    }
}

impl RowState {
    /// What the older sum of a row's values is to be multiplied by, once.
    pub(crate) fn take_correction(&mut self, r: usize) -> f32 {
        std::mem::replace(&mut self.correction[r], 1.0)
    }
}

fn check_rows(rows: usize) -> Result<(), Error> {
    if (1..=ROWS).contains(&rows) {
        Ok(())
    } else {
        Err(Error::Size { name: "rows", has: rows, expected: "between 1 and 6" })
    }
}

/// Calls a kernel body for a number of rows: 3 run as 4 and 5 as 6, whose spare rows hold no numbers of anyone.
macro_rules! for_rows {
    ($rows:expr, $body:ident::<$s:ty, $e:ty>($($argument:expr),*)) => {
        match $rows {
            1 => $body::<$s, $e, 1>($($argument),*),
            2 => $body::<$s, $e, 2>($($argument),*),
            3 | 4 => $body::<$s, $e, 4>($($argument),*),
            _ => $body::<$s, $e, ROWS>($($argument),*),
        }
    };
}

impl Kernels {
    /// Appends to the tile the scores `S = Q·Kᵀ` of `rows` queries against stretches of packed keys, one after the other.
    ///
    /// - `queries`: `[ROWS][steps]`, row-major, `steps = ⌈d_k / DEPTH⌉`; rows past `rows` are read and must exist.
    ///
    /// # Errors
    /// A slice is too short, or the tile is full.
    pub fn score<E: Operand>(
        self,
        rows: usize,
        steps: usize,
        queries: &[E::A],
        stretches: &[Stretch<'_, E>],
        tile: &mut ScoreTile<'_>,
    ) -> Result<(), Error> {
        check_rows(rows)?;
        Error::check_length("queries", queries.len(), ROWS.saturating_mul(steps))?;
        let mut columns = tile.columns;
        for Stretch { panels, live, columns: some } in stretches {
            let has = panels.len().checked_div(steps).unwrap_or(0);
            Error::check_length("key panels", has, some.end.checked_next_multiple_of(PANEL).unwrap_or(usize::MAX))?;
            if let Some(live) = live {
                Error::check_length("live bits", live.len(), rows)?;
            }
            columns = columns.saturating_add(some.len());
        }
        Error::check_length("score tile", tile.stride, columns)?;
        E::score(self.isa(), Score { rows, steps, queries, stretches, tile });
        Ok(())
    }

    /// Turns the tile's scores into softmax weights `P = 2^(factor·S − max)` and folds their maximum and sum into
    /// `state`. `factor` is `scale·log₂ e`, or 1 where the queries carry it; it must be positive.
    ///
    /// A row that has seen no key keeps the maximum −∞, and its weights are 0.
    ///
    /// # Errors
    /// `rows` is not between 1 and [`ROWS`].
    pub fn softmax<E: Operand>(
        self,
        rows: usize,
        factor: f32,
        tile: &mut ScoreTile<'_>,
        state: &mut RowState,
    ) -> Result<(), Error> {
        check_rows(rows)?;
        E::softmax(self.isa(), Softmax { rows, factor, tile, state, operand: std::marker::PhantomData });
        Ok(())
    }

    /// `O ← correction·O + P·V` over the tile's columns `at..at + keys`; the correction is the state's, and is spent.
    ///
    /// - `values`: `[⌈keys / DEPTH⌉][width]`, packed, `width` a multiple of 16; values past the last key must be finite;
    /// - `out`: `[ROWS][width]` in f32.
    ///
    /// # Errors
    /// A slice is too short, or `width` is no multiple of 16.
    #[allow(clippy::too_many_arguments, reason = "a product of two matrices into a third, with its state")]
    pub fn accumulate<E: Operand>(
        self,
        rows: usize,
        tile: &ScoreTile<'_>,
        (at, keys): (usize, usize),
        values: &[E::B],
        width: usize,
        state: &mut RowState,
        out: &mut [f32],
    ) -> Result<(), Error> {
        check_rows(rows)?;
        let steps = keys.div_ceil(E::DEPTH);
        Error::check_length("tile columns", tile.columns, at.saturating_add(keys))?;
        Error::check_length("values", values.len(), steps.saturating_mul(width))?;
        Error::check_length("out", out.len(), ROWS.saturating_mul(width))?;
        check_columns::<E>(width, at)?;
        let correction = std::mem::replace(&mut state.correction, [1.0; COLUMNS]);
        E::accumulate(self.isa(), Accumulate { rows, steps, at, tile, values, width, correction, out });
        Ok(())
    }

    /// [`Kernels::accumulate`] for up to 64 keys of which some are not finite: only those that `live` keeps are looked at, so
    /// that no 0·∞ arises; the bits are those of any numbers in the others' place. Slow, and rare. `live` gives the rows; bit 0 is the key of column `at`, the first of `values`.
    ///
    /// # Errors
    /// As [`Kernels::accumulate`].
    #[allow(clippy::too_many_arguments, reason = "a product of two matrices into a third, with its state")]
    pub fn accumulate_kept<E: Operand>(
        self,
        live: &[u64],
        tile: &ScoreTile<'_>,
        at: usize,
        values: &[E::B],
        width: usize,
        state: &mut RowState,
        out: &mut [f32],
    ) -> Result<(), Error> {
        check_rows(live.len())?;
        let last = live.iter().fold(0, |all, row| all | row);
        let seen = (u64::BITS - last.leading_zeros()) as usize;
        Error::check_length("tile columns", tile.columns, at.saturating_add(seen))?;
        let steps = seen.div_ceil(E::DEPTH);
        Error::check_length("values", values.len(), steps.saturating_mul(width))?;
        Error::check_length("out", out.len(), ROWS.saturating_mul(width))?;
        check_columns::<E>(width, at)?;
        let correction = std::mem::replace(&mut state.correction, [1.0; COLUMNS]);
        for (r, &bits) in live.iter().enumerate() {
            let scores = &tile.words[r * tile.stride..][..tile.columns];
            // SAFETY: words of 32 bits both, without invalid values; weights lie in the score's own row.
            let weights = unsafe { std::slice::from_raw_parts(scores.as_ptr().cast::<E::A>(), scores.len()) };
            let row = &mut out[r * width..][..width];
            row.iter_mut().for_each(|x| *x *= correction[r]);
            let sums = AddKept::<E, _, _> {
                steps,
                a: &weights[at / E::DEPTH..],
                a_step: 1,
                row: |step| &values[step * width..][..width],
                kept: |key| bits >> key & 1 == 1,
                sums: row,
            };
            E::run(self.isa(), sums);
        }
        Ok(())
    }
}

/// Values of this width are whole vectors, and column `at` is the first of a step.
fn check_columns<E: Operand>(width: usize, at: usize) -> Result<(), Error> {
    if !width.is_multiple_of(COLUMNS) {
        return Err(Error::Size { name: "value width", has: width, expected: "a multiple of 16" });
    }
    if !at.is_multiple_of(E::DEPTH) {
        return Err(Error::Size { name: "first column", has: at, expected: "a whole number of steps" });
    }
    Ok(())
}

/// Consecutive packed keys that a tile scores: whole panels, or of one panel what some row keeps.
#[derive(Clone, Debug)]
pub struct Stretch<'a, E: Operand> {
    /// `[panels][steps][PANEL]`.
    panels: &'a [E::B],
    /// Of one panel, the bits of the keys that each row keeps.
    live: Option<&'a [u64]>,
    /// The columns that are scored, counted from the first panel's first key.
    columns: Range<usize>,
}

impl<'a, E: Operand> Stretch<'a, E> {
    /// All keys of so many panels, `[count][steps][PANEL]`.
    pub fn whole(panels: &'a [E::B], count: usize) -> Self {
        Stretch { panels, live: None, columns: 0..count.saturating_mul(PANEL) }
    }

    /// The keys of one panel, `[steps][PANEL]`, of which each row keeps those that its bits name. The others score −∞, and
    /// columns before the first and behind the last that any row keeps are left out, in multiples of 16.
    pub fn rim(panel: &'a [E::B], live: &'a [u64]) -> Self {
        let any = live.iter().fold(0, |all, row| all | row);
        let last = (u64::BITS - any.leading_zeros()) as usize;
        let first = if any == 0 { 0 } else { any.trailing_zeros() as usize };
        Stretch { panels: panel, live: Some(live), columns: first / COLUMNS * COLUMNS..last.next_multiple_of(COLUMNS) }
    }

    /// The columns that are scored, counted from the first panel's first key.
    pub fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }
}

pub struct Score<'t, 'a, E: Operand> {
    rows: usize,
    steps: usize,
    queries: &'t [E::A],
    stretches: &'t [Stretch<'t, E>],
    tile: &'t mut ScoreTile<'a>,
}

impl<E: Operand> Kernel for Score<'_, '_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `Kernels::score` has checked the slices, and that the tile has room for the columns.
        unsafe { for_rows!(self.rows, score_rows::<S, E>(s, self)) }
    }
}

/// # Safety
/// The slices are as long as [`Kernels::score`] says, for `R` rows.
#[inline(always)]
unsafe fn score_rows<S: Simd, E: Operand, const R: usize>(s: S, task: Score<'_, '_, E>) {
    let Score { rows, steps, queries, stretches, tile } = task;
    for Stretch { panels, live, columns } in stretches {
        let out = &mut tile.words[tile.columns..];
        let mut bits = [0; ROWS];
        if let Some(live) = live {
            bits[..rows].copy_from_slice(&live[..rows]);
        }
        let mut at = columns.start;
        while at < columns.end {
            let in_panel = at % PANEL;
            let b = panels[at / PANEL * steps * PANEL..][in_panel..].as_ptr();
            let strips = ((columns.end - at) / S::LANES).min((PANEL - in_panel) / S::LANES).min(S::STRIPS);
            let c = out[at - columns.start..].as_mut_ptr();
            let live = live.map(|_| bits.map(|row| row >> in_panel));
            // SAFETY: the strips end within the panel and within the tile's columns.
            unsafe {
                let (a, stride, maxima) = (queries.as_ptr(), tile.stride, &mut tile.maxima);
                match strips {
                    4 if S::STRIPS >= 4 => score_strips::<S, E, R, 4>(s, steps, a, b, live, c, stride, maxima),
                    3 if S::STRIPS >= 4 => score_strips::<S, E, R, 3>(s, steps, a, b, live, c, stride, maxima),
                    2 => score_strips::<S, E, R, 2>(s, steps, a, b, live, c, stride, maxima),
                    _ => score_strips::<S, E, R, 1>(s, steps, a, b, live, c, stride, maxima),
                }
            }
            at += strips * S::LANES;
        }
        tile.columns += columns.len();
    }
}

/// # Safety
/// `R` rows of `steps` words at `a`, `steps` rows of a panel at `b`, `W` vectors in `R` rows of the tile at `c`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the innermost level: everything is a pointer or a count")]
unsafe fn score_strips<S: Simd, E: Operand, const R: usize, const W: usize>(
    s: S,
    steps: usize,
    a: *const E::A,
    b: *const E::B,
    live: Option<[u64; ROWS]>,
    c: *mut f32,
    stride: usize,
    maxima: &mut [[f32; COLUMNS]; ROWS],
) {
    // SAFETY: the caller's.
    unsafe {
        let zero: Accumulators<S, R, W> = [[s.splat(0.0); W]; R];
        let mut sums = multiply_add::<S, E, R, W>(s, steps, a, (steps, 1), b, PANEL, zero);
        if let Some(live) = live {
            for (row, bits) in sums.iter_mut().zip(live) {
                for (w, sum) in row.iter_mut().enumerate() {
                    let kept = s.mask_from_bits((bits >> (w * S::LANES)) as u32);
                    *sum = s.select(kept, *sum, s.splat(f32::NEG_INFINITY));
                }
            }
        }
        for (r, row) in sums.iter().enumerate() {
            // The running maximum stands second: it survives a NaN, which the weights will show.
            let running = maxima[r].as_mut_ptr();
            let mut max = s.load(running);
            for (w, &sum) in row.iter().enumerate() {
                max = s.max(sum, max);
                s.store(c.add(r * stride + w * S::LANES), sum);
            }
            s.store(running, max);
        }
    }
}

pub struct Softmax<'t, 'a, E> {
    rows: usize,
    factor: f32,
    tile: &'t mut ScoreTile<'a>,
    state: &'t mut RowState,
    operand: std::marker::PhantomData<E>,
}

impl<E: Operand> Kernel for Softmax<'_, '_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Softmax { rows, factor, tile, state, .. } = self;
        // The new maxima, and what they make of the old sums, for all rows at once.
        let old = state.max;
        let mut shift = [0.0; COLUMNS];
        for r in 0..rows {
            // SAFETY: a row of COLUMNS maxima; those past LANES were never touched.
            let block = s.reduce_max(unsafe { s.load(tile.maxima[r].as_ptr()) });
            state.max[r] = (block * factor).max(old[r]);
            // A row that has seen no key would compute −∞ − −∞ below; any finite shift gives it weights of 0.
            shift[r] = if state.max[r] == f32::NEG_INFINITY { 0.0 } else { state.max[r] };
        }
        for at in (0..COLUMNS).step_by(S::LANES) {
            // SAFETY: three arrays of COLUMNS floats, which LANES divides.
            unsafe {
                let fall = s.sub(s.load(old[at..].as_ptr()), s.load(shift[at..].as_ptr()));
                let [correction] = E::exp2(s, [fall]);
                s.store(state.correction[at..].as_mut_ptr(), correction);
            }
        }
        for (r, &shift) in shift.iter().enumerate().take(rows) {
            let row = tile.words[r * tile.stride..][..tile.columns].as_mut_ptr();
            // SAFETY: the row holds `columns` scores, a multiple of 16; weights are no wider than scores, so that
            // writing them never overtakes the reading.
            let sum = unsafe { weigh::<S, E>(s, row, tile.columns, factor, shift) };
            state.sum[r] = state.sum[r] * state.correction[r] + sum;
        }
    }
}

/// `2^(factor·S − shift)` in place for one row; gives its sum.
///
/// # Safety
/// `row` holds `columns` scores, a multiple of 16.
#[inline(always)]
unsafe fn weigh<S: Simd, E: Operand>(s: S, row: *mut f32, columns: usize, factor: f32, shift: f32) -> f32 {
    let (factor, shift) = (s.splat(factor), s.splat(-shift));
    let mut sum = s.splat(0.0);
    let vectors = columns / S::LANES;
    let in_step = vectors / IN_STEP * IN_STEP;
    // SAFETY: the caller's.
    unsafe {
        for v in (0..in_step).step_by(IN_STEP) {
            let weights = weigh_each::<S, E, IN_STEP>(s, row, v * S::LANES, factor, shift);
            let (a, b) = (s.add(weights[0], weights[1]), s.add(weights[2], weights[3]));
            sum = s.add(sum, s.add(a, b));
        }
        for v in in_step..vectors {
            let [weights] = weigh_each::<S, E, 1>(s, row, v * S::LANES, factor, shift);
            sum = s.add(sum, weights);
        }
    }
    s.reduce_add(sum)
}

/// Vectors that are weighed together.
const IN_STEP: usize = 4;

/// `2^(factor·S − shift)` in place for `N` vectors from column `at` on.
///
/// # Safety
/// `row` holds them.
#[inline(always)]
unsafe fn weigh_each<S: Simd, E: Operand, const N: usize>(
    s: S,
    row: *mut f32,
    at: usize,
    factor: S::F32,
    shift: S::F32,
) -> [S::F32; N] {
    let mut x = [factor; N];
    // SAFETY: the caller's; all are read before any is written.
    unsafe {
        for (v, x) in x.iter_mut().enumerate() {
            *x = s.fma(s.load(row.add(at + v * S::LANES)), factor, shift);
        }
        let weights = E::exp2(s, x);
        for (v, &weight) in weights.iter().enumerate() {
            E::store(s, row.cast(), at + v * S::LANES, weight);
        }
        weights
    }
}

/// Rows up to which values are taken to stream in from memory, as when a token is decoded.
const FEW: usize = 4;

/// Keys whose values such rows go over at once, all columns of them: as they lie in memory one after the other.
const STREAMED: usize = 64;

pub struct Accumulate<'t, 'a, E: Operand> {
    rows: usize,
    steps: usize,
    at: usize,
    tile: &'t ScoreTile<'a>,
    values: &'t [E::B],
    width: usize,
    correction: [f32; COLUMNS],
    out: &'t mut [f32],
}

impl<E: Operand> Kernel for Accumulate<'_, '_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `Kernels::accumulate` has checked the slices.
        unsafe { for_rows!(self.rows, accumulate_rows::<S, E>(s, self)) }
    }
}

/// # Safety
/// The slices are as long as [`Kernels::accumulate`] says, for `R` rows.
#[inline(always)]
unsafe fn accumulate_rows<S: Simd, E: Operand, const R: usize>(s: S, task: Accumulate<'_, '_, E>) {
    let Accumulate { steps: all, at, tile, values, width, mut correction, out, .. } = task;
    let a = tile.words.as_ptr().cast::<E::A>();
    let each = if R <= FEW { STREAMED / E::DEPTH } else { all.max(1) };
    // Without keys the sums still fall.
    for first in (0..all.max(1)).step_by(each) {
        let steps = each.min(all - first);
        let mut column = 0;
        while column < width {
            let strips = ((width - column) / S::LANES).min(S::STRIPS);
            // SAFETY: the strips end within the width; a weight's word is no wider than a score's, and the rows of both
            // are `stride` words apart.
            unsafe {
                let a = a.add(at / E::DEPTH + first);
                let b = values.as_ptr().add(first * width + column);
                let c = out.as_mut_ptr().add(column);
                let (stride, fall) = (tile.stride, &correction);
                match strips {
                    4 if S::STRIPS >= 4 => accumulate_strips::<S, E, R, 4>(s, steps, a, stride, b, width, fall, c),
                    3 if S::STRIPS >= 4 => accumulate_strips::<S, E, R, 3>(s, steps, a, stride, b, width, fall, c),
                    2 => accumulate_strips::<S, E, R, 2>(s, steps, a, stride, b, width, fall, c),
                    _ => accumulate_strips::<S, E, R, 1>(s, steps, a, stride, b, width, fall, c),
                }
            }
            column += strips * S::LANES;
        }
        correction = [1.0; COLUMNS];
    }
}

/// # Safety
/// `R` rows of `steps` words at `a`, `stride` apart; `steps` rows at `b` and `R` rows at `c` of `W` vectors, `width` apart.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the innermost level: everything is a pointer or a count")]
unsafe fn accumulate_strips<S: Simd, E: Operand, const R: usize, const W: usize>(
    s: S,
    steps: usize,
    a: *const E::A,
    stride: usize,
    b: *const E::B,
    width: usize,
    correction: &[f32; COLUMNS],
    c: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums: Accumulators<S, R, W> = [[s.splat(0.0); W]; R];
        for (r, row) in sums.iter_mut().enumerate() {
            let correction = s.splat(correction[r]);
            for (w, sum) in row.iter_mut().enumerate() {
                *sum = s.mul(correction, s.load(c.add(r * width + w * S::LANES)));
            }
        }
        let sums = multiply_add::<S, E, R, W>(s, steps, a, (stride, 1), b, width, sums);
        for (r, row) in sums.iter().enumerate() {
            for (w, &sum) in row.iter().enumerate() {
                s.store(c.add(r * width + w * S::LANES), sum);
            }
        }
    }
}
