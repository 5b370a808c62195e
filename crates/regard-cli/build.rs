//! Tells the command which commit it is built from, where that can be known.

use std::path::Path;
use std::process::Command;

/// What git says, if there is git and it knows this folder.
fn git(arguments: &[&str]) -> Option<String> {
    let ran = Command::new("git").args(arguments).output().ok()?;
    let said = String::from_utf8(ran.stdout).ok()?;
    (ran.status.success() && !said.trim().is_empty()).then(|| said.trim().to_owned())
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // In a repository of somebody else's a packaged copy would tell that one's commit.
    if !Path::new("../../bench/cases.json").exists() {
        return;
    }
    let Some(mut commit) = git(&["rev-parse", "--short=10", "HEAD"]) else { return };
    // What is built is `crates`: a change elsewhere changes no figure.
    if git(&["status", "--porcelain", "--", ".."]).is_some() {
        commit.push_str(" with changes");
    }
    println!("cargo::rustc-env=REGARD_COMMIT={commit}");
    println!("cargo::rerun-if-changed=..");
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
}
