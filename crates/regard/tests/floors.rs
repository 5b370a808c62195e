//! The house stands: no arrow of dependency points up.

use std::fs;
use std::path::Path;

/// Every crate with its floor; on the ground floor, its place from the left.
const FLOORS: &[(&str, usize, usize)] = &[
    ("regard-simd", 0, 0),
    ("regard-memory", 0, 1),
    ("regard-threads", 0, 2),
    ("regard-kernels", 1, 0),
    ("regard-masks", 1, 0),
    ("regard-attention", 2, 0),
    ("regard-draw", 3, 0),
    ("regard-graph", 3, 0),
    ("regard-layers", 3, 0),
    ("regard-select", 3, 0),
    ("regard-models", 4, 0),
    ("regard-cli", 5, 0),
    ("regard-python", 5, 0),
    ("regard", 6, 0),
];

/// Names in a section of a manifest.
fn dependencies<'a>(manifest: &'a str, section: &str) -> Vec<&'a str> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == section;
        } else if inside && line.starts_with("regard") {
            names.push(line.split(['.', ' ', '=']).next().expect("a line has a beginning"));
        }
    }
    names
}

fn place(name: &str) -> Option<(usize, usize)> {
    FLOORS.iter().find(|floor| floor.0 == name).map(|floor| (floor.1, floor.2))
}

#[test]
fn arrows_point_down() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies among the others");
    let mut seen = 0;
    for entry in fs::read_dir(crates).expect("the crates can be listed") {
        let folder = entry.expect("an entry can be read").path();
        let name = folder.file_name().expect("a folder has a name").to_string_lossy().into_owned();
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("a crate has a manifest");
        let needs = dependencies(&manifest, "[dependencies]");
        if name == "regard-oracle" {
            assert!(needs.is_empty(), "the oracle is independent, but needs {needs:?}");
            continue;
        }
        let (floor, from_left) = place(&name).unwrap_or_else(|| panic!("{name} stands on no floor"));
        for needed in needs {
            // The command shows errors against the reference; it is a tool, not a library.
            if name == "regard-cli" && needed == "regard-oracle" {
                continue;
            }
            let (below, left) = place(needed).unwrap_or_else(|| panic!("{name} needs {needed}, which is for tests"));
            let down = below < floor || (floor == 0 && below == 0 && left < from_left);
            assert!(down, "{name} (floor {floor}) must not need {needed} (floor {below})");
            seen += 1;
        }
    }
    assert!(seen > 10, "the manifests are read: {seen} arrows");
}

#[test]
fn unsafe_stays_below() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies among the others");
    let libraries = [
        "regard-masks",
        "regard-attention",
        "regard-draw",
        "regard-graph",
        "regard-layers",
        "regard-select",
        "regard-models",
        "regard",
    ];
    for name in libraries.into_iter().chain(["regard-oracle"]) {
        let root = fs::read_to_string(crates.join(name).join("src/lib.rs")).expect("a library has a root");
        assert!(root.contains("#![forbid(unsafe_code)]"), "{name} does not forbid unsafe code");
    }
    // The wheel denies it, but for the file that looks at memory of other libraries.
    let root = fs::read_to_string(crates.join("regard-python/src/lib.rs")).expect("the wheel has a root");
    assert!(root.contains("#![deny(unsafe_code)]") && root.matches("allow(unsafe_code").count() == 1, "{root}");
    let root = fs::read_to_string(crates.join("regard-cli/src/main.rs")).expect("the command has a root");
    assert!(root.contains("#![forbid(unsafe_code)]"), "regard-cli does not forbid unsafe code");
}
