//! Layers: multi-head attention and steps of training, beside PyTorch.

mod multi_head;
mod training;

use std::path::Path;

use regard_kernels::peak::Machine;
use regard_simd::Isa;
use regard_threads::Pool;

use self::multi_head::MultiHeadCase;
use self::training::TrainingCase;
use crate::bench::Results;
use crate::bench::case::Target;
use crate::bench::model::{Clock, Subject};
use crate::bench::peer::Peer;
use crate::error::Error;

const NO_TARGET: Target = Target { ratio: None, share: None, scratch_mb: None };

/// All cases, and what they are to be measured with.
pub(crate) struct LayersSubject {
    isa: Isa,
    threads: usize,
    pool: &'static Pool,
}

impl LayersSubject {
    /// The pool is one for the rest of the process: a workspace holds on to its pool.
    pub(crate) fn new(isa: Isa, threads: usize, pool: Pool) -> Self {
        LayersSubject { isa, threads, pool: Box::leak(Box::new(pool)) }
    }
}

impl Subject for LayersSubject {
    fn ids(&self) -> Vec<String> {
        MultiHeadCase::all().map(|case| case.id()).chain(TrainingCase::all().map(|case| case.id())).collect()
    }

    fn measure(
        &self,
        machine: &Machine,
        chosen: &[String],
        python: Option<&Path>,
        results: &mut Results,
    ) -> Result<(), Error> {
        let mut torch = python.map(|python| Peer::start(python, "layers_step.py")).transpose()?;
        let clock = |peer: Option<String>| Clock { machine, isa: self.isa, peer };
        for case in MultiHeadCase::all().filter(|case| chosen.contains(&case.id())) {
            results.measure(&case.id(), || case.measure(clock, self.isa, self.pool, self.threads, torch.as_mut()))?;
        }
        for case in TrainingCase::all().filter(|case| chosen.contains(&case.id())) {
            results.measure(&case.id(), || case.measure(clock, self.isa, self.pool, self.threads, torch.as_mut()))?;
        }
        Ok(())
    }
}
