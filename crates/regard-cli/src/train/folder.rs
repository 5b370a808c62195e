//! The folder of a run: checkpoints that are there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use regard_layers::Trainer;
use regard_models::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::corpus::{END, MASK, Source};
use super::settings::Settings;
use crate::error::Error;
use crate::learned::{Description, WEIGHTS};
use crate::output::say;

const STATE: &str = "state.safetensors";
const RECORD: &str = "training.json";
const TOKENIZER: &str = "tokenizer.json";
const LATEST: &str = "latest";
/// What folders end in that are being written.
const PART: &str = ".tmp";

/// What a checkpoint says of its run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The program's version.
    regard: String,
    /// Steps so far.
    pub(crate) step: u64,
    pub(crate) settings: Settings,
    pub(crate) data: Vec<Source>,
}

/// The folder of a run.
pub(crate) struct RunFolder {
    path: PathBuf,
}

/// A checkpoint that a run goes on from.
pub(crate) struct Checkpoint {
    path: PathBuf,
    pub(crate) record: Record,
    /// Its tokenizer.json.
    pub(crate) tokenizer: String,
}

impl RunFolder {
    /// The folder at `path`, which need not be there.
    pub(crate) fn new(path: &Path) -> RunFolder {
        RunFolder { path: path.to_path_buf() }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn refused(&self, problem: String) -> Error {
        Error::Run { folder: self.path.clone(), problem }
    }

    /// Refuses a folder that a run is in already.
    pub(crate) fn check_new(&self) -> Result<(), Error> {
        if !self.steps()?.is_empty() {
            let problem = "a run is in it already: go on with it by --resume, or name another --out";
            return Err(self.refused(problem.to_owned()));
        }
        Ok(())
    }

    /// Makes the folder for a new run.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn begin(&self) -> Result<(), Error> {
        let failed = |source| Error::Save { path: self.path.clone(), source };
        fs::create_dir_all(&self.path).map_err(failed)?;
        // Said before the work, not after it.
        let probe = self.file(".regard-probe");
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(failed)?;
        self.sweep()
    }

    /// Removes what was being written when a run was killed.
    pub(crate) fn sweep(&self) -> Result<(), Error> {
        for (name, path) in self.entries()? {
            if name.starts_with("step-") && name.ends_with(PART) {
                fs::remove_dir_all(&path).map_err(|source| Error::Save { path, source })?;
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<(String, PathBuf)>, Error> {
        let failed = |source| Error::Read { path: self.path.clone(), source };
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let entry = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        };
        entries.map(entry).collect::<io::Result<_>>().map_err(failed)
    }

    /// The steps of its checkpoints, in order.
    fn steps(&self) -> Result<Vec<u64>, Error> {
        let step = |(name, _): &(String, PathBuf)| name.strip_prefix("step-")?.parse().ok();
        let mut steps: Vec<u64> = self.entries()?.iter().filter_map(step).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn checkpoint(&self, step: u64) -> PathBuf {
        self.file(&format!("step-{step:06}"))
    }

    /// The last checkpoint. It need not be what the link leads to: a run may have been killed between the two.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub(crate) fn last(&self) -> Result<Checkpoint, Error> {
        let Some(&step) = self.steps()?.last() else {
            let problem =
                "there is no checkpoint in it to go on from: leave --resume out to begin, or name another --out";
            return Err(self.refused(problem.to_owned()));
        };
        let path = self.checkpoint(step);
        let text = |name: &str| {
            let path = path.join(name);
            fs::read_to_string(&path).map_err(|source| Error::Read { path, source })
        };
        let record = serde_json::from_str(&text(RECORD)?).map_err(|error| {
            let problem = format!("{RECORD}: {error}: remove this checkpoint to go on from the one before it");
            Error::Run { folder: path.clone(), problem }
        })?;
        Ok(Checkpoint { record, tokenizer: text(TOKENIZER)?, path })
    }

    /// Writes a checkpoint: into a folder beside it, through to the disk, then under its name; then the link leads to it, and
    /// only then older ones are removed.
    pub(crate) fn save(
        &self,
        trainer: &Trainer,
        settings: &Settings,
        data: &[Source],
        (json, tokenizer): (&str, &Tokenizer),
    ) -> Result<PathBuf, Error> {
        let step = trainer.steps();
        let path = self.checkpoint(step);
        let part = self.file(&format!("step-{step:06}{PART}"));
        let record = Record {
            regard: env!("CARGO_PKG_VERSION").to_owned(),
            step,
            settings: settings.clone(),
            data: data.to_vec(),
        };
        let description = Description { config: *trainer.model().config(), limit: settings.context.get() };
        let failed = |source| Error::Save { path: path.clone(), source };
        match fs::remove_dir_all(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => fs::create_dir(&part).map_err(failed)?,
        }
        trainer.save_model(&part.join(WEIGHTS))?;
        trainer.save_state(&part.join(STATE))?;
        let eos = tokenizer.token_id(END).or(tokenizer.eos());
        for (name, text) in [
            (TOKENIZER, json.to_owned()),
            ("tokenizer_config.json", pretty(&tokenizer_config(tokenizer, eos, settings.context.get()))),
            ("config.json", pretty(&description.json([tokenizer.bos(), eos]))),
            ("generation_config.json", pretty(&generation_config([tokenizer.bos(), eos]))),
            (RECORD, pretty(&json!(record))),
        ] {
            write_through(&part.join(name), &text).map_err(failed)?;
        }
        let renamed = sync_folder(&part).and_then(|()| fs::rename(&part, &path));
        renamed.and_then(|()| sync_folder(&self.path)).map_err(failed)?;
        self.link(step)?;
        self.thin(settings.keep.get())?;
        Ok(path)
    }

    /// Lets the link lead to a step's checkpoint.
    pub(crate) fn link(&self, step: u64) -> Result<(), Error> {
        let (link, part) = (self.file(LATEST), self.file(&format!("{LATEST}{PART}")));
        let _ = fs::remove_file(&part);
        let linked = symlink(Path::new(&format!("step-{step:06}")), &part).and_then(|()| fs::rename(&part, &link));
        linked.and_then(|()| sync_folder(&self.path)).map_err(|source| Error::Save { path: link, source })
    }

    /// Removes all checkpoints but the last ones.
    fn thin(&self, keep: usize) -> Result<(), Error> {
        let steps = self.steps()?;
        for &step in &steps[..steps.len().saturating_sub(keep)] {
            let (path, part) = (self.checkpoint(step), self.file(&format!("step-{step:06}{PART}")));
            // First its name: a folder of a checkpoint is always a whole one.
            let removed = fs::rename(&path, &part).and_then(|()| fs::remove_dir_all(&part));
            removed.map_err(|source| Error::Save { path, source })?;
        }
        Ok(())
    }
}

impl Checkpoint {
    /// Lets `trainer` go on from here.
    pub(crate) fn restore(&self, trainer: &mut Trainer) -> Result<(), Error> {
        trainer.restore(&self.path.join(WEIGHTS), &self.path.join(STATE))?;
        if trainer.steps() != self.record.step {
            let (state, record) = (trainer.steps(), self.record.step);
            let problem = format!("{STATE} is of step {state}, and {RECORD} of step {record}");
            return Err(Error::Run { folder: self.path.clone(), problem });
        }
        say!("going on from {}", self.path.display());
        Ok(())
    }
}

/// What transformers makes a tokeniser of, beside tokenizer.json.
fn tokenizer_config(tokenizer: &Tokenizer, eos: Option<u32>, context: usize) -> Value {
    let mut config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context});
    let text = |id: u32| tokenizer.token_text(id).map(str::to_owned);
    for (key, text) in [
        ("bos_token", tokenizer.bos().and_then(text)),
        ("eos_token", eos.and_then(text)),
        ("mask_token", tokenizer.token_id(MASK).and_then(text)),
    ] {
        if let Some(text) = text {
            config[key] = json!(text);
        }
    }
    config
}

fn generation_config([bos, eos]: [Option<u32>; 2]) -> Value {
    json!({"bos_token_id": bos, "eos_token_id": eos})
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn write_through(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// What is in a folder is as durable as its files once this is done.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

#[cfg(unix)]
fn symlink(to: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, link)
}

#[cfg(windows)]
fn symlink(to: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_dir(to, link)
}
