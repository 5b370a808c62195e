//! A model as Hugging Face's libraries save it: a folder with config.json, weights as safetensors, tokenizer.json and what
//! goes with it.
//!
//! Its files are untrusted: texts have a limit, sizes are held against the files before anything is allocated, and nothing
//! is unpickled.

mod checkpoint;
mod config;
mod safetensors;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use regard_kernels::WeightFormat;
use serde_json::Value;

use self::config::Config;
use self::safetensors::Shard;
use crate::family::{DECODERS, Family};
use crate::{Error, Result};

/// The most bytes of a text: a tokeniser of 260 thousand tokens takes 33 MB.
const MAX_TEXT: u64 = 128 << 20;

/// An open folder whose settings and headers have been read and checked.
///
/// ```no_run
/// let folder = regard_models::Folder::open("Qwen3-0.6B".as_ref())?;
/// for (name, shape, kind) in folder.tensors() {
///     println!("{name} {shape:?} {kind}");
/// }
/// # Ok::<(), regard_models::Error>(())
/// ```
pub struct Folder {
    path: PathBuf,
    /// What messages call it.
    file: String,
    config: Config,
    /// The decoders that the model is one of, if it is one.
    family: Option<&'static Family>,
    shards: Vec<Shard>,
    tensors: Vec<Tensor>,
    /// Where a name stands among the tensors.
    by_name: BTreeMap<String, usize>,
    /// Whether there is an output matrix of its own, once somebody has asked.
    own_head: OnceLock<bool>,
}

/// A tensor of a folder.
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Outputs before inputs.
    pub(crate) shape: Vec<u64>,
    /// The name of its type.
    pub(crate) dtype: String,
    pub(crate) kind: Option<WeightFormat>,
    /// Where its bytes start in the shard, and how many there are.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) shard: usize,
}

impl Folder {
    /// Opens a folder: reads its config.json and the headers of its weights.
    ///
    /// # Errors
    /// A file is missing, cannot be read or breaks the rules of its format.
    pub fn open(path: &Path) -> Result<Folder> {
        let file = path.display().to_string();
        if path.is_file() {
            let (field, found) = ("path".to_owned(), "a file".to_owned());
            let supported = "a folder with config.json, model.safetensors and tokenizer.json".to_owned();
            return Err(Error::Unsupported { file, field, found, supported });
        }
        let config = Config::read(path)?;
        let family = config.decoder(&DECODERS).ok();
        let (shards, tensors) = safetensors::open(path)?;
        let by_name = tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index)).collect();
        Ok(Folder { path: path.to_owned(), file, config, family, shards, tensors, by_name, own_head: OnceLock::new() })
    }

    /// The settings of the model.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every tensor: its name, shape (outputs before inputs) and type.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[u64], &str)> {
        self.tensors.iter().map(|tensor| (&*tensor.name, &*tensor.shape, &*tensor.dtype))
    }

    /// Bytes of all weights.
    pub fn size(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// A file of the folder as JSON; none if there is no such file.
    pub(crate) fn json(&self, name: &str) -> Result<Option<Value>> {
        json(&self.path.join(name))
    }

    /// A file of settings: an object, and null if there is no such file.
    pub(crate) fn settings(&self, name: &str) -> Result<Value> {
        match self.json(name)? {
            None => Ok(Value::Null),
            Some(settings) if settings.is_object() => Ok(settings),
            Some(_) => {
                let file = self.path.join(name).display().to_string();
                Err(Error::Malformed { file, field: "JSON".to_owned(), problem: "expected an object".to_owned() })
            }
        }
    }

    /// The text of a special token, such as `bos_token`: what templates of the folder have by that name.
    pub(crate) fn special_token(&self, key: &str) -> Result<Option<String>> {
        for file in ["tokenizer_config.json", "special_tokens_map.json"] {
            // A text, or an object with one.
            let value = &self.settings(file)?[key];
            if let Some(text) = value.as_str().or_else(|| value["content"].as_str()) {
                return Ok(Some(text.to_owned()));
            }
            if !value.is_null() {
                let problem = format!("it is {value}, expected a text or an object with one");
                let file = self.path.join(file).display().to_string();
                return Err(Error::Malformed { file, field: key.to_owned(), problem });
            }
        }
        Ok(None)
    }

    /// A file of the folder as text; none if there is no such file.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>> {
        text(&self.path.join(name))
    }
}

/// A file as text; none if there is none.
fn text(path: &Path) -> Result<Option<String>> {
    let failed = |source| Error::Io { file: path.display().to_string(), field: "reading it".to_owned(), source };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        // Opening a pipe would wait for whoever writes into it.
        Ok(found) if !found.is_file() => {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
        }
        Ok(found) if found.len() > MAX_TEXT => {
            let problem = format!("it has {} bytes, more than {MAX_TEXT}", found.len());
            return Err(Error::Malformed { file: path.display().to_string(), field: "size".to_owned(), problem });
        }
        Ok(_) => {}
    }
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(MAX_TEXT).read_to_string(&mut text)).map_err(failed)?;
    Ok(Some(text))
}

/// A file as JSON; none if there is none.
fn json(path: &Path) -> Result<Option<Value>> {
    let Some(text) = text(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| Error::Malformed {
        file: path.display().to_string(),
        field: "JSON".to_owned(),
        problem: error.to_string(),
    })
}
