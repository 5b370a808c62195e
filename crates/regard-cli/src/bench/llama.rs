//! llama.cpp on the same model.

use std::path::Path;

use serde_json::json;

use crate::bench::peer::Peer;
use crate::error::Error;

/// Once prompts of a length have taken so many seconds, [`FEWEST`] of them are enough.
const PATIENCE: f64 = 30.0;
const FEWEST: usize = 3;

/// llama.cpp's process, with one sequence. Its cache is in f16: as many bytes as ours in bf16, its own default, and faster
/// there than bf16.
pub(crate) struct Llama {
    peer: Peer,
    /// Its name and version.
    pub(crate) name: String,
    /// Tokens that its sequence holds.
    depth: usize,
    /// Seconds of the prompts of so many tokens.
    prompts: Vec<f64>,
}

impl Llama {
    /// # Errors
    /// Python cannot be started, or llama.cpp does not load the model.
    pub(crate) fn start(python: &Path, model: &Path, context: usize, threads: usize) -> Result<Self, Error> {
        let mut peer = Peer::start(python, "llama_step.py")?;
        let request = json!({"model": model, "context": context, "threads": threads, "cache": "f16"});
        let answer = peer.ask(&request.to_string())?;
        let name = answer["peer"].as_str().unwrap_or("llama.cpp").to_owned();
        Ok(Llama { peer, name, depth: 0, prompts: Vec::new() })
    }

    /// The seconds of each of `calls` prompts of `tokens`; none where the earlier ones are enough.
    ///
    /// # Errors
    /// It refuses.
    pub(crate) fn prompts(&mut self, tokens: usize, calls: usize) -> Result<Vec<f64>, Error> {
        if self.depth != tokens {
            self.prompts.clear();
        } else if self.prompts.len() >= FEWEST && self.prompts.iter().sum::<f64>() >= PATIENCE {
            return Ok(Vec::new());
        }
        let times = (0..calls).map(|_| self.seconds("prompt", tokens)).collect::<Result<Vec<_>, _>>()?;
        self.depth = tokens;
        self.prompts.extend(&times);
        Ok(times)
    }

    /// The seconds of each of `calls` runs of `count` tokens, one by one after `depth` others.
    ///
    /// # Errors
    /// It refuses.
    pub(crate) fn tokens(&mut self, depth: usize, count: usize, calls: usize) -> Result<Vec<f64>, Error> {
        if self.depth != depth {
            self.prompts(depth, 1)?;
        }
        (0..calls).map(|_| self.seconds("generate", count)).collect()
    }

    fn seconds(&mut self, command: &str, tokens: usize) -> Result<f64, Error> {
        let answer = self.peer.ask(&format!("{command} {tokens}"))?;
        let ms = answer["ms"].as_f64();
        ms.map(|ms| ms / 1e3).ok_or_else(|| self.peer.refused(format!("no time in its answer {answer}")))
    }
}
