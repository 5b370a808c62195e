//! Gradients of softmax attention as they are defined, and as a plain program computes them.

use rand::RngExt;
use regard_kernels::DropoutRow;
use regard_oracle::{Precision, largest_error};

use crate::problem::Problem;
use crate::support::seeded;

/// Rows that the plain method's largest error is taken of, at least: of a few it would be luck.
const PLAIN_ROWS: usize = 300;

/// The number of the first key, as dropout knows it.
pub(crate) const FIRST_KEY: u32 = 1000;

/// A problem, and the gradients of its results.
#[derive(Clone)]
pub(crate) struct Backward {
    pub(crate) forward: Problem,
    pub(crate) precision: Precision,
    /// `[rows][d_v]`.
    pub(crate) d_out: Vec<f32>,
    /// `[rows]`.
    pub(crate) d_lse: Vec<f32>,
    /// Rows whose log-sum-exp is said to be −∞: they see nothing, whatever the bits say.
    pub(crate) blind: Vec<bool>,
    pub(crate) adjusted: Option<Adjusted>,
    pub(crate) seed: u64,
}

/// What comes between a product and its weight, beside the scale.
#[derive(Clone)]
pub(crate) struct Adjusted {
    pub(crate) softcap: Option<f32>,
    /// `[rows]`.
    pub(crate) rows: Vec<RowBias>,
    /// `[keys]`, in any order.
    pub(crate) places: Option<Vec<f32>>,
    /// Weights fall with this probability.
    pub(crate) dropout: Option<f32>,
}

#[derive(Clone)]
pub(crate) struct RowBias {
    pub(crate) same: Option<f32>,
    /// `[keys]`.
    pub(crate) each: Option<Vec<f32>>,
    pub(crate) slope: f32,
    pub(crate) distance: f32,
}

/// The gradients of queries `[rows][d_k]`, keys `[keys][d_k]`, values `[keys][d_v]` and adjusted scores `[rows][keys]`.
pub(crate) type Gradients<T> = [Vec<T>; 4];

impl std::fmt::Debug for Backward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Problem { rows, d_k, d_v, keys, .. } = self.forward;
        let adjusted = self.adjusted.is_some();
        write!(f, "Backward::random({rows}, ({d_k}, {d_v}), {keys}, {:?}, {adjusted}, {})", self.precision, self.seed)
    }
}

impl Adjusted {
    pub(crate) fn random(rows: usize, keys: usize, seed: u64) -> Adjusted {
        let mut random = seeded(seed ^ 3);
        let softcap = random.random::<bool>().then(|| random.random_range(1.0..20.0));
        let row = |random: &mut rand_chacha::ChaCha8Rng| {
            let kind = random.random_range(0..4);
            let bias = |random: &mut rand_chacha::ChaCha8Rng| match random.random_range(0..8) {
                0 => f32::NEG_INFINITY,
                _ => random.random_range(-3.0..3.0),
            };
            RowBias {
                same: (kind == 0).then(|| bias(random)),
                each: (kind > 1).then(|| (0..keys).map(|_| bias(random)).collect()),
                slope: if kind == 1 { 0.0 } else { random.random_range(0.0..0.1) },
                distance: random.random_range(-10..keys as i32) as f32,
            }
        };
        let rows = (0..rows).map(|_| row(&mut random)).collect();
        let places = random.random::<bool>().then(|| (0..keys).map(|_| random.random_range(0..500) as f32).collect());
        let dropout = random.random::<bool>().then(|| random.random_range(0.1..0.9));
        Adjusted { softcap, rows, places, dropout }
    }
}

impl RowBias {
    pub(crate) fn of(&self, key: usize) -> f32 {
        self.each.as_ref().map_or(self.same.unwrap_or(0.0), |each| each[key])
    }
}

impl Backward {
    pub(crate) fn random(
        rows: usize,
        dims: (usize, usize),
        keys: usize,
        precision: Precision,
        adjusted: bool,
        seed: u64,
    ) -> Backward {
        let forward = Problem::random(rows, dims, keys, precision, seed);
        let mut random = seeded(seed ^ 1);
        let mut number = || precision.round(random.random_range(-2.0..2.0));
        let d_out = (0..rows * dims.1).map(|_| number()).collect();
        let d_lse = (0..rows).map(|_| number()).collect();
        let blind = (0..rows).map(|_| random.random_range(0..8) == 0).collect();
        let adjusted = adjusted.then(|| Adjusted::random(rows, keys, seed));
        Backward { forward, precision, d_out, d_lse, blind, adjusted, seed }
    }

    pub(crate) fn keeps(&self, row: usize, key: usize) -> bool {
        let masked = self.adjusted.as_ref().is_some_and(|adjusted| adjusted.rows[row].of(key) == f32::NEG_INFINITY);
        !self.blind[row] && !masked && self.forward.keeps(row, key)
    }

    pub(crate) fn dropout_row(&self, row: usize, probability: f32) -> DropoutRow {
        DropoutRow::new(self.seed, 0, 0, row as u64, probability)
    }

    /// What the weight of a pair and its gradient are multiplied by: 0 where it fell.
    pub(crate) fn gain(&self, row: usize, key: usize) -> f64 {
        match self.adjusted.as_ref().and_then(|adjusted| adjusted.dropout) {
            Some(p) if self.dropout_row(row, p).keeps(FIRST_KEY + key as u32) => 1.0 / (1.0 - f64::from(p)),
            Some(_) => 0.0,
            None => 1.0,
        }
    }

    /// The score of a pair, and its derivative by the score before the cap.
    pub(crate) fn score(&self, row: usize, key: usize, float: fn(f64) -> f64) -> (f64, f64) {
        let Problem { d_k, scale, ref q, ref k, .. } = self.forward;
        let (q, k) = (wide(&q[row * d_k..][..d_k]), wide(&k[key * d_k..][..d_k]));
        let score = float(f64::from(scale) * dot(&q, &k, float));
        let Some(adjusted) = &self.adjusted else { return (score, 1.0) };
        let (capped, slope) = adjusted.softcap.map(f64::from).map_or((score, 1.0), |cap| {
            let bent = float(float(score / cap).tanh());
            (float(cap * bent), float(1.0 - float(bent * bent)))
        });
        let row = &adjusted.rows[row];
        let behind = adjusted.places.as_ref().map_or(key as f32, |places| places[key]);
        let distance = f64::from((row.distance - behind).abs());
        let biased = float(capped + f64::from(row.of(key)));
        (float(biased - float(f64::from(row.slope) * distance)), slope)
    }

    /// As the definitions read, with a rounding after each operation of the backward pass, and one of what the last products
    /// multiply. What it is given of the forward pass is exact, and rounded.
    pub(crate) fn definition(&self, float: fn(f64) -> f64, operand: impl Fn(f64) -> f64) -> Gradients<f64> {
        let Problem { rows, d_k, d_v, keys, scale, ref q, ref k, ref v, .. } = self.forward;
        let add = |sums: &mut [f64], x: f64, y: &[f64]| {
            sums.iter_mut().zip(y).for_each(|(sum, y)| *sum = float(*sum + float(x * y)));
        };
        let [mut dq, mut dk, mut dv] = [vec![0.0; rows * d_k], vec![0.0; keys * d_k], vec![0.0; keys * d_v]];
        let mut d_scores = vec![0.0; rows * keys];
        for row in 0..rows {
            let kept: Vec<usize> = (0..keys).filter(|&key| self.keeps(row, key)).collect();
            let (lse, delta) = self.forward_of(row, float);
            let (q, d_out) = (wide(&q[row * d_k..][..d_k]), wide(&self.d_out[row * d_v..][..d_v]));
            for key in kept {
                let (score, slope) = self.score(row, key, float);
                let (weight, gain) = (float(float(score - lse).exp()), self.gain(row, key));
                let d_weight = dot(&d_out, &wide(&v[key * d_v..][..d_v]), float);
                // A weight that fell takes no part, whatever its value holds.
                let d_weight = if gain == 0.0 { 0.0 } else { float(gain * d_weight) };
                let d_score = float(weight * float(d_weight - delta));
                d_scores[row * keys + key] = d_score;
                let d_score = operand(float(d_score * slope));
                let weight = if gain == 0.0 { 0.0 } else { operand(weight) };
                add(&mut dv[key * d_v..][..d_v], weight, &d_out);
                add(&mut dk[key * d_k..][..d_k], d_score, &q);
                add(&mut dq[row * d_k..][..d_k], d_score, &wide(&k[key * d_k..][..d_k]));
            }
        }
        dq.iter_mut().chain(&mut dk).for_each(|x| *x = float(f64::from(scale) * *x));
        [dq, dk, dv, d_scores]
    }

    /// The log-sum-exp of a row, and `Δ − dLSE` with a rounding after each operation.
    pub(crate) fn forward_of(&self, row: usize, float: fn(f64) -> f64) -> (f64, f64) {
        let Problem { keys, d_v, ref v, .. } = self.forward;
        let kept: Vec<usize> = (0..keys).filter(|&key| self.keeps(row, key)).collect();
        let scores: Vec<f64> = kept.iter().map(|&key| self.score(row, key, |x| x).0).collect();
        if scores.iter().all(|&score| score == f64::NEG_INFINITY) {
            return (f64::NEG_INFINITY, 0.0);
        }
        let max = scores.iter().fold(f64::NEG_INFINITY, |max: f64, &score| max.max(score));
        let lse = max + scores.iter().map(|score| (score - max).exp()).sum::<f64>().ln();
        let mut out = vec![0.0; d_v];
        for (&key, score) in kept.iter().zip(&scores) {
            let weight = (score - lse).exp() * self.gain(row, key);
            out.iter_mut().zip(&v[key * d_v..]).for_each(|(out, &v)| *out += weight * f64::from(v));
        }
        let out: Vec<f64> = out.into_iter().map(float).collect();
        let delta = dot(&out, &wide(&self.d_out[row * d_v..][..d_v]), float);
        (float(lse), float(delta - f64::from(self.d_lse[row])))
    }

    /// The plain method's largest error on problems of this kind.
    pub(crate) fn plain_error(&self) -> [f64; 4] {
        let Problem { rows, d_k, d_v, keys, .. } = self.forward;
        let mut errors = [0f64; 4];
        for draw in 0..PLAIN_ROWS.div_ceil(rows) as u64 {
            let seed = self.seed.wrapping_add(draw);
            let mut other = Backward::random(rows, (d_k, d_v), keys, self.precision, self.adjusted.is_some(), seed);
            other.forward.scale = self.forward.scale;
            let operand = |x: f64| f64::from(self.precision.round(x as f32));
            let plain = other.definition(single, operand);
            let exact = other.definition(|x| x, |x| x);
            for (error, (plain, exact)) in errors.iter_mut().zip(plain.iter().zip(&exact)) {
                *error = error.max(largest_error(plain, exact));
            }
        }
        errors
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

pub(crate) fn single(x: f64) -> f64 {
    f64::from(x as f32)
}

fn dot(a: &[f64], b: &[f64], float: fn(f64) -> f64) -> f64 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| float(sum + float(a * b)))
}
