//! What a run goes by: options that were given, usual ones for the others, and those of a run that goes on.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use clap::ValueEnum;
use regard_layers::{
    ContextUse, Head, LanguageConfig, LinearRule, MixerKind, NotFinite, Objective, OptimiserConfig, Precision,
    Recomputation, Schedule, TrainingConfig,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::Error;

/// Names of settings that a run may go on with others of: what it learns does not depend on them.
const FREE: [&str; 7] = ["eval-every", "eval-windows", "save-every", "keep", "sample-every", "prompt", "sample-tokens"];

/// The table of all settings: a name, a type, what is usual, how the help calls the value, and what it is for. `Options` is
/// what was given of them, `Settings` is all of them.
macro_rules! settings {
    (
        usual { $($name:ident: $type:ty = $usual:literal, $value:literal, $about:literal;)* }
        derived { $($other:ident: $other_type:ty, $other_value:literal, $other_about:literal;)* }
        flags { $($flag:ident, $flag_about:literal;)* }
    ) => {
        /// The settings that were given.
        #[derive(Clone, Debug, clap::Args, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub(crate) struct Options {
            $(
                #[arg(long, value_name = $value, help = concat!($about, " [default: ", $usual, "]"), allow_negative_numbers = true)]
                #[serde(skip_serializing_if = "Option::is_none")]
                $name: Option<$type>,
            )*
            $(
                #[arg(long, value_name = $other_value, help = $other_about)]
                #[serde(skip_serializing_if = "Option::is_none")]
                $other: Option<$other_type>,
            )*
            $(
                #[arg(long, help = $flag_about)]
                #[serde(skip_serializing_if = "std::ops::Not::not")]
                $flag: bool,
            )*
        }

        /// All settings of a run.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        pub(crate) struct Settings {
            $(pub(crate) $name: $type,)*
            $(pub(crate) $other: Option<$other_type>,)*
            $(pub(crate) $flag: bool,)*
        }

        /// The usual ones, by name.
        fn usual() -> Map<String, Value> {
            let mut usual = Map::new();
            $(usual.insert(kebab(stringify!($name)), json!($usual));)*
            $(usual.insert(kebab(stringify!($other)), Value::Null);)*
            $(usual.insert(kebab(stringify!($flag)), json!(false));)*
            usual
        }
    };
}

settings! {
    usual {
        tokenizer: String = "byte", "byte|bpe|PATH", "How text becomes tokens: bytes, byte pairs merged by how often they stand in the data (--vocabulary), or as an existing tokenizer.json says";
        eval_share: Real = 0.1, "SHARE", "Share of each file, at its end, that is held out for evaluation";
        width: NonZeroUsize = 128, "N", "Numbers of a token between blocks";
        layers: NonZeroUsize = 4, "N", "Blocks";
        heads: NonZeroUsize = 4, "N", "Query heads";
        context: NonZeroUsize = 128, "N", "Tokens of a window: what the model sees at once";
        mixer: Mixer = "softmax", "MIXER", "What lets tokens see each other: softmax attention, or linear attention by a rule";
        objective: Goal = "causal", "OBJECTIVE", "What is learned: each token from those before it, or masked tokens from all others";
        head: HeadKind = "tied", "HEAD", "Whose weights make logits: the embedding's, or its own";
        dropout: Real = 0.0, "P", "Probability that an attention weight falls out (softmax)";
        steps: NonZeroUsize = 1000, "N", "Steps of the run";
        batch: NonZeroUsize = 16, "N", "Windows that go through the model at once";
        accumulate: NonZeroUsize = 1, "N", "Batches whose gradients a step adds up";
        rate: Real = 0.002, "RATE", "Highest learning rate";
        warmup: u64 = 100, "N", "Steps until it is reached";
        final_rate: Real = 0.1, "SHARE", "Share of it that is left at the end, along half a cosine";
        weight_decay: Real = 0.1, "W", "What matrices lose of themselves in a step, times the rate";
        clip: Real = 1.0, "LENGTH", "Gradients longer than this are shortened to it; 0 for none";
        betas: Betas = "0.9,0.95", "B1,B2", "What AdamW's moments keep of themselves";
        seed: u64 = 0, "N", "Key of all that is drawn: first weights, windows, masks, dropout, samples";
        not_finite: OnNotFinite = "stop", "WHAT", "What to do about gradients that are no finite numbers";
        dtype: Dtype = "f32", "DTYPE", "What products of linear layers multiply; all else is in f32";
        eval_every: u64 = 100, "N", "Steps between evaluations; 0 for one at the end only";
        eval_windows: NonZeroUsize = 64, "N", "Windows of an evaluation, evenly over what is held out";
        save_every: u64 = 100, "N", "Steps between checkpoints; 0 for one at the end only";
        keep: NonZeroUsize = 2, "N", "Checkpoints that are kept";
        sample_every: u64 = 250, "N", "Steps between samples; 0 for none";
        prompt: String = "The ", "TEXT", "What samples go on from";
        sample_tokens: NonZeroUsize = 100, "N", "Tokens of a sample";
    }
    derived {
        vocabulary: NonZeroUsize, "N", "Tokens that bpe makes, the 256 bytes and the special ones included [default: 2048]";
        kv_heads: NonZeroUsize, "N", "Key/value heads [default: as --heads]";
        head_dim: NonZeroUsize, "N", "Numbers of a head [default: width / heads]";
        hidden: NonZeroUsize, "N", "Numbers within a feed-forward layer [default: 8/3 of the width, up to a multiple of 32]";
    }
    flags {
        shared_context, "Let blocks share which of their channels go together";
        recompute, "Keep only each block's input, and compute the rest again on the way back: less memory, more time";
    }
}

/// An option's name.
fn kebab(name: &str) -> String {
    name.replace('_', "-")
}

/// A mixer by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mixer {
    /// Attention
    Softmax,
    /// Each key writes its value
    Plain,
    /// A learned gate for each head forgets
    Gated,
    /// A learned gate for each channel forgets
    Channel,
    /// What the state lacks of the value is written
    Delta,
    /// The same with a gate for each head
    GatedDelta,
    /// Mamba-2: gates and values from a short convolution
    StateSpace,
}

impl Mixer {
    pub(crate) fn kind(self) -> MixerKind {
        match self {
            Mixer::Softmax => MixerKind::Softmax,
            Mixer::Plain => MixerKind::Linear(LinearRule::Plain),
            Mixer::Gated => MixerKind::Linear(LinearRule::Gated),
            Mixer::Channel => MixerKind::Linear(LinearRule::GatedByChannel),
            Mixer::Delta => MixerKind::Linear(LinearRule::Delta),
            Mixer::GatedDelta => MixerKind::Linear(LinearRule::GatedDelta),
            Mixer::StateSpace => MixerKind::StateSpace,
        }
    }

    pub(crate) fn of(kind: MixerKind) -> Mixer {
        match kind {
            MixerKind::Softmax => Mixer::Softmax,
            MixerKind::Linear(LinearRule::Plain) => Mixer::Plain,
            MixerKind::Linear(LinearRule::Gated) => Mixer::Gated,
            MixerKind::Linear(LinearRule::GatedByChannel) => Mixer::Channel,
            MixerKind::Linear(LinearRule::Delta) => Mixer::Delta,
            MixerKind::Linear(LinearRule::GatedDelta) => Mixer::GatedDelta,
            MixerKind::StateSpace => Mixer::StateSpace,
        }
    }
}

/// An objective by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Goal {
    /// Each token from those before it
    Causal,
    /// Masked tokens from all others (masked diffusion)
    Denoising,
}

impl Goal {
    pub(crate) fn objective(self) -> Objective {
        match self {
            Goal::Causal => Objective::Causal,
            Goal::Denoising => Objective::Denoising,
        }
    }

    pub(crate) fn of(objective: Objective) -> Goal {
        match objective {
            Objective::Causal => Goal::Causal,
            Objective::Denoising => Goal::Denoising,
        }
    }
}

/// Which weights make logits, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HeadKind {
    /// The embedding's
    Tied,
    /// Its own
    Own,
}

/// What is done about gradients that are no finite numbers, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnNotFinite {
    /// End the run, naming the parameter
    Stop,
    /// Leave the step out, naming the parameter
    Skip,
}

/// What products of linear layers multiply, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Dtype {
    /// Numbers of 32 bits
    F32,
    /// Both sides rounded to the 16 bits of bf16, summed in f32
    Bf16,
}

/// A number that is neither infinite nor none, which JSON would not have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Real(pub(crate) f64);

impl FromStr for Real {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Real, &'static str> {
        text.parse().ok().filter(|number: &f64| number.is_finite()).map(Real).ok_or("expected a number")
    }
}

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Two numbers with a comma between.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Betas([f64; 2]);

impl FromStr for Betas {
    type Err = String;

    fn from_str(text: &str) -> Result<Betas, String> {
        let pair = text.split_once(',').and_then(|(a, b)| Some([a.trim().parse().ok()?, b.trim().parse().ok()?]));
        let betas = pair.filter(|betas| betas.iter().all(|beta| (0.0..1.0).contains(beta)));
        betas.map(Betas).ok_or_else(|| "expected two numbers from 0 to below 1, such as 0.9,0.95".to_owned())
    }
}

impl TryFrom<String> for Betas {
    type Error = String;

    fn try_from(text: String) -> Result<Betas, String> {
        text.parse()
    }
}

impl From<Betas> for String {
    fn from(betas: Betas) -> String {
        betas.to_string()
    }
}

impl fmt::Display for Betas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.0[0], self.0[1])
    }
}

impl Settings {
    /// The settings of a new run: those that were given, and the usual ones.
    pub(crate) fn new(options: &Options) -> Result<Settings, Error> {
        let mut all = usual();
        all.extend(given(options));
        Settings::read(all).and_then(Settings::checked)
    }

    /// The settings of a run that goes on: its own, but for what it may change.
    ///
    /// # Errors
    /// [`Error::Usage`]: an option is another than the run's.
    pub(crate) fn go_on(self, options: &Options, run: &str) -> Result<Settings, Error> {
        let Value::Object(mut all) = json!(self) else { return Ok(self) };
        for (name, value) in given(options) {
            if all[&name] != value && !FREE.contains(&name.as_str()) {
                let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let (now, then) = (plain(&value), plain(&all[&name]));
                return Err(Error::Usage(format!(
                    "--{name} is {now}, and the run in {run} was begun with {then}: leave it out to go on, or begin \
                     another run with another --out"
                )));
            }
            all.insert(name, value);
        }
        Settings::read(all).and_then(Settings::checked)
    }

    fn read(all: Map<String, Value>) -> Result<Settings, Error> {
        serde_json::from_value(Value::Object(all)).map_err(|error| Error::Usage(format!("settings: {error}")))
    }

    /// Refuses what cannot be, by the names of options.
    ///
    /// # Errors
    /// [`Error::Usage`].
    fn checked(self) -> Result<Settings, Error> {
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<(), Error> {
        let refuse = |problem: String| Err(Error::Usage(problem));
        let in_range = |name: &str, has: f64, fine: bool, range: &str| match fine {
            true => Ok(()),
            false => refuse(format!("--{name} is {has}, and must be {range}")),
        };
        let least_0 = |name, has: f64| in_range(name, has, has >= 0.0, "at least 0");
        let share = |name, has: f64| in_range(name, has, (0.0..1.0).contains(&has), "at least 0 and below 1");
        share("eval-share", self.eval_share.0)?;
        share("dropout", self.dropout.0)?;
        in_range("rate", self.rate.0, self.rate.0 > 0.0, "above 0")?;
        in_range("final-rate", self.final_rate.0, (0.0..=1.0).contains(&self.final_rate.0), "from 0 to 1")?;
        least_0("weight-decay", self.weight_decay.0)?;
        least_0("clip", self.clip.0)?;
        let [width, heads] = [self.width, self.heads].map(NonZeroUsize::get);
        if self.head_dim.is_none() && !width.is_multiple_of(heads) {
            return refuse(format!("--heads {heads} does not divide --width {width}: change one, or give --head-dim"));
        }
        let head_dim = self.head_dim.map_or(width / heads.max(1), NonZeroUsize::get);
        if self.mixer == Mixer::Softmax && !head_dim.is_multiple_of(2) {
            return refuse(format!(
                "a head of {head_dim} numbers cannot turn with its position, which takes pairs: change --width or \
                 --heads, or give an even --head-dim"
            ));
        }
        let kv_heads = self.kv_heads.map_or(heads, NonZeroUsize::get);
        if !heads.is_multiple_of(kv_heads) {
            return refuse(format!("--kv-heads {kv_heads} does not divide --heads {heads}: each serves as many"));
        }
        if self.mixer == Mixer::StateSpace {
            if self.kv_heads.is_some() {
                return refuse("--kv-heads is of attention, and --mixer state-space has none: leave it out".to_owned());
            }
            if !width.saturating_mul(2).is_multiple_of(head_dim) {
                return refuse(format!(
                    "--mixer state-space makes heads of {head_dim} of twice --width {width}, and {head_dim} does not divide \
                     {}: give another --head-dim",
                    width.saturating_mul(2)
                ));
            }
        }
        let [steps, batch, context, accumulate] =
            [self.steps, self.batch, self.context, self.accumulate].map(|count| count.get() as u64);
        let all = [batch, context, accumulate].into_iter().try_fold(steps, u64::checked_mul);
        if all.is_none_or(|tokens| tokens > i64::MAX as u64) {
            return refuse(format!(
                "--steps {steps} of --accumulate {accumulate} times --batch {batch} windows of --context {context} are more \
                 tokens than can be counted"
            ));
        }
        if self.objective == Goal::Denoising && !matches!(self.mixer, Mixer::Softmax | Mixer::Plain) {
            let mixer = self.mixer.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            return refuse(format!(
                "--objective denoising needs tokens that see those behind them, and --mixer {mixer} has no such form: \
                 take softmax or plain"
            ));
        }
        if self.dropout.0 > 0.0 && self.mixer != Mixer::Softmax {
            return refuse(format!(
                "--dropout {} is of softmax weights, and --mixer has none: leave it out",
                self.dropout.0
            ));
        }
        if self.vocabulary.is_some() && self.tokenizer != "bpe" {
            return refuse(format!("--vocabulary is of --tokenizer bpe, and --tokenizer is {}", self.tokenizer));
        }
        Ok(())
    }

    /// What the model is made of, for a tokeniser of so many tokens.
    pub(crate) fn model(&self, vocabulary: usize) -> LanguageConfig {
        let (width, heads) = (self.width.get(), self.heads.get());
        LanguageConfig {
            vocabulary,
            width,
            layers: self.layers.get(),
            heads,
            kv_heads: self.kv_heads.map_or(heads, NonZeroUsize::get),
            head_dim: self.head_dim.map_or(width / heads, NonZeroUsize::get),
            hidden: self.hidden.map_or((width / 3 * 8 + width % 3 * 8 / 3).next_multiple_of(32), NonZeroUsize::get),
            mixer: self.mixer.kind(),
            objective: self.objective.objective(),
            eps: 1e-5,
            rope_theta: 10_000.0,
            head: match self.head {
                HeadKind::Tied => Head::Tied,
                HeadKind::Own => Head::Own,
            },
            context: if self.shared_context { ContextUse::Shared } else { ContextUse::None },
            dropout: self.dropout.0 as f32,
        }
    }

    /// What its products are computed in.
    pub(crate) fn precision(&self) -> Precision {
        match self.dtype {
            Dtype::F32 => Precision::F32,
            Dtype::Bf16 => Precision::Bf16,
        }
    }

    /// How it is trained.
    pub(crate) fn training(&self) -> TrainingConfig {
        TrainingConfig {
            batch: self.batch.get(),
            tokens: self.context.get(),
            accumulation: self.accumulate.get(),
            schedule: Schedule {
                rate: self.rate.0 as f32,
                warmup: self.warmup,
                steps: self.steps.get() as u64,
                last: self.final_rate.0 as f32,
            },
            optimiser: OptimiserConfig {
                betas: self.betas.0.map(|beta| beta as f32),
                decay: self.weight_decay.0 as f32,
                clip: (self.clip.0 > 0.0).then_some(self.clip.0 as f32),
                ..OptimiserConfig::default()
            },
            recomputation: if self.recompute { Recomputation::Blocks } else { Recomputation::None },
            seed: self.seed,
            not_finite: match self.not_finite {
                OnNotFinite::Stop => NotFinite::Stop,
                OnNotFinite::Skip => NotFinite::Skip,
            },
        }
    }
}

/// The settings that were given, by name.
fn given(options: &Options) -> Map<String, Value> {
    match json!(options) {
        Value::Object(given) => given,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Line::try_parse_from(["regard"].into_iter().chain(line.split_whitespace())).unwrap().options
    }

    #[test]
    fn what_is_given_takes_the_place_of_what_is_usual() {
        let usual = Settings::new(&options("")).unwrap();
        assert_eq!((usual.width.get(), usual.mixer, usual.recompute), (128, Mixer::Softmax, false));
        let settings = Settings::new(&options(
            "--width 96 --heads 3 --mixer gated-delta --betas 0.8,0.9 --recompute --dtype bf16",
        ))
        .unwrap();
        let model = settings.model(257);
        assert_eq!((model.head_dim, model.hidden, model.kv_heads), (32, 256, 3));
        assert_eq!(model.mixer, MixerKind::Linear(LinearRule::GatedDelta));
        assert_eq!(settings.training().optimiser.betas, [0.8, 0.9]);
        assert_eq!([usual, settings].map(|settings| settings.precision()), [Precision::F32, Precision::Bf16]);
    }

    #[test]
    fn a_run_goes_on_with_its_own_settings() {
        let begun = Settings::new(&options("--rate 0.1 --seed 5 --keep 3")).unwrap();
        let again: Settings = serde_json::from_str(&json!(begun).to_string()).unwrap();
        assert_eq!(begun, again);
        let on = again.clone().go_on(&options("--rate 0.1 --save-every 7"), "runs").unwrap();
        assert_eq!((on.save_every, on.keep.get(), on.seed), (7, 3, 5));
        let refused = again.go_on(&options("--rate 0.2"), "runs").unwrap_err().to_string();
        assert!(refused.contains("--rate is 0.2") && refused.contains("begun with 0.1"), "{refused}");
    }

    #[test]
    fn what_cannot_be_is_refused_by_the_names_of_options() {
        for (line, said) in [
            ("--mixer state-space --kv-heads 2", "--kv-heads"),
            ("--mixer state-space --head-dim 5", "--head-dim"),
            ("--accumulate 999999999999999999", "--accumulate 999999999999999999"),
            ("--steps 18446744073709551615", "--steps 18446744073709551615"),
        ] {
            let refused = Settings::new(&options(line)).unwrap_err().to_string();
            assert!(refused.contains(said), "{line}: {refused}");
        }
    }
}
