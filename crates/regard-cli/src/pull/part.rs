//! A file on its way: bytes gather in `NAME.part`, and only a whole, verified file takes the name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::pull::catalogue::Entry;
use crate::pull::source::Failure;

/// The bytes of a file that have arrived so far, with their running digest.
///
/// What an earlier run left behind is kept: [`Part::open`] reads it back into the digest, and sources go on after it.
pub(crate) struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
    arrived: u64,
    size: u64,
    digest: Sha256,
    expected: &'static str,
    bar: ProgressBar,
}

impl Part {
    /// Opens or creates the part of `entry` that becomes `target`, and reads what is already there.
    ///
    /// # Errors
    /// When the part cannot be created or read.
    pub(crate) fn open(entry: &Entry, target: PathBuf, bar: ProgressBar) -> Result<Self, Error> {
        let path = with_suffix(&target, ".part");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| Error::Write { path: path.clone(), source })?;
        let mut part = Self {
            file,
            path,
            target,
            arrived: 0,
            size: entry.size,
            digest: Sha256::new(),
            expected: entry.sha256,
            bar,
        };
        let length = part.file.metadata().map_err(|source| part.unreadable(source))?.len();
        if length > part.size {
            part.restart()?;
        } else {
            let (arrived, digest) = hash(&mut part.file).map_err(|source| part.unreadable(source))?;
            (part.arrived, part.digest) = (arrived, digest);
        }
        Ok(part)
    }

    /// Bytes that have arrived.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Whether as many bytes have arrived as the file has.
    pub(crate) fn is_complete(&self) -> bool {
        self.arrived == self.size
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`Failure::Source`] when they are more than the file has; [`Failure::Local`] when they cannot be written.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.len() as u64 > self.size - self.arrived {
            return Err(Failure::Source(format!("not it: sends more than the file's {} bytes", self.size)));
        }
        self.file.write_all(bytes).map_err(|source| Error::Write { path: self.path.clone(), source })?;
        self.digest.update(bytes);
        self.arrived += bytes.len() as u64;
        self.bar.set_position(self.arrived);
        Ok(())
    }

    /// Forgets every byte.
    ///
    /// # Errors
    /// When the part cannot be emptied.
    pub(crate) fn restart(&mut self) -> Result<(), Error> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|source| Error::Write { path: self.path.clone(), source })?;
        self.digest = Sha256::new();
        self.arrived = 0;
        self.bar.set_position(0);
        Ok(())
    }

    /// Checks the digest of a complete part, and empties the part when it is another file's.
    ///
    /// # Errors
    /// [`Failure::Source`] when the digest differs.
    pub(crate) fn verify(&mut self) -> Result<(), Failure> {
        let found = hexadecimal(self.digest.clone());
        if found == self.expected {
            return Ok(());
        }
        self.restart()?;
        Err(Failure::Source(format!("not it: SHA-256 is {found}, not {}", self.expected)))
    }

    /// Makes a verified part the file itself: written through to the disk, then renamed.
    ///
    /// # Errors
    /// When the disk refuses; the part stays.
    pub(crate) fn finish(self) -> Result<PathBuf, Error> {
        let result = self.file.sync_all().and_then(|()| fs::rename(&self.path, &self.target)).and_then(|()| {
            // The name is as durable as the bytes only once its folder is written through as well.
            self.target.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        });
        self.bar.finish_and_clear();
        result.map(|()| self.target.clone()).map_err(|source| Error::Write { path: self.target.clone(), source })
    }

    /// Gives up for now, and says what a later run finds. An empty part is removed.
    pub(crate) fn leave(self) -> String {
        self.bar.finish_and_clear();
        if self.arrived == 0 {
            let _ = fs::remove_file(&self.path);
            return "check the connection (or unset HF_HUB_OFFLINE) and run it again, or give the path of a model"
                .into();
        }
        format!("{} bytes are kept in {}: run it again to go on", self.arrived, self.path.display())
    }

    fn unreadable(&self, source: io::Error) -> Error {
        Error::Read { path: self.path.clone(), source }
    }
}

/// SHA-256 of the file at `path`, in lower-case hexadecimal.
pub(crate) fn digest_of(path: &Path) -> Result<String, Error> {
    let read = |source| Error::Read { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(read)?;
    Ok(hexadecimal(hash(&mut file).map_err(read)?.1))
}

/// `path` with `suffix` after its file name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Reads to the end: the number of bytes and their digest so far.
///
/// No more than the length that the file states is read, so a device that never ends is not read for ever.
fn hash(file: &mut File) -> io::Result<(u64, Sha256)> {
    let mut digest = Sha256::new();
    let mut block = vec![0; 1 << 18];
    let mut reader = file.take(file.metadata()?.len());
    let mut total = 0;
    loop {
        match reader.read(&mut block) {
            Ok(0) => return Ok((total, digest)),
            Ok(count) => {
                digest.update(&block[..count]);
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hexadecimal(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
