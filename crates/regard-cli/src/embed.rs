//! `regard embed`: texts to vectors.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use crate::embedding::{EncoderOptions, encode};
use crate::error::Error;
use crate::input;
use crate::npy;
use crate::output::{print, say};
use crate::save::{self, save};

/// Arguments of `regard embed`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every line is a text. Texts longer than the model sees count as far as it sees.

Examples:
  echo \"A cat sleeps.\" | regard embed
  regard embed notes.txt more.txt > vectors.jsonl
  regard embed notes.txt --output vectors.npy
  regard embed notes.txt | jq -c '.embedding[:3]'")]
pub(crate) struct Arguments {
    /// Files of lines; without one, or as `-`, standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write into this file: an array [lines, width] of NumPy where its name ends in .npy, else JSON lines
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    encoder: EncoderOptions,
}

/// Runs `regard embed`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    arguments.output.as_deref().map_or(Ok(()), save::check)?;
    let text = if arguments.files.is_empty() { read(&["-".into()])? } else { read(&arguments.files)? };
    let lines: Vec<&str> = text.lines().collect();
    let encoder = arguments.encoder.load()?;
    let start = Instant::now();
    let vectors = encode(&encoder, &lines, "embedding")?;
    let seconds = start.elapsed().as_secs_f64();
    let as_json = || {
        lines
            .iter()
            .zip(&vectors)
            .map(|(text, embedding)| format!("{}\n", json!({ "text": text, "embedding": embedding })))
    };
    match &arguments.output {
        None => as_json().try_for_each(|line| print(&line))?,
        Some(path) if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy")) => {
            let width = encoder.description().width;
            save(path, |file| npy::write(file, vectors.len(), width, &vectors.concat()))?;
        }
        Some(path) => save(path, |file| as_json().try_for_each(|line| file.write_all(line.as_bytes())))?,
    }
    if seconds > 0.0 && !lines.is_empty() {
        say!("{} lines, {:.1} a second", lines.len(), lines.len() as f64 / seconds);
    }
    Ok(())
}

/// The text of some files, one after the other; of `-` that of standard input.
fn read(files: &[PathBuf]) -> Result<String, Error> {
    let mut text = String::new();
    for path in files {
        text.push_str(&input::text(path)?);
        // The last line of a file is no part of the next one's first.
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}
