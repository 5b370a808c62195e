//! A peer: another program that does the same work, one step at a time, as `bench/README.md` says.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::bench::inputs::{Stored, write};
use crate::error::Error;

/// What the peers' scripts need of each other; the installed command brings them along.
const SCRIPTS: &[(&str, &str)] = &[
    ("step.py", include_str!("../../../../bench/peers/step.py")),
    ("torch_attention.py", include_str!("../../../../bench/peers/torch_attention.py")),
    ("torch_step.py", include_str!("../../../../bench/peers/torch_step.py")),
    ("regard_step.py", include_str!("../../../../bench/peers/regard_step.py")),
    ("linear_step.py", include_str!("../../../../bench/peers/linear_step.py")),
    ("layers_step.py", include_str!("../../../../bench/peers/layers_step.py")),
    ("llama_step.py", include_str!("../../../../bench/peers/llama_step.py")),
    ("sentence_step.py", include_str!("../../../../bench/peers/sentence_step.py")),
];

/// Lines of what a peer said before it ended.
const LAST_WORDS: usize = 5;

/// A peer's process, and a folder for what is handed to it. It ends when this is dropped.
pub(crate) struct Peer {
    process: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    folder: TempDir,
    python: PathBuf,
    script: &'static str,
}

impl Peer {
    /// Starts one of the scripts with this Python.
    ///
    /// # Errors
    /// The folder cannot be written, or the program cannot be started.
    pub(crate) fn start(python: &Path, script: &'static str) -> Result<Self, Error> {
        let folder = TempDir::with_prefix("regard-bench-")
            .map_err(|source| Error::Write { path: std::env::temp_dir(), source })?;
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).map_err(|source| Error::Write { path, source })
        };
        SCRIPTS.iter().try_for_each(|(name, text)| write(name, text))?;
        let chatter = folder.path().join("stderr");
        let chatter = File::create(&chatter).map_err(|source| Error::Write { path: chatter, source })?;
        let refused = |problem: String| Error::Peer { peer: python.display().to_string(), problem };
        let mut process = Command::new(python)
            .arg(folder.path().join(script))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(chatter)
            .spawn()
            .map_err(|error| refused(error.to_string()))?;
        let (Some(requests), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(refused("its streams are not there".into()));
        };
        Ok(Peer {
            process,
            requests: Some(requests),
            answers: BufReader::new(answers),
            folder,
            python: python.into(),
            script,
        })
    }

    /// Where to put what the peer reads.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts numbers where the peer finds them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn hand<T: Stored>(&self, name: &str, numbers: &[T]) -> Result<PathBuf, Error> {
        let path = self.folder().join(name);
        match write(&path, numbers) {
            Ok(()) => Ok(path),
            Err(source) => Err(Error::Write { path, source }),
        }
    }

    /// The numbers of an untimed call, of one that knows `output`: so many of each result.
    ///
    /// # Errors
    /// The peer refuses, or gives more or fewer.
    pub(crate) fn output<const N: usize>(&mut self, lengths: [usize; N]) -> Result<[Vec<f32>; N], Error> {
        let path = self.folder().join("answer");
        self.ask(&format!("output {}", path.display()))?;
        let bytes = fs::read(&path).map_err(|source| Error::Read { path, source })?;
        let expected = lengths.iter().sum::<usize>() * size_of::<f32>();
        if bytes.len() != expected {
            return Err(self.refused(format!("its answer is {} bytes, expected {expected}", bytes.len())));
        }
        let mut numbers = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        Ok(lengths.map(|len| numbers.by_ref().take(len).collect()))
    }

    /// Sends a request and waits for its answer, a JSON object without `error`.
    ///
    /// # Errors
    /// The peer refuses, ends, or says something else.
    pub(crate) fn ask(&mut self, request: &str) -> Result<Value, Error> {
        let sent =
            self.requests.as_mut().map(|requests| writeln!(requests, "{request}").and_then(|()| requests.flush()));
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        if !matches!((sent, read), (Some(Ok(())), Ok(1..))) {
            let words = self.last_words();
            let missing = missing_module(&words).map(|module| {
                let package = if module == "regard" { "./crates/regard-python" } else { module };
                let python = self.python.display();
                format!("{python} has no package {module}; `{python} -m pip install {package}` installs it")
            });
            return Err(self.refused(missing.unwrap_or_else(|| format!("it ended{words}"))));
        }
        match serde_json::from_str::<Value>(&line) {
            Ok(Value::Object(answer)) => match answer.get("error") {
                Some(error) => Err(self.refused(error.as_str().map_or_else(|| error.to_string(), str::to_owned))),
                None => Ok(Value::Object(answer)),
            },
            _ => Err(self.refused(format!("it answers {:?}", line.trim_end()))),
        }
    }

    /// The seconds of each of so many calls, of one that knows `step`.
    ///
    /// # Errors
    /// The peer refuses, or says no times.
    pub(crate) fn step(&mut self, calls: usize) -> Result<Vec<f64>, Error> {
        let answer = self.ask(&format!("step {calls}"))?;
        let times: Option<Vec<f64>> = match &answer["each"] {
            Value::Array(each) => each.iter().map(|ms| ms.as_f64().map(|ms| ms / 1e3)).collect(),
            _ => None,
        };
        times.ok_or_else(|| self.refused(format!("no times in its answer {answer}")))
    }

    /// An error about this peer.
    pub(crate) fn refused(&self, problem: String) -> Error {
        Error::Peer { peer: self.script.into(), problem }
    }

    /// The end of what it said on standard error.
    fn last_words(&self) -> String {
        let said = fs::read(self.folder.path().join("stderr")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].iter().map(|line| format!("\n  {line}")).collect()
    }
}

/// The package that an interpreter did not find, by the last lines it said.
fn missing_module(words: &str) -> Option<&str> {
    let last = words.lines().next_back()?.trim();
    let module = last.strip_prefix("ModuleNotFoundError: No module named '")?.strip_suffix('\'')?;
    module.split('.').next()
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its input ends it; one that does not listen is ended.
        self.requests = None;
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_is_missing_is_named() {
        let words = "\n  Traceback (most recent call last):\n    import regard\n  ModuleNotFoundError: No module named 'regard'";
        assert_eq!(missing_module(words), Some("regard"));
        assert_eq!(missing_module("ModuleNotFoundError: No module named 'regard.torch'"), Some("regard"));
        for words in ["", "ModuleNotFoundError: No module named 'regard'\nValueError: other", "ImportError: torch"] {
            assert_eq!(missing_module(words), None);
        }
    }
}
