//! A run of training: which text a step learns from, and what comes of it.

use std::path::Path;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::store::{StoredTensors, write_tensors};
use crate::{
    Batch, ContextUse, Error, Gradients, LanguageConfig, LanguageModel, Mode, Objective, Optimiser, OptimiserConfig,
    Parameters, Recomputation, Schedule, SharedAttentionContext, Size, Workspace,
};

/// The least share of tokens that denoising masks.
const LEAST_MASKED: f32 = 1e-3;

/// The shared context's name among a model's tensors.
const CONTEXT: &str = "shared_context.matrix";

/// How a language model is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingConfig {
    /// Sequences that go through the model at once.
    pub batch: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// Batches whose gradients a step adds up.
    pub accumulation: usize,
    /// How the rate goes.
    pub schedule: Schedule,
    /// How parameters follow their gradients.
    pub optimiser: OptimiserConfig,
    /// Whether activations are kept.
    pub recomputation: Recomputation,
    /// What the order of the text, and what falls out or is masked, are drawn by.
    pub seed: u64,
    /// What is done about gradients that are no finite numbers.
    pub not_finite: NotFinite,
}

impl TrainingConfig {
    /// Tokens of so many steps, where they can be counted.
    fn tokens_of(&self, steps: u64) -> Option<u64> {
        let sizes = [self.batch, self.tokens, self.accumulation].map(|size| size as u64);
        let all = sizes.into_iter().try_fold(steps.max(1), u64::checked_mul);
        all.filter(|&tokens| tokens <= i64::MAX as u64)
    }
}

/// What is done about gradients that are no finite numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotFinite {
    /// The run stops with an error.
    Stop,
    /// The step is skipped.
    Skip,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Steps so far, this one included.
    pub step: u64,
    /// The loss before the step, in nats a token.
    pub loss: f64,
    /// The length of all gradients, before they were clipped.
    pub gradient_norm: f64,
    /// The rate.
    pub rate: f32,
    /// Whose gradient was no finite number, where the step was skipped for that.
    pub skipped: Option<String>,
}

/// A language model in training. All that a step depends on is the parameters, the moments, the shared context and the number of the
/// step: with these it goes on as if it had never stopped, bit for bit.
#[derive(Debug)]
pub struct Trainer {
    model: LanguageModel,
    config: TrainingConfig,
    parameters: Parameters,
    gradients: Gradients,
    optimiser: Optimiser,
    context: Option<SharedAttentionContext>,
    workspace: Workspace,
    steps: u64,
    rows: Rows,
}

/// The rows of a batch.
#[derive(Debug, Default)]
struct Rows {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

impl Rows {
    fn clear(&mut self) {
        self.tokens.clear();
        self.targets.clear();
        self.weights.clear();
    }

    fn batch(&self, size: Size) -> Batch<'_> {
        Batch { size, tokens: &self.tokens, targets: &self.targets, weights: &self.weights }
    }

    /// Appends a sequence that begins at `window[0]`, each token of it counting `weight`. Of denoising the last token of the
    /// vocabulary is the mask.
    fn add(&mut self, config: &LanguageConfig, window: &[u32], weight: f32, random: &mut impl Rng) {
        let tokens = window.len() - 1;
        match config.objective {
            Objective::Causal => {
                self.tokens.extend(&window[..tokens]);
                self.targets.extend(&window[1..]);
                self.weights.extend(std::iter::repeat_n(weight, tokens));
            }
            Objective::Denoising => {
                let mask = config.vocabulary as u32 - 1;
                let share = random.random_range(LEAST_MASKED..=1.0f32);
                for &token in &window[..tokens] {
                    let masked = random.random::<f32>() < share;
                    self.tokens.push(if masked { mask } else { token });
                    self.targets.push(token);
                    self.weights.push(if masked { weight / share } else { 0.0 });
                }
            }
        }
    }
}

impl Trainer {
    /// A model that has not learned anything yet; its parameters are drawn by the seed of the run.
    ///
    /// # Errors
    /// A setting is out of its range, or there is no memory.
    pub fn new(model: LanguageConfig, config: TrainingConfig, workspace: Workspace) -> Result<Trainer, Error> {
        for (setting, has) in
            [("batch", config.batch), ("tokens", config.tokens), ("accumulation", config.accumulation)]
        {
            if has == 0 {
                return Err(Error::setting(setting, has, "at least 1"));
            }
        }
        if config.tokens_of(config.schedule.steps).is_none() {
            let TrainingConfig { batch, tokens, accumulation, schedule, .. } = config;
            let has = format!("{batch} × {tokens} × {accumulation} × {}", schedule.steps);
            let setting = "batch × tokens × accumulation × steps";
            return Err(Error::setting(setting, has, "less than 2⁶³, which is what can be counted"));
        }
        let mut parameters = Parameters::new(config.seed);
        let model = LanguageModel::new(&mut parameters, model)?;
        let context = match model.config().context {
            ContextUse::None => None,
            ContextUse::Shared => Some(SharedAttentionContext::new(model.config().width)?),
        };
        let (gradients, optimiser) = (Gradients::new(&parameters)?, Optimiser::new(&parameters, config.optimiser)?);
        let rows = Rows::default();
        Ok(Trainer { model, config, parameters, gradients, optimiser, context, workspace, steps: 0, rows })
    }

    /// The model.
    pub fn model(&self) -> &LanguageModel {
        &self.model
    }

    /// How it is trained.
    pub fn config(&self) -> &TrainingConfig {
        &self.config
    }

    /// What was learned.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The same, to be written: weights from elsewhere, say.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// What blocks share.
    pub fn context(&self) -> Option<&SharedAttentionContext> {
        self.context.as_ref()
    }

    /// Steps so far, those that were skipped included.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Where the model works.
    pub fn workspace(&mut self) -> &mut Workspace {
        &mut self.workspace
    }

    /// Tokens that a step learns from.
    pub fn tokens_of_step(&self) -> usize {
        self.config.batch * self.config.tokens * self.config.accumulation
    }

    /// One step on windows of `text` that the seed and the number of the step draw.
    ///
    /// # Errors
    /// The text is shorter than a window, a token is beyond the vocabulary, or a gradient is no finite number and the run shall stop
    /// for that: then nothing has changed.
    pub fn step(&mut self, text: &[u32]) -> Result<StepReport, Error> {
        Ok(self.step_while(text, &mut |_, _| true)?.expect("nothing has ended it"))
    }

    /// The same, asking before each batch with those that are done and those that there are, whether to go on. Where it is not to,
    /// nothing is given, and nothing has changed.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_while(
        &mut self,
        text: &[u32],
        go_on: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<StepReport>, Error> {
        let TrainingConfig { batch, tokens, accumulation, schedule, recomputation, seed, not_finite, .. } = self.config;
        check_text(text, tokens)?;
        self.gradients.clear();
        // What a step saw that came to no end.
        self.context.iter_mut().for_each(SharedAttentionContext::forget);
        let mut loss = 0.0;
        let weight = 1.0 / (batch * tokens * accumulation) as f32;
        for part in 0..accumulation {
            if !go_on(part, accumulation) {
                return Ok(None);
            }
            let first_sequence = (self.steps * accumulation as u64 + part as u64) * batch as u64;
            self.rows.clear();
            for sequence in first_sequence..first_sequence + batch as u64 {
                let mut random = random(seed, sequence);
                let start = random.random_range(0..text.len() - tokens);
                self.rows.add(self.model.config(), &text[start..=start + tokens], weight, &mut random);
            }
            loss += self.model.learn(
                &self.parameters,
                &mut self.workspace,
                Mode::Training { first_sequence },
                self.rows.batch(Size { batch, tokens }),
                recomputation,
                &mut self.gradients,
                self.context.as_mut(),
            )?;
        }
        let rate = schedule.at(self.steps);
        let taken = self.optimiser.step(&self.workspace, &mut self.parameters, &self.gradients, rate);
        let (gradient_norm, skipped) = match (taken, not_finite) {
            (Ok(length), _) => (length, None),
            (Err(Error::NotFinite { name }), NotFinite::Skip) => (f64::NAN, Some(name)),
            (Err(error), _) => return Err(error),
        };
        if skipped.is_none() {
            self.context.iter_mut().for_each(SharedAttentionContext::update);
        }
        self.steps += 1;
        Ok(Some(StepReport { step: self.steps, loss, gradient_norm, rate, skipped }))
    }

    /// The mean loss over up to `windows` windows evenly over `text`: always the same ones, masked in the same way.
    ///
    /// # Errors
    /// The text is shorter than a window, or a token is beyond the vocabulary.
    pub fn evaluate(&mut self, text: &[u32], windows: usize) -> Result<f64, Error> {
        let TrainingConfig { batch, tokens, seed, .. } = self.config;
        check_text(text, tokens)?;
        let windows = windows.min((text.len() - 1) / tokens).max(1);
        let weight = 1.0 / (windows * tokens) as f32;
        let mut loss = 0.0;
        for first in (0..windows).step_by(batch) {
            let entries = first..(first + batch).min(windows);
            self.rows.clear();
            for window in entries.clone() {
                let start = window * (text.len() - tokens) / windows;
                // Streams that no step draws from.
                let mut random = random(seed, u64::MAX - window as u64);
                self.rows.add(self.model.config(), &text[start..=start + tokens], weight, &mut random);
            }
            let batch = self.rows.batch(Size { batch: entries.len(), tokens });
            loss += self.model.evaluate(&self.parameters, &mut self.workspace, batch, self.context.as_ref())?;
        }
        Ok(loss)
    }

    /// The loss of a batch of one's own.
    ///
    /// # Errors
    /// As [`LanguageModel::evaluate`].
    pub fn evaluate_batch(&mut self, batch: Batch<'_>) -> Result<f64, Error> {
        self.model.evaluate(&self.parameters, &mut self.workspace, batch, self.context.as_ref())
    }

    /// Writes what was learned to a file of safetensors, the shared context included.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_model(&self, path: &Path) -> Result<(), Error> {
        let width = self.model.config().width;
        let shape = [width, width];
        let context = self.context.iter().map(|context| (CONTEXT, &shape[..], context.matrix()));
        let parameters = &self.parameters;
        let tensors = parameters.entries().map(|(name, shape, place)| (name, shape, parameters.of(place)));
        write_tensors(path, tensors.chain(context), &[("format", "pt")])
    }

    /// Writes what else the next steps depend on: the optimiser's moments, and how many steps there were.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_state(&self, path: &Path) -> Result<(), Error> {
        let [first, second] = self.optimiser.moments();
        let shape = [first.len()];
        let steps = [self.steps.to_string(), self.optimiser.steps().to_string()];
        let metadata = [("steps", steps[0].as_str()), ("optimiser_steps", steps[1].as_str())];
        write_tensors(path, [("first", &shape[..], first), ("second", &shape[..], second)], &metadata)
    }

    /// Goes on where a run left off: with its model and its state.
    ///
    /// # Errors
    /// A file cannot be read, or is of another model; then nothing has changed.
    pub fn restore(&mut self, model: &Path, state: &Path) -> Result<(), Error> {
        let (model, stored) = (StoredTensors::read(model)?, StoredTensors::read(state)?);
        check_tensors(&model, &self.parameters, self.model.config())?;
        let len = [self.optimiser.moments()[0].len()];
        let moments = [stored.get("first", &len)?, stored.get("second", &len)?];
        let [steps, taken] = [stored.number("steps")?, stored.number("optimiser_steps")?];
        if self.config.tokens_of(steps).is_none() {
            return Err(stored.refused(format!("is of step {steps}, and the tokens of as many cannot be counted")));
        }
        let matrix = self.context.as_ref().map(|c| model.get(CONTEXT, &[c.width(), c.width()])).transpose()?;
        self.parameters.take(&model)?;
        if let (Some(context), Some(matrix)) = (&mut self.context, matrix) {
            context.set_matrix(matrix)?;
        }
        self.optimiser.restore(taken, moments)?;
        self.steps = steps;
        Ok(())
    }
}

/// Reads the parameters and the shared context of a model that was saved.
///
/// # Errors
/// The file cannot be read, or is of another model.
pub fn load_model(
    path: &Path,
    config: LanguageConfig,
) -> Result<(LanguageModel, Parameters, Option<SharedAttentionContext>), Error> {
    let stored = StoredTensors::read(path)?;
    let mut parameters = Parameters::new(0);
    let model = LanguageModel::new(&mut parameters, config)?;
    check_tensors(&stored, &parameters, &config)?;
    parameters.take(&stored)?;
    let context = match config.context {
        ContextUse::None => None,
        ContextUse::Shared => {
            let mut context = SharedAttentionContext::new(config.width)?;
            context.set_matrix(stored.get(CONTEXT, &[config.width, config.width])?)?;
            Some(context)
        }
    };
    Ok((model, parameters, context))
}

/// Refuses a file that lacks a tensor of the model, has one in another shape, or has one that the model does not.
fn check_tensors(stored: &StoredTensors, parameters: &Parameters, config: &LanguageConfig) -> Result<(), Error> {
    for (name, shape, _) in parameters.entries() {
        stored.get(name, shape)?;
    }
    let shared = config.context == ContextUse::Shared;
    let mut others = stored.names().filter(|&name| parameters.get(name).is_none() && !(shared && name == CONTEXT));
    match others.next() {
        Some(name) => Err(stored.refused(format!("has `{name}`, which the model does not"))),
        None => Ok(()),
    }
}

fn check_text(text: &[u32], tokens: usize) -> Result<(), Error> {
    match text.len() > tokens {
        true => Ok(()),
        false => {
            let expected = format!("at least {}, a window and the token behind it", tokens + 1);
            Err(Error::setting("tokens of the text", text.len(), expected))
        }
    }
}

/// The generator of a sequence: a stream of the seed's.
fn random(seed: u64, sequence: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(sequence);
    random
}
