//! A whole model: what it takes to load it, to take in a prompt, and to go on by a token, beside llama.cpp.

use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_kernels::peak::{Machine, Unit};
use regard_models::gguf::Gguf;
use regard_models::{CacheDtype, Description, LoadOptions, Model, Session};
use regard_simd::Isa;

use crate::bench::Results;
use crate::bench::case::Target;
use crate::bench::limit::{Probe, Work};
use crate::bench::llama::Llama;
use crate::bench::measure::{alternate, median};
use crate::bench::report::{Accuracy, Amount, Figures, PeerFigures};
use crate::bench::tokens::Tokens;
use crate::error::Error;

/// Tokens of the prompts, where the context holds them and what a turn adds.
const DEPTHS: [usize; 3] = [512, 1536, 4096];

/// Tokens at a prompt's end that are also taken in one by one.
const ONE_BY_ONE: usize = 16;

/// Tokens of a call that goes on: texts are written one token after the other, and a first one alone finds the caches full
/// of what the other side did.
const RUN: usize = 16;

/// The largest difference between the two ways, beside the largest logit. Keys are added up in another order where a
/// token's are shared out among the cores, and the cache's bf16 makes more of that: 0.0023 was seen after 4096 tokens, and
/// 0.0094 where one token in 512 was another.
const BOUND: f64 = 0.005;

/// A whole model to be measured.
pub(crate) trait Subject {
    /// What can be measured.
    fn ids(&self) -> Vec<String>;

    /// Measures what is chosen, in turn with the peer where a Python is given for it.
    ///
    /// # Errors
    /// Either side refuses.
    fn measure(
        &self,
        machine: &Machine,
        chosen: &[String],
        python: Option<&Path>,
        results: &mut Results,
    ) -> Result<(), Error>;
}

/// A decoder's file, and what it is to be measured with.
pub(crate) struct DecoderSubject {
    path: PathBuf,
    bytes: f64,
    tokens: Tokens,
    vocabulary: usize,
    depths: Vec<usize>,
    isa: Isa,
    threads: usize,
}

impl DecoderSubject {
    /// # Errors
    /// The file is no model that runs here, or the context holds none of the prompts.
    pub(crate) fn open(path: &Path, isa: Isa, threads: usize, context: Option<usize>) -> Result<Self, Error> {
        let file = Gguf::open(path)?;
        let description = Description::from_gguf(&file)?;
        let (vocabulary, limit) = (description.vocabulary, description.context);
        let context = context.unwrap_or(limit);
        let depths: Vec<_> = DEPTHS.into_iter().filter(|depth| depth + RUN <= context).collect();
        if depths.is_empty() {
            let least = DEPTHS[0] + RUN;
            let file = path.display();
            return Err(Error::Usage(format!("{file}: a context of {context} tokens is too short: --context {least}")));
        }
        let bytes = file.tensors().iter().map(|tensor| tensor.bytes as f64).sum();
        let tokens = Tokens::new(&file, description, isa)?;
        Ok(DecoderSubject { path: path.to_owned(), bytes, tokens, vocabulary, depths, isa, threads })
    }
}

impl Subject for DecoderSubject {
    fn ids(&self) -> Vec<String> {
        let both = self.depths.iter().flat_map(|depth| [format!("prompt-{depth}"), format!("token-{depth}")]);
        std::iter::once("load".to_owned()).chain(both).collect()
    }

    fn measure(
        &self,
        machine: &Machine,
        chosen: &[String],
        python: Option<&Path>,
        results: &mut Results,
    ) -> Result<(), Error> {
        let is_chosen = |id: &String| chosen.contains(id);
        let options = LoadOptions { threads: Some(self.threads), isa: Some(self.isa) };
        let mut clock = Clock { machine, isa: self.isa, peer: None };
        let load = "load".to_owned();
        if is_chosen(&load) {
            let read = Work { flops: 0.0, unit: Unit::F32, bytes: self.bytes };
            let ours = || Ok(Model::load(&self.path, &options).map(drop)?);
            results.measure(&load, || clock.time(&[read], None, Vec::new(), ours, |_| Ok(Vec::new())))?;
        }
        let ids = |depth: usize| ["prompt", "token"].map(|what| format!("{what}-{depth}"));
        let depths: Vec<_> = self.depths.iter().copied().filter(|&depth| ids(depth).iter().any(is_chosen)).collect();
        let Some(&deepest) = depths.last() else { return Ok(()) };

        let model = Model::load(&self.path, &options)?;
        let context = deepest + RUN;
        let mut session = model.session(context, CacheDtype::Bf16)?;
        let mut llama = python.map(|python| Llama::start(python, &self.path, context, self.threads)).transpose()?;
        clock.peer = llama.as_ref().map(|llama| llama.name.clone());
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let tokens: Vec<u32> = (0..deepest).map(|_| random.random_range(0..self.vocabulary as u32)).collect();
        for depth in depths {
            let [prompt, token] = ids(depth);
            let accuracy = vec![check(&mut session, &tokens[..depth])?];
            if is_chosen(&prompt) {
                let ours = || {
                    session.truncate(0);
                    Ok(session.feed(&tokens[..depth]).map(drop)?)
                };
                let peer = |calls| llama.as_mut().map_or(Ok(Vec::new()), |llama| llama.prompts(depth, calls));
                let work = self.tokens.work(0, depth);
                results.measure(&prompt, || clock.time(&work, tokens_of(depth), accuracy.clone(), ours, peer))?;
            }
            if is_chosen(&token) {
                let ours = || {
                    session.truncate(depth);
                    tokens[..RUN].chunks(1).try_for_each(|token| Ok(session.feed(token).map(drop)?))
                };
                let peer = |calls| llama.as_mut().map_or(Ok(Vec::new()), |llama| llama.tokens(depth, RUN, calls));
                let both = |a: Vec<Work>, b: Vec<Work>| a.into_iter().zip(b).map(|(a, b)| a.and(b)).collect();
                let works = (depth..depth + RUN).map(|depth| self.tokens.work(depth, 1));
                let work = works.reduce(both).unwrap_or_default();
                results.measure(&token, || clock.time(&work, tokens_of(RUN), accuracy, ours, peer))?;
            }
        }
        Ok(())
    }
}

fn tokens_of(count: usize) -> Option<Amount> {
    Some(Amount { count, of: "tokens" })
}

/// Takes tokens in at once, then their end one by one, and compares the logits after the last.
fn check(session: &mut Session<'_>, tokens: &[u32]) -> Result<Accuracy, Error> {
    session.truncate(0);
    let at_once = session.feed(tokens)?.to_vec();
    let end = tokens.len() - ONE_BY_ONE;
    session.truncate(end);
    for token in &tokens[end..tokens.len() - 1] {
        session.feed(&[*token])?;
    }
    let one_by_one = session.feed(&tokens[tokens.len() - 1..])?;
    // In the total order a NaN is the largest.
    let most = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(f32::abs).max_by(f32::total_cmp).unwrap_or(0.0);
    let difference = most(&mut at_once.iter().zip(one_by_one).map(|(a, b)| a - *b));
    Ok(Accuracy { of: "logits", error: f64::from(difference / most(&mut at_once.iter().copied())), bound: BOUND })
}

/// What times are taken with.
pub(crate) struct Clock<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) isa: Isa,
    /// The other side's name.
    pub(crate) peer: Option<String>,
}

impl Clock<'_> {
    /// Times both sides in turn beside the limit of works that follow each other.
    pub(crate) fn time(
        &self,
        works: &[Work],
        amount: Option<Amount>,
        accuracy: Vec<Accuracy>,
        ours: impl FnMut() -> Result<(), Error>,
        peer: impl FnMut(usize) -> Result<Vec<f64>, Error>,
    ) -> Result<Figures, Error> {
        let mut probes: Vec<_> = works.iter().map(|&work| Probe::new(self.machine, self.isa, work)).collect();
        let times = alternate(ours, peer, || probes.iter_mut().for_each(Probe::sample))?;
        let limits: Vec<_> = probes.iter().map(Probe::limit).collect();
        let longest = limits.iter().max_by(|a, b| a.0.total_cmp(&b.0));
        let calls = times.peer.len();
        let peer = self.peer.clone().filter(|_| calls > 0);
        Ok(Figures {
            calls: times.ours.len(),
            seconds: median(times.ours),
            flops: works.iter().map(|work| work.flops).sum(),
            bytes: works.iter().map(|work| work.bytes).sum(),
            amount,
            limit: limits.iter().map(|(seconds, _)| seconds).sum(),
            limited_by: longest.map_or(Unit::Read, |&(_, unit)| unit),
            share_of_best: None,
            accuracy,
            memory: None,
            peer: peer.map(|name| PeerFigures { name, calls, seconds: median(times.peer), accuracy: Vec::new() }),
            target: Target::default(),
        })
    }
}
