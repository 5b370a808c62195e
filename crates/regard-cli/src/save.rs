//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::Error;
use crate::output::say;

/// Writes a file at `path`: first beside it, then through to the disk, then under its name. Whoever reads that name
/// finds what was there before or all that `write` wrote. What is no regular file, such as a pipe, is written as it is.
///
/// # Errors
/// [`Error::Save`] when the system refuses; what was there before still is.
pub(crate) fn save(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    replace(path, write).map_err(|source| Error::Save { path: path.to_path_buf(), source })?;
    say!("wrote {}", path.display());
    Ok(())
}

fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    // A link stays one: what it leads to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
        return write(&mut File::options().write(true).open(&path)?);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut part = part(folder, &path)?;
    let mut buffer = BufWriter::new(&mut part);
    write(&mut buffer)?;
    buffer.flush()?;
    drop(buffer);
    part.as_file().sync_all()?;
    part.persist(&path)?;
    // The name is as durable as the bytes only once its folder is written through as well.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// A new file in `folder` for what is to stand at `path`: with its permissions, or those of any new file.
fn part(folder: &Path, path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".regard-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What the user's mask of permissions leaves of this is what a new file has.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let part = builder.tempfile_in(folder)?;
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
        assert!(text(&folder.path().join("absent/picture"), "x").is_err());
        assert!(text(folder.path(), "x").is_err());
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
