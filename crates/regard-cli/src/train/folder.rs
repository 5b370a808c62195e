//! The folder of a run: checkpoints that are there whole or not at all.

use std::fmt;
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
use crate::save;

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
    /// The name of the one before it.
    before: Option<String>,
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
            let removed = match &*name {
                name if name.starts_with("step-") && name.ends_with(PART) => fs::remove_dir_all(&path),
                // The chart.
                name if name.starts_with(save::BESIDE) => fs::remove_file(&path),
                _ => Ok(()),
            };
            removed.map_err(|source| Error::Save { path, source })?;
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
        let steps = self.steps()?;
        let Some(&step) = steps.last() else {
            let problem =
                "there is no checkpoint in it to go on from: leave --resume out to begin, or name another --out";
            return Err(self.refused(problem.to_owned()));
        };
        let path = self.checkpoint(step);
        let before = steps.len().checked_sub(2).map(|at| format!("step-{:06}", steps[at]));
        let damaged = |name: &str, problem: &dyn fmt::Display| damaged(&path, before.as_deref(), name, problem);
        let text = |name: &str| fs::read_to_string(path.join(name)).map_err(|error| damaged(name, &error));
        let record = serde_json::from_str(&text(RECORD)?).map_err(|error| damaged(RECORD, &error))?;
        let tokenizer = text(TOKENIZER)?;
        Tokenizer::from_json(&tokenizer, TOKENIZER).map_err(|error| damaged(TOKENIZER, &error))?;
        Ok(Checkpoint { record, tokenizer, path, before })
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
        let failed = |source| Error::Save { path: path.clone(), source };
        match fs::remove_dir_all(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => fs::create_dir(&part).map_err(failed)?,
        }
        let written = self.write(&part, trainer, settings, (json, tokenizer), &record);
        if written.is_err() {
            // What is half written helps nobody, and takes room where there may be none.
            let _ = fs::remove_dir_all(&part);
        }
        written?;
        let renamed = sync_folder(&part).and_then(|()| fs::rename(&part, &path));
        renamed.and_then(|()| sync_folder(&self.path)).map_err(failed)?;
        self.link(step)?;
        self.thin(settings.keep.get())?;
        Ok(path)
    }

    /// Writes the files of a checkpoint into a folder.
    fn write(
        &self,
        part: &Path,
        trainer: &Trainer,
        settings: &Settings,
        (json, tokenizer): (&str, &Tokenizer),
        record: &Record,
    ) -> Result<(), Error> {
        let description = Description { config: *trainer.model().config(), limit: settings.context.get() };
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
            let path = part.join(name);
            write_through(&path, &text).map_err(|source| Error::Save { path, source })?;
        }
        Ok(())
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
        let damaged = |problem: &dyn fmt::Display| {
            let name = format!("{WEIGHTS} or {STATE}");
            damaged(&self.path, self.before.as_deref(), &name, problem)
        };
        trainer.restore(&self.path.join(WEIGHTS), &self.path.join(STATE)).map_err(|error| damaged(&error))?;
        if trainer.steps() != self.record.step {
            let (state, record) = (trainer.steps(), self.record.step);
            return Err(damaged(&format!("the state is of step {state}, and {RECORD} of step {record}")));
        }
        say!("going on from {}", self.path.display());
        Ok(())
    }
}

/// A checkpoint that no run can go on from, and the way out.
fn damaged(path: &Path, before: Option<&str>, name: &str, problem: &dyn fmt::Display) -> Error {
    let way_out = match before {
        Some(before) => format!("remove this folder to go on from {before}"),
        None => "there is none before it: begin another run with another --out".to_owned(),
    };
    Error::Run { folder: path.to_path_buf(), problem: format!("{name} is damaged: {problem}; {way_out}") }
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
