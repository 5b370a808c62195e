//! Logits that another program made, and ours beside them.

use std::fs;
use std::path::Path;

use regard_models::Session;
use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Reference {
    pub(crate) model: Option<String>,
    pub(crate) vocab: usize,
    pub(crate) prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: Vec<usize>,
    pub(crate) llama_cpp: Option<Distances>,
}

/// How far llama.cpp is from PyTorch on the same weights.
#[derive(Deserialize)]
pub(crate) struct Distances {
    pub(crate) cache_f32: f64,
    pub(crate) cache_f16: f64,
}

impl Reference {
    /// What stands in a file, and its logits: rows in the order of prompts and positions.
    pub(crate) fn read(json: &Path, logits: &Path) -> (Reference, Vec<Vec<f32>>) {
        let text = fs::read_to_string(json).expect("the reference is there");
        let reference: Reference = serde_json::from_str(&text).expect("the reference is JSON");
        let bytes = fs::read(logits).expect("the logits are there");
        let numbers: Vec<f32> = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let rows = numbers.chunks_exact(reference.vocab).map(<[f32]>::to_vec).collect();
        (reference, rows)
    }
}

/// max |a − b| / max |b|, of the worst row.
pub(crate) fn distance(logits: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    assert_eq!(logits.len(), expected.len());
    let row = |(row, expected): (&Vec<f32>, &Vec<f32>)| {
        let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let worst = row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0f32, |m, x| {
            assert!(x.is_finite());
            m.max(x)
        });
        f64::from(worst / largest)
    };
    logits.iter().zip(expected).map(row).fold(0.0, f64::max)
}

/// How a prompt is fed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Feeding {
    Whole,
    Tokens,
    Chunks(usize),
}

pub(crate) fn logits(session: &mut Session<'_>, prompt: &Prompt, feeding: Feeding) -> Vec<Vec<f32>> {
    session.truncate(0);
    let mut rows = Vec::new();
    let size = match feeding {
        Feeding::Whole => prompt.tokens.len(),
        Feeding::Tokens => 1,
        Feeding::Chunks(size) => size,
    };
    for (c, chunk) in prompt.tokens.chunks(size).enumerate() {
        let each = &mut |i: usize, logits: &[f32]| {
            if prompt.positions.contains(&(c * size + i)) {
                rows.push(logits.to_vec());
            }
        };
        session.feed_all(chunk, each).expect("the prompt fits");
    }
    rows
}
