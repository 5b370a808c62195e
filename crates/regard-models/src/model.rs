//! A model as it is used: a decoder, its tokens and its chat template.

use std::path::Path;
use std::sync::Arc;

use regard_attention::CacheDtype;
use regard_kernels::Kernels;
use regard_simd::Isa;
use regard_threads::Pool;

use crate::chat::ChatTemplate;
use crate::decoder::Decoder;
use crate::description::Description;
use crate::folder::Folder;
use crate::gguf::Gguf;
use crate::sampling::Preferences;
use crate::session::Session;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// What a model is loaded with.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Threads that compute; as many as the machine has cores, or `REGARD_THREADS` says, unless given.
    pub threads: Option<usize>,
    /// The instruction set; the best of this CPU, or what `REGARD_ISA` says, unless given.
    pub isa: Option<Isa>,
}

impl LoadOptions {
    /// What a model runs on.
    pub(crate) fn machine(&self) -> Result<(Kernels, Arc<Pool>)> {
        let isa = match self.isa {
            Some(isa) => isa,
            None => Isa::from_environment().map_err(|error| Error::Setting(format!("REGARD_ISA: {error}")))?,
        };
        let threads = match self.threads {
            Some(threads) => Some(threads),
            None => Pool::setting().map_err(|error| Error::Setting(error.to_string()))?,
        };
        let threads = threads.unwrap_or_else(regard_threads::cores);
        let pool = Pool::new(threads).map_err(|error| Error::Setting(error.to_string()))?;
        Ok((Kernels::new(isa), Arc::new(pool)))
    }
}

/// A language model, ready to run.
pub struct Model {
    decoder: Decoder,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    preferences: Preferences,
}

impl Model {
    /// Loads a GGUF file, or a folder as Hugging Face's libraries save it. The weights are repacked into the layouts that the
    /// kernels read.
    ///
    /// # Errors
    /// What is there is no sound model of a family that runs here, or there is no memory for it. The message names the file
    /// and the field.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Model> {
        if path.is_dir() {
            return Model::from_folder(&Folder::open(path)?, options);
        }
        Model::from_gguf(&Gguf::open(path)?, options)
    }

    /// The same of a model that computes in turn with this one, such as the one that guesses for it: they share threads.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_beside(&self, path: &Path) -> Result<Model> {
        let machine = (self.decoder.kernels, Arc::clone(&self.decoder.pool));
        if path.is_dir() {
            return Model::of_folder(&Folder::open(path)?, machine);
        }
        Model::of_gguf(&Gguf::open(path)?, machine)
    }

    /// The same from a file that is open, or not on disk at all.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_gguf(file: &Gguf, options: &LoadOptions) -> Result<Model> {
        Model::of_gguf(file, options.machine()?)
    }

    fn of_gguf(file: &Gguf, (kernels, pool): (Kernels, Arc<Pool>)) -> Result<Model> {
        let description = Description::from_gguf(file)?;
        let tokenizer = Tokenizer::from_gguf(file)?;
        if tokenizer.vocab_size() > description.vocabulary {
            let problem =
                format!("it has {} rows, but the file has {} tokens", description.vocabulary, tokenizer.vocab_size());
            let field = "token_embd.weight".to_string();
            return Err(Error::Malformed { file: file.file().to_string(), field, problem });
        }
        let template = ChatTemplate::from_gguf(file, &tokenizer)?;
        let decoder = Decoder::load(file, description, kernels, pool)?;
        Ok(Model { decoder, tokenizer, template, preferences: Preferences::default() })
    }

    /// The same from a folder that is open. Its tokeniser may have tokens that the model has no embedding for, as some published
    /// ones do, but none that every text needs.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_folder(folder: &Folder, options: &LoadOptions) -> Result<Model> {
        Model::of_folder(folder, options.machine()?)
    }

    fn of_folder(folder: &Folder, (kernels, pool): (Kernels, Arc<Pool>)) -> Result<Model> {
        let description = Description::from_folder(folder)?;
        let tokenizer = Tokenizer::from_folder(folder)?;
        let template = ChatTemplate::from_folder(folder)?;
        let preferences = Preferences::from_folder(folder)?;
        tokenizer.check_within(folder, description.vocabulary, template.as_ref())?;
        let decoder = Decoder::load(folder, description, kernels, pool)?;
        Ok(Model { decoder, tokenizer, template, preferences })
    }

    /// What the model is made of.
    pub fn description(&self) -> &Description {
        &self.decoder.description
    }

    /// Its tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Its chat template, where the file has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// How its makers sample its tokens, where its folder says so.
    pub fn preferences(&self) -> &Preferences {
        &self.preferences
    }

    /// Bytes that the packed weights take.
    pub fn weight_bytes(&self) -> usize {
        self.decoder.bytes()
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.decoder.pool.threads()
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.decoder.kernels.isa()
    }

    /// A session of at most `context` tokens, whose keys and values are stored as `cache` says.
    ///
    /// # Errors
    /// `context` is 0, or there is no memory for it.
    pub fn session(&self, context: usize, cache: CacheDtype) -> Result<Session<'_>> {
        Session::new(self, context, cache)
    }

    /// Whether there is memory for so many sessions of `context` tokens, as far as the system tells: a session takes it bit by
    /// bit as it goes on.
    ///
    /// # Errors
    /// [`Error::NoRoom`].
    pub fn check_room(&self, sessions: usize, context: usize, cache: CacheDtype) -> Result<()> {
        let of_token = self.description().cache_bytes_per_token(cache);
        let needed = (of_token as u64).saturating_mul(context as u64).saturating_mul(sessions as u64);
        match regard_memory::available() {
            Some(free) if needed > free => Err(Error::NoRoom { sessions, context, needed, free }),
            _ => Ok(()),
        }
    }

    pub(crate) fn decoder(&self) -> &Decoder {
        &self.decoder
    }
}
