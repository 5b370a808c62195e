//! How parameters follow their gradients.

use std::ops::Range;

use regard_kernels::AdamW;
use regard_memory::{AlignedBuffer, chunks_of};

use crate::parameters::Kind;
use crate::{Error, Gradients, Parameters, Workspace};

/// Numbers of a task.
const BLOCK: usize = 1 << 14;

/// What AdamW goes by (Loshchilov and Hutter, 2019).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimiserConfig {
    /// What the moments keep of themselves from step to step.
    pub betas: [f32; 2],
    /// What keeps the denominator from 0.
    pub eps: f32,
    /// What matrices lose of themselves in a step, times the rate. Vectors (norms, biases, gates) lose nothing, whatever their shape.
    pub decay: f32,
    /// Gradients longer than this, all together, are shortened to it.
    pub clip: Option<f32>,
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        OptimiserConfig { betas: [0.9, 0.95], eps: 1e-8, decay: 0.1, clip: Some(1.0) }
    }
}

/// AdamW over all [`Parameters`], with clipped gradients.
#[derive(Debug)]
pub struct Optimiser {
    config: OptimiserConfig,
    steps: u64,
    /// Where the tensors lie, and what each is.
    places: Vec<(Range<usize>, Kind)>,
    first: AlignedBuffer<f32>,
    second: AlignedBuffer<f32>,
}

impl Optimiser {
    /// Before the first step.
    ///
    /// # Errors
    /// A setting is out of its range, or there is no memory for the moments.
    pub fn new(parameters: &Parameters, config: OptimiserConfig) -> Result<Optimiser, Error> {
        let OptimiserConfig { betas, eps, decay, clip } = config;
        for (setting, has) in [("β₁", betas[0]), ("β₂", betas[1])] {
            if !(0.0..1.0).contains(&has) {
                return Err(Error::setting(setting, has, "at least 0 and below 1"));
            }
        }
        for (setting, has) in [("eps", eps), ("weight decay", decay), ("clip", clip.unwrap_or(0.0))] {
            if !(has >= 0.0 && has.is_finite()) {
                return Err(Error::setting(setting, has, "at least 0, and finite"));
            }
        }
        let len = parameters.values().len();
        let (first, second) = (AlignedBuffer::zeroed(len)?, AlignedBuffer::zeroed(len)?);
        Ok(Optimiser { config, steps: 0, places: parameters.ranges().collect(), first, second })
    }

    /// Steps that were taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moments, each in the order of the parameters.
    pub fn moments(&self) -> [&[f32]; 2] {
        [&self.first, &self.second]
    }

    /// Goes on where another left off.
    ///
    /// # Errors
    /// The moments are of other parameters.
    pub fn restore(&mut self, steps: u64, moments: [&[f32]; 2]) -> Result<(), Error> {
        for (name, moments) in [("first moments", moments[0]), ("second moments", moments[1])] {
            if moments.len() != self.first.len() {
                return Err(Error::shape(name, &[moments.len()], format!("[{}], as the parameters", self.first.len())));
            }
        }
        self.first.copy_from_slice(moments[0]);
        self.second.copy_from_slice(moments[1]);
        self.steps = steps;
        Ok(())
    }

    /// One step at this rate. Gives the length of the gradients before they were clipped.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a gradient is no finite number; then nothing has changed.
    pub fn step(
        &mut self,
        workspace: &Workspace,
        parameters: &mut Parameters,
        gradients: &Gradients,
        rate: f32,
    ) -> Result<f64, Error> {
        let (kernels, pool) = workspace.tools();
        let len = self.first.len();
        for (name, has) in [("parameters", parameters.values().len()), ("gradients", gradients.values().len())] {
            if has != len {
                return Err(Error::shape(name, &[has], format!("[{len}], as the moments")));
            }
        }
        let length = gradient_norm(workspace, parameters, gradients)?;
        let OptimiserConfig { betas, eps, decay, clip } = self.config;
        let scale = match clip {
            Some(clip) if length > f64::from(clip) => (f64::from(clip) / length) as f32,
            _ => 1.0,
        };
        self.steps += 1;
        let power = |beta: f32| (1.0 - f64::from(beta).powf(self.steps as f64)) as f32;
        let correction = betas.map(power);
        let (first, second, gradients) = (&mut self.first, &mut self.second, gradients.values());
        for (range, kind) in self.places.iter().cloned() {
            let decay = if kind == Kind::Matrix { decay } else { 0.0 };
            let step = AdamW { rate, betas, eps, decay, correction, scale };
            let gradients = &gradients[range.clone()];
            let parts = (
                chunks_of(&mut parameters.values_mut()[range.clone()], BLOCK),
                chunks_of(&mut first[range.clone()], BLOCK),
                chunks_of(&mut second[range], BLOCK),
            );
            pool.run(parts, |index, (values, first, second)| {
                let gradients = &gradients[index * BLOCK..][..values.len()];
                kernels.adamw(values, gradients, first, second, &step).expect("blocks of one length");
            });
        }
        Ok(length)
    }
}

/// The length of all gradients together.
///
/// # Errors
/// [`Error::NotFinite`], with the name of the first parameter that has one that is no finite number.
pub fn gradient_norm(workspace: &Workspace, parameters: &Parameters, gradients: &Gradients) -> Result<f64, Error> {
    let (kernels, pool) = workspace.tools();
    let mut sums = [0.0; 64];
    let values = gradients.values();
    let each = values.len().div_ceil(sums.len()).max(1);
    pool.run(chunks_of(&mut sums, 1), |index, sum| {
        let end = ((index + 1) * each).min(values.len());
        sum[0] = kernels.sum_of_squares(&values[(index * each).min(end)..end]);
    });
    let length = sums.iter().sum::<f64>().sqrt();
    if length.is_finite() {
        return Ok(length);
    }
    // Squares of numbers above 1.8e19 are beyond f32: in f64 no square of an f32 is too large, nor their sum.
    let mut sum = 0.0;
    for (name, _, place) in parameters.entries() {
        let squares: f64 = gradients.of(place).iter().map(|&x| f64::from(x).powi(2)).sum();
        if !squares.is_finite() {
            return Err(Error::NotFinite { name: name.to_owned() });
        }
        sum += squares;
    }
    Ok(sum.sqrt())
}

/// How the rate goes over a run: up to `rate` in a line over `warmup` steps, then down to `last·rate` along half a cosine
/// (Loshchilov and Hutter, 2017) until `steps`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest rate.
    pub rate: f32,
    /// Steps until it is reached.
    pub warmup: u64,
    /// Steps of the run.
    pub steps: u64,
    /// What share of the highest rate the last one is.
    pub last: f32,
}

impl Schedule {
    /// The rate of a step, counted from 0.
    ///
    /// ```
    /// use regard_layers::Schedule;
    ///
    /// let schedule = Schedule { rate: 1.0, warmup: 10, steps: 110, last: 0.1 };
    /// assert_eq!([schedule.at(0), schedule.at(9), schedule.at(10)], [0.1, 1.0, 1.0]);
    /// assert!((schedule.at(60) - 0.55).abs() < 1e-6 && (schedule.at(110) - 0.1).abs() < 1e-6);
    /// ```
    pub fn at(&self, step: u64) -> f32 {
        let Schedule { rate, warmup, steps, last } = *self;
        if step < warmup {
            return (f64::from(rate) * (step + 1) as f64 / warmup as f64) as f32;
        }
        let share = ((step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
        (f64::from(rate) * (f64::from(last) + (1.0 - f64::from(last)) * cosine)) as f32
    }
}
