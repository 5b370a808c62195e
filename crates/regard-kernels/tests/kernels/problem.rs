//! Softmax attention of a few query rows: folded tile by tile, and as it is defined.

use proptest::prelude::*;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use regard_kernels::{COLUMNS, Ending, Kernels, Operand, PANEL, ROWS, RowState, ScoreTile, Stretch};
use regard_memory::Rows;
use regard_oracle::Precision;
use regard_simd::Isa;

use crate::support::{ROUNDING, seeded};

/// Query rows against keys, of which each row keeps some.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) rows: usize,
    pub(crate) d_k: usize,
    pub(crate) d_v: usize,
    pub(crate) keys: usize,
    pub(crate) scale: f32,
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    /// `[rows][panels]` bits.
    pub(crate) live: Vec<Vec<u64>>,
}

impl Problem {
    /// Numbers that the operand holds exactly.
    pub(crate) fn random(
        rows: usize,
        (d_k, d_v): (usize, usize),
        keys: usize,
        precision: Precision,
        seed: u64,
    ) -> Problem {
        let mut random = seeded(seed);
        let mut numbers = |n: usize| (0..n).map(|_| precision.round(random.random_range(-2.0..2.0))).collect();
        let (q, k, v) = (numbers(rows * d_k), numbers(keys * d_k), numbers(keys * d_v));
        let panels = keys.div_ceil(PANEL);
        let live = (0..rows).map(|_| (0..panels).map(|panel| panel_bits(&mut random, keys - panel * PANEL)).collect());
        let (live, scale) = (live.collect(), random.random_range(0.01..1.0));
        Problem { rows, d_k, d_v, keys, scale, q, k, v, live }
    }

    pub(crate) fn keeps(&self, row: usize, key: usize) -> bool {
        self.live[row][key / PANEL] >> (key % PANEL) & 1 == 1
    }

    /// Makes every row keep every key.
    pub(crate) fn keep_all(&mut self) {
        let panels = self.keys.div_ceil(PANEL);
        self.live = vec![vec![u64::MAX; panels]; self.rows];
    }

    /// Whether every row keeps every key of a panel.
    fn is_full(&self, panel: usize) -> bool {
        self.live.iter().all(|row| row.get(panel) == Some(&u64::MAX))
    }

    /// The tiles, one after the other, folded into a state; the results `[rows][d_v]` and the log-sum-exps.
    pub(crate) fn fold<E: Operand>(&self, isa: Isa) -> (Vec<f32>, Vec<f32>) {
        let (kernels, steps) = (Kernels::new(isa), self.d_k.div_ceil(E::DEPTH));
        let (panels, width) = (self.keys.div_ceil(PANEL), self.d_v.next_multiple_of(COLUMNS));
        let mut queries = vec![E::A::default(); ROWS * steps];
        for row in 0..self.rows {
            let (q, to) = (&self.q[row * self.d_k..][..self.d_k], &mut queries[row * steps..][..steps]);
            kernels.pack_query::<E, f32>(q, 1.0, to).unwrap();
        }
        let mut keys = vec![E::B::default(); panels * steps * PANEL];
        kernels.pack_keys::<E, f32>(Rows::contiguous(&self.k, self.keys, self.d_k).unwrap(), 0, &mut keys).unwrap();
        let value_panel = PANEL / E::DEPTH * width;
        let mut values = vec![E::B::default(); panels * value_panel];
        let v = Rows::contiguous(&self.v, self.keys, self.d_v).unwrap();
        kernels.pack_values::<E, f32>(v, 0, &mut values, width).unwrap();

        let mut buffer = vec![f32::NAN; ScoreTile::words(2 * PANEL)];
        let mut tile = ScoreTile::new(&mut buffer, 2 * PANEL).unwrap();
        let (mut state, mut sums) = (RowState::default(), vec![0.0; ROWS * width]);
        let factor = self.scale * std::f32::consts::LOG2_E;
        let mut panel = 0;
        while panel < panels {
            // Two full panels make a tile without a mask.
            let together = if self.is_full(panel) && self.is_full(panel + 1) { 2 } else { 1 };
            let bits: Vec<u64> = self.live.iter().map(|row| row[panel]).collect();
            let full = self.is_full(panel);
            let some = &keys[panel * steps * PANEL..][..together * steps * PANEL];
            let stretch = if full { Stretch::whole(some, together) } else { Stretch::rim(some, &bits) };
            let columns = stretch.columns();
            tile.clear();
            kernels.score::<E>(self.rows, steps, &queries, &[stretch], &mut tile).unwrap();
            kernels.softmax::<E>(self.rows, factor, &mut tile, &mut state).unwrap();
            for first in columns.clone().step_by(PANEL) {
                let some = first..columns.end.min(first + PANEL);
                let values = &values[panel * value_panel + some.start / E::DEPTH * width..];
                let values = &values[..some.len() / E::DEPTH * width];
                let key = panel * PANEL + some.start;
                let spoiled = self.v[key * self.d_v..self.keys.min(key + some.len()) * self.d_v].iter();
                let at = first - columns.start;
                if spoiled.into_iter().any(|v| !v.is_finite()) {
                    let bits: Vec<u64> = bits.iter().map(|row| row >> (first % PANEL)).collect();
                    kernels.accumulate_kept::<E>(&bits, &tile, at, values, width, &mut state, &mut sums).unwrap();
                } else {
                    let at = (at, some.len());
                    kernels.accumulate::<E>(self.rows, &tile, at, values, width, &mut state, &mut sums).unwrap();
                }
            }
            panel += together;
        }
        let mut out = vec![f32::NAN; self.rows * self.d_v];
        let finish = |row: usize| {
            let out = &mut out[row * self.d_v..][..self.d_v];
            kernels.finish(&state, row, &sums, width, Ending::default(), out).unwrap()
        };
        let lse = (0..self.rows).map(finish).collect();
        (out, lse)
    }

    /// `softmax(scale·q·Kᵀ)·V` of one row, its log-sum-exp, and the largest magnitude that a kept score is a sum of.
    fn definition(&self, row: usize) -> (Vec<f64>, f64, f64) {
        let kept: Vec<usize> = (0..self.keys).filter(|&key| self.keeps(row, key)).collect();
        let products = |key: usize| {
            let (q, k) = (&self.q[row * self.d_k..][..self.d_k], &self.k[key * self.d_k..][..self.d_k]);
            q.iter().zip(k).map(|(&q, &k)| f64::from(self.scale) * f64::from(q) * f64::from(k))
        };
        let scores: Vec<f64> = kept.iter().map(|&key| products(key).sum()).collect();
        let magnitudes = kept.iter().map(|&key| products(key).map(f64::abs).sum()).filter(|sum: &f64| sum.is_finite());
        let magnitude = magnitudes.fold(0.0, f64::max);
        let max = scores.iter().fold(f64::NEG_INFINITY, |max: f64, &score| max.max(score));
        // Scores of −∞ alone are as good as none.
        let max = if max == f64::NEG_INFINITY { 0.0 } else { max };
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let value =
            |c: usize| kept.iter().zip(&weights).map(move |(&key, w)| w * f64::from(self.v[key * self.d_v + c]));
        let out = (0..self.d_v).map(|c| if sum == 0.0 { 0.0 } else { value(c).sum::<f64>() / sum }).collect();
        (out, max + sum.ln(), magnitude)
    }

    /// `weight` is what a softmax weight is off by, relatively, for an exact score.
    pub(crate) fn judge<E: Operand>(&self, isa: Isa, weight: f64) -> Result<(), TestCaseError> {
        let (out, lse) = self.fold::<E>(isa);
        self.check(isa, &out, &lse, weight, 0.0)
    }

    /// Whether results `[rows][d_v]` and log-sum-exps are right. `weight` is as in [`Problem::judge`]; `storage` is what a
    /// result is off by, relatively, for being stored.
    pub(crate) fn check(
        &self,
        isa: Isa,
        out: &[f32],
        lse: &[f32],
        weight: f64,
        storage: f64,
    ) -> Result<(), TestCaseError> {
        prop_assert_eq!((out.len(), lse.len()), (self.rows * self.d_v, self.rows));
        for row in 0..self.rows {
            let (exact, exact_lse, magnitude) = self.definition(row);
            // A score is a sum of products, and its exponent in base 2 is rounded a few times more.
            let score = magnitude * (2 * self.d_k + 16) as f64 * ROUNDING;
            let sums = (2 * self.keys + 16) as f64 * ROUNDING;
            let relative = (2.0 * score).exp_m1() + weight + sums;
            let lse_error = (f64::from(lse[row]) - exact_lse).abs();
            let bound = 2.0 * relative + 2.0 * ROUNDING * exact_lse.abs();
            let same = f64::from(lse[row]) == exact_lse || lse[row].is_nan() && exact_lse.is_nan();
            prop_assert!(same || lse_error <= bound, "{isa}, row {row}: LSE {}, exactly {exact_lse}", lse[row]);
            for (column, (&y, &exact)) in out[row * self.d_v..].iter().zip(&exact).enumerate() {
                // Values are at most 2.
                let error = (f64::from(y) - exact).abs();
                let same = y.is_nan() && exact.is_nan();
                prop_assert!(
                    same || error <= 4.0 * relative + storage * exact.abs(),
                    "{isa} ({row}, {column}): {y}, exactly {exact}, off by {error:e}"
                );
            }
        }
        Ok(())
    }
}

/// The keys of one panel that a row keeps: all, none, those up to one, or any; none that does not exist.
fn panel_bits(random: &mut ChaCha8Rng, exist: usize) -> u64 {
    let bits = match random.random_range(0..6) {
        0..3 => u64::MAX,
        3 => 0,
        4 => u64::MAX >> random.random_range(0..64),
        _ => random.next_u64(),
    };
    if exist < PANEL { bits & ((1 << exist) - 1) } else { bits }
}
