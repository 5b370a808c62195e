//! The softmax of a row, taken in as scores come.

/// A row's softmax so far (Milakov and Gimelshein, 2018): the largest score, and the sum of all weights relative to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax {
    max: f64,
    sum: f64,
}

impl Softmax {
    /// The softmax of a sink alone; one of −∞ is none.
    pub(crate) fn new(sink: f64) -> Softmax {
        let mut softmax = Softmax { max: f64::NEG_INFINITY, sum: 0.0 };
        softmax.fold(&mut [sink]);
        softmax
    }

    /// Makes weights of scores, still to be [divided](Self::share) by the sum. Gives what all weights before are to be
    /// multiplied by.
    pub(crate) fn fold(&mut self, scores: &mut [f64]) -> f64 {
        // NaN is never the largest; it shows in the sum.
        let max = scores.iter().copied().fold(self.max, f64::max);
        let shift = finite(max);
        let before = (self.max - shift).exp();
        let mut sum = 0.0;
        for score in scores {
            *score = (*score - shift).exp();
            sum += *score;
        }
        *self = Softmax { max, sum: self.sum * before + sum };
        before
    }

    /// The share of a weight in the sum; 0 where there is nothing to share.
    pub(crate) fn share(&self, weight: f64) -> f64 {
        if self.sum == 0.0 { weight } else { weight / self.sum }
    }

    /// The logarithm of the sum of exponentials of all scores.
    pub(crate) fn lse(&self) -> f64 {
        finite(self.max) + self.sum.ln()
    }
}

/// What scores are taken relative to: where all are −∞, −∞ − (−∞) would be NaN.
fn finite(max: f64) -> f64 {
    if max == f64::NEG_INFINITY { 0.0 } else { max }
}
