//! `regard perplexity`: how well a model foresees a text.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use regard_models::tokenizer::Special;
use regard_models::{Perplexity, Session};
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
    let first = model.tokenizer().first_token()?;
    let count = tokens.len();
    let limit = arguments.windows.map_or(usize::MAX, NonZeroUsize::get);
    let mut windows: Vec<&mut [u32]> = tokens.chunks_exact_mut(*context).take(limit).collect();
    if windows.is_empty() {
        return Err(Error::TextTooShort { path: file.clone(), tokens: count, context: *context });
    }
    let mut session = arguments.cache.session(&model, *context)?;
    let mut score = Perplexity::default();
    let start = Instant::now();
    let all = windows.len();
    let bar = progress::steps(all as u64, "reading windows");
    for (index, window) in windows.iter_mut().enumerate() {
        session.truncate(0);
        first.iter().for_each(|&token| window[0] = token);
        read(&mut session, window, arguments.by_token, &mut score)?;
        if !arguments.json {
            let line = format!("{}/{all}  {:.4}", index + 1, score.value());
            bar.suspend(|| print_line(&line))?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if !score.value().is_finite() {
        return Err(Error::NoPerplexity { path: arguments.model.path()? });
    }
    let seconds = start.elapsed().as_secs_f64();
    let rate = score.count() as f64 / seconds;
    print_line(&if arguments.json {
        let report = Report {
            perplexity: score.value(),
            standard_error: score.standard_error(),
            scored_tokens: score.count(),
            windows: all,
            context: *context,
            seconds,
            tokens_per_second: rate,
        };
        serde_json::json!(report).to_string()
    } else {
        format!(
            "perplexity {:.4} ± {:.4} over {all} windows of {context} tokens, {} scored; {rate:.1} tokens/s",
            score.value(),
            score.standard_error(),
            score.count(),
        )
    })
}

/// Reads one window and scores each token by the logits before it.
fn read(session: &mut Session<'_>, window: &[u32], by_token: bool, score: &mut Perplexity) -> Result<(), Error> {
    if by_token {
        for tokens in window.windows(2) {
            score.add(session.feed(&tokens[..1])?, tokens[1]);
        }
    } else {
        score.read(session, window)?;
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
