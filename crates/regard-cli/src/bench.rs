//! `regard bench`: how fast attention is, beside this machine's limits and other programs.

mod case;
mod chart;
mod check;
mod inputs;
mod limit;
mod measure;
mod ours;
mod peer;
mod report;
mod setting;
mod torch;

use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use half::{bf16, f16};
use regard_kernels::peak::Machine;
use regard_simd::Isa;
use regard_threads::{Pool, cores};

use self::case::{Case, Dtype};
use self::check::Reference;
use self::inputs::{Inputs, Stored};
use self::limit::{Probe, Work};
use self::measure::{alternate, median};
use self::ours::Ours;
use self::report::{Accuracy, Figures, Outcome, PeerFigures, Row};
use self::setting::Setting;
use self::torch::Torch;
use crate::error::Error;
use crate::output::{print_line, say};
use crate::progress;

/// The cases that are measured unless others are given.
const CASES: &str = include_str!("../../../bench/cases.json");

/// Arguments of `regard bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each case is first checked against attention in f64, ours and the peer's; then both are timed in turn, and the median \
of at least 7 calls counts. The share is that of the least time that this machine needs, by its peak or its memory's \
bandwidth, measured in the same minutes. A case that is wrong makes the command fail; one that cannot be run yet is \
listed with the reason.

Examples:
  regard bench
  regard bench --only dense-2048 causal-2048 --torch python3
  regard bench --isa avx2 --threads 1 --only dense-2048
  regard bench --cases my-cases.json --json | jq .share")]
pub(crate) struct Arguments {
    /// A file of cases, in the form of the project's bench/cases.json [default: that file]
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// Measure these cases only
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
    /// Threads to compute with [default: every core]
    #[arg(short, long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Force an instruction set: portable, avx2, avx512, avx512-vnni, avx512-bf16 or neon [default: the best]
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,
    /// Alternate with PyTorch, run by this Python
    #[arg(long, value_name = "PYTHON")]
    torch: Option<PathBuf>,
}

/// Runs `regard bench`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let cases = arguments.chosen()?;
    let isa = match &arguments.isa {
        Some(name) => Isa::named(name).map_err(|error| Error::Usage(format!("--isa: {error}")))?,
        None => Isa::from_environment().map_err(|error| Error::Usage(format!("REGARD_ISA: {error}")))?,
    };
    let threads = arguments.threads.map_or_else(cores, NonZeroUsize::get);
    let pool = Pool::new(threads).map_err(|error| Error::Usage(error.to_string()))?;
    let machine = Machine::new(threads).map_err(regard_attention::Error::from)?;
    let setting = Setting::measure(&machine, isa);
    say!("{setting}");
    let torch = arguments.torch.as_deref().map(|python| Torch::start(python, threads)).transpose()?;
    let mut bench = Bench { isa, pool: &pool, machine: &machine, torch };

    let mut rows = Vec::new();
    let bar = progress::steps(cases.len() as u64, "");
    for case in &cases {
        bar.set_message(case.id.clone());
        let outcome = match case.not_yet() {
            Some(reason) => Outcome::NotYet(reason),
            None => Outcome::Measured(Box::new(bench.measure(case)?)),
        };
        let row = Row { id: case.id.clone(), outcome };
        if arguments.json {
            bar.suspend(|| print_line(&row.json(&setting).to_string()))?;
        }
        rows.push(row);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if arguments.markdown {
        print_line(&report::markdown(&rows, &setting))?;
    } else if !arguments.json {
        print_line(&report::table(&rows))?;
    }
    if let Some(path) = &arguments.chart {
        fs::write(path, chart::draw(&rows, &setting)).map_err(|source| Error::Write { path: path.clone(), source })?;
    }
    judge(&rows)
}

impl Arguments {
    /// The cases to be measured.
    fn chosen(&self) -> Result<Vec<Case>, Error> {
        let cases = match &self.cases {
            None => case::parse(CASES).map_err(|problem| Error::Cases { file: "bench/cases.json".into(), problem })?,
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.clone(), source })?;
                case::parse(&text).map_err(|problem| Error::Cases { file: path.clone(), problem })?
            }
        };
        if let Some(unknown) = self.only.iter().find(|id| cases.iter().all(|case| case.id != **id)) {
            let ids: Vec<_> = cases.iter().map(|case| case.id.as_str()).collect();
            return Err(Error::Usage(format!("--only: no case {unknown:?}; there are {}", ids.join(", "))));
        }
        let chosen = |case: &Case| self.only.is_empty() || self.only.contains(&case.id);
        Ok(cases.into_iter().filter(chosen).collect())
    }
}

/// What all cases are measured with.
struct Bench<'a> {
    isa: Isa,
    pool: &'a Pool,
    machine: &'a Machine,
    torch: Option<Torch>,
}

impl Bench<'_> {
    fn measure(&mut self, case: &Case) -> Result<Figures, Error> {
        match case.dtype {
            Dtype::F32 => self.measure_in::<f32>(case),
            Dtype::Bf16 => self.measure_in::<bf16>(case),
            Dtype::F16 => self.measure_in::<f16>(case),
        }
    }

    /// Checks both sides, then times them in turn.
    fn measure_in<T: Stored>(&mut self, case: &Case) -> Result<Figures, Error> {
        let inputs = Inputs::<T>::random(case);
        let reference = Reference::new(case, &inputs, self.pool);
        let mut ours = Ours::new(case, &inputs, self.isa, self.pool)?;
        ours.call()?;
        let accuracy = Accuracy { error: reference.error(|at| ours.out[at].to_f32()), bound: reference.bound };
        let peer_accuracy = match &mut self.torch {
            None => None,
            Some(torch) => {
                let out = torch.prepare(case, &inputs)?;
                Some(Accuracy { error: reference.error(|at| out[at]), ..accuracy })
            }
        };
        drop(reference);

        let work = Work::of(case, ours.plan().live_pairs(), self.isa);
        let mut probe = Probe::new(self.machine, self.isa, work);
        let torch = &mut self.torch;
        let step = |calls| torch.as_mut().map_or(Ok(Vec::new()), |torch| torch.step(calls));
        let times = alternate(|| Ok(ours.call()?), step, || probe.sample())?;
        let rates = probe.rates();
        let (limit, limited_by) = work.limit(rates);
        let (calls, seconds) = (times.ours.len(), median(times.ours));
        let peer = self.torch.as_ref().map(|torch| PeerFigures {
            name: torch.name.clone(),
            seconds: median(times.peer),
            accuracy: peer_accuracy,
        });
        let share_of_best = limit::forced(self.isa).map(|_| work.flops / rates.best_f32 / seconds);
        Ok(Figures {
            seconds,
            calls,
            flops: work.flops,
            bytes: work.bytes,
            tokens: None,
            limit,
            limited_by,
            share_of_best,
            accuracy: Some(accuracy),
            peer,
        })
    }
}

/// # Errors
/// [`Error::Wrong`] with the cases whose results are.
fn judge(rows: &[Row]) -> Result<(), Error> {
    let is_wrong = |accuracy: &Option<Accuracy>| accuracy.is_some_and(|accuracy| !accuracy.is_right());
    let mut wrong = Vec::new();
    for row in rows {
        let Outcome::Measured(figures) = &row.outcome else { continue };
        if is_wrong(&figures.accuracy) {
            wrong.push(row.id.clone());
        }
        if let Some(peer) = figures.peer.as_ref().filter(|peer| is_wrong(&peer.accuracy)) {
            wrong.push(format!("{} by {}", row.id, peer.name));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::Wrong { cases: wrong.join(", ") }) }
}
