//! `regard generate`: one text after one prompt, or one for each of many.

mod many;

use std::fs;
use std::io::{self, IsTerminal};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use regard_layers::Objective;
use regard_models::Model;
use regard_models::chat::{Message, Turn};
use regard_models::generate::{Counts, Generator, Grammar};
use regard_models::sampling::SamplingOptions;
use regard_models::tokenizer::Special;
use serde::Serialize;

use crate::error::Error;
use crate::input;
use crate::learned::{Learned, LearnedSource, Rounds};
use crate::options::{CacheOptions, GuessOptions, ModelOptions, WritingOptions};
use crate::output::{print, print_line, say};
use crate::writer::{Ending, Source, Writer, Written};
use regard_models::generate::Stops;

/// Arguments of `regard generate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The text goes to standard output as it is written, and nothing else does; what there is to say goes to standard \
error. A model that was made for conversation gets the prompt as a message, through the chat template in its file; \
--raw continues the prompt as it stands, and so does a model without a template.

A model of `regard train` that denoises begins with a mask for each of --max-tokens, as far as its context holds them, and fills in \
those that it is most confident of in each of --steps rounds.

What a folder's generation_config.json says of sampling takes the place of the defaults: temperature, top_k, top_p, min_p, \
repetition_penalty, and do_sample, which makes the temperature 0 where it is false. An option that is given wins; \
`regard info` shows what a folder says.

Examples:
  regard generate \"Why is the sky blue?\"
  regard generate --raw --temperature 0 --max-tokens 40 \"Once upon a time\"
  regard generate --seed 7 --json \"Name three colours.\" | jq .text
  regard generate --system \"Answer in one sentence.\" < question.txt
  regard generate --json-schema person.json \"Invent a sailor.\"
  regard generate --prompts questions.txt --parallel 16 > answers.jsonl
  regard generate -m my-run/latest --max-tokens 64 --steps 16 \"The whale\"

Exit codes: 0 done, 1 failed, 2 wrong command line, 130 stopped by Ctrl-C, 141 nobody reads the output any more.")]
pub(crate) struct Arguments {
    /// The prompt; without one, or as `-`, it is read from standard input
    prompt: Option<String>,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    writing: WritingOptions,
    #[command(flatten)]
    cache: CacheOptions,
    #[command(flatten)]
    guesses: GuessOptions,
    /// Tokens that the context holds [default: what the prompt and --max-tokens need, within the model's limit]
    #[arg(short, long, value_name = "N")]
    context: Option<NonZeroUsize>,
    /// Rounds in which a model that denoises fills in the text [default: one for each token]
    #[arg(long, value_name = "N")]
    steps: Option<NonZeroUsize>,
    /// Continue the prompt as it stands, without the chat template
    #[arg(long)]
    raw: bool,
    /// Tell the model what it is to be or do, before the prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Print one JSON object at the end instead of the text as it comes
    #[arg(long)]
    json: bool,
    /// Let the text be JSON that the JSON schema in this file describes
    #[arg(long, value_name = "FILE", conflicts_with = "stop")]
    json_schema: Option<PathBuf>,
    /// Write a text for each line of this file (`-`: standard input), none of them empty: one JSON object a line, in the same
    /// order. All have the same --seed, and each is the text that its line has alone
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "json", "draft"])]
    prompts: Option<PathBuf>,
    // What excludes --prompts stands here too: beside it clap does not ask for what is required.
    /// How many texts of --prompts are written at a time: the weights are read once for all of them
    #[arg(long, value_name = "N", default_value = "8", requires = "prompts", conflicts_with_all = ["prompt", "json", "draft"])]
    parallel: NonZeroUsize,
}

impl Arguments {
    /// What the text is held to, if there is to be something.
    fn grammar<'m>(&self, model: &'m Model) -> Result<Option<Grammar<'m>>, Error> {
        let Some(path) = &self.json_schema else { return Ok(None) };
        let schema = fs::read_to_string(path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let grammar = Grammar::json_schema(&schema, model);
        grammar.map(Some).map_err(|source| Error::Schema { path: path.clone(), source })
    }

    /// Tokens that the context holds: as many as were asked for, or as a prompt of so many tokens needs.
    fn room(&self, tokens: usize, limit: usize) -> Result<usize, Error> {
        let context = match self.context {
            Some(context) => context.get(),
            None => tokens.saturating_add(self.writing.max_tokens.get()).min(limit),
        };
        if tokens >= context { Err(Error::PromptTooLong { tokens, context, limit }) } else { Ok(context) }
    }

    /// A generator as the options ask for it.
    fn generator<'m>(
        &self,
        model: &'m Model,
        context: usize,
        sampling: &SamplingOptions,
        grammar: Option<Grammar<'m>>,
        draft: Option<&'m Model>,
    ) -> Result<Generator<'m>, Error> {
        let session = self.cache.session(model, context)?;
        let generator = self.guesses.generator(session, sampling.clone(), draft)?;
        Ok(match grammar {
            Some(grammar) => generator.with_grammar(grammar)?,
            None => generator,
        })
    }
}

/// Runs `regard generate`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    arguments.writing.check()?;
    // What is wrong with it is said before a model is fetched.
    let text = arguments.prompts.is_none().then(|| text(arguments)).transpose()?.unwrap_or_default();
    let path = arguments.model.path()?;
    if let Some(learned) = Learned::open(&path)? {
        return learned_one(arguments, &learned, &path, &text);
    }
    if arguments.steps.is_some() {
        let problem = format!("--steps is of models that denoise, and {} writes token by token", path.display());
        return Err(Error::Usage(problem));
    }
    let model = arguments.model.load(&path)?;
    if let Some(path) = &arguments.prompts {
        return many::run(arguments, &model, &arguments.writing.sampling(model.preferences()), path);
    }
    let sampling = arguments.writing.sampling(model.preferences());
    let prompt = encode(&model, arguments, text)?;
    let context = arguments.room(prompt.len(), model.description().context)?;
    let draft = arguments.guesses.load(&model)?;
    let grammar = arguments.grammar(&model)?;
    let generator = arguments.generator(&model, context, &sampling, grammar, draft.as_ref())?;
    one(arguments, &prompt, context, &sampling, Writer::new(model.tokenizer(), generator))
}

/// A text of a model that `regard train` made and that no decoder runs.
fn learned_one(arguments: &Arguments, learned: &Learned, path: &Path, text: &str) -> Result<(), Error> {
    let path = path.display();
    let refused = |option: &str| Error::Usage(format!("{option} is not for {path}, a model that `regard train` made"));
    for (option, given) in [
        ("--prompts", arguments.prompts.is_some()),
        ("--json-schema", arguments.json_schema.is_some()),
        ("--draft", arguments.guesses.has_draft()),
        ("--system", arguments.system.is_some()),
        ("--cache-dtype", arguments.cache.is_given()),
    ] {
        if given {
            return Err(refused(option));
        }
    }
    let sampling = arguments.writing.sampling(learned.preferences());
    let prompt = learned.tokenizer().encode_sequence(text, Special::AsText)?;
    let context = arguments.room(prompt.len(), learned.limit())?;
    if context > learned.limit() {
        say!("a context of {context} tokens is more than the {} that the model was made for", learned.limit());
    }
    let tokens = arguments.writing.max_tokens.get();
    let rounds = match (learned.objective(), arguments.steps) {
        (Objective::Causal, Some(_)) => {
            return Err(Error::Usage(format!("--steps is of models that denoise, and {path} writes token by token")));
        }
        (_, steps) => Rounds { tokens, rounds: steps.map_or(tokens, NonZeroUsize::get) },
    };
    let source = LearnedSource::new(learned.net(), arguments.model.workspace()?, sampling.clone(), context, rounds)?;
    one(arguments, &prompt, context, &sampling, Writer::new(learned.tokenizer(), source))
}

/// The prompt, which says something.
fn text(arguments: &Arguments) -> Result<String, Error> {
    let text = prompt(arguments.prompt.as_deref())?;
    match text.trim() {
        "" => Err(Error::Usage("the prompt is empty: give one as an argument or on standard input".into())),
        _ => Ok(text),
    }
}

/// Writes one text after a prompt, and says what there is to say of it.
fn one<S: Source>(
    arguments: &Arguments,
    prompt: &[u32],
    context: usize,
    sampling: &SamplingOptions,
    mut writer: Writer<'_, S>,
) -> Result<(), Error> {
    let most = arguments.writing.max_tokens.get();
    let stops = Stops::new(arguments.writing.stop.clone());
    let mut show = |text: &str| if arguments.json { Ok(()) } else { print(text) };
    let written = writer.write(prompt, most, stops, &mut show)?;
    let counts = writer.counts();
    if arguments.json {
        print_line(&report(&written, prompt.len(), sampling, counts))?;
    } else if io::stdout().is_terminal() && !written.text.ends_with('\n') {
        print("\n")?;
    }
    say!("{}", closing_line(&written, context, sampling, counts));
    match (written.ending, &arguments.json_schema) {
        (Ending::Interrupt, _) => Err(Error::Interrupted),
        (Ending::Length | Ending::Context, Some(_)) => Err(Error::CutJson),
        _ => Ok(()),
    }
}

/// The prompt of the command line, or all of standard input.
fn prompt(argument: Option<&str>) -> Result<String, Error> {
    if let Some(text) = argument.filter(|text| *text != "-") {
        return Ok(text.to_owned());
    }
    if io::stdin().is_terminal() {
        say!("reading the prompt from the keyboard; Ctrl-D ends it");
    }
    let text = input::text(Path::new("-"))?;
    // The line end that `echo` and a keyboard leave is no part of what was meant.
    Ok(text.strip_suffix('\n').map_or(text.clone(), str::to_owned))
}

/// The tokens of the prompt, through the chat template if that is wanted and there is one.
fn encode(model: &Model, arguments: &Arguments, text: String) -> Result<Vec<u32>, Error> {
    let template = model.chat_template().filter(|_| !arguments.raw);
    let tokens = match template {
        Some(template) => {
            let system = arguments.system.iter().map(|text| Message::new("system", text));
            let messages: Vec<Message> = system.chain([Message::new("user", text)]).collect();
            model.tokenizer().encode(&template.render(&messages, Turn::Open)?, Special::Parse)?
        }
        None if arguments.system.is_some() => {
            return Err(Error::Usage("--system needs a model with a chat template, and this one has none".into()));
        }
        None => model.tokenizer().encode_sequence(&text, Special::AsText)?,
    };
    Ok(tokens)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    text: &'a str,
    stop: Ending,
    stop_string: Option<&'a str>,
    seed: u64,
    prompt_tokens: usize,
    generated_tokens: usize,
    prompt_seconds: f64,
    generation_seconds: f64,
    prompt_tokens_per_second: f64,
    generation_tokens_per_second: f64,
    guessed_tokens: usize,
    right_guesses: usize,
}

fn report(written: &Written, prompt_tokens: usize, sampling: &SamplingOptions, counts: Counts) -> String {
    let report = Report {
        text: &written.text,
        stop: written.ending,
        stop_string: written.stop.as_deref(),
        seed: sampling.seed,
        prompt_tokens,
        generated_tokens: written.tokens,
        prompt_seconds: written.prompt.seconds,
        generation_seconds: written.generation.seconds,
        prompt_tokens_per_second: written.prompt.rate(),
        generation_tokens_per_second: written.generation.rate(),
        guessed_tokens: counts.guessed,
        right_guesses: counts.right,
    };
    serde_json::json!(report).to_string()
}

/// One line about what it took, and why the text ended where that is not plain.
fn closing_line(written: &Written, context: usize, sampling: &SamplingOptions, counts: Counts) -> String {
    let Written { prompt, generation, tokens, ending, .. } = written;
    let seed = if sampling.temperature == 0.0 { String::new() } else { format!("; seed {}", sampling.seed) };
    let guesses = match counts.guessed {
        0 => String::new(),
        guessed => format!("; {} of {guessed} guesses right", counts.right),
    };
    let note = ending.note(context).map_or_else(String::new, |note| format!("; {note}"));
    let read = match prompt.fed {
        // It was seen together with what was written.
        0 => String::new(),
        fed => format!("prompt: {fed} tokens, {:.1} tokens/s; ", prompt.rate()),
    };
    format!("{read}generated: {tokens} tokens, {:.1} tokens/s{guesses}{seed}{note}", generation.rate())
}
