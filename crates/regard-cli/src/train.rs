//! `regard train`: a small language model from scratch, from real text.

mod chart;
mod corpus;
mod folder;
mod log;
mod plan;
mod settings;

use std::f64::consts::LN_2;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar};
use regard_layers::{StepReport, Trainer, TrainingConfig, Workspace};
use regard_models::sampling::SamplingOptions;
use regard_models::tokenizer::{Special, Tokenizer};

use self::corpus::{Corpus, Texts};
use self::folder::{Checkpoint, RunFolder};
use self::log::{Event, Log, finite};
use self::plan::Plan;
pub(crate) use self::settings::{Goal, Mixer};
use self::settings::{Options, Settings};
use crate::error::Error;
use crate::interrupt::Listener;
use crate::learned::{LearnedSource, Net, Rounds, heads};
use crate::options::workspace;
use crate::output::{print_line, say};
use crate::progress;
use crate::save;
use crate::writer::{Source, Text};
use regard_models::generate::Stops;

/// Arguments of `regard train`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each step draws windows of --context tokens from the text, and AdamW follows their loss: up to --rate over --warmup steps, down \
along half a cosine. What is held out is evaluated on the way; evaluations and samples go to standard output.

The folder of --out holds log.jsonl (an object for each step, evaluation and sample), loss.svg, and checkpoints: step-000100 and so \
on, with `latest` leading to the last one. Each is a model's folder: `regard generate -m DIR/latest` runs it, and transformers loads \
it where the mixer is softmax, the objective causal, and no context is shared. A checkpoint is there whole or not at all, whenever \
the run is killed; Ctrl-C saves one first. --resume goes on from the last one, to the same bits as if the run had never \
stopped; options are the run's own then, and others than these are refused, but for those of evaluations, samples and checkpoints.

Denoising hides a random share of each window behind the last token of the vocabulary, <mask>, and learns what was there; its loss \
is a bound of the text's. It needs a mixer that sees what comes behind: softmax or plain.

With --dtype bf16 the products of linear layers, forward and backward, round what they multiply to bf16 and sum it in f32; weights, \
gradients, moments and all else are in f32, checkpoints too.

Examples:
  regard train --data book.txt --out my-run
  regard train --data book.txt --out my-run --resume
  regard train --data *.txt --out big --tokenizer bpe --vocabulary 4096 --width 256 --layers 6 --context 256 --steps 5000
  regard train --data book.txt --out quick --dtype bf16
  regard train --data book.txt --out linear --mixer gated-delta
  regard train --data book.txt --out masks --objective denoising
  regard train --data book.txt --width 512 --layers 8 --plan
  regard generate -m my-run/latest \"Call me\"

Exit codes: 0 done, 1 failed, 2 wrong command line, 130 stopped by Ctrl-C, 141 nobody reads the output any more.")]
pub(crate) struct Arguments {
    /// Text to learn from, in UTF-8; with --resume the run's own unless given
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "resume")]
    data: Vec<PathBuf>,
    /// Folder of the run: checkpoints, log and chart
    #[arg(long, value_name = "DIR", required_unless_present = "plan")]
    out: Option<PathBuf>,
    /// Go on from the last checkpoint in the folder
    #[arg(long, requires = "out")]
    resume: bool,
    /// Save and stop after this step, to go on with --resume
    #[arg(long, value_name = "STEP")]
    until: Option<NonZeroUsize>,
    /// Tell what the run takes in parameters, memory and time, and do not begin it
    #[arg(long, conflicts_with = "resume")]
    plan: bool,
    /// Threads to compute with [default: $REGARD_THREADS, else every physical core]
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    options: Options,
}

/// Runs `regard train`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let out = arguments.out.clone().unwrap_or_default();
    let folder = RunFolder::new(&out);
    let begun = arguments.resume.then(|| folder.last()).transpose()?;
    let settings = match &begun {
        None => Settings::new(&arguments.options)?,
        Some(begun) => begun.record.settings.clone().go_on(&arguments.options, &out.display().to_string())?,
    };
    if begun.is_none() && !arguments.plan {
        folder.check_new()?;
    }
    let texts = match &begun {
        Some(begun) if arguments.data.is_empty() => {
            Texts::read(&begun.record.data.iter().map(|source| source.path.clone()).collect::<Vec<_>>())?
        }
        _ => Texts::read(&arguments.data)?,
    };
    let json = match &begun {
        None => texts.tokenizer(&settings)?,
        Some(Checkpoint { record, tokenizer, .. }) => {
            texts.check_against(&record.data, &out)?;
            tokenizer.clone()
        }
    };
    let tokenizer = Tokenizer::from_json(&json, "tokenizer.json")?;
    let corpus = texts.tokens(&tokenizer, &settings)?;
    let prompt = prompt(&tokenizer, &settings)?;
    let (model, training) = (settings.model(tokenizer.vocab_size()), settings.training());
    let plan = Plan::new(&model, &training);
    plan.check_room()?;
    // A plan is told by one batch.
    let accumulation = if arguments.plan { 1 } else { training.accumulation };
    let training = TrainingConfig { accumulation, ..training };
    let mut trainer =
        Trainer::new(model, training, workspace(arguments.threads)?.with_precision(settings.precision()))?;
    let activations = Plan::activations(&trainer, &settings)?;
    if arguments.plan {
        return tell(&plan, &mut trainer, &corpus, activations, &settings);
    }
    match &begun {
        None => folder.begin()?,
        Some(begun) => {
            begun.restore(&mut trainer)?;
            folder.sweep()?;
            folder.link(begun.record.step)?;
        }
    }
    let saved = begun.map(|begun| begun.record.step);
    let log = Log::open(&folder.file("log.jsonl"), saved)?;
    let held_out = HumanCount(corpus.held_out.len() as u64);
    let learned = HumanCount(corpus.learned.len() as u64);
    say!("{plan}; {} tokens in the vocabulary, {learned} to learn from, {held_out} held out", tokenizer.vocab_size());
    let samples = workspace(arguments.threads)?;
    let run =
        Run { folder, settings, texts, json, tokenizer, corpus, prompt, trainer, log, samples: Some(samples), saved };
    run.go(arguments.until)
}

/// The tokens of the prompt of samples, of which there is room in a window.
fn prompt(tokenizer: &Tokenizer, settings: &Settings) -> Result<Vec<u32>, Error> {
    let tokens = tokenizer.encode(&settings.prompt, Special::AsText)?;
    let context = settings.context.get();
    match tokens.len() {
        _ if settings.sample_every == 0 => Ok(tokens),
        0 => Err(Error::Usage("--prompt is empty: samples go on from it; --sample-every 0 for none".into())),
        len if len >= context => Err(Error::Usage(format!(
            "samples go on from {:?}, {len} tokens, and --context {context} has no room for more: raise it, name another \
             --prompt, or --sample-every 0 for no samples",
            settings.prompt
        ))),
        _ => Ok(tokens),
    }
}

/// Tells what a run takes; the time by a step of one batch that counts for nothing.
fn tell(
    plan: &Plan,
    trainer: &mut Trainer,
    corpus: &Corpus,
    activations: u64,
    settings: &Settings,
) -> Result<(), Error> {
    // The first step takes memory from the system.
    trainer.step(&corpus.learned)?;
    let start = Instant::now();
    trainer.step(&corpus.learned)?;
    let seconds = start.elapsed().as_secs_f64() * settings.accumulate.get() as f64;
    print_line(&plan.lines(activations, seconds, settings.steps.get()))
}

/// A run: what it learns from, what it learns with, and where it is written down.
struct Run {
    folder: RunFolder,
    settings: Settings,
    texts: Texts,
    /// The tokenizer.json.
    json: String,
    tokenizer: Tokenizer,
    corpus: Corpus,
    /// What samples go on from.
    prompt: Vec<u32>,
    trainer: Trainer,
    log: Log,
    /// What samples work in, but while one does.
    samples: Option<Workspace>,
    /// The step of the last checkpoint.
    saved: Option<u64>,
}

/// A step that takes longer says which of its batches it is at.
const LONG_STEP: Duration = Duration::from_secs(1);

impl Run {
    /// Takes all steps that are left, or those up to `until`.
    fn go(mut self, until: Option<NonZeroUsize>) -> Result<(), Error> {
        let all = self.settings.steps.get() as u64;
        let end = until.map_or(all, |until| all.min(until.get() as u64));
        if self.trainer.steps() >= end {
            say!("there is nothing to do: {} of {all} steps are taken", self.trainer.steps());
            return Ok(());
        }
        let listener = Listener::new();
        let bar = progress::training(all, self.trainer.steps());
        if self.trainer.steps() == 0 && !self.log.events.iter().any(|event| matches!(event, Event::Evaluation { .. })) {
            self.evaluate(&bar)?;
        }
        let (start, mut tokens) = (Instant::now(), 0);
        while self.trainer.steps() < end {
            let Some(report) = self.step(&bar, &listener)? else {
                if self.saved != Some(self.trainer.steps()) {
                    self.save()?;
                }
                bar.finish_and_clear();
                say!("stopped by Ctrl-C within step {}; --resume takes it again", self.trainer.steps() + 1);
                return Err(Error::Interrupted);
            };
            tokens += self.trainer.tokens_of_step();
            let rate = tokens as f64 / start.elapsed().as_secs_f64();
            bar.set_message(format!("loss {:.3}  {} tokens/s", report.loss, HumanCount(rate as u64)));
            bar.set_position(report.step);
            let due = |every: u64| report.step == all || (every > 0 && report.step.is_multiple_of(every));
            if due(self.settings.eval_every) {
                self.evaluate(&bar)?;
            }
            if self.settings.sample_every > 0 && due(self.settings.sample_every) {
                self.sample(&bar)?;
            }
            let stopped = listener.pressed();
            if due(self.settings.save_every) || report.step == end || stopped {
                let path = self.save()?;
                if stopped || report.step == end {
                    bar.finish_and_clear();
                    let seconds = start.elapsed().as_secs_f64();
                    say!(
                        "{} of {all} steps in {}; {seconds:.0} s, {} tokens/s",
                        report.step,
                        path.display(),
                        HumanCount(rate as u64)
                    );
                }
            }
            if stopped {
                say!("stopped by Ctrl-C; --resume goes on");
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }

    /// A step, unless Ctrl-C comes between its batches.
    fn step(&mut self, bar: &ProgressBar, listener: &Listener) -> Result<Option<StepReport>, Error> {
        let start = Instant::now();
        let step = self.trainer.steps() + 1;
        let taken = self.trainer.step_while(&self.corpus.learned, &mut |done, batches| {
            if start.elapsed() > LONG_STEP {
                bar.set_message(format!("batch {} of {batches}", HumanCount(done as u64 + 1)));
            }
            done == 0 || !listener.pressed()
        });
        let taken = taken.map_err(|source| match source {
            regard_layers::Error::NotFinite { .. } => Error::Step { step, source },
            source => source.into(),
        })?;
        let Some(report) = taken else { return Ok(None) };
        if let Some(name) = &report.skipped {
            bar.suspend(|| say!("step {step} is left out: the gradient of `{name}` is not finite"));
        }
        self.log.note(Event::Step {
            step,
            loss: finite(report.loss),
            gradient_norm: finite(report.gradient_norm),
            rate: report.rate,
            tokens: step * self.trainer.tokens_of_step() as u64,
            seconds: start.elapsed().as_secs_f64(),
            skipped: report.skipped.clone(),
        })?;
        Ok(Some(report))
    }

    /// The loss of what is held out, if anything is.
    fn evaluate(&mut self, bar: &ProgressBar) -> Result<(), Error> {
        let Corpus { held_out, held_out_bytes, .. } = &self.corpus;
        if held_out.is_empty() {
            return Ok(());
        }
        let loss = self.trainer.evaluate(held_out, self.settings.eval_windows.get())?;
        let bits = loss / LN_2 * held_out.len() as f64 / *held_out_bytes as f64;
        let step = self.trainer.steps();
        let line = format!(
            "step {step:>6}  held out: {loss:.4} nats a token, perplexity {:.2}, {bits:.4} bits a byte",
            loss.exp()
        );
        bar.suspend(|| print_line(&line))?;
        self.log.note(Event::Evaluation {
            step,
            loss: finite(loss),
            perplexity: finite(loss.exp()),
            bits_per_byte: finite(bits),
        })
    }

    /// A text of the model as it is now.
    fn sample(&mut self, bar: &ProgressBar) -> Result<(), Error> {
        let Some(workspace) = self.samples.take() else { return Ok(()) };
        let (trainer, most) = (&self.trainer, self.settings.sample_tokens.get());
        let net = Net { model: trainer.model(), parameters: trainer.parameters(), context: trainer.context() };
        let sampling = SamplingOptions { seed: self.settings.seed, ..SamplingOptions::default() };
        let rounds = Rounds { tokens: most, rounds: most };
        let mut source = LearnedSource::new(net, workspace, sampling, self.settings.context.get(), rounds)?;
        source.read_while(&self.prompt, &mut |_, _| true)?;
        let mut text = Text::new(&self.tokenizer, most, Stops::new(Vec::new()));
        while text.take(source.next_token()?).is_none() {}
        let step = trainer.steps();
        let (prompt, text) = (self.settings.prompt.clone(), text.written);
        self.samples = Some(source.into_workspace());
        bar.suspend(|| print_line(&format!("step {step:>6}  {:?}", format!("{prompt}{text}"))))?;
        self.log.note(Event::Sample { step, prompt, text })
    }

    /// Writes a checkpoint, and the chart.
    fn save(&mut self) -> Result<PathBuf, Error> {
        self.log.sync()?;
        let tokenizer = (self.json.as_str(), &self.tokenizer);
        let path = self.folder.save(&self.trainer, &self.settings, &self.texts.sources, tokenizer)?;
        let picture = chart::draw(&self.log.events, &self.about());
        save::quietly(&self.folder.file("loss.svg"), |file| file.write_all(picture.as_bytes()))?;
        self.saved = Some(self.trainer.steps());
        Ok(path)
    }

    /// The run in a line.
    fn about(&self) -> String {
        let config = self.trainer.model().config();
        let [mixer, objective] = crate::learned::Description { config: *config, limit: 0 }.words();
        let names =
            self.texts.sources.iter().map(|source| source.path.file_name().unwrap_or_default().to_string_lossy());
        format!(
            "{}; {} parameters: {} {} of width {}, {} heads of {}, {mixer}, {objective}; {} tokens a step of {}, windows of {}",
            names.collect::<Vec<_>>().join(", "),
            HumanCount(self.trainer.parameters().count() as u64),
            config.layers,
            if config.layers == 1 { "block" } else { "blocks" },
            config.width,
            heads(config),
            config.head_dim,
            HumanCount(self.trainer.tokens_of_step() as u64),
            HumanCount(config.vocabulary as u64),
            self.settings.context
        )
    }
}
