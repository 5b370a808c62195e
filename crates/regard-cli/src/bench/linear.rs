//! Linear attention: its rules over long sequences, beside PyTorch in chunks.

mod call;
mod check;
mod torch;

use std::path::Path;

use regard_kernels::peak::{Machine, Unit};
use regard_simd::Isa;
use regard_threads::Pool;

use self::call::Call;
use self::check::Reference;
use self::torch::Torch;
use crate::bench::Results;
use crate::bench::case::Target;
use crate::bench::limit::Work;
use crate::bench::model::{Clock, Subject};
use crate::error::Error;

const HEADS: usize = 8;
/// Numbers of a query, a key and a value.
const DIM: usize = 64;
/// Tokens that see each other as in attention: what is counted in between grows with them.
const CHUNK: usize = 64;

/// A case.
#[derive(Clone, Copy, Debug)]
struct Case {
    rule: &'static str,
    tokens: usize,
    /// Log decays of a token: none, one, or one for each row of the state.
    decays: usize,
    delta: bool,
    /// Whether forward and backward are timed together.
    backward: bool,
    target: Target,
}

const NO_TARGET: Target = Target { ratio: None, share: None, scratch_mb: None };

const fn forward(rule: &'static str, decays: usize, delta: bool) -> Case {
    Case { rule, tokens: 16_384, decays, delta, backward: false, target: NO_TARGET }
}

const fn trained(case: Case) -> Case {
    Case { tokens: 4096, backward: true, ..case }
}

const PLAIN: Case = forward("plain", 0, false);
const GATED: Case = forward("gated", 1, false);
const CHANNEL: Case = forward("channel", DIM, false);
const DELTA: Case = forward("delta", 0, true);
const GATED_DELTA: Case = forward("gated-delta", 1, true);
const CHANNEL_DELTA: Case = forward("channel-delta", DIM, true);

const CASES: [Case; 9] = [
    PLAIN,
    Case { target: Target { ratio: Some(3.0), share: Some(0.55), ..NO_TARGET }, ..GATED },
    CHANNEL,
    DELTA,
    GATED_DELTA,
    CHANNEL_DELTA,
    trained(GATED),
    trained(CHANNEL),
    trained(GATED_DELTA),
];

impl Case {
    fn id(&self) -> String {
        format!("{}-{}{}", self.rule, self.tokens, if self.backward { "-train" } else { "" })
    }

    /// What a chunk of tokens needs at least: the state is read and written, by the delta rule read once more, and
    /// each token meets those of its chunk up to itself; the backward pass makes two products of each.
    fn work(&self) -> Work {
        let state = 2 * DIM * DIM * if self.delta { 3 } else { 2 };
        let pairs = (CHUNK + 1) * 2 * DIM * if self.delta { 2 } else { 1 };
        let passes = if self.backward { 3 } else { 1 };
        Work { flops: (HEADS * self.tokens * (state + pairs) * passes) as f64, unit: Unit::F32, bytes: 0.0 }
    }
}

/// All cases, and what they are to be measured with.
pub(crate) struct LinearSubject {
    isa: Isa,
    threads: usize,
    pool: Pool,
}

impl LinearSubject {
    pub(crate) fn new(isa: Isa, threads: usize, pool: Pool) -> Self {
        LinearSubject { isa, threads, pool }
    }
}

impl Subject for LinearSubject {
    fn ids(&self) -> Vec<String> {
        CASES.iter().map(Case::id).collect()
    }

    fn measure(
        &self,
        machine: &Machine,
        chosen: &[String],
        python: Option<&Path>,
        results: &mut Results,
    ) -> Result<(), Error> {
        let mut torch = python.map(|python| Torch::start(python, self.threads)).transpose()?;
        for case in CASES.iter().filter(|case| chosen.contains(&case.id())) {
            results.measure(&case.id(), || {
                let mut call = Call::new(case, self.isa, &self.pool)?;
                call.run()?;
                let reference = Reference::new(case, call.inputs(), &self.pool);
                let accuracy = reference.judge(call.answer());
                let mut of_torch = Vec::new();
                let mut clock = Clock { machine, isa: self.isa, peer: None };
                if let Some(torch) = &mut torch {
                    of_torch = reference.judge(&torch.prepare(case, call.inputs())?);
                    clock.peer = Some(torch.name.clone());
                }
                let peer = |calls| torch.as_mut().map_or(Ok(Vec::new()), |torch| torch.step(calls));
                let mut figures = clock.time(&[case.work()], None, accuracy, || call.run(), peer)?;
                figures.target = case.target;
                figures.memory = Some(call.memory());
                if let Some(peer) = &mut figures.peer {
                    peer.accuracy = of_torch;
                }
                Ok(figures)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3.2 GFLOP: 25 ms at 55% of 230 GFLOP/s.
    #[test]
    fn a_gated_call_is_counted_as_its_target_is() {
        assert!((GATED.work().flops / 3.2e9 - 1.0).abs() < 0.02, "{}", GATED.work().flops);
    }

    #[test]
    fn chunks_of_pytorch_divide_the_tokens() {
        assert!(CASES.iter().all(|case| case.tokens.is_multiple_of(256)));
    }
}
