//! PyTorch, or Regard through Python, on the same case and the same numbers.

use std::path::Path;

use serde_json::{Map, json};

use crate::bench::answer::Answer;
use crate::bench::case::Case;
use crate::bench::inputs::{Inputs, Stored};
use crate::bench::peer::Peer;
use crate::error::Error;

/// A process of Python.
pub(crate) struct Torch {
    peer: Peer,
    threads: usize,
    /// Its name and version, once it has said so.
    pub(crate) name: String,
}

impl Torch {
    /// PyTorch.
    ///
    /// # Errors
    /// Python cannot be started.
    pub(crate) fn start(python: &Path, threads: usize) -> Result<Self, Error> {
        Torch::of("torch_step.py", python, threads)
    }

    /// Regard's own package.
    ///
    /// # Errors
    /// Python cannot be started.
    pub(crate) fn start_package(python: &Path, threads: usize) -> Result<Self, Error> {
        Torch::of("regard_step.py", python, threads)
    }

    fn of(script: &'static str, python: &Path, threads: usize) -> Result<Self, Error> {
        Ok(Torch { peer: Peer::start(python, script)?, threads, name: String::new() })
    }

    /// Hands it a case, and gives its answer.
    ///
    /// # Errors
    /// The inputs cannot be written, or it refuses.
    pub(crate) fn prepare<T: Stored>(&mut self, case: &Case, inputs: &Inputs<T>) -> Result<Answer<f32>, Error> {
        let mut inputs_at = Map::new();
        for (name, numbers) in [("q", &inputs.q), ("k", &inputs.k), ("v", &inputs.v), ("grad", &inputs.grad)] {
            inputs_at.insert(name.into(), json!(self.peer.hand(name, numbers)?));
        }
        let request = json!({"case": case.source, "inputs": inputs_at, "threads": self.threads});
        let answer = self.peer.ask(&request.to_string())?;
        answer["peer"].as_str().unwrap_or("torch").clone_into(&mut self.name);
        let lengths = Answer::<f32>::to(case).tensors_mut().map(|tensor| tensor.len());
        let [out, dq, dk, dv] = self.peer.output(lengths)?;
        Ok(Answer { out, dq, dk, dv })
    }

    /// The seconds of some calls.
    ///
    /// # Errors
    /// It refuses.
    pub(crate) fn step(&mut self, calls: usize) -> Result<Vec<f64>, Error> {
        self.peer.step(calls)
    }
}
