//! How well a model foresees a text, as `regard perplexity` has it.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use regard_models::tokenizer::Special;
use regard_models::{CacheDtype, Model, Perplexity, Result};
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
    match read(model, &mut tokens, windows).map_err(failed)?.value() {
        perplexity if perplexity.is_finite() => Ok(perplexity),
        _ => {
            let problem =
                "the perplexity is no number: the model's weights are too large for its precision, or unsound";
            Err(PyValueError::new_err(problem))
        }
    }
}

fn read(model: &Model, tokens: &mut [u32], windows: &Windows) -> Result<Perplexity> {
    let first = model.tokenizer().first_token()?;
    let mut session = model.session(windows.context, windows.cache)?;
    let mut score = Perplexity::default();
    for window in tokens.chunks_exact_mut(windows.context).take(windows.most) {
        if interrupted() {
            break;
        }
        session.truncate(0);
        first.iter().for_each(|&token| window[0] = token);
        score.read(&mut session, window)?;
    }
    Ok(score)
}
