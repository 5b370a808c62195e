//! The softmax of whole rows.

use regard_simd::Simd;

use crate::{Operand, PANEL};

/// Rows whose reductions and exponentials run beside each other.
const TOGETHER: usize = 4;

/// Scores of some rows, which become weights in place.
#[derive(Clone, Copy)]
pub(super) struct Scores<'a> {
    pub(super) words: *mut f32,
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) keys: usize,
    /// `[rows][⌈keys / 64⌉]` words of 64 bits: the keys that a row keeps.
    pub(super) live: Option<&'a [u64]>,
}

impl Scores<'_> {
    /// Turns scores into weights `2^(score − max)`, in place, and gives for each row its maximum and the sum of its weights:
    /// −∞ and 0 where it keeps no key. What is behind the last key, to a whole vector, becomes 0.
    ///
    /// # Safety
    /// `rows` rows of whole vectors that hold `keys` scores must be readable and writable.
    #[inline(always)]
    pub(super) unsafe fn weigh<S: Simd, E: Operand>(self, s: S, maxima: &mut [f32], sums: &mut [f32]) {
        let together = self.rows / TOGETHER * TOGETHER;
        // SAFETY: the caller's.
        unsafe {
            for row in (0..together).step_by(TOGETHER) {
                self.weigh_rows::<S, E, TOGETHER>(s, row, &mut maxima[row..], &mut sums[row..]);
            }
            for row in together..self.rows {
                self.weigh_rows::<S, E, 1>(s, row, &mut maxima[row..], &mut sums[row..]);
            }
        }
    }

    /// # Safety
    /// As [`Scores::weigh`], with `row + R ≤ rows`.
    #[inline(always)]
    unsafe fn weigh_rows<S: Simd, E: Operand, const R: usize>(
        self,
        s: S,
        row: usize,
        maxima: &mut [f32],
        sums: &mut [f32],
    ) {
        let words = self.words.wrapping_add(row * self.stride);
        let whole = if self.live.is_some() { 0 } else { self.keys / S::LANES };
        let vectors = self.keys.div_ceil(S::LANES);
        let mut max = [s.splat(f32::NEG_INFINITY); R];
        // SAFETY: the vectors are within the rows.
        unsafe {
            for v in 0..whole {
                for (r, max) in max.iter_mut().enumerate() {
                    // The running maximum stands second: it survives a NaN, which the weights will show.
                    *max = s.max(s.load(words.add(r * self.stride + v * S::LANES)), *max);
                }
            }
            for v in whole..vectors {
                for (r, max) in max.iter_mut().enumerate() {
                    let kept = s.mask_from_bits(self.kept(row + r, v * S::LANES));
                    let at = words.add(r * self.stride + v * S::LANES);
                    let score = s.select(kept, s.load(at), s.splat(f32::NEG_INFINITY));
                    s.store(at, score);
                    *max = s.max(score, *max);
                }
            }
        }
        let mut shift = [s.splat(0.0); R];
        for (r, max) in max.into_iter().enumerate() {
            maxima[r] = s.reduce_max(max);
            // A row that has seen no key would compute −∞ − −∞ below; any finite shift gives it weights of 0.
            shift[r] = s.splat(if maxima[r] == f32::NEG_INFINITY { 0.0 } else { maxima[r] });
        }
        let mut sum = [s.splat(0.0); R];
        for v in 0..vectors {
            let mut x = shift;
            // SAFETY: as above; weights are no wider than scores, so that writing them never overtakes the reading.
            unsafe {
                for (r, x) in x.iter_mut().enumerate() {
                    *x = s.sub(s.load(words.add(r * self.stride + v * S::LANES)), *x);
                }
                let weights = E::exp2(s, x);
                for (r, (sum, weight)) in sum.iter_mut().zip(weights).enumerate() {
                    *sum = s.add(*sum, weight);
                    E::store(s, words.add(r * self.stride).cast(), v * S::LANES, weight);
                }
            }
        }
        for (to, sum) in sums[..R].iter_mut().zip(sum) {
            *to = s.reduce_add(sum);
        }
    }

    /// The keys from `column` on that a row keeps, a bit each, and more bits behind.
    #[inline(always)]
    fn kept(&self, row: usize, column: usize) -> u32 {
        let words = self.keys.div_ceil(PANEL);
        let live = self.live.map_or(u64::MAX, |live| live[row * words + column / PANEL]);
        let exist = u64::MAX >> (PANEL - (self.keys - column).min(PANEL));
        (live >> (column % PANEL) & exist) as u32
    }
}
