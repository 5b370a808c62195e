//! Options that several commands share.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::builder::NonEmptyStringValueParser;
use regard_layers::Workspace;
use regard_models::encoder::EncoderDescription;
use regard_models::generate::{DraftModel, Generator, Lookup};
use regard_models::gguf::Gguf;
use regard_models::sampling::{Preferences, SamplingOptions};
use regard_models::{CacheDtype, Description, Folder, LoadOptions, Model, Session};
use regard_simd::Isa;
use regard_threads::Pool;

use crate::error::Error;
use crate::output::say;
use crate::{learned, progress, pull};

/// Which model, and on how many threads.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelOptions {
    /// Path of a GGUF file or of a Hugging Face folder, or the name of a model (see `regard pull --list`) [default: SmolLM2-135M-Instruct]
    #[arg(short, long, value_name = "PATH|NAME")]
    model: Option<String>,
    /// Threads to compute with [default: $REGARD_THREADS, else every physical core]
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

impl ModelOptions {
    /// The model's file, fetched first if it is a named one that is not here.
    pub(crate) fn path(&self) -> Result<PathBuf, Error> {
        let model = self.model.as_deref().unwrap_or(pull::WRITER);
        if pull::kind_of(model) == Some(Kind::Encoder) {
            return Err(Error::Encoder { path: model.into() });
        }
        pull::resolve(model)
    }

    /// What the layers of a model that was trained here work in.
    pub(crate) fn workspace(&self) -> Result<Workspace, Error> {
        workspace(self.threads)
    }

    /// Loads the model at `path`.
    pub(crate) fn load(&self, path: &Path) -> Result<Model, Error> {
        let options = LoadOptions { threads: self.threads.map(NonZeroUsize::get), ..LoadOptions::default() };
        load(path, |path| Model::load(path, &options))
    }
}

/// What layers work in, on so many threads: as many as the machine has cores, or `REGARD_THREADS` says, unless given. All that a
/// command asks for share them.
pub(crate) fn workspace(threads: Option<NonZeroUsize>) -> Result<Workspace, Error> {
    static OWN: OnceLock<Pool> = OnceLock::new();
    let usage = |error: regard_threads::Error| Error::Usage(error.to_string());
    let isa = Isa::from_environment().map_err(|error| Error::Usage(format!("REGARD_ISA: {error}")))?;
    Pool::setting().map_err(usage)?;
    let pool = match (threads, OWN.get()) {
        (None, _) => Pool::global(),
        (_, Some(pool)) => pool,
        (Some(threads), None) => {
            let pool = Pool::new(threads.get()).map_err(usage)?;
            OWN.get_or_init(|| pool)
        }
    };
    Ok(Workspace::on(isa, pool))
}

/// Loads a model that writes, saying so meanwhile.
pub(crate) fn load(path: &Path, how: impl FnOnce(&Path) -> regard_models::Result<Model>) -> Result<Model, Error> {
    let bar = progress::spinner(format!("loading {}", path.display()));
    let model = how(path).map_err(|error| match Kind::of(path) {
        Some(Kind::Encoder) => Error::Encoder { path: path.to_path_buf() },
        Some(Kind::Learned) => Error::Learned { path: path.to_path_buf() },
        _ => error.into(),
    })?;
    bar.finish_and_clear();
    Ok(model)
}

/// What a model that can be run makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text.
    Decoder,
    /// Vectors.
    Encoder,
    /// Text, by layers that `regard train` trained and no decoder has.
    Learned,
}

impl Kind {
    /// That of a folder or a file; none where it cannot be run at all.
    pub(crate) fn of(path: &Path) -> Option<Kind> {
        if !path.is_dir() {
            return Gguf::open(path).is_ok().then_some(Kind::Decoder);
        }
        if let Ok(Some(_)) = learned::Description::read(path) {
            return Some(Kind::Learned);
        }
        let folder = Folder::open(path).ok()?;
        match Description::from_folder(&folder) {
            Ok(_) => Some(Kind::Decoder),
            Err(_) => EncoderDescription::from_folder(&folder).is_ok().then_some(Kind::Encoder),
        }
    }
}

/// How many tokens are kept, and in what.
#[derive(Debug, clap::Args)]
pub(crate) struct CacheOptions {
    /// Format of the cached keys and values [default: f16]
    #[arg(long, value_name = "DTYPE", value_enum)]
    cache_dtype: Option<Dtype>,
}

impl CacheOptions {
    /// Whether a format is asked for.
    pub(crate) fn is_given(&self) -> bool {
        self.cache_dtype.is_some()
    }

    fn dtype(&self) -> CacheDtype {
        self.cache_dtype.unwrap_or(Dtype::F16).into()
    }

    /// Whether there is memory for so many sessions at a time.
    pub(crate) fn check_room(&self, model: &Model, sessions: usize, context: usize) -> Result<(), Error> {
        model
            .check_room(sessions, context, self.dtype())
            .map_err(|source| Error::Context { context, source: Box::new(source) })
    }

    /// A session of `context` tokens.
    pub(crate) fn session<'m>(&self, model: &'m Model, context: usize) -> Result<Session<'m>, Error> {
        let limit = model.description().context;
        if context > limit {
            say!("a context of {context} tokens is more than the {limit} that the model was made for");
        }
        model.session(context, self.dtype()).map_err(|source| Error::Context { context, source: Box::new(source) })
    }
}

/// A number format of the cache.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Dtype {
    F32,
    F16,
    Bf16,
    /// Bytes with a scale for each key and value
    Int8,
}

impl From<Dtype> for CacheDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::Bf16,
            Dtype::Int8 => Self::Int8,
        }
    }
}

/// What tokens are guessed by, before the model has its say.
#[derive(Debug, clap::Args)]
pub(crate) struct GuessOptions {
    /// Guess tokens with a smaller model of the same vocabulary: the text is the same, and comes sooner where it is often right
    #[arg(long, value_name = "PATH|NAME")]
    draft: Option<String>,
    /// Do not guess tokens from what the text said before; the text is the same
    #[arg(long, conflicts_with = "draft")]
    no_lookup: bool,
}

impl GuessOptions {
    /// Whether a smaller model was asked for.
    pub(crate) fn has_draft(&self) -> bool {
        self.draft.is_some()
    }

    /// Loads the smaller model, if there is to be one, for guesses at what `model` writes.
    pub(crate) fn load(&self, model: &Model) -> Result<Option<Model>, Error> {
        let Some(draft) = &self.draft else { return Ok(None) };
        load(&pull::resolve(draft)?, |path| model.load_beside(path)).map(Some)
    }

    /// A generator with guesses: of the smaller model that [`GuessOptions::load`] gave, or of what the text said before.
    pub(crate) fn generator<'m>(
        &self,
        session: Session<'m>,
        sampling: SamplingOptions,
        draft: Option<&'m Model>,
    ) -> Result<Generator<'m>, Error> {
        let context = session.context();
        let generator = Generator::new(session, sampling)?;
        Ok(match draft {
            Some(draft) => generator.with_draft(DraftModel::new(draft.session(context, CacheDtype::F16)?))?,
            None if self.no_lookup => generator,
            None => generator.with_draft(Lookup::default())?,
        })
    }
}

/// How a text is written.
///
/// What is usual stands in the help of each option: a default of clap's could not be told from what was given.
#[derive(Debug, clap::Args)]
pub(crate) struct WritingOptions {
    /// Most tokens to write
    #[arg(short = 'n', long, value_name = "N", default_value = "512")]
    pub(crate) max_tokens: NonZeroUsize,
    /// Below 1 sharpens the choice, above 1 flattens it; 0 always takes the best token [default: 0.8]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Choose among this many of the best tokens; 0 for all [default: 40]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Choose among the fewest best tokens that hold this share of the probability; 1 for all [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Choose among tokens at least this fraction as probable as the best; 0 for all [default: 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Above 1 makes tokens of the recent text less likely [default: 1]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,
    /// How many tokens count as recent
    #[arg(long, value_name = "N", default_value_t = SamplingOptions::default().repeat_last_n)]
    repeat_last_n: usize,
    /// Key of the random choices: the same one gives the same text [default: a new one each time, and said]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End the text before this string; may be given several times
    #[arg(long, value_name = "STRING", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
}

impl WritingOptions {
    /// Whether every option is in its range, before a model is loaded.
    ///
    /// # Errors
    /// [`Error::Usage`] names one that is not.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let sampling = self.sampling(&Preferences::default());
        sampling.validate().map_err(|error| Error::Usage(error.to_string()))
    }

    /// The options of the sampler: those that were given, then those of the model's own folder, then the usual ones.
    pub(crate) fn sampling(&self, model: &Preferences) -> SamplingOptions {
        let usual = SamplingOptions::default();
        SamplingOptions {
            temperature: self.temperature.or(model.temperature).unwrap_or(usual.temperature),
            top_k: self.top_k.or(model.top_k).unwrap_or(usual.top_k),
            top_p: self.top_p.or(model.top_p).unwrap_or(usual.top_p),
            min_p: self.min_p.or(model.min_p).unwrap_or(usual.min_p),
            repeat_penalty: self.repeat_penalty.or(model.repeat_penalty).unwrap_or(usual.repeat_penalty),
            repeat_last_n: self.repeat_last_n,
            // Short enough to be typed again.
            seed: self.seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32),
        }
    }
}
