//! `regard bench`: how fast attention is, or a whole model, beside this machine's limits and other programs.

mod answer;
mod attention;
mod case;
mod chart;
mod check;
mod crossovers;
mod encoder;
mod favor;
mod inputs;
mod layers;
mod limit;
mod linear;
mod llama;
mod measure;
mod memory;
mod model;
mod ours;
mod peer;
mod report;
mod select;
mod sentences;
mod setting;
mod techniques;
mod tokens;
mod torch;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use regard_kernels::Kernels;
use regard_kernels::peak::Machine;
use regard_simd::Isa;
use regard_threads::{Pool, cores};

use self::attention::Attention;
use self::case::Case;
use self::encoder::EncoderSubject;
use self::layers::LayersSubject;
use self::linear::LinearSubject;
use self::model::{DecoderSubject, Subject};
use self::report::{Accuracy, Figures, Row};
use self::setting::Setting;
use self::techniques::{Bench, TECHNIQUES};
use self::torch::Torch;
use crate::error::Error;
use crate::options::Kind;
use crate::output::{print_line, say};
use crate::{progress, pull};

/// The cases that are measured unless others are given.
const CASES: &str = include_str!("../../../bench/cases.json");

/// Arguments of `regard bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each case is first checked against attention in f64, ours and the peer's, gradients too; then both are timed in turn, \
and the median of at least 7 calls counts. The share is that of the least time that this machine needs, by its peak or \
its memory's bandwidth, measured in the same minutes. The scratch is what the engine takes from the allocator beside its \
inputs and outputs. A case that is wrong makes the command fail; a target that is missed is only said.

A case may also be compared with another of our own ways: packed sequences with the same one by one, windows with as many \
pairs that are dense.

With --memory each technique is one piece of work done in several ways, which take turns and give the same bits. A way \
is faster or slower than the first where all of 15 rounds but one say so.

With --linear the cases are the rules of linear attention over 16,384 tokens, 8 heads of 64 in f32, and some of them with \
their gradients over 4,096 (-train); the peer is PyTorch in chunks of the size that is fastest there.

With --layers the cases are multi-head attention of 8 to 128 tokens, 256 wide, 8 heads, forward and with gradients (-train), beside \
torch.nn.MultiheadAttention; and a step of training of a language model of 10 million parameters on 16 sequences of 256 tokens, \
beside the same in PyTorch: with blocks computed again on the way back (-recomputed), and with memory that is taken anew for \
each step (-fresh). Gradients are held against differences in f64 along a random direction.

With --favor each number of random features is held against exact causal attention, 8 heads of 64 in f32, from 512 to 8,192 \
tokens: times in turn, and what the results are off by (root mean square, beside that of exact results) where scores have a \
standard deviation of 0.25, 1 and 2. What differs from the formula in f64 by more than twice what it does in f32 is wrong.

With --select a model reads a text: 8 windows of its beginning, from which a selector is learned for each layer, and 2 of its end, \
over which each way to choose blocks of 64 keys is measured, at a tenth and a quarter of the blocks that queries see: the share of the \
softmax mass that they keep, and times of one layer. Windows are of --context tokens, 4,096 unless given.

With --model the cases are those of a whole model with a cache in bf16 (llama.cpp's: f16): load (from files that the system has in \
memory), prompt-N (N random tokens) and token-N (16 tokens one by one after N others), for N of 512, 1536 and 4096 where the \
context holds them. The error is the largest difference of logits, a prompt taken at once against its end token by token, \
beside the largest logit. A peer that needs more than 30 s for a prompt's calls is given 3; the table says so.

Of an encoder they are texts of 20, 60 and 200 words in f32, bf16 and int8 (words-20-int8), which the peer takes in f32 or \
bf16. The error is the largest of one minus the cosine with the peer's vectors in f64.

Examples:
  regard bench
  regard bench --only dense-2048 train-2048 --torch python3
  regard bench --only dense-2048 decode-8k --python python3
  regard bench --only packed live-pair-512 memory-65536
  regard bench --isa avx2 --threads 1 --only dense-2048
  regard bench --crossovers --only scattered
  regard bench --memory --only pages prefetch
  regard bench --linear --torch python3
  regard bench --favor --only features-128
  regard bench --layers --torch python3
  regard bench --select moby-dick.txt --model smollm2-135m-instruct
  regard bench --cases my-cases.json --json | jq .share
  regard bench --model smollm2-135m-instruct
  regard bench --model all-minilm-l6-v2 --torch python3
  regard bench --model model.gguf --llama python3 --only prompt-512 token-512")]
pub(crate) struct Arguments {
    /// A file of cases, in the form of the project's bench/cases.json [default: that file]
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// Measure a whole model instead: the path of a GGUF file or of an encoder's folder, or a name (see `regard pull --list`)
    #[arg(short, long, value_name = "PATH|NAME", conflicts_with = "cases")]
    model: Option<String>,
    /// Tokens that the model's context holds [default: the model's limit]
    #[arg(short, long, value_name = "N", requires = "model")]
    context: Option<NonZeroUsize>,
    /// Measure instead where the regimes of a plan cross: the same calls, cut into tasks in several ways
    #[arg(long, conflicts_with_all = ["cases", "model", "torch", "json", "chart"])]
    crossovers: bool,
    /// Measure instead what each memory technique buys: the same work with it and without
    #[arg(long, conflicts_with_all = ["cases", "model", "torch", "chart", "crossovers"])]
    memory: bool,
    /// Measure linear attention instead: its rules over long sequences
    #[arg(long, conflicts_with_all = ["cases", "model", "crossovers", "memory"])]
    linear: bool,
    /// Measure layers instead: multi-head attention, and steps of training
    #[arg(long, conflicts_with_all = ["cases", "model", "crossovers", "memory", "linear"])]
    layers: bool,
    /// Measure instead how far off FAVOR+ is and how long it takes, beside exact attention
    #[arg(long, conflicts_with_all = ["cases", "model", "torch", "chart", "crossovers", "memory", "linear", "layers"])]
    favor: bool,
    /// Measure instead what blocks chosen by content keep of a model's attention, over this text [model: SmolLM2-135M-Instruct]
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["cases", "torch", "llama", "chart", "threads", "crossovers", "memory", "linear", "layers", "favor"])]
    select: Option<PathBuf>,
    /// Measure these cases only, or of the memory techniques, the crossovers or the numbers of features (features-128) these; or these ways to choose blocks
    #[arg(long, value_name = "ID", num_args = 1..)]
    only: Vec<String>,
    /// Print one JSON object a case, as they come
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print the table as Markdown, with machine, commit and command
    #[arg(long)]
    markdown: bool,
    /// Draw the shares of the limit as a picture
    #[arg(long, value_name = "FILE.svg")]
    chart: Option<PathBuf>,
    /// Threads to compute with [default: every physical core]
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Force an instruction set: portable, avx2, avx512, avx512-vnni, avx512-bf16 or neon [default: the best]
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,
    /// Alternate with PyTorch, run by this Python; with an encoder, with sentence-transformers
    #[arg(long, value_name = "PYTHON")]
    torch: Option<PathBuf>,
    /// Alternate with Regard's own package of this Python, which has PyTorch too: what the cases take through Python
    #[arg(long, value_name = "PYTHON", conflicts_with_all = ["torch", "model", "crossovers", "memory", "linear", "layers", "favor", "select"])]
    python: Option<PathBuf>,
    /// Alternate with llama.cpp, run by this Python
    #[arg(long, value_name = "PYTHON", requires = "model")]
    llama: Option<PathBuf>,
}

/// Runs `regard bench`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let isa = match &arguments.isa {
        Some(name) => Isa::named(name).map_err(|error| Error::Usage(format!("--isa: {error}")))?,
        None => Isa::from_environment().map_err(|error| Error::Usage(format!("REGARD_ISA: {error}")))?,
    };
    // Said before the work, not after it.
    if let Some(path) = arguments.chart.as_ref().filter(|path| path.extension().is_none_or(|kind| kind != "svg")) {
        let problem = format!("--chart {}: the chart is an SVG; name a file that ends in .svg", path.display());
        return Err(Error::Usage(problem));
    }
    if let Some(folder) = arguments.chart.as_ref().and_then(|path| path.parent())
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        return Err(Error::Usage(format!("--chart: there is no folder {}", folder.display())));
    }
    let threads = arguments.threads.map_or_else(cores, NonZeroUsize::get);
    let machine = || Machine::new(threads).map_err(regard_attention::Error::from);
    let pool = || Pool::new(threads).map_err(|error| Error::Usage(error.to_string()));
    if arguments.crossovers {
        let chosen = arguments.chosen(crossovers::ids())?;
        say!("{}", Setting::measure(&machine()?, isa, None));
        return crossovers::measure(&chosen, isa, &pool()?, arguments.markdown);
    }
    if arguments.memory {
        let setting = Setting::measure(&machine()?, isa, None);
        return memory_techniques(arguments, &setting, &pool()?);
    }
    if arguments.favor {
        let chosen = arguments.chosen(favor::ids())?;
        let setting = Setting::measure(&machine()?, isa, None);
        say!("{setting}");
        return favor::measure(&chosen, &setting, &pool()?, arguments);
    }
    if let Some(text) = &arguments.select {
        let chosen = arguments.chosen(select::ids())?;
        let model = pull::resolve(arguments.model.as_deref().unwrap_or(pull::WRITER))?;
        let setting = Setting::measure(&machine()?, isa, None);
        say!("{setting}");
        return select::measure(&chosen, text, &model, &setting, &pool()?, arguments);
    }
    let results = match &arguments.model {
        None if arguments.layers => {
            arguments.whole(&LayersSubject::new(isa, threads, pool()?), &machine()?, isa, None)?
        }
        None if arguments.linear => {
            arguments.whole(&LinearSubject::new(isa, threads, pool()?), &machine()?, isa, None)?
        }
        None => {
            let cases = arguments.cases()?;
            let (pool, machine) = (pool()?, machine()?);
            let mut results = Results::new(arguments, Setting::measure(&machine, isa, None), cases.len());
            let torch = match (&arguments.torch, &arguments.python) {
                (Some(python), _) => Some(Torch::start(python, threads)?),
                (None, Some(python)) => Some(Torch::start_package(python, threads)?),
                (None, None) => None,
            };
            let mut attention = Attention { isa, pool: &pool, machine: &machine, torch };
            cases.iter().try_for_each(|case| results.measure(&case.id, || attention.measure(case)))?;
            results
        }
        Some(model) => {
            let path = pull::resolve(model)?;
            let subject = arguments.subject(&path, isa, threads)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            arguments.whole(&*subject, &machine()?, isa, Some(name))?
        }
    };
    results.finish(arguments)
}

/// `--memory`.
fn memory_techniques(arguments: &Arguments, setting: &Setting, pool: &Pool) -> Result<(), Error> {
    let chosen = arguments.chosen(TECHNIQUES.iter().map(|technique| technique.id.to_owned()).collect())?;
    say!("{setting}");
    let bar = progress::steps(chosen.len() as u64, "");
    let bench = Bench { kernels: Kernels::new(setting.isa), pool, share: 1.0 };
    let mut sections = Vec::new();
    for technique in TECHNIQUES.iter().filter(|technique| chosen.iter().any(|id| id == technique.id)) {
        bar.set_message(technique.id);
        let section = (technique.id, (technique.measure)(bench)?);
        if arguments.json {
            for line in techniques::json(&section, setting) {
                bar.suspend(|| print_line(&line.to_string()))?;
            }
        }
        sections.push(section);
        bar.inc(1);
    }
    bar.finish_and_clear();
    match (arguments.markdown, arguments.json) {
        (true, _) => print_line(&techniques::markdown(&sections, setting)),
        (false, true) => Ok(()),
        (false, false) => print_line(&techniques::table(&sections)),
    }
}

/// What has been found so far.
struct Results {
    setting: Setting,
    rows: Vec<Row>,
    bar: indicatif::ProgressBar,
    json: bool,
}

impl Results {
    fn new(arguments: &Arguments, setting: Setting, rows: usize) -> Self {
        say!("{setting}");
        Results { setting, rows: Vec::new(), bar: progress::steps(rows as u64, ""), json: arguments.json }
    }

    /// Measures one row, and prints it if rows are wanted as they come.
    fn measure(&mut self, id: &str, measure: impl FnOnce() -> Result<Figures, Error>) -> Result<(), Error> {
        self.bar.set_message(id.to_owned());
        let row = Row { id: id.to_owned(), figures: measure()? };
        if self.json {
            self.bar.suspend(|| print_line(&row.json(&self.setting).to_string()))?;
        }
        self.rows.push(row);
        self.bar.inc(1);
        Ok(())
    }

    /// Prints and draws what is wanted of all of them.
    fn finish(self, arguments: &Arguments) -> Result<(), Error> {
        let Results { setting, rows, bar, json } = self;
        bar.finish_and_clear();
        if arguments.markdown {
            print_line(&report::markdown(&rows, &setting))?;
        } else if !json {
            print_line(&report::table(&rows))?;
        }
        if let Some(path) = &arguments.chart {
            fs::write(path, chart::draw(&rows, &setting))
                .map_err(|source| Error::Write { path: path.clone(), source })?;
        }
        judge(&rows)
    }
}

impl Arguments {
    /// The cases to be measured.
    fn cases(&self) -> Result<Vec<Case>, Error> {
        let cases = match &self.cases {
            None => case::parse(CASES).map_err(|problem| Error::Cases { file: "bench/cases.json".into(), problem })?,
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.clone(), source })?;
                case::parse(&text).map_err(|problem| Error::Cases { file: path.clone(), problem })?
            }
        };
        let chosen = self.chosen(cases.iter().map(|case| case.id.clone()).collect())?;
        Ok(cases.into_iter().filter(|case| chosen.contains(&case.id)).collect())
    }

    /// Measures what is chosen of a subject, in turn with its peer if one is given.
    fn whole(
        &self,
        subject: &dyn Subject,
        machine: &Machine,
        isa: Isa,
        model: Option<String>,
    ) -> Result<Results, Error> {
        let chosen = self.chosen(subject.ids())?;
        let mut results = Results::new(self, Setting::measure(machine, isa, model), chosen.len());
        let python = self.llama.as_deref().or(self.torch.as_deref());
        subject.measure(machine, &chosen, python, &mut results)?;
        Ok(results)
    }

    /// The whole model at `path`: a folder is an encoder's, a file a decoder's.
    ///
    /// # Errors
    /// It is no model that runs here, or an option is given that is for the other kind.
    fn subject(&self, path: &Path, isa: Isa, threads: usize) -> Result<Box<dyn Subject>, Error> {
        if path.is_dir() && Kind::of(path) == Some(Kind::Decoder) {
            let path = path.display();
            let problem = format!(
                "{path} is a decoder's folder, and a decoder is measured as a GGUF file: `regard convert {path}` makes one"
            );
            return Err(Error::Usage(problem));
        }
        let (llama, torch, context) = (self.llama.is_some(), self.torch.is_some(), self.context.is_some());
        let (is, unfit) = match path.is_dir() {
            true => ("an encoder", [("--llama", llama), ("--context", context)].into_iter().find(|(_, given)| *given)),
            false => ("no encoder", Some(("--torch", torch)).filter(|(_, given)| *given)),
        };
        if let Some((option, _)) = unfit {
            return Err(Error::Usage(format!("{option}: {} is {is}", path.display())));
        }
        if path.is_dir() {
            return Ok(Box::new(EncoderSubject::open(path, isa, threads)?));
        }
        let context = self.context.map(NonZeroUsize::get);
        Ok(Box::new(DecoderSubject::open(path, isa, threads, context)?))
    }

    /// Those of the ids that `--only` leaves.
    fn chosen(&self, ids: Vec<String>) -> Result<Vec<String>, Error> {
        if let Some(unknown) = self.only.iter().find(|id| !ids.contains(id)) {
            return Err(Error::Usage(format!("--only: no case {unknown:?}; there are {}", ids.join(", "))));
        }
        Ok(ids.into_iter().filter(|id| self.only.is_empty() || self.only.contains(id)).collect())
    }
}

/// # Errors
/// [`Error::Wrong`] with the cases whose results are.
fn judge(rows: &[Row]) -> Result<(), Error> {
    let is_wrong = |all: &[Accuracy]| !all.iter().all(|accuracy| accuracy.is_right());
    let mut wrong = Vec::new();
    for Row { id, figures } in rows {
        if is_wrong(&figures.accuracy) {
            wrong.push(id.clone());
        }
        if let Some(peer) = figures.peer.as_ref().filter(|peer| is_wrong(&peer.accuracy)) {
            wrong.push(format!("{id} by {}", peer.name));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::Wrong { cases: wrong.join(", ") }) }
}
