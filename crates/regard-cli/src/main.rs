//! The regard command: run, measure and fetch language models.
#![forbid(unsafe_code)]

mod bench;
mod chat;
mod conversation;
mod convert;
mod embed;
mod embedding;
mod error;
mod generate;
mod info;
mod input;
mod interrupt;
mod learned;
mod mask;
mod npy;
mod options;
mod output;
mod perplexity;
mod plot;
mod progress;
mod pull;
mod save;
mod search;
mod train;
mod writer;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Error;
use crate::output::say;

/// Runs and trains language models on the CPU, with Regard's own attention.
#[derive(Debug, Parser)]
#[command(
    name = "regard",
    version,
    max_term_width = 110,
    after_help = "\
Examples:
  regard generate \"Why is the sky blue?\"
  regard chat
  regard search notes.txt \"how to reset the router\"
  regard perplexity book.txt --context 512
  regard train --data book.txt --out my-run

The first use fetches the default model. `regard COMMAND --help` has the options and more examples.

Exit codes: 0 done, 1 failed, 2 wrong command line, 130 stopped by Ctrl-C, 141 nobody reads the output any more."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a text after a prompt, or the answer to it
    Generate(generate::Arguments),
    /// Converse with a model
    Chat(chat::Arguments),
    /// Turn texts into vectors that are near where they mean the same
    Embed(embed::Arguments),
    /// Find the lines of a text that are nearest to a question
    Search(search::Arguments),
    /// Measure how well a model foresees a text
    Perplexity(perplexity::Arguments),
    /// Fetch a model into the cache folder, or check a file
    Pull(pull::Arguments),
    /// Train a small language model from scratch
    Train(train::Arguments),
    /// Tell what is in a model's file
    Info(info::Arguments),
    /// Turn a folder of a model into one GGUF file
    Convert(convert::Arguments),
    /// Measure attention beside this machine's limits and other programs
    Bench(bench::Arguments),
    /// Draw a mask, and tell what it costs
    Mask(mask::Arguments),
}

impl Command {
    fn run(&self) -> Result<(), Error> {
        match self {
            Self::Generate(arguments) => generate::run(arguments),
            Self::Chat(arguments) => chat::run(arguments),
            Self::Embed(arguments) => embed::run(arguments),
            Self::Search(arguments) => search::run(arguments),
            Self::Perplexity(arguments) => perplexity::run(arguments),
            Self::Pull(arguments) => pull::run(arguments),
            Self::Train(arguments) => train::run(arguments),
            Self::Info(arguments) => info::run(arguments),
            Self::Convert(arguments) => convert::run(arguments),
            Self::Bench(arguments) => bench::run(arguments),
            Self::Mask(arguments) => mask::run(arguments),
        }
    }
}

fn main() -> ExitCode {
    interrupt::install();
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_silent() {
                say!("error: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
