//! What a run takes, before it begins.

use std::fmt;
use std::time::Duration;

use indicatif::{DecimalBytes, HumanCount, HumanDuration};
use regard_layers::{Head, LanguageConfig, MixerKind, Objective, Recomputation, Size, Trainer, TrainingConfig};

use super::settings::Settings;
use crate::error::Error;
use crate::learned;

/// Numbers beside a parameter: itself, its gradient and two moments.
const NUMBERS: u64 = 4;

/// Sizes of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    parameters: u64,
    /// Bytes of parameters, gradients and moments.
    held: u64,
    tokens_of_step: u64,
    operations_of_step: f64,
}

impl Plan {
    pub(super) fn new(model: &LanguageConfig, training: &TrainingConfig) -> Plan {
        let parameters = learned::count(model);
        let tokens_of_step =
            (training.batch as u64).saturating_mul(training.tokens as u64).saturating_mul(training.accumulation as u64);
        // A product takes two operations for each of its weights and tokens, and going back through it four.
        let table = if model.head == Head::Own { model.vocabulary as u64 * model.width as u64 } else { 0 };
        let products = 6.0 * parameters.saturating_sub(table) as f64;
        let seen = match (model.mixer, model.objective) {
            (MixerKind::Softmax, Objective::Causal) => training.tokens as f64 / 2.0,
            (MixerKind::Softmax, Objective::Denoising) => training.tokens as f64,
            // What is written into a head's state, and read from it.
            (MixerKind::Linear(_) | MixerKind::StateSpace, _) => model.head_dim as f64,
        };
        let mixing = 12.0 * model.layers as f64 * (model.heads * model.head_dim) as f64 * seen;
        let again = if training.recomputation == Recomputation::Blocks { 4.0 / 3.0 } else { 1.0 };
        Plan {
            parameters,
            held: parameters.saturating_mul(NUMBERS * size_of::<f32>() as u64),
            tokens_of_step,
            operations_of_step: (products + mixing) * tokens_of_step as f64 * again,
        }
    }

    /// Refuses a model that there is no memory for, before any of it is taken.
    pub(super) fn check_room(&self) -> Result<(), Error> {
        match regard_memory::available() {
            Some(free) if self.held > free => Err(Error::Usage(format!(
                "{} parameters take {} with their gradients and moments, and {} of memory are free: lower --width, \
                 --layers, --hidden or --vocabulary",
                HumanCount(self.parameters),
                DecimalBytes(self.held),
                DecimalBytes(free)
            ))),
            _ => Ok(()),
        }
    }

    /// Bytes of what a batch leaves behind on its way through the model; refused where there is no memory for them.
    pub(super) fn activations(trainer: &Trainer, settings: &Settings) -> Result<u64, Error> {
        let TrainingConfig { batch, tokens, recomputation, .. } = *trainer.config();
        let need = trainer.model().learn_need(Size { batch, tokens }, recomputation, trainer.context());
        let bytes = need.bytes() as u64;
        match regard_memory::available() {
            Some(free) if bytes > free => Err(Error::Usage(format!(
                "--batch {batch} windows of --context {tokens} tokens take {} on their way through the model, and {} of \
                 memory are free: lower --batch and raise --accumulate{}",
                DecimalBytes(bytes),
                DecimalBytes(free),
                if settings.recompute { "" } else { ", or give --recompute" }
            ))),
            _ => Ok(bytes),
        }
    }

    /// Lines about it.
    pub(super) fn lines(&self, activations: u64, seconds_of_step: f64, steps: usize) -> String {
        let rows = [
            ("parameters", HumanCount(self.parameters).to_string()),
            (
                "memory",
                format!(
                    "{} for parameters, gradients and moments, {} for a batch",
                    DecimalBytes(self.held),
                    DecimalBytes(activations)
                ),
            ),
            (
                "a step",
                format!(
                    "{} tokens, about {:.1} GFLOP, {} here",
                    HumanCount(self.tokens_of_step),
                    self.operations_of_step / 1e9,
                    lasting(seconds_of_step)
                ),
            ),
            ("the run", format!("{steps} steps, {}", lasting(seconds_of_step * steps as f64))),
        ];
        rows.map(|(name, value)| format!("{name:<15}{value}")).join("\n")
    }
}

/// A time as people say it.
fn lasting(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(_) if seconds < 60.0 => format!("{seconds:.2} s"),
        Ok(time) => format!("about {}", HumanDuration(time)),
        Err(_) => "longer than can be counted".to_owned(),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} parameters, {} tokens a step", HumanCount(self.parameters), HumanCount(self.tokens_of_step))
    }
}
