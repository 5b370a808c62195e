//! What can go wrong between a file and its text.

/// An error of this crate. Errors about a file name the file and the field.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open or to read the file.
    #[error("{file}: {field}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What was being read.
        field: String,
        /// The operating system's own words.
        source: std::io::Error,
    },
    /// The file breaks the rules of its format.
    #[error("{file}: {field}: {problem}")]
    Malformed {
        /// The file.
        file: String,
        /// Where the rule is broken.
        field: String,
        /// The rule, and what stands there instead.
        problem: String,
    },
    /// The file is sound, but holds something that this crate does not know.
    #[error("{file}: {field}: {found} is not supported (supported: {supported})")]
    Unsupported {
        /// The file.
        file: String,
        /// Where it stands.
        field: String,
        /// What stands there, such as `tensor type Q2_K`.
        found: String,
        /// What could stand there instead.
        supported: String,
    },
    /// The file lacks something that is needed.
    #[error("{file}: {field}: missing")]
    Missing {
        /// The file.
        file: String,
        /// The metadata key or the tensor that is missing.
        field: String,
    },
    /// A folder that holds no model.
    #[error(
        "{folder}: config.json: missing{found}; a folder of a model has config.json, model.safetensors or its shards, and tokenizer.json"
    )]
    NoModel {
        /// The folder.
        folder: String,
        /// What stands there instead, where that can be told.
        found: String,
    },
    /// A metadata value has another type than the one that is needed.
    #[error("{file}: {key}: expected {expected}, found {found}")]
    WrongType {
        /// The file.
        file: String,
        /// The metadata key.
        key: String,
        /// The type that is needed.
        expected: &'static str,
        /// The type, and for numbers the value, that the file has.
        found: String,
    },
    /// The weights do not fit into memory.
    #[error("{file}: its weights take {} MB, and {} MB of memory are free", needed / 1_000_000, free / 1_000_000)]
    TooLarge {
        /// The file.
        file: String,
        /// Bytes of its weights.
        needed: u64,
        /// Bytes that the system has left.
        free: u64,
    },
    /// Keys and values do not fit into memory.
    #[error(
        "keys and values of {context} tokens{} take {} MB, and {} MB of memory are free",
        if *sessions > 1 { format!(" in {sessions} sessions each") } else { String::new() },
        needed / 1_000_000, free / 1_000_000
    )]
    NoRoom {
        /// Sessions at a time.
        sessions: usize,
        /// Tokens of each.
        context: usize,
        /// Bytes of all their keys and values.
        needed: u64,
        /// Bytes that the system has left.
        free: u64,
    },
    /// A chat template does not parse or does not render.
    #[error("{template}{}: {problem}", if *line > 0 { format!(", line {line}") } else { String::new() })]
    Template {
        /// Whose template it is: `chat template`, or the file and its key.
        template: String,
        /// The line of the template, from 1; 0 where the engine names none.
        line: usize,
        /// What the template engine says.
        problem: String,
    },
    /// A text could not be cut into tokens.
    #[error("cannot cut the text into tokens: {0}")]
    Tokenize(String),
    /// A sampling option is outside its range.
    #[error("sampling option {option} is {value}, and must be {range}")]
    SamplingOption {
        /// The option.
        option: &'static str,
        /// What it was given.
        value: f32,
        /// What it may be.
        range: &'static str,
    },
    /// A prompt has no tokens.
    #[error("the prompt has no tokens; at least one is needed")]
    NoTokens,
    /// A token id that the model does not have.
    #[error("token {token}{} is not in the vocabulary of {vocabulary}", text.as_ref().map_or_else(String::new, |text| format!(", {text:?},")))]
    UnknownToken {
        /// The id.
        token: u32,
        /// What the tokeniser calls it, if it knows it.
        text: Option<String>,
        /// Tokens that the model has.
        vocabulary: usize,
    },
    /// Sessions of different models cannot go on together.
    #[error("the sessions are of different models")]
    OtherModel,
    /// A smaller model whose tokens are others.
    #[error(
        "the draft model's vocabulary is another one: {} and {} tokens{}",
        sizes[0], sizes[1], differs.map_or_else(String::new, |id| format!(", of which number {id} differs"))
    )]
    OtherVocabulary {
        /// Tokens of the draft model and of the model.
        sizes: [usize; 2],
        /// The first token that differs.
        differs: Option<u32>,
    },
    /// A JSON schema that a text cannot be held to.
    #[error("JSON schema: {0}")]
    Schema(String),
    /// Tokens that the session's context has no room for.
    #[error("the context holds {len} of {context} tokens, {more} more do not fit")]
    ContextFull {
        /// Tokens in the context.
        len: usize,
        /// Tokens that it can hold.
        context: usize,
        /// Tokens to be taken in.
        more: usize,
    },
    /// A setting of the environment or an option is wrong.
    #[error("{0}")]
    Setting(String),
    /// Attention refused its arguments.
    #[error(transparent)]
    Attention(#[from] regard_attention::Error),
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] regard_kernels::Error),
    /// Memory could not be had.
    #[error(transparent)]
    Memory(#[from] regard_memory::Error),
    /// A vector of a text that holds NaN or infinite numbers.
    #[error("the vector of text {} is no number: the model's weights are too large for its precision, or unsound", index + 1)]
    Vector {
        /// Which text, from 0.
        index: usize,
    },
    /// No token can be chosen by these logits.
    #[error("logits: {0}")]
    Logits(String),
}

/// A result whose error is this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Turns "it is missing" into `None` and keeps every other error.
///
/// A value that a file may leave out is read as `file.u32(key).optional()?`: a value of the wrong type is still an
/// error, and only its absence is not.
pub trait Optional<T> {
    /// `None` where the result is [`Error::Missing`].
    fn optional(self) -> Result<Option<T>>;
}

impl<T> Optional<T> for Result<T> {
    fn optional(self) -> Result<Option<T>> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(Error::Missing { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }
}
