//! PyTorch on the same case and the same numbers.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::bench::case::Case;
use crate::bench::inputs::{Inputs, Stored, write};
use crate::bench::peer::Peer;
use crate::error::Error;

/// PyTorch's process.
pub(crate) struct Torch {
    peer: Peer,
    threads: usize,
    /// Its name and version, once it has said so.
    pub(crate) name: String,
}

impl Torch {
    /// # Errors
    /// Python cannot be started.
    pub(crate) fn start(python: &Path, threads: usize) -> Result<Self, Error> {
        Ok(Torch { peer: Peer::start(python, "torch_step.py")?, threads, name: String::new() })
    }

    /// Hands it a case, and gives its result, `[batch, heads, queries, dim]`.
    ///
    /// # Errors
    /// The inputs cannot be written, or it refuses.
    pub(crate) fn prepare<T: Stored>(&mut self, case: &Case, inputs: &Inputs<T>) -> Result<Vec<f32>, Error> {
        let paths = ["q", "k", "v"].map(|name| self.peer.folder().join(name));
        for (path, numbers) in paths.iter().zip([&inputs.q, &inputs.k, &inputs.v]) {
            write(path, numbers).map_err(|source| Error::Write { path: path.clone(), source })?;
        }
        let [q, k, v] = &paths;
        let inputs_at = json!({"q": q, "k": k, "v": v});
        let request = json!({"case": case.source, "inputs": inputs_at, "threads": self.threads});
        let answer = self.peer.ask(&request.to_string())?;
        answer["peer"].as_str().unwrap_or("torch").clone_into(&mut self.name);
        let path = self.peer.folder().join("out");
        self.peer.ask(&format!("output {}", path.display()))?;
        let bytes = fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        if bytes.len() != inputs.q.len() * size_of::<f32>() {
            let problem =
                format!("its result is {} bytes, expected {}", bytes.len(), inputs.q.len() * size_of::<f32>());
            return Err(self.peer.refused(problem));
        }
        Ok(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }

    /// The seconds of some calls.
    ///
    /// # Errors
    /// It refuses.
    pub(crate) fn step(&mut self, calls: usize) -> Result<Vec<f64>, Error> {
        let answer = self.peer.ask(&format!("step {calls}"))?;
        let times: Option<Vec<f64>> = match &answer["each"] {
            Value::Array(each) => each.iter().map(|ms| ms.as_f64().map(|ms| ms / 1e3)).collect(),
            _ => None,
        };
        times.ok_or_else(|| self.peer.refused(format!("no times in its answer {answer}")))
    }
}
