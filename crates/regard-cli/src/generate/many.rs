//! `regard generate --prompts`: many texts, several at a time.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use regard_models::Model;
use regard_models::generate::Generator;
use regard_models::sampling::SamplingOptions;
use serde_json::json;

use super::{Arguments, encode};
use crate::error::Error;
use crate::input;
use crate::interrupt::Listener;
use crate::output::{print_line, say};
use crate::progress;
use crate::writer::{Ending, Text};
use regard_models::generate::Stops;

/// A text that is being written.
struct Job<'m> {
    line: usize,
    prompt_tokens: usize,
    generator: Generator<'m>,
    text: Text<'m>,
}

/// Writes a text for each line of a file, or of standard input where it is `-`: one JSON object a line, in the same order.
/// Each is the text that its prompt has alone.
pub(super) fn run(arguments: &Arguments, model: &Model, sampling: &SamplingOptions, path: &Path) -> Result<(), Error> {
    let text = input::text(path)?;
    let lines: Vec<&str> = text.lines().collect();
    let (most, limit) = (arguments.writing.max_tokens.get(), model.description().context);
    let mut prompts = Vec::with_capacity(lines.len());
    let context = |tokens: usize| arguments.context.map_or(tokens.saturating_add(most).min(limit), NonZeroUsize::get);
    for (line, text) in lines.iter().enumerate() {
        let tokens = encode(model, arguments, (*text).to_owned())?;
        let context = context(tokens.len());
        if text.trim().is_empty() || tokens.len() >= context {
            let problem = match text.trim() {
                "" => "it is empty".to_owned(),
                _ => Error::PromptTooLong { tokens: tokens.len(), context, limit }.to_string(),
            };
            return Err(Error::Usage(format!("line {} of {}: {problem}", line + 1, path.display())));
        }
        prompts.push(tokens);
    }
    // One that has written a text writes another, and keeps what both prompts begin with.
    let most_context = context(prompts.iter().map(Vec::len).max().unwrap_or(0));
    arguments.cache.check_room(model, arguments.parallel.get().min(prompts.len()), most_context)?;
    let grammar = arguments.grammar(model)?;
    let mut idle = Vec::<Generator<'_>>::new();
    let bar = progress::steps(prompts.len() as u64, "writing");
    let (start, listener) = (Instant::now(), Listener::new());
    let (mut jobs, mut done) = (Vec::<Job<'_>>::new(), BTreeMap::new());
    let (mut next, mut printed, mut tokens) = (0, 0, 0);
    while printed < prompts.len() {
        while let Some(prompt) = prompts.get(next).filter(|_| jobs.len() < arguments.parallel.get()) {
            let mut generator = match idle.pop() {
                Some(generator) => generator,
                None => arguments.generator(model, most_context, sampling, grammar.clone(), None)?,
            };
            generator.restart();
            generator.expect(context(prompt.len()));
            generator.read_while(prompt, &mut |_, _| !listener.pressed())?;
            let text = Text::new(model.tokenizer(), most, Stops::new(arguments.writing.stop.clone()));
            jobs.push(Job { line: next, prompt_tokens: prompt.len(), generator, text });
            next += 1;
        }
        if listener.pressed() {
            bar.finish_and_clear();
            say!("stopped by Ctrl-C");
            return Err(Error::Interrupted);
        }
        let mut writing = Vec::with_capacity(jobs.len());
        for mut job in jobs {
            match job.text.take(job.generator.next_token()?) {
                None => writing.push(job),
                Some(ending) => {
                    tokens += job.text.tokens;
                    bar.inc(1);
                    done.insert(job.line, report(lines[job.line], &job, ending, sampling.seed));
                    idle.push(job.generator);
                }
            }
        }
        jobs = writing;
        while let Some(line) = done.remove(&printed) {
            bar.suspend(|| print_line(&line))?;
            printed += 1;
        }
        let mut generators: Vec<&mut Generator<'_>> = jobs.iter_mut().map(|job| &mut job.generator).collect();
        Generator::advance_together(&mut generators)?;
    }
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    if tokens > 0 {
        say!("{} prompts; generated: {tokens} tokens, {:.1} tokens/s", prompts.len(), tokens as f64 / seconds);
    }
    Ok(())
}

fn report(prompt: &str, job: &Job<'_>, ending: Ending, seed: u64) -> String {
    json!({
        "prompt": prompt,
        "text": job.text.written,
        "stop": ending,
        "stop_string": job.text.stop(),
        "seed": seed,
        "prompt_tokens": job.prompt_tokens,
        "generated_tokens": job.text.tokens,
    })
    .to_string()
}
