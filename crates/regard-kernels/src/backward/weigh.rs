//! Between the products of a tile: scores become weights, and the gradients of weights become those of scores.

use regard_simd::Simd;

use super::pairs::{TileMatrices, Transposable};
use crate::adjust::{Adder, Adjuster};
use crate::{Adjustment, F32, KeyPlaces, Operand, PANEL, ROWS, RowAdjustment};

/// One tile with one panel, between its products.
pub(crate) struct Weigh<'t> {
    pub(super) adjustment: Adjustment,
    pub(super) adjustments: &'t [RowAdjustment<'t>],
    pub(super) places: KeyPlaces<'t>,
    pub(super) lse: &'t [f32],
    pub(super) delta: &'t [f32],
    pub(super) bits: [u64; ROWS],
    /// The columns of the panel that are looked at, in multiples of 16; what is outside is 0 already.
    pub(super) columns: (usize, usize),
    /// The panel's first column in the call, and how many the call has.
    pub(super) first_column: usize,
    pub(super) all_columns: usize,
    /// The bits of the weights that did not fall, and their gain.
    pub(super) kept: Option<([u64; ROWS], f32)>,
    /// Empty where nobody asked.
    pub(super) d_scores: &'t mut [f32],
    /// Whether nothing but the scale comes between a product and its weight.
    pub(super) is_plain: bool,
}

/// Vectors that are weighed together.
const IN_STEP: usize = 4;

impl Weigh<'_> {
    /// Writes the weights and score gradients of some rows.
    ///
    /// # Safety
    /// `scores` and `d_weights` hold the rows' products, `[ROWS][PANEL]`, in the columns that are looked at.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd, E: Transposable>(
        &mut self,
        s: S,
        rows: usize,
        scores: *const f32,
        d_weights: *const f32,
        matrices: &mut TileMatrices<'_, E>,
    ) {
        // SAFETY: the caller's.
        unsafe {
            if self.is_plain {
                self.each_step::<S, E, true>(s, rows, scores, d_weights, matrices);
            } else {
                self.each_step::<S, E, false>(s, rows, scores, d_weights, matrices);
            }
        }
    }

    /// # Safety
    /// As [`Weigh::run`].
    #[inline(always)]
    unsafe fn each_step<S: Simd, E: Transposable, const PLAIN: bool>(
        &mut self,
        s: S,
        rows: usize,
        scores: *const f32,
        d_weights: *const f32,
        matrices: &mut TileMatrices<'_, E>,
    ) {
        let (first, end) = self.columns;
        for row in (0..rows).step_by(E::DEPTH) {
            let mut at = first;
            while at < end {
                let from = row * PANEL + at;
                // SAFETY: the vectors end within the panel.
                unsafe {
                    let (scores, d_weights) = (scores.add(from), d_weights.add(from));
                    if end - at >= IN_STEP * S::LANES {
                        self.step::<S, E, PLAIN, IN_STEP>(s, (row, rows), at, scores, d_weights, matrices);
                        at += IN_STEP * S::LANES;
                    } else {
                        self.step::<S, E, PLAIN, 1>(s, (row, rows), at, scores, d_weights, matrices);
                        at += S::LANES;
                    }
                }
            }
        }
    }

    /// `N` vectors of the rows of a step, of which those from `rows` on are not there, from column `at` on.
    ///
    /// # Safety
    /// `scores` and `d_weights` hold these vectors of the products, and the next row `PANEL` floats later.
    #[inline(always)]
    unsafe fn step<S: Simd, E: Transposable, const PLAIN: bool, const N: usize>(
        &mut self,
        s: S,
        (row, rows): (usize, usize),
        at: usize,
        scores: *const f32,
        d_weights: *const f32,
        matrices: &mut TileMatrices<'_, E>,
    ) {
        // SAFETY: the caller's; the matrices hold ROWS rows of a panel.
        unsafe {
            let (weights, gradients) = self.row::<S, E, PLAIN, N>(s, row, at, load(s, scores), load(s, d_weights));
            let (mut odd_weights, mut odd_gradients) = ([s.splat(0.0); N], [s.splat(0.0); N]);
            if E::DEPTH > 1 {
                let words = PANEL / E::DEPTH;
                let gradient_rows = matrices.gradient_rows[row * words..].as_mut_ptr();
                store_row::<S, E, N>(s, gradient_rows, at, &gradients);
                if row + 1 < rows {
                    let (scores, d_weights) = (scores.add(PANEL), d_weights.add(PANEL));
                    (odd_weights, odd_gradients) =
                        self.row::<S, E, PLAIN, N>(s, row + 1, at, load(s, scores), load(s, d_weights));
                    store_row::<S, E, N>(s, gradient_rows.add(words), at, &odd_gradients);
                }
            }
            let first = row / E::DEPTH * PANEL + at;
            let (to_weights, to_gradients) = (matrices.weights.as_mut_ptr(), matrices.gradients.as_mut_ptr());
            for w in 0..N {
                let at = first + w * S::LANES;
                E::store_steps(s, to_weights.add(at), [weights[w], odd_weights[w]]);
                E::store_steps(s, to_gradients.add(at), [gradients[w], odd_gradients[w]]);
            }
        }
    }

    /// Weights and score gradients of `N` vectors of the first row.
    #[inline(always)]
    pub(crate) fn one_row<S: Simd, const N: usize>(
        &mut self,
        s: S,
        at: usize,
        scores: [S::F32; N],
        d_weights: [S::F32; N],
    ) -> ([S::F32; N], [S::F32; N]) {
        if self.is_plain {
            self.row::<S, F32, true, N>(s, 0, at, scores, d_weights)
        } else {
            self.row::<S, F32, false, N>(s, 0, at, scores, d_weights)
        }
    }

    /// Weights and score gradients of `N` vectors of a row.
    #[inline(always)]
    fn row<S: Simd, E: Transposable, const PLAIN: bool, const N: usize>(
        &mut self,
        s: S,
        r: usize,
        at: usize,
        scores: [S::F32; N],
        d_weights: [S::F32; N],
    ) -> ([S::F32; N], [S::F32; N]) {
        if PLAIN {
            self.plain::<S, E, N>(s, r, at, scores, d_weights)
        } else {
            self.adjusted::<S, N>(s, r, at, scores, d_weights)
        }
    }

    #[inline(always)]
    fn plain<S: Simd, E: Transposable, const N: usize>(
        &self,
        s: S,
        r: usize,
        at: usize,
        scores: [S::F32; N],
        d_weights: [S::F32; N],
    ) -> ([S::F32; N], [S::F32; N]) {
        let (scale, log2_e) = (s.splat(self.adjustment.scale), s.splat(std::f32::consts::LOG2_E));
        let (shift, delta) = (s.splat(-self.lse[r]), s.splat(self.delta[r]));
        // Only the small difference is multiplied by `log₂ e`: a factor of `scale·log₂ e`, rounded, would be off by as much
        // as a score is large.
        let mut exponents = scores;
        exponents.iter_mut().for_each(|x| *x = s.mul(s.fma(*x, scale, shift), log2_e));
        let mut weights = E::exp2(s, exponents);
        let mut gradients = d_weights;
        for (gradient, &weight) in gradients.iter_mut().zip(&weights) {
            *gradient = s.mul(weight, s.sub(*gradient, delta));
        }
        if self.bits[r] != u64::MAX {
            for (w, (weight, gradient)) in weights.iter_mut().zip(&mut gradients).enumerate() {
                let live = s.mask_from_bits((self.bits[r] >> (at + w * S::LANES)) as u32);
                *weight = s.select(live, *weight, s.splat(0.0));
                *gradient = s.select(live, *gradient, s.splat(0.0));
            }
        }
        (weights, gradients)
    }

    #[inline(always)]
    fn adjusted<S: Simd, const N: usize>(
        &mut self,
        s: S,
        r: usize,
        at: usize,
        scores: [S::F32; N],
        d_weights: [S::F32; N],
    ) -> ([S::F32; N], [S::F32; N]) {
        let zero = s.splat(0.0);
        let adjuster = Adjuster::new(s, self.adjustment);
        let row = self.adjustments.get(r).copied().unwrap_or_default();
        let adder = Adder::new(s, &row, self.places);
        let (lse, delta) = (s.splat(self.lse[r]), s.splat(self.delta[r]));
        let (mut weights, mut gradients) = ([zero; N], [zero; N]);
        for w in 0..N {
            let column = at + w * S::LANES;
            let (bent, slope) = adjuster.bend(s, scores[w]);
            let score = adder.add(s, bent, self.first_column + column, (self.bits[r] >> column) as u32);
            // A bias of −∞ removes as the bits do.
            let removed = s.lt(score, s.splat(-f32::MAX));
            // In full precision: the gradients of scores are given out in f32.
            let [weight] = F32::exp2(s, [s.mul(s.sub(score, lse), s.splat(std::f32::consts::LOG2_E))]);
            let weight = s.select(removed, zero, weight);
            let mut d_weight = d_weights[w];
            weights[w] = weight;
            if let Some((kept, gain)) = self.kept {
                let kept = s.mask_from_bits((kept[r] >> column) as u32);
                weights[w] = s.select(kept, weight, zero);
                d_weight = s.select(kept, s.mul(d_weight, s.splat(gain)), zero);
            }
            let d_score = s.select(removed, zero, s.mul(weight, s.sub(d_weight, delta)));
            gradients[w] = s.select(removed, zero, s.mul(d_score, slope));
            if !self.d_scores.is_empty() {
                let to = &mut self.d_scores[r * self.all_columns + self.first_column + column..][..S::LANES];
                // SAFETY: so many are there.
                unsafe { s.store(to.as_mut_ptr(), d_score) };
            }
        }
        (weights, gradients)
    }
}

/// # Safety
/// `N` vectors must be readable.
#[inline(always)]
unsafe fn load<S: Simd, const N: usize>(s: S, from: *const f32) -> [S::F32; N] {
    let mut vectors = [s.splat(0.0); N];
    for (w, vector) in vectors.iter_mut().enumerate() {
        // SAFETY: the caller's.
        *vector = unsafe { s.load(from.add(w * S::LANES)) };
    }
    vectors
}

/// # Safety
/// The row must be writable for `N` vectors from column `at` on.
#[inline(always)]
unsafe fn store_row<S: Simd, E: Transposable, const N: usize>(s: S, row: *mut E::A, at: usize, x: &[S::F32; N]) {
    for (w, &x) in x.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { E::store(s, row, at + w * S::LANES, x) };
    }
}
