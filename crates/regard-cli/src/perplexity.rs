//! `regard perplexity`: how well a model foresees a text.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use regard_models::Session;
use regard_models::tokenizer::{Special, Tokenizer};
use serde::Serialize;

use crate::error::Error;
use crate::input;
use crate::options::{CacheOptions, ModelOptions};
use crate::output::print_line;
use crate::progress;

/// Arguments of `regard perplexity`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The text is cut into tokens (bytes that are not UTF-8 are replaced) and these into consecutive windows of --context \
tokens; a last, shorter one is left out. Each window is read by itself, and every token of it but the first is \
scored. The first becomes the token that begins a sequence, where the model asks for one. The perplexity is the \
exponential of the mean negative log-likelihood, given with its standard error.

Examples:
  regard perplexity book.txt --context 512
  regard perplexity book.txt --context 2048 --windows 8 --json
  regard perplexity book.txt --windows 4 --by-token")]
pub(crate) struct Arguments {
    /// The text; `-`: standard input
    file: PathBuf,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    cache: CacheOptions,
    /// Tokens of a window, at least 2
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = window)]
    context: usize,
    /// Read this many windows only
    #[arg(long, value_name = "K")]
    windows: Option<NonZeroUsize>,
    /// Feed the model token by token, through the cache, instead of whole windows
    #[arg(long)]
    by_token: bool,
    /// Print one JSON object at the end instead of the running value
    #[arg(long)]
    json: bool,
}

fn window(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(tokens) if tokens >= 2 => Ok(tokens),
        Ok(_) => Err("a window of fewer than 2 tokens has none to score".into()),
        Err(error) => Err(format!("{error}")),
    }
}

/// Runs `regard perplexity`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let Arguments { file, context, .. } = arguments;
    let text = input::text(file)?;
    let model = arguments.model.load(&arguments.model.path()?)?;
    let waiting = progress::spinner("cutting the text into tokens");
    let mut tokens = model.tokenizer().encode(&text, Special::AsText)?;
    waiting.finish_and_clear();
    let first = first_token(model.tokenizer())?;
    let count = tokens.len();
    let limit = arguments.windows.map_or(usize::MAX, NonZeroUsize::get);
    let mut windows: Vec<&mut [u32]> = tokens.chunks_exact_mut(*context).take(limit).collect();
    if windows.is_empty() {
        return Err(Error::TextTooShort { path: file.clone(), tokens: count, context: *context });
    }
    let mut session = arguments.cache.session(&model, *context)?;
    let mut score = Score::default();
    let start = Instant::now();
    let all = windows.len();
    let bar = progress::steps(all as u64, "reading windows");
    for (index, window) in windows.iter_mut().enumerate() {
        session.truncate(0);
        first.iter().for_each(|&token| window[0] = token);
        read(&mut session, window, arguments.by_token, &mut score)?;
        if !arguments.json {
            let line = format!("{}/{all}  {:.4}", index + 1, score.perplexity());
            bar.suspend(|| print_line(&line))?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if !score.perplexity().is_finite() {
        return Err(Error::NoPerplexity { path: arguments.model.path()? });
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = score.count as f64 / seconds;
    print_line(&if arguments.json {
        let report = Report {
            perplexity: score.perplexity(),
            standard_error: score.standard_error(),
            scored_tokens: score.count,
            windows: all,
            context: *context,
            seconds,
            tokens_per_second: rate,
        };
        serde_json::json!(report).to_string()
    } else {
        format!(
            "perplexity {:.4} ± {:.4} over {all} windows of {context} tokens, {} scored; {rate:.1} tokens/s",
            score.perplexity(),
            score.standard_error(),
            score.count,
        )
    })
}

/// The token that begins a sequence, where the model asks for one.
pub(crate) fn first_token(tokenizer: &Tokenizer) -> Result<Option<u32>, Error> {
    let empty = tokenizer.encode_sequence("", Special::AsText)?;
    Ok(tokenizer.bos().filter(|bos| empty.first() == Some(bos)))
}

/// Reads one window and scores each token by the logits before it.
fn read(session: &mut Session<'_>, window: &[u32], by_token: bool, score: &mut Score) -> Result<(), Error> {
    // What follows the last token is not known, so it need not be read.
    let (seen, next) = (&window[..window.len() - 1], &window[1..]);
    if by_token {
        for (token, next) in seen.iter().zip(next) {
            score.add(session.feed(&[*token])?, *next);
        }
    } else {
        session.feed_all(seen, &mut |index, logits| score.add(logits, next[index]))?;
    }
    Ok(())
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    perplexity: f64,
    standard_error: f64,
    scored_tokens: u64,
    windows: usize,
    context: usize,
    seconds: f64,
    tokens_per_second: f64,
}

/// Running sum of the negative log-likelihoods, and of their squares.
#[derive(Default)]
struct Score {
    count: u64,
    sum: f64,
    squares: f64,
}

impl Score {
    /// Adds the token `next` that came where `logits` were expected.
    fn add(&mut self, logits: &[f32], next: u32) {
        let surprise = surprise(logits, next);
        self.count += 1;
        self.sum += surprise;
        self.squares += surprise * surprise;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// Of the perplexity, by the delta method: that of the mean, times the perplexity.
    fn standard_error(&self) -> f64 {
        let count = self.count as f64;
        let variance = (self.squares / count - self.mean().powi(2)).max(0.0);
        self.perplexity() * (variance / (count - 1.0).max(1.0)).sqrt()
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
            let mut score = Score::default();
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
            prop_assert!((score.perplexity().ln() + mean).abs() < 1e-4);
            let spread: f64 = logs.iter().map(|log| (log - mean).powi(2)).sum();
            let count = logs.len() as f64;
            let error = (spread / count / (count - 1.0).max(1.0)).sqrt() * score.perplexity();
            prop_assert!((score.standard_error() - error).abs() <= 1e-3 * error + 1e-3 * score.perplexity());
        }
    }
}
