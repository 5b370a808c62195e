//! Weights and score gradients of one tile: both products with its keys and values, and then what stands between them.

use std::mem::MaybeUninit;
use std::ops::Range;

use regard_simd::{Kernel, Simd};

use super::pairs::{Pairs, TileMatrices, Transposable};
use super::weigh::Weigh;
use super::weighing::Weighing;
use crate::product::{Accumulators, multiply_add};
use crate::{COLUMNS, Error, Kernels, Operand, PANEL, ROWS};

/// What the backward pass knows of the rows of a tile.
#[derive(Clone, Copy, Debug)]
pub struct GradientRows<'a, E: Operand> {
    /// How many there are, 1 to [`ROWS`].
    pub rows: usize,
    /// Steps of a query, `⌈d_k / DEPTH⌉`, and of an output gradient, `⌈d_v / DEPTH⌉`.
    pub steps: (usize, usize),
    /// `[ROWS][steps.0]`: the queries, packed by [`Kernels::pack_query`]. Rows past `rows` are read and must exist.
    pub queries: &'a [E::A],
    /// `[ROWS][steps.1]`: the gradients `dO` of the outputs, packed likewise.
    pub output_gradients: &'a [E::A],
    /// `[rows]`: the log-sum-exps (natural); a row of −∞ has seen no key.
    pub lse: &'a [f32],
    /// `[rows]`: `Δ − dLSE`.
    pub delta: &'a [f32],
}

/// Consecutive panels of keys, and of values in the layout of keys ([`Kernels::pack_keys`]).
#[derive(Clone, Copy, Debug)]
pub struct KeyPanels<'a, E: Operand> {
    /// `[panels][steps.0][PANEL]`, with the steps of the rows.
    pub keys: &'a [E::B],
    /// `[panels][steps.1][PANEL]`.
    pub values: &'a [E::B],
    /// With one panel only, the bits of the keys that each row keeps.
    pub live: Option<&'a [u64]>,
}

impl Kernels {
    /// Makes the pairs of tile `tile` with the panels `panels` of the block: the weights `P = exp(ŝ − lse)` and the
    /// gradients `ds` of their scores, as `dŝ = P∘(dO·Vᵀ − delta)`.
    ///
    /// What is removed is exactly 0 in both, whatever the keys and values hold; so are the rows of the tile past
    /// `rows.rows`, and rows that have seen no key.
    ///
    /// # Errors
    /// A slice is too short, there are no such tile or panels, or `live` comes with more than one panel.
    pub fn recompute<E: Transposable>(
        self,
        rows: &GradientRows<'_, E>,
        keys: &KeyPanels<'_, E>,
        weighing: &mut Weighing<'_>,
        pairs: &mut Pairs<'_, E>,
        tile: usize,
        panels: Range<usize>,
    ) -> Result<(), Error> {
        let GradientRows { rows: count, steps, queries, output_gradients, lse, delta } = *rows;
        if !(1..=ROWS).contains(&count) {
            return Err(Error::Size { name: "rows", has: count, expected: "between 1 and 6" });
        }
        pairs.check(tile, &panels)?;
        Error::check_length("queries", queries.len(), ROWS.saturating_mul(steps.0))?;
        Error::check_length("output gradients", output_gradients.len(), ROWS.saturating_mul(steps.1))?;
        Error::check_length("log-sum-exps", lse.len(), count)?;
        Error::check_length("deltas", delta.len(), count)?;
        let columns = panels.len().saturating_mul(PANEL);
        Error::check_length("key panels", keys.keys.len(), columns.saturating_mul(steps.0))?;
        Error::check_length("value panels", keys.values.len(), columns.saturating_mul(steps.1))?;
        weighing.check(count, columns)?;
        let mut bits = [0; ROWS];
        bits[..count].fill(u64::MAX);
        if let Some(live) = keys.live {
            Error::check_length("live bits", live.len(), count)?;
            if panels.len() != 1 {
                let has = panels.len();
                return Err(Error::Size { name: "key panels with live bits", has, expected: "exactly 1" });
            }
            bits[..count].copy_from_slice(&live[..count]);
        }
        // Such a row has no weights: the exponential would make ∞ of them.
        for (bits, _) in bits.iter_mut().zip(lse).filter(|(_, lse)| **lse == f32::NEG_INFINITY) {
            *bits = 0;
        }
        weighing.clear(count, columns);
        let live = live_columns(&bits);
        for (at, panel) in panels.enumerate() {
            let weigh = weighing.panel(self, (lse, delta), bits, live, (at * PANEL, columns));
            let panel = Recompute {
                rows,
                keys: &keys.keys[at * steps.0 * PANEL..],
                values: &keys.values[at * steps.1 * PANEL..],
                weigh,
                matrices: pairs.tile_mut(tile, panel),
            };
            E::recompute(self.isa(), panel);
        }
        Ok(())
    }
}

/// The columns from the first to behind the last that any row keeps, in multiples of [`COLUMNS`].
fn live_columns(bits: &[u64; ROWS]) -> (usize, usize) {
    let all = bits.iter().fold(0, |all, row| all | row);
    if all == 0 {
        return (0, 0);
    }
    let (first, end) = (all.trailing_zeros() as usize, (u64::BITS - all.leading_zeros()) as usize);
    (first / COLUMNS * COLUMNS, end.next_multiple_of(COLUMNS))
}

/// One tile with one panel.
pub struct Recompute<'t, 'r, E: Transposable> {
    rows: &'t GradientRows<'r, E>,
    keys: &'t [E::B],
    values: &'t [E::B],
    weigh: Weigh<'t>,
    matrices: TileMatrices<'t, E>,
}

impl<E: Transposable> Kernel for Recompute<'_, '_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `Kernels::recompute` has checked the slices.
        unsafe {
            match self.rows.rows {
                1 => recompute_rows::<S, E, 1>(s, self),
                2 => recompute_rows::<S, E, 2>(s, self),
                3 | 4 => recompute_rows::<S, E, 4>(s, self),
                _ => recompute_rows::<S, E, ROWS>(s, self),
            }
        }
    }
}

/// # Safety
/// The slices are as long as [`Kernels::recompute`] says, for `R` rows.
#[inline(always)]
unsafe fn recompute_rows<S: Simd, E: Transposable, const R: usize>(s: S, task: Recompute<'_, '_, E>) {
    let Recompute { rows, keys, values, mut weigh, mut matrices } = task;
    let columns = weigh.columns;
    if rows.rows < ROWS || columns != (0, PANEL) {
        matrices.clear();
    }
    // Both products first: what stands between them would have to share the registers with their sums.
    let (mut scores, mut d_weights) =
        (MaybeUninit::<[f32; ROWS * PANEL]>::uninit(), MaybeUninit::<[f32; ROWS * PANEL]>::uninit());
    let (scores, d_weights) = (scores.as_mut_ptr().cast(), d_weights.as_mut_ptr().cast());
    // SAFETY: the caller's.
    unsafe {
        multiply::<S, E, R>(s, rows.steps.0, rows.queries, keys, columns, scores);
        multiply::<S, E, R>(s, rows.steps.1, rows.output_gradients, values, columns, d_weights);
        weigh.run::<S, E>(s, rows.rows, scores, d_weights, &mut matrices);
    }
}

/// `Q·Kᵀ`, or `dO·Vᵀ`, `[ROWS][PANEL]`, in the columns from `first` to `end`, which are multiples of [`COLUMNS`].
///
/// # Safety
/// There are `R` rows of `steps` words, a panel of them, and room for the result.
#[inline(always)]
unsafe fn multiply<S: Simd, E: Transposable, const R: usize>(
    s: S,
    steps: usize,
    rows: &[E::A],
    panel: &[E::B],
    (first, end): (usize, usize),
    to: *mut f32,
) {
    let mut at = first;
    while at < end {
        let strips = ((end - at) / S::LANES).min(S::STRIPS);
        // SAFETY: the strips end within the panel.
        unsafe {
            let (a, b, to) = (rows.as_ptr(), panel.as_ptr().add(at), to.add(at));
            match strips {
                4 if S::STRIPS >= 4 => multiply_strips::<S, E, R, 4>(s, steps, a, b, to),
                3 if S::STRIPS >= 4 => multiply_strips::<S, E, R, 3>(s, steps, a, b, to),
                2 => multiply_strips::<S, E, R, 2>(s, steps, a, b, to),
                _ => multiply_strips::<S, E, R, 1>(s, steps, a, b, to),
            }
        }
        at += strips * S::LANES;
    }
}

/// # Safety
/// `R` rows of `steps` words at `a`, `steps` rows of a panel at `b`, and `R` of the result, of which `W` vectors follow.
#[inline(always)]
unsafe fn multiply_strips<S: Simd, E: Transposable, const R: usize, const W: usize>(
    s: S,
    steps: usize,
    a: *const E::A,
    b: *const E::B,
    to: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let zero: Accumulators<S, R, W> = [[s.splat(0.0); W]; R];
        let sums = multiply_add::<S, E, R, W>(s, steps, a, (steps, 1), b, PANEL, zero);
        for (r, row) in sums.iter().enumerate() {
            for (w, &sum) in row.iter().enumerate() {
                s.store(to.add(r * PANEL + w * S::LANES), sum);
            }
        }
    }
}
