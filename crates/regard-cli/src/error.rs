//! What can go wrong in the command, and the exit code that says so.

use std::io;
use std::path::PathBuf;

/// Why a command ended without doing what it was asked.
///
/// Each message is one line that names the thing and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No variable tells where the cache folder is.
    #[error("no home folder is known, so there is no cache folder: set REGARD_CACHE")]
    NoCacheFolder,
    /// A model that is neither in the catalogue nor a file.
    #[error("no model {model:?}: it is no file here, and the names that can be pulled are {names}")]
    NoSuchModel {
        /// What was asked for.
        model: String,
        /// The names of the catalogue.
        names: String,
    },
    /// Every source of a model refused; each reason has been said.
    #[error("{name} could not be fetched from any source; {hint}")]
    NoSource {
        /// The model's name.
        name: &'static str,
        /// What to do next.
        hint: String,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}{}", path.display(), way_out(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Standard output could not be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// Whoever read standard output has gone. Not said: it is how `| head` ends a command.
    #[error("standard output was closed")]
    BrokenPipe,
}

impl Error {
    /// The process's exit code: 141 for what a shell shows after SIGPIPE, 1 for everything else.
    pub(crate) fn exit_code(&self) -> u8 {
        if matches!(self, Self::BrokenPipe) { 141 } else { 1 }
    }

    /// Whether there is anything to tell that is not known already.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::BrokenPipe)
    }
}

fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room, or set REGARD_CACHE to a folder on another disk, and run it again"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; set REGARD_CACHE to a folder that can be written"
        }
        _ => "",
    }
}
