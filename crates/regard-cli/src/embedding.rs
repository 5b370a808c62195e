//! What the commands that embed texts share: the model, and the vectors of many lines.

use std::num::NonZeroUsize;
use std::path::Path;

use regard_models::encoder::EncoderDescription;
use regard_models::{Encoder, Folder, LoadOptions, Precision};

use crate::error::Error;
use crate::options::Kind;
use crate::{progress, pull};

/// Which model, in what precision, and on how many threads.
#[derive(Debug, clap::Args)]
pub(crate) struct EncoderOptions {
    /// Path of a folder that sentence-transformers or transformers saved, or the name of a model (see `regard pull --list`)
    /// [default: all-MiniLM-L6-v2]
    #[arg(short, long, value_name = "PATH|NAME")]
    model: Option<String>,
    /// What products are computed in: bf16 and int8 are faster where the CPU has instructions for them, and their vectors
    /// have a cosine of about 0.9999 and 0.9995 with those in f32, of single words in int8 down to 0.998 [default: bf16; f32
    /// for MPNet, whose vectors may move further]
    #[arg(long, value_name = "DTYPE", value_enum)]
    dtype: Option<Dtype>,
    /// Threads to compute with [default: $REGARD_THREADS, else every physical core]
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Dtype {
    F32,
    Bf16,
    /// Weights and what they are applied to as bytes, 32 of which share a scale
    Int8,
}

impl EncoderOptions {
    /// Loads the model, which is fetched first if it is a named one that is not here.
    pub(crate) fn load(&self) -> Result<Encoder, Error> {
        let model = self.model.as_deref().unwrap_or(pull::EMBEDDER);
        if pull::kind_of(model) == Some(Kind::Decoder) {
            return Err(Error::Decoder { path: model.into() });
        }
        let path = pull::resolve(model)?;
        let bar = progress::spinner(format!("loading {}", path.display()));
        let (folder, description) = match open(&path) {
            Ok(opened) => opened,
            Err(_) if Kind::of(&path) == Some(Kind::Decoder) => return Err(Error::Decoder { path }),
            Err(error) => return Err(error.into()),
        };
        let precision = match self.dtype {
            Some(Dtype::F32) => Precision::F32,
            Some(Dtype::Bf16) => Precision::Bf16,
            Some(Dtype::Int8) => Precision::Int8,
            None => description.precision(),
        };
        let options = LoadOptions { threads: self.threads.map(NonZeroUsize::get), ..LoadOptions::default() };
        let encoder = Encoder::from_folder(&folder, precision, &options)?;
        bar.finish_and_clear();
        Ok(encoder)
    }
}

fn open(path: &Path) -> regard_models::Result<(Folder, EncoderDescription)> {
    let folder = Folder::open(path)?;
    let description = EncoderDescription::from_folder(&folder)?;
    Ok((folder, description))
}

/// The vectors of some lines, with a bar.
///
/// # Errors
/// A line cannot be embedded.
pub(crate) fn encode(encoder: &Encoder, lines: &[impl AsRef<str>], what: &str) -> Result<Vec<Vec<f32>>, Error> {
    let bar = progress::steps(lines.len() as u64, what);
    let vectors = encoder.encode_with(lines, &mut |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    Ok(vectors)
}
