//! `regard chat`: a conversation.

use std::io::{self, BufRead, IsTerminal, Write};
use std::num::NonZeroUsize;

use regard_models::Model;
use regard_models::chat::{ChatTemplate, Message, Turn};
use regard_models::generate::Generator;
use regard_models::tokenizer::Special;

use crate::conversation::Conversation;
use crate::error::Error;
use crate::options::{CacheOptions, GuessOptions, ModelOptions, WritingOptions};
use crate::output::{print, say};
use crate::writer::Writer;
use regard_models::generate::Stops;

/// Tokens that a conversation may hold unless said otherwise.
const CONTEXT: usize = 4096;

const HELP: &str = "\
/reset   forget what was said
/help    these lines
/exit    leave; so do Ctrl-D and, at the prompt, Ctrl-C
Ctrl-C while an answer is written ends the answer. A line that ends in \\ goes on in the next one.";

/// Arguments of `regard chat`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Answers go to standard output, everything else to standard error. /help lists what can be typed beside messages. \
When the context is full the oldest turns are dropped, which is said; the system message stays.

What a folder's generation_config.json says of sampling takes the place of the defaults: temperature, top_k, top_p, min_p, \
repetition_penalty, and do_sample, which makes the temperature 0 where it is false. An option that is given wins; \
`regard info` shows what a folder says.

Examples:
  regard chat
  regard chat --system \"You are a pirate.\" --temperature 0.5
  printf 'Hello!\\nWhat did I say?\\n' | regard chat --temperature 0")]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    writing: WritingOptions,
    #[command(flatten)]
    cache: CacheOptions,
    #[command(flatten)]
    guesses: GuessOptions,
    /// Tokens that the conversation may hold [default: 4096, within the model's limit]
    #[arg(short, long, value_name = "N")]
    context: Option<NonZeroUsize>,
    /// Tell the model what it is to be or do
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
}

/// Runs `regard chat`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    arguments.writing.check()?;
    let path = arguments.model.path()?;
    let model = arguments.model.load(&path)?;
    let template = model.chat_template().ok_or(Error::NoTemplate { path })?;
    let context = arguments.context.map_or(CONTEXT.min(model.description().context), NonZeroUsize::get);
    let draft = arguments.guesses.load(&model)?;
    let session = arguments.cache.session(&model, context)?;
    let sampling = arguments.writing.sampling(model.preferences());
    let mut writer = Writer::new(model.tokenizer(), arguments.guesses.generator(session, sampling, draft.as_ref())?);
    let mut conversation = Conversation::new(arguments.system.clone());
    let at_keyboard = io::stdin().is_terminal();
    if at_keyboard {
        say!("Type a message, or /help.");
    }
    while let Some(line) = read_message(at_keyboard)? {
        match line.trim_end() {
            "" => {}
            "/exit" | "/quit" => break,
            "/help" => say!("{HELP}"),
            "/reset" => {
                conversation.reset();
                say!("What was said is forgotten.");
            }
            command if is_command(command) => say!("There is no {command}; /help lists what there is."),
            message => {
                let encode = |messages: &[Message]| encode(&model, template, messages);
                answer(&arguments.writing, message, &mut conversation, &mut writer, encode)?;
            }
        }
    }
    Ok(())
}

/// Whether a line is meant as a command: a slash and a word. A path in a message has more slashes or follows a space.
fn is_command(line: &str) -> bool {
    line.strip_prefix('/').is_some_and(|word| word.chars().all(|character| character.is_ascii_alphabetic()))
}

fn encode(model: &Model, template: &ChatTemplate, messages: &[Message]) -> Result<Vec<u32>, Error> {
    Ok(model.tokenizer().encode(&template.render(messages, Turn::Open)?, Special::Parse)?)
}

/// Answers `message`, and makes room for both by dropping the oldest turns.
fn answer(
    options: &WritingOptions,
    message: &str,
    conversation: &mut Conversation,
    writer: &mut Writer<'_, Generator<'_>>,
    encode: impl Fn(&[Message]) -> Result<Vec<u32>, Error>,
) -> Result<(), Error> {
    let context = writer.context();
    let most = options.max_tokens.get();
    // An answer without room would end at once; a quarter of the context is room enough to say something.
    let room = context - most.min(context / 4);
    let mut shortened = conversation.clone();
    shortened.say(Message::new("user", message));
    let (tokens, dropped) = shortened.fit(room, encode)?;
    if tokens.len() >= context {
        let tokens = tokens.len();
        say!("The message was not sent: it needs {tokens} tokens and the context holds {context}. Raise --context.");
        return Ok(());
    }
    *conversation = shortened;
    match dropped {
        0 => {}
        1 => say!("The context of {context} tokens is full: the oldest turn was dropped."),
        _ => say!("The context of {context} tokens is full: the {dropped} oldest turns were dropped."),
    }
    let written = writer.write(&tokens, most, Stops::new(options.stop.clone()), &mut print)?;
    print("\n")?;
    if let Some(note) = written.ending.note(context) {
        say!("({note})");
    }
    conversation.say(Message::new("assistant", written.text));
    Ok(())
}

/// The next message, over several lines where they end in a backslash; none at the end of the input.
fn read_message(at_keyboard: bool) -> Result<Option<String>, Error> {
    let mut message = String::new();
    let mut prompt = "> ";
    loop {
        if at_keyboard {
            let mut stderr = io::stderr();
            let _ = write!(stderr, "{prompt}").and_then(|()| stderr.flush());
        }
        let mut line = Vec::new();
        if io::stdin().lock().read_until(b'\n', &mut line).map_err(Error::Input)? == 0 {
            if at_keyboard {
                say!("");
            }
            return Ok((!message.is_empty()).then_some(message));
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches(['\n', '\r']);
        match line.strip_suffix('\\') {
            Some(start) => {
                message.push_str(start);
                message.push('\n');
                prompt = ". ";
            }
            None => {
                message.push_str(line);
                return Ok(Some(message));
            }
        }
    }
}
