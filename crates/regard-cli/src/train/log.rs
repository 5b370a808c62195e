//! What happened in a run: one JSON object a line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A line of the log. A loss that is no number is null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Event {
    /// A step of learning.
    Step {
        step: u64,
        /// Before the step, in nats a token.
        loss: Option<f64>,
        /// Of all gradients before they were clipped.
        gradient_norm: Option<f64>,
        rate: f32,
        tokens: u64,
        seconds: f64,
        /// Whose gradient was no finite number.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        skipped: Option<String>,
    },
    /// A look at what is held out.
    Evaluation { step: u64, loss: Option<f64>, perplexity: Option<f64>, bits_per_byte: Option<f64> },
    /// A text that the model wrote.
    Sample { step: u64, prompt: String, text: String },
}

impl Event {
    fn step(&self) -> u64 {
        match self {
            Event::Step { step, .. } | Event::Evaluation { step, .. } | Event::Sample { step, .. } => *step,
        }
    }
}

/// The log of a run, and all that stands in it.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    pub(crate) events: Vec<Event>,
}

impl Log {
    /// The log at `path` of a run that goes on from `step`: what stands there of later steps, or was cut, is taken out.
    pub(crate) fn open(path: &Path, step: Option<u64>) -> Result<Log, Error> {
        let failed = |source| Error::Save { path: path.to_path_buf(), source };
        let text = match (step, fs::read_to_string(path)) {
            (None, _) => String::new(),
            (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => String::new(),
            (_, text) => text.map_err(|source| Error::Read { path: path.to_path_buf(), source })?,
        };
        let read = text.lines().map_while(|line| serde_json::from_str::<Event>(line).ok().map(|event| (line, event)));
        let (lines, events): (Vec<&str>, Vec<Event>) =
            read.filter(|(_, event)| step.is_some_and(|step| event.step() <= step)).unzip();
        let text = lines.iter().fold(String::new(), |text, line| text + line + "\n");
        let part = path.with_extension("tmp");
        let written = File::create(&part).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&part, path)?;
            OpenOptions::new().append(true).open(path)
        });
        Ok(Log { path: path.to_path_buf(), file: written.map_err(failed)?, events })
    }

    /// Notes what happened.
    pub(crate) fn note(&mut self, event: Event) -> Result<(), Error> {
        let failed = |source| Error::Save { path: self.path.clone(), source };
        let line = serde_json::to_string(&event).map_err(|error| failed(error.into()))?;
        // One write a line: another process that reads along never sees a half.
        self.file.write_all((line + "\n").as_bytes()).map_err(failed)?;
        self.events.push(event);
        Ok(())
    }

    /// Lets what was noted be as durable as a checkpoint.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(|source| Error::Save { path: self.path.clone(), source })
    }
}

/// A number that JSON has.
pub(crate) fn finite(number: f64) -> Option<f64> {
    number.is_finite().then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_where_the_checkpoint_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let event = |step| Event::Evaluation { step, loss: finite(0.1), perplexity: None, bits_per_byte: None };
        let mut log = Log::open(&path, None).unwrap();
        (0..5).for_each(|step| log.note(event(step)).unwrap());
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 7]).unwrap();
        let mut log = Log::open(&path, Some(2)).unwrap();
        assert_eq!(log.events, [0, 1, 2].map(event));
        (3..5).for_each(|step| log.note(event(step)).unwrap());
        assert_eq!(whole, fs::read_to_string(&path).unwrap());
        assert!(Log::open(&path, None).unwrap().events.is_empty());
    }
}
