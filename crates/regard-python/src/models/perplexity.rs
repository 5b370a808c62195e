//! How well a model foresees a text, as `regard perplexity` has it.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use regard_models::tokenizer::{Special, Tokenizer};
use regard_models::{CacheDtype, Model, Result};
use regard_threads::interrupted;

use super::failed;

/// What a text is read in.
pub(super) struct Windows {
    /// Tokens of each.
    pub(super) context: usize,
    /// How many are read, at most.
    pub(super) most: usize,
    pub(super) cache: CacheDtype,
}

/// The exponential of the mean negative log-likelihood of a text's tokens, each given those before it in its window.
///
/// # Errors
/// The text is shorter than a window, or the model gives it no probability.
pub(super) fn perplexity(model: &Model, text: &str, windows: &Windows) -> PyResult<f64> {
    let mut tokens = model.tokenizer().encode(text, Special::AsText).map_err(failed)?;
    let (count, context) = (tokens.len(), windows.context);
    if context < 2 {
        return Err(PyValueError::new_err(format!(
            "`context` is {context}; a window of fewer than 2 has none to score"
        )));
    }
    if count < context {
        let problem = format!("the text has {count} tokens, and a window {context}: lower `context`");
        return Err(PyValueError::new_err(problem));
    }
    match mean_surprise(model, &mut tokens, windows).map_err(failed)?.exp() {
        perplexity if perplexity.is_finite() => Ok(perplexity),
        _ => {
            let problem =
                "the perplexity is no number: the model's weights are too large for its precision, or unsound";
            Err(PyValueError::new_err(problem))
        }
    }
}

fn mean_surprise(model: &Model, tokens: &mut [u32], windows: &Windows) -> Result<f64> {
    let first = first_token(model.tokenizer())?;
    let mut session = model.session(windows.context, windows.cache)?;
    let (mut sum, mut scored) = (0.0, 0_usize);
    for window in tokens.chunks_exact_mut(windows.context).take(windows.most) {
        if interrupted() {
            break;
        }
        session.truncate(0);
        first.iter().for_each(|&token| window[0] = token);
        // What follows the last token is not known, so it need not be read.
        let (seen, next) = (&window[..window.len() - 1], &window[1..]);
        session.feed_all(seen, &mut |index, logits| sum += surprise(logits, next[index]))?;
        scored += next.len();
    }
    Ok(sum / scored as f64)
}

/// The token that begins a sequence, where the model asks for one.
fn first_token(tokenizer: &Tokenizer) -> Result<Option<u32>> {
    let empty = tokenizer.encode_sequence("", Special::AsText)?;
    Ok(tokenizer.bos().filter(|bos| empty.first() == Some(bos)))
}

/// −ln of the probability that the softmax of `logits` gives to `token`.
fn surprise(logits: &[f32], token: u32) -> f64 {
    let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| f64::from(logit - peak).exp()).sum();
    // A token that the model has no logit for is one that it holds to be impossible.
    let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    total.ln() + f64::from(peak) - f64::from(logit)
}
