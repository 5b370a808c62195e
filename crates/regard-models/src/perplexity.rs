//! How well a model foresees a text.

use crate::{Result, Session};

/// The exponential of the mean negative log-likelihood of tokens, each given those before it.
///
/// ```
/// use regard_models::Perplexity;
///
/// let mut perplexity = Perplexity::default();
/// perplexity.add(&[0.0, 3f32.ln()], 1); // a probability of 3/4
/// perplexity.add(&[0.0, 0.0, 0.0], 2); // and one of 1/3
/// assert!((perplexity.value() - 2.0).abs() < 1e-6);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Perplexity {
    count: u64,
    sum: f64,
    squares: f64,
}

impl Perplexity {
    /// Lets an empty session read `window`, and adds every token of it but the first.
    ///
    /// # Errors
    /// The session's.
    pub fn read(&mut self, session: &mut Session<'_>, window: &[u32]) -> Result<()> {
        let Some((_, next)) = window.split_first() else { return Ok(()) };
        // What follows the last token is not known, so it need not be read.
        session.feed_all(&window[..next.len()], &mut |index, logits| self.add(logits, next[index]))
    }

    /// Adds the token `next` that came where `logits` were expected.
    pub fn add(&mut self, logits: &[f32], next: u32) {
        let surprise = surprise(logits, next);
        self.count += 1;
        self.sum += surprise;
        self.squares += surprise * surprise;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// How many tokens were added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The perplexity of them; NaN of none.
    pub fn value(&self) -> f64 {
        self.mean().exp()
    }

    /// The standard error of the perplexity, by the delta method: that of the mean, times the perplexity.
    pub fn standard_error(&self) -> f64 {
        let count = self.count as f64;
        let variance = (self.squares / count - self.mean().powi(2)).max(0.0);
        self.value() * (variance / (count - 1.0).max(1.0)).sqrt()
    }
}

/// −ln of the probability that the softmax of `logits` gives to `token`.
fn surprise(logits: &[f32], token: u32) -> f64 {
    let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| f64::from(logit - peak).exp()).sum();
    // A token that the model has no logit for is one that it holds to be impossible.
    let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    total.ln() + f64::from(peak) - f64::from(logit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The textbook: the inverse of the geometric mean of the probabilities.
        #[test]
        fn perplexity_is_the_inverse_geometric_mean(
            steps in prop::collection::vec((prop::collection::vec(-20.0..20.0_f32, 40), 0..40_usize), 1..20),
            shift in -300.0..300.0_f32,
        ) {
            let mut score = Perplexity::default();
            let mut logs = Vec::new();
            for (logits, next) in &steps {
                let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                logs.push((f64::from(logits[*next]).exp() / total).ln());
                // Probabilities do not change when all logits move together, nor do they overflow.
                let moved: Vec<f32> = logits.iter().map(|logit| logit + shift).collect();
                score.add(&moved, *next as u32);
            }
            let mean = logs.iter().sum::<f64>() / logs.len() as f64;
            prop_assert!((score.mean() + mean).abs() < 1e-4, "{} and {}", score.mean(), -mean);
            prop_assert!((score.value().ln() + mean).abs() < 1e-4);
            let spread: f64 = logs.iter().map(|log| (log - mean).powi(2)).sum();
            let count = logs.len() as f64;
            let error = (spread / count / (count - 1.0).max(1.0)).sqrt() * score.value();
            prop_assert!((score.standard_error() - error).abs() <= 1e-3 * error + 1e-3 * score.value());
        }
    }
}
