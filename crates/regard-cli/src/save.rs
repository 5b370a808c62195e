//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::output::say;

/// What the names of files begin with that are being written beside what they are to replace.
pub(crate) const BESIDE: &str = ".regard-";

/// Writes a file at `path`: first beside it, then through to the disk, then under its name. Whoever reads that name
/// finds what was there before or all that `write` wrote. What is no regular file, such as a pipe, is written as it is.
///
/// # Errors
/// [`Error::Save`] when the system refuses; what was there before still is. [`Error::BrokenPipe`] when it is a pipe whose
/// reader has gone.
pub(crate) fn save(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    quietly(path, write)?;
    say!("wrote {}", path.display());
    Ok(())
}

/// The same, without a word: for what is written again and again.
///
/// # Errors
/// As [`save`].
pub(crate) fn quietly(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    replace(path, write).map_err(|source| refused(path, source))
}

/// Whether [`save`] can begin, as far as can be told before there is anything to write.
///
/// # Errors
/// [`Error::Save`]: the path is a folder, its folder is not there, or nothing may be written there.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    let checked = match Place::of(path) {
        // A pipe is opened once, for what is written.
        Place::Stream(path) if !path.is_dir() => Ok(()),
        Place::Stream(_) => Err(io::ErrorKind::IsADirectory.into()),
        Place::Stdout => Ok(()),
        Place::File { folder, path } => part(&folder, &path).map(drop),
    };
    checked.map_err(|source| refused(path, source))
}

fn refused(path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::BrokenPipe => Error::BrokenPipe,
        _ => Error::Save { path: path.to_path_buf(), source },
    }
}

/// What a path leads to.
enum Place {
    /// A file, there already or not, and its folder.
    File { folder: PathBuf, path: PathBuf },
    /// What is written as it is: a pipe or a device.
    Stream(PathBuf),
    /// This process's own output under one of its names. Opened by that, a pipe would wait for a reader that may have gone.
    Stdout,
}

impl Place {
    fn of(path: &Path) -> Place {
        // A link stays one: what it leads to is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        match fs::metadata(&path) {
            Ok(found) if !found.is_file() && is_stdout(&found) => Place::Stdout,
            Ok(found) if !found.is_file() => Place::Stream(path),
            _ => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                Place::File { folder: folder.unwrap_or(Path::new(".")).to_path_buf(), path }
            }
        }
    }
}

#[cfg(unix)]
fn is_stdout(found: &fs::Metadata) -> bool {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    let stdout = io::stdout().as_fd().try_clone_to_owned().and_then(|stdout| File::from(stdout).metadata());
    stdout.is_ok_and(|stdout| (stdout.dev(), stdout.ino()) == (found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn is_stdout(_: &fs::Metadata) -> bool {
    false
}

fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let (folder, path) = match Place::of(path) {
        Place::File { folder, path } => (folder, path),
        Place::Stream(path) => return write(&mut File::options().write(true).open(path)?),
        Place::Stdout => {
            let mut stdout = io::stdout().lock();
            return write(&mut stdout).and_then(|()| stdout.flush());
        }
    };
    let part = part(&folder, &path)?;
    let mut buffer = BufWriter::new(part.as_file());
    write(&mut buffer)?;
    buffer.flush()?;
    drop(buffer);
    part.as_file().sync_all()?;
    part.persist(&path).map_err(|refused| refused.error)?;
    // The name is as durable as the bytes only once its folder is written through as well.
    if cfg!(unix) { File::open(&folder)?.sync_all() } else { Ok(()) }
}

/// A new file in `folder` for what is to stand at `path`: with its permissions, or those of any new file.
fn part(folder: &Path, path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(BESIDE);
    if !fs::metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What the user's mask of permissions leaves of this is what a new file has.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    // Without the name of the new file: whoever shows the reason names the path that the user gave.
    let part = builder.tempfile_in(folder).map_err(|error| io::Error::from(error.kind()))?;
    if let Ok(metadata) = fs::metadata(path) {
        part.as_file().set_permissions(metadata.permissions())?;
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path, text: &str) -> Result<(), Error> {
        save(path, |file| file.write_all(text.as_bytes()))
    }

    #[test]
    fn a_file_is_new_or_replaced_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture");
        text(&path, "one").unwrap();
        text(&path, "another").unwrap();
        assert_eq!("another", fs::read_to_string(&path).unwrap());
        assert_eq!(1, fs::read_dir(folder.path()).unwrap().count());
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture");
        text(&path, "one").unwrap();
        let error = save(&path, |file| {
            file.write_all(b"half of")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(matches!(error, Err(Error::Save { .. })));
        assert_eq!("one", fs::read_to_string(&path).unwrap());
        assert_eq!(1, fs::read_dir(folder.path()).unwrap().count());
    }

    #[test]
    fn what_cannot_be_begun_is_told_before_and_names_the_path_once() {
        let folder = tempfile::tempdir().unwrap();
        let picture = folder.path().join("picture");
        text(&picture, "one").unwrap();
        for path in [folder.path().join("absent/picture"), folder.path().to_path_buf(), picture.join("more")] {
            let [before, after] = [check(&path), text(&path, "x")].map(|refused| refused.unwrap_err().to_string());
            assert!(before.starts_with(&format!("cannot write {}: ", path.display())), "{before}");
            for error in [before, after] {
                assert_eq!(1, error.matches(&*folder.path().to_string_lossy()).count(), "{error}");
            }
        }
        check(&picture).unwrap();
        check(&folder.path().join("new")).unwrap();
        assert_eq!("one", fs::read_to_string(&picture).unwrap());
        assert_eq!(1, fs::read_dir(folder.path()).unwrap().count());
    }

    #[cfg(unix)]
    #[test]
    fn links_devices_and_permissions_stay() {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let [path, link] = ["picture", "link"].map(|name| folder.path().join(name));
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        text(&path, "one").unwrap();
        assert_eq!(mode(&plain), mode(&path));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&path, &link).unwrap();
        text(&link, "another").unwrap();
        assert_eq!(("another", 0o640), (&*fs::read_to_string(&path).unwrap(), mode(&path)));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        text(Path::new("/dev/null"), "nothing").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }
}
