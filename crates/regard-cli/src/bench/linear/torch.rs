//! PyTorch in chunks, on the same rule and the same numbers.

use std::path::Path;

use serde_json::{Map, json};

use super::Case;
use super::call::{INPUTS, Inputs};
use crate::bench::peer::Peer;
use crate::error::Error;

/// PyTorch's process.
pub(super) struct Torch {
    peer: Peer,
    threads: usize,
    /// Its name and version, and how long its chunks are, once it has said so.
    pub(super) name: String,
}

impl Torch {
    /// # Errors
    /// Python cannot be started.
    pub(super) fn start(python: &Path, threads: usize) -> Result<Self, Error> {
        Ok(Torch { peer: Peer::start(python, "linear_step.py")?, threads, name: String::new() })
    }

    /// Hands it a case, and gives its answer: results, and gradients where they are asked for.
    ///
    /// # Errors
    /// The inputs cannot be written, or it refuses.
    pub(super) fn prepare(&mut self, case: &Case, inputs: &Inputs) -> Result<[Vec<f32>; 6], Error> {
        let (mut at, mut shapes) = (Map::new(), Map::new());
        let named = INPUTS.into_iter().zip(&inputs.each).chain([("grad", &inputs.grad)]);
        for (name, numbers) in named.filter(|(_, numbers)| !numbers.is_empty()) {
            at.insert(name.into(), json!(self.peer.hand(name, numbers)?));
            shapes.insert(name.into(), json!(inputs.shape(numbers)));
        }
        let request = json!({"inputs": at, "shapes": shapes, "threads": self.threads});
        let answer = self.peer.ask(&request.to_string())?;
        self.name = format!("{}, chunks of {}", answer["peer"].as_str().unwrap_or("torch"), answer["chunk"]);
        let gradients = inputs.each.each_ref().map(|input| if case.backward { input.len() } else { 0 });
        let [q, k, v, log_decay, beta] = gradients;
        self.peer.output([inputs.each[2].len(), q, k, v, log_decay, beta])
    }

    /// The seconds of some calls.
    ///
    /// # Errors
    /// It refuses.
    pub(super) fn step(&mut self, calls: usize) -> Result<Vec<f64>, Error> {
        self.peer.step(calls)
    }
}
