//! The model of one head: its scores, its loss, and the gradient of that.

use std::ops::Range;

use ndarray::{Array1, Array2, ArrayViewMut1, Axis, concatenate};

use crate::Blocks;
use crate::selector::lesson::Example;
use crate::summary::HeadSummary;

/// Doublings of the distance that are told apart: 0, 1, 2–3, 4–7 … on either side.
const DOUBLINGS: usize = 16;

/// What pooled queries and keys are divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Units {
    pub(crate) query: f64,
    pub(crate) key: f64,
}

/// What the model of a head sees of two lists of blocks.
#[derive(Clone, Debug)]
pub(crate) struct Features {
    /// `π`, `[rows, columns]`.
    products: Array2<f64>,
    /// `ν`, `[rows, columns]`.
    variances: Array2<f64>,
    /// `x = (q̄, 1)`, `[rows, dim + 1]`.
    queries: Array2<f64>,
    /// `y = (k̄, σ)`, `[columns, 2·dim]`.
    keys: Array2<f64>,
    /// Which number of `b` each pair takes.
    distances: Array2<usize>,
}

/// The parameters of a head, or the gradients of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Weights {
    pub(crate) units: Units,
    /// One after the other: `g`, `e`, `b`, `A` and `B`.
    pub(crate) numbers: Vec<f64>,
    pub(crate) rank: usize,
    dim: usize,
}

impl Features {
    pub(crate) fn new(summary: HeadSummary<'_>, blocks: &Blocks, units: Units) -> Features {
        let queries = summary.queries.mapv(|x| x / units.query);
        let ones = Array2::ones((queries.nrows(), 1));
        let means = summary.keys.mapv(|x| x / units.key);
        let deviations = summary.spreads.mapv(|x| x.sqrt() / units.key);
        let join = |parts: &[_]| concatenate(Axis(1), parts).expect("they have as many rows");
        Features {
            products: summary.products(),
            variances: summary.halves_of_variance(),
            queries: join(&[queries.view(), ones.view()]),
            keys: join(&[means.view(), deviations.view()]),
            distances: Array2::from_shape_fn((blocks.rows(), blocks.columns()), |(row, column)| {
                distance(blocks.own(row), column)
            }),
        }
    }
}

/// Doublings of the distance, those ahead after those behind.
fn distance(own: usize, column: usize) -> usize {
    let doublings = (usize::BITS - own.abs_diff(column).leading_zeros()) as usize;
    doublings.min(DOUBLINGS - 1) + if column > own { DOUBLINGS } else { 0 }
}

impl Weights {
    /// All 0.
    pub(crate) fn zeros(dim: usize, rank: usize, units: Units) -> Weights {
        let len = 2 + 2 * DOUBLINGS + rank * (dim + 1) + rank * 2 * dim;
        Weights { units, numbers: vec![0.0; len], rank, dim }
    }

    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Where `b`, `A` and `B` stand.
    pub(crate) fn ranges(&self) -> [Range<usize>; 3] {
        let b = 2 + 2 * DOUBLINGS;
        let a = b + self.rank * (self.dim + 1);
        [2..b, b..a, a..self.len()]
    }

    /// `A [rank, dim + 1]` and `B [rank, 2·dim]`.
    fn factors(&self) -> [Array2<f64>; 2] {
        let [_, a, b] = self.ranges();
        let matrix = |range: Range<usize>, columns| {
            let numbers = self.numbers[range].to_vec();
            Array2::from_shape_vec((self.rank, columns), numbers).expect("the range is of this shape")
        };
        [matrix(a, self.dim + 1), matrix(b, 2 * self.dim)]
    }

    /// `[rows, columns]`.
    pub(crate) fn scores(&self, features: &Features) -> Array2<f64> {
        let [a, b] = self.factors();
        let mut scores = features.queries.dot(&a.t()).dot(&features.keys.dot(&b.t()).t());
        scores.scaled_add(self.numbers[0], &features.products);
        scores.scaled_add(self.numbers[1], &features.variances);
        let distances = &self.numbers[self.ranges()[0].clone()];
        scores.zip_mut_with(&features.distances, |score, &distance| *score += distances[distance]);
        scores
    }

    /// `−Σ t·ln p / Σ t`: `t` are the masses that are left to choose from, `p` the softmax of the scores over the same columns of
    /// a row.
    pub(crate) fn loss(&self, examples: &[Example]) -> f64 {
        let of_example = |example: &Example| {
            let scores = self.scores(&example.features);
            let rows = (0..scores.nrows()).map(|row| example.row_loss(row, &scores, None));
            rows.sum::<f64>()
        };
        ratio(examples.iter().map(of_example).sum(), examples)
    }

    /// The loss, and its gradient:
    ///
    /// `ds = (p·Σ_row t − t) / Σ t`, then `dg = Σ ds·π`, `de = Σ ds·ν`, `db[δ] = Σ_{distance = δ} ds`, and with `U = x·Aᵀ`,
    /// `V = y·Bᵀ` the products `dU = ds·V`, `dV = dsᵀ·U`, `dA = dUᵀ·x`, `dB = dVᵀ·y`.
    pub(crate) fn gradient(&self, examples: &[Example]) -> (f64, Weights) {
        let mut gradient = Weights::zeros(self.dim, self.rank, self.units);
        let ([at_b, at_a, at_bb], [a, b]) = (self.ranges(), self.factors());
        let mut loss = 0.0;
        for example in examples {
            let features = &example.features;
            let scores = self.scores(features);
            let mut slopes = Array2::zeros(scores.dim());
            for (row, slopes) in slopes.rows_mut().into_iter().enumerate() {
                loss += example.row_loss(row, &scores, Some(slopes));
            }
            slopes.mapv_inplace(|slope| ratio(slope, examples));
            gradient.numbers[0] += (&slopes * &features.products).sum();
            gradient.numbers[1] += (&slopes * &features.variances).sum();
            for (slope, distance) in slopes.iter().zip(&features.distances) {
                gradient.numbers[at_b.start + distance] += slope;
            }
            let (u, v) = (features.queries.dot(&a.t()), features.keys.dot(&b.t()));
            let (du, dv) = (slopes.dot(&v), slopes.t().dot(&u));
            for (at, product) in [(&at_a, du.t().dot(&features.queries)), (&at_bb, dv.t().dot(&features.keys))] {
                gradient.numbers[at.clone()].iter_mut().zip(&product).for_each(|(sum, more)| *sum += more);
            }
        }
        (ratio(loss, examples), gradient)
    }
}

/// A sum over rows as a mean over the mass of all examples; 0 where there is none.
fn ratio(sum: f64, examples: &[Example]) -> f64 {
    let mass: f64 = examples.iter().map(|example| example.mass).sum();
    if mass > 0.0 { sum / mass } else { 0.0 }
}

impl Example {
    /// `−Σ t·ln p` of a row; its slopes `p·Σ t − t` are added to `slopes`.
    fn row_loss(&self, row: usize, scores: &Array2<f64>, slopes: Option<ArrayViewMut1<'_, f64>>) -> f64 {
        let targets = self.targets.row(row);
        let total: f64 = targets.sum();
        let columns = self.columns(row);
        if total == 0.0 {
            return 0.0;
        }
        let of_row = scores.row(row);
        let most = columns.clone().map(|column| of_row[column]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = columns.clone().map(|column| (of_row[column] - most).exp()).sum();
        let log_sum = most + sum.ln();
        if let Some(mut slopes) = slopes {
            for column in columns.clone() {
                slopes[column] += (of_row[column] - log_sum).exp() * total - targets[column];
            }
        }
        columns.map(|column| targets[column] * (log_sum - of_row[column])).sum()
    }
}

/// The root of the mean square of some numbers; 1 where it is 0.
pub(crate) fn unit<'a>(numbers: impl Iterator<Item = &'a f64>) -> f64 {
    let squares: Array1<f64> = numbers.map(|x| x * x).collect();
    match squares.mean() {
        Some(mean) if mean > 0.0 => mean.sqrt(),
        _ => 1.0,
    }
}
