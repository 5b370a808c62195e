//! `regard search`: the lines that are nearest to a question.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde_json::json;

use crate::embedding::{EncoderOptions, encode};
use crate::error::Error;
use crate::input;
use crate::output::print_line;

/// Arguments of `regard search`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The score is the cosine of the line's vector and the question's: 1 for the same text, about 0 for one of other things.
Empty lines are left out.

Examples:
  regard search notes.txt \"how to reset the router\"
  regard search notes.txt \"whales\" --top 3 --json | jq -r .text")]
pub(crate) struct Arguments {
    /// File of lines to search in; `-` for standard input
    #[arg(value_name = "CORPUS")]
    corpus: PathBuf,
    /// What to look for
    #[arg(value_name = "QUESTION")]
    question: String,
    /// Lines to show
    #[arg(short = 'k', long, value_name = "K", default_value = "5")]
    top: NonZeroUsize,
    /// Print a JSON object for each line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    encoder: EncoderOptions,
}

/// Runs `regard search`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    if arguments.question.trim().is_empty() {
        return Err(Error::Usage("the question is empty".to_owned()));
    }
    let text = input::text(&arguments.corpus)?;
    let lines: Vec<(usize, &str)> = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
    let encoder = arguments.encoder.load()?;
    let question = encode(&encoder, &[&arguments.question], "embedding the question")?.remove(0);
    let texts: Vec<&str> = lines.iter().map(|(_, line)| *line).collect();
    let vectors = encode(&encoder, &texts, "embedding the lines")?;
    let scores: Vec<f64> = vectors.iter().map(|vector| cosine(vector, &question)).collect();
    for place in nearest(&scores, arguments.top.get()) {
        let ((index, line), score) = (lines[place], scores[place]);
        let number = index + 1;
        print_line(&if arguments.json {
            json!({ "score": score, "line": number, "text": line }).to_string()
        } else {
            format!("{score:.3}  {number}: {line}")
        })?;
    }
    Ok(())
}

/// The cosine of the angle between two vectors; 0 where one has no direction.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

/// The places of the highest scores, the highest first, and of equal ones the first.
fn nearest(scores: &[f64], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    places.truncate(count);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first() {
        assert_eq!(nearest(&[0.1, 0.9, 0.5, 0.9], 3), [1, 3, 2]);
        assert_eq!(nearest(&[0.1], 3), [0]);
        assert!(nearest(&[], 3).is_empty());
    }

    #[test]
    fn cosines_are_of_directions() {
        assert!((cosine(&[3.0, 4.0], &[6.0, 8.0]) - 1.0).abs() < 1e-12);
        assert!((cosine(&[1.0, 0.0], &[-2.0, 0.0]) + 1.0).abs() < 1e-12);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
    }
}
