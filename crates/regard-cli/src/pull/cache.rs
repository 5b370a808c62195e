//! The folder in which pulled models live.

use std::env;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::pull::catalogue::{Entry, Named};

/// The cache folder: whole files under their own names, and beside them what is on its way.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The user's cache folder: `$REGARD_CACHE`, else `$XDG_CACHE_HOME/regard`, else `~/.cache/regard`.
    ///
    /// # Errors
    /// When none of the three is known. Nothing is created yet.
    pub(crate) fn of_user() -> Result<Self, Error> {
        Self::from_environment(|name| env::var_os(name).map(PathBuf::from), env::home_dir())
    }

    fn from_environment(variable: impl Fn(&str) -> Option<PathBuf>, home: Option<PathBuf>) -> Result<Self, Error> {
        let set = |name| variable(name).filter(|path| !path.as_os_str().is_empty());
        // The XDG specification says that a relative path is to be ignored.
        let folder = set("REGARD_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("regard")))
            .or_else(|| home.filter(|path| path.is_absolute()).map(|path| path.join(".cache").join("regard")))
            .ok_or(Error::NoCacheFolder)?;
        Ok(Self::at(folder))
    }

    /// The cache in a given folder.
    pub(crate) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder itself.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the whole file of `entry` belongs.
    pub(crate) fn path(&self, entry: &Entry) -> PathBuf {
        self.folder.join(entry.file)
    }

    /// Where a model is, once it is here: its file, or its folder.
    pub(crate) fn model(&self, model: &Named) -> PathBuf {
        self.folder.join(model.folder.unwrap_or(model.files[0].file))
    }

    /// Where a model is, if all its files are here.
    pub(crate) fn find_model(&self, model: &Named) -> Option<PathBuf> {
        let whole = model.files.iter().all(|entry| self.find(entry).is_some());
        whole.then(|| self.model(model))
    }

    /// The whole file of `entry`, if it is here.
    ///
    /// Only a verified file is ever renamed to this name, so its size is enough of a check for every use but `pull`,
    /// which reads it through.
    pub(crate) fn find(&self, entry: &Entry) -> Option<PathBuf> {
        let path = self.path(entry);
        let whole = path.metadata().is_ok_and(|data| data.is_file() && data.len() == entry.size);
        whole.then_some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(variables: &[(&str, &str)], home: Option<&str>) -> Result<PathBuf, Error> {
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        Cache::from_environment(variable, home.map(PathBuf::from)).map(|cache| cache.folder)
    }

    #[test]
    fn the_folder_follows_the_environment() {
        let all = [("REGARD_CACHE", "/a"), ("XDG_CACHE_HOME", "/b")];
        assert_eq!(folder(&all, Some("/home/u")).unwrap(), Path::new("/a"));
        assert_eq!(folder(&all[1..], Some("/home/u")).unwrap(), Path::new("/b/regard"));
        assert_eq!(folder(&[("REGARD_CACHE", "")], Some("/home/u")).unwrap(), Path::new("/home/u/.cache/regard"));
        assert_eq!(folder(&[("XDG_CACHE_HOME", "b")], Some("/home/u")).unwrap(), Path::new("/home/u/.cache/regard"));
        assert!(matches!(folder(&[], None), Err(Error::NoCacheFolder)));
    }
}
