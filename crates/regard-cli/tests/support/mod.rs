//! What the tests of the command share: a tiny model in a file, and a way to run the command on it.

pub(crate) mod tiny;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A folder of its own with a tiny model, in which commands run.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) model: PathBuf,
}

/// What a command printed, and how it ended.
#[derive(Debug, PartialEq)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let model = folder.path().join("tiny.gguf");
        std::fs::write(&model, tiny::gguf(tiny::Purpose::Chat)).unwrap();
        Self { folder, model }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `regard ARGUMENTS --model MODEL`, without any source of models.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = regard(self.folder.path());
        command.args(arguments).arg("--model").arg(&self.model);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments), "")
    }

    /// As [`run`](Self::run), with a standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        run(&mut self.command(arguments), input)
    }
}

/// The command with a cache folder of its own, and every source of models out of reach.
pub(crate) fn regard(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regard"));
    command.env("REGARD_CACHE", folder.join("cache")).env("HF_HUB_OFFLINE", "1").env("PIP_NO_INDEX", "1");
    command.env_remove("PIP_FIND_LINKS").env_remove("PIP_INDEX_URL");
    command
}

pub(crate) fn run(command: &mut Command, input: &str) -> Ran {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    Ran {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}
