//! The regard command: run, measure and fetch language models.
#![forbid(unsafe_code)]

mod error;
mod output;
mod progress;
mod pull;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Error;
use crate::output::say;

/// Runs language models on the CPU, with Regard's own attention.
#[derive(Debug, Parser)]
#[command(name = "regard", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch a model into the cache folder, or check a file
    Pull(pull::Arguments),
}

impl Command {
    fn run(&self) -> Result<(), Error> {
        match self {
            Self::Pull(arguments) => pull::run(arguments),
        }
    }
}

fn main() -> ExitCode {
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
