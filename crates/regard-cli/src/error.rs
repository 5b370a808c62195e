//! What can go wrong in the command, and the exit code that says so.

use std::io;
use std::path::PathBuf;

/// Why a command ended without doing what it was asked.
///
/// Each message is one line that names the thing and, where there is one, the way out. That of a wrong expression shows
/// below it where it is wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// No variable tells where the cache folder is.
    #[error("no home folder is known, so there is no cache folder: set REGARD_CACHE")]
    NoCacheFolder,
    /// A model that is neither in the catalogue nor a file.
    #[error("no model {model:?}: it is no file here, and the names that can be pulled are {names}")]
    NoSuchModel {
        /// What was asked for.
        model: String,
        /// The names of the catalogue.
        names: String,
    },
    /// Every source of a model refused; each reason has been said.
    #[error("{name} could not be fetched from any source; {hint}")]
    NoSource {
        /// The model's name.
        name: &'static str,
        /// What to do next.
        hint: String,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}{}", path.display(), way_out(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file that the user named could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Save {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A prompt that leaves no room for a token after it.
    #[error("the prompt is {tokens} tokens and the context holds {context}: shorten it{}", raise(*context, *limit))]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that the context holds.
        context: usize,
        /// Tokens that the model was made for.
        limit: usize,
    },
    /// A context that there is no memory for.
    #[error("a context of {context} tokens cannot be had: {source}; give a smaller --context")]
    Context {
        /// What was asked for.
        context: usize,
        /// Why not.
        source: Box<regard_models::Error>,
    },
    /// A text without a single window.
    #[error("{}: {tokens} tokens are fewer than one window of {context}{}", path.display(), lower(*tokens))]
    TextTooShort {
        /// The text's file.
        path: PathBuf,
        /// Its tokens.
        tokens: usize,
        /// Tokens of a window.
        context: usize,
    },
    /// A model that gives a text no probability.
    #[error("{}: the perplexity is no number: the model's weights are too large for its precision, or unsound", path.display())]
    NoPerplexity {
        /// The model's file or folder.
        path: PathBuf,
    },
    /// A model that nobody taught to converse.
    #[error("{} has no chat template: use `regard generate --raw`", path.display())]
    NoTemplate {
        /// The model's file.
        path: PathBuf,
    },
    /// A model that makes vectors where one that writes is needed.
    #[error("{} is an encoder, which writes no text: `regard embed` and `regard search` run it", path.display())]
    Encoder {
        /// The model's folder.
        path: PathBuf,
    },
    /// A model that writes where one that makes vectors is needed.
    #[error("{} writes text and embeds none: `regard generate`, `chat` and `perplexity` run it; an encoder is the folder of a BERT, RoBERTa or MPNet model", path.display())]
    Decoder {
        /// The model's file or folder.
        path: PathBuf,
    },
    /// A text that was to be JSON, and was cut.
    #[error("the JSON was cut before its end: raise --max-tokens or --context, or give the schema an end")]
    CutJson,
    /// A schema that a text cannot be held to.
    #[error("{}: {source}", path.display())]
    Schema {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: regard_models::Error,
    },
    /// A file of benchmark cases that is not one.
    #[error("{}: {problem}", file.display())]
    Cases {
        /// The file.
        file: PathBuf,
        /// The case, its field, and what is wrong with it.
        problem: String,
    },
    /// A program to compare with that does not do its part.
    #[error("{peer}: {problem}")]
    Peer {
        /// Its script or interpreter.
        peer: String,
        /// What it says.
        problem: String,
    },
    /// Results that are further from f64 than rounding explains.
    #[error("wrong results: {cases}")]
    Wrong {
        /// The cases.
        cases: String,
    },
    /// A call of attention that cannot be done.
    #[error(transparent)]
    Attention(#[from] regard_attention::Error),
    /// A mask that cannot be laid out or written as an array.
    #[error(transparent)]
    Mask(#[from] regard_masks::Error),
    /// Blocks that cannot be chosen.
    #[error(transparent)]
    Select(#[from] regard_select::Error),
    /// A mask that cannot be drawn.
    #[error(transparent)]
    Draw(#[from] regard_draw::Error),
    /// Standard input could not be read.
    #[error("cannot read standard input: {0}")]
    Input(io::Error),
    /// Standard output could not be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// Whoever read standard output has gone. Not said: it is how `| head` ends a command.
    #[error("standard output was closed")]
    BrokenPipe,
    /// Ctrl-C. Not said: the person at the keyboard knows.
    #[error("interrupted")]
    Interrupted,
    /// A model of `regard train` where one that a decoder runs is needed.
    #[error("{} is of `regard train`, with a mixer or an objective that only `regard generate` and `regard info` know", path.display())]
    Learned {
        /// The model's folder.
        path: PathBuf,
    },
    /// A file that is not one to learn from.
    #[error("--data {}: {problem}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the way out.
        problem: String,
    },
    /// A folder of a run that a run cannot use.
    #[error("{}: {problem}", folder.display())]
    Run {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it, and the way out.
        problem: String,
    },
    /// A step that could not be taken.
    #[error("step {step}: {source}; lower --rate or --clip, or leave such steps out with --not-finite skip")]
    Step {
        /// Which one.
        step: u64,
        /// Why not.
        source: regard_layers::Error,
    },
    /// Layers of a model.
    #[error(transparent)]
    Layers(#[from] regard_layers::Error),
    /// The model, its file, its tokens or its sampling.
    #[error(transparent)]
    Model(#[from] regard_models::Error),
}

impl Error {
    /// The process's exit code: 2 for a wrong command line, 130 and 141 for what a shell shows after SIGINT and
    /// SIGPIPE, 1 for everything else.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Draw(regard_draw::Error::Style { .. }) => 2,
            Self::Interrupted => 130,
            Self::BrokenPipe => 141,
            _ => 1,
        }
    }

    /// Whether there is anything to tell that is not known already.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::Interrupted | Self::BrokenPipe)
    }
}

fn lower(tokens: usize) -> &'static str {
    if tokens < 2 { ", and there is none to score" } else { ": lower --context" }
}

fn raise(context: usize, limit: usize) -> String {
    if context < limit { format!(", or raise --context (the model's limit is {limit})") } else { String::new() }
}

fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room, or set REGARD_CACHE to a folder on another disk, and run it again"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; set REGARD_CACHE to a folder that can be written"
        }
        _ => "",
    }
}
