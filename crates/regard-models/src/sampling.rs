//! From logits to the next token.
//!
//! The order is llama.cpp's: repetition penalty, top-k, top-p, min-p, temperature, draw. So `top_p` and `min_p` look at
//! probabilities *before* the temperature, and a hot draw comes from the same tokens as a cold one.
//!
//! With the tokens sorted by falling logit (equal ones by rising id), each filter keeps a first stretch of that order,
//! so the three together keep its shortest one. Nothing is sorted further than somebody looks: the best few dozen tokens
//! are found in one pass over the vocabulary, and more only when they are asked for.
//!
//! The draw is keyed by the seed and the number of tokens drawn before, and by nothing else: the same logits give the
//! same text on any machine and any number of threads.

use std::collections::VecDeque;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use serde_json::Value;

use crate::{Error, Folder, Result};

/// How the next token is chosen. The defaults are llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits before the draw; 0 takes the best token without drawing. At least 0.
    pub temperature: f32,
    /// Keeps this many of the best tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest best tokens that hold this share of the probability; 1 keeps all. In `(0, 1]`.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the best; 0 keeps all. In `[0, 1]`.
    pub min_p: f32,
    /// Divides positive logits of recent tokens, and multiplies negative ones; 1 does nothing. Above 0.
    pub repeat_penalty: f32,
    /// How many of the last accepted tokens count as recent.
    pub repeat_last_n: usize,
    /// Key of the draws.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, repeat_penalty: 1.0, repeat_last_n: 64, seed: 0 }
    }
}

impl SamplingOptions {
    /// The best token, always.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every option against its range.
    ///
    /// # Errors
    /// [`Error::SamplingOption`] names the first one outside.
    pub fn validate(&self) -> Result<(), Error> {
        let check = |option, value: f32, allowed: bool, range| {
            let fine = allowed && value.is_finite();
            if fine { Ok(()) } else { Err(Error::SamplingOption { option, value, range }) }
        };
        check("temperature", self.temperature, self.temperature >= 0.0, "at least 0")?;
        check("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1")?;
        check("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1")?;
        check("repeat_penalty", self.repeat_penalty, self.repeat_penalty > 0.0, "above 0")
    }
}

/// How a model's makers sample its tokens: what the generation_config.json of its folder says, and `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preferences {
    /// That of [`SamplingOptions`]; 0 where the file says not to sample.
    pub temperature: Option<f32>,
    /// That of [`SamplingOptions`].
    pub top_k: Option<usize>,
    /// That of [`SamplingOptions`].
    pub top_p: Option<f32>,
    /// That of [`SamplingOptions`].
    pub min_p: Option<f32>,
    /// That of [`SamplingOptions`]: `repetition_penalty` in the file.
    pub repeat_penalty: Option<f32>,
}

impl Preferences {
    /// What a folder says.
    ///
    /// # Errors
    /// A setting is none, or outside its range.
    pub fn from_folder(folder: &Folder) -> Result<Preferences> {
        const NAME: &str = "generation_config.json";
        let settings = folder.settings(NAME)?;
        let refused = |key: &str, expected: &str| Error::Malformed {
            file: folder.path().join(NAME).display().to_string(),
            field: key.to_owned(),
            problem: format!("it is {}, expected {expected}", settings[key]),
        };
        let setting = |key: &str| Some(&settings[key]).filter(|value| !value.is_null());
        let number = |key: &str, expected: &str, allowed: &dyn Fn(f32) -> bool| match setting(key) {
            None => Ok(None),
            Some(value) => {
                let number = value.as_f64().map(|number| number as f32).filter(|&number| allowed(number));
                number.map(Some).ok_or_else(|| refused(key, expected))
            }
        };
        let top_k = |value: &Value| value.as_u64().and_then(|k| usize::try_from(k).ok());
        let top_k = match setting("top_k") {
            None => None,
            Some(value) => Some(top_k(value).ok_or_else(|| refused("top_k", "a whole number, 0 or more"))?),
        };
        let temperature = number("temperature", "a number, at least 0", &|t| t.is_finite() && t >= 0.0)?;
        let samples = match setting("do_sample") {
            None => true,
            Some(value) => value.as_bool().ok_or_else(|| refused("do_sample", "true or false"))?,
        };
        Ok(Preferences {
            temperature: if samples { temperature } else { Some(0.0) },
            top_k,
            top_p: number("top_p", "a number above 0 and at most 1", &|p| p > 0.0 && p <= 1.0)?,
            min_p: number("min_p", "a number from 0 to 1", &|p| (0.0..=1.0).contains(&p))?,
            repeat_penalty: number("repetition_penalty", "a number above 0", &|r| r.is_finite() && r > 0.0)?,
        })
    }
}

/// Chooses tokens, one after another.
///
/// ```
/// use regard_models::sampling::{Sampler, SamplingOptions};
///
/// let mut sampler = Sampler::new(SamplingOptions { repeat_penalty: 2.0, ..SamplingOptions::greedy() }, 3)?;
/// let token = sampler.sample(&mut [0.5, 2.0, 1.5])?;
/// assert_eq!(token, 1);
/// sampler.accept(token);
/// assert_eq!(sampler.sample(&mut [0.5, 2.0, 1.5])?, 2);
/// # Ok::<(), regard_models::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    vocabulary: usize,
    generator: ChaCha8Rng,
    /// Draws so far.
    step: u64,
    /// The last accepted tokens, at most `repeat_last_n`.
    recent: VecDeque<u32>,
    /// `recent`, each once.
    distinct: Vec<u32>,
    ranking: Ranking,
}

impl Sampler {
    /// A sampler for logits of `vocabulary` tokens, which has accepted and drawn none.
    ///
    /// # Errors
    /// As [`SamplingOptions::validate`].
    pub fn new(options: SamplingOptions, vocabulary: usize) -> Result<Self, Error> {
        options.validate()?;
        let limit = if options.top_k == 0 { vocabulary } else { options.top_k.min(vocabulary) };
        // A longer memory is let grow: the number is the caller's, and may be absurd.
        let remembered = if options.repeat_penalty == 1.0 { 0 } else { options.repeat_last_n.min(1 << 16) };
        Ok(Self {
            vocabulary,
            generator: ChaCha8Rng::seed_from_u64(options.seed),
            step: 0,
            recent: VecDeque::with_capacity(remembered),
            distinct: Vec::with_capacity(remembered),
            ranking: Ranking::new(limit, vocabulary),
            options,
        })
    }

    /// The options it was made with.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Notes that `token` now stands in the text, whether drawn or given, for the repetition penalty.
    pub fn accept(&mut self, token: u32) {
        if self.options.repeat_penalty == 1.0 || self.options.repeat_last_n == 0 {
            return;
        }
        if self.recent.len() == self.options.repeat_last_n {
            self.recent.pop_front();
        }
        self.recent.push_back(token);
    }

    /// Forgets the accepted tokens: another text begins. Draws go on.
    pub fn forget(&mut self) {
        self.recent.clear();
    }

    /// Begins anew, as it was made: nothing is accepted, and the first draw is next.
    pub fn restart(&mut self) {
        self.forget();
        self.step = 0;
    }

    /// The next token for `logits` of `[vocabulary]`, which are left with the penalty applied.
    ///
    /// A logit of −∞ is a token that never comes. Nothing is allocated.
    ///
    /// # Errors
    /// [`Error::Logits`] when there are not `vocabulary` of them, one is NaN or +∞, or all are −∞. Nothing is drawn
    /// then.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32, Error> {
        if logits.len() != self.vocabulary {
            return Err(Error::Logits(format!("{} were given for {} tokens", logits.len(), self.vocabulary)));
        }
        self.penalise(logits);
        let best = best(logits)?;
        if self.options.temperature == 0.0 {
            return Ok(best);
        }
        // Logits relative to the largest: every exponential below lies in [0, 1], and the largest is 1.
        let peak = f64::from(logits[best as usize]);
        self.ranking.start();
        let kept = self.kept(logits, peak);
        Ok(self.draw(logits, peak, kept))
    }

    fn penalise(&mut self, logits: &mut [f32]) {
        if self.recent.is_empty() {
            return;
        }
        self.distinct.clear();
        self.distinct.extend(&self.recent);
        self.distinct.sort_unstable();
        self.distinct.dedup();
        for &token in &self.distinct {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 {
                    *logit / self.options.repeat_penalty
                } else {
                    *logit * self.options.repeat_penalty
                };
            }
        }
    }

    /// How many of the best tokens pass top-k, top-p and min-p; at least one.
    fn kept(&mut self, logits: &[f32], peak: f64) -> usize {
        let SamplingOptions { top_p, min_p, .. } = self.options;
        let limit = self.ranking.limit;
        if top_p == 1.0 && min_p == 0.0 {
            return limit;
        }
        let share = if top_p < 1.0 {
            f64::from(top_p) * self.mass(logits, limit, |logit| (logit - peak).exp())
        } else {
            f64::INFINITY
        };
        // Compared as logits: ln 0 = −∞ keeps all.
        let floor = peak + f64::from(min_p).ln();
        let mut mass = 0.0;
        for rank in 0..limit {
            let logit = f64::from(self.ranking.at(logits, rank).logit);
            if mass >= share || logit < floor {
                return rank.max(1);
            }
            mass += (logit - peak).exp();
        }
        limit
    }

    /// Draws one of the `kept` best tokens by their probabilities at the temperature.
    fn draw(&mut self, logits: &[f32], peak: f64, kept: usize) -> u32 {
        let temperature = f64::from(self.options.temperature);
        let weight = |logit: f64| ((logit - peak) / temperature).exp();
        let total = self.mass(logits, kept, weight);
        let mut left = self.uniform() * total;
        for rank in 0..kept - 1 {
            let candidate = self.ranking.at(logits, rank);
            left -= weight(f64::from(candidate.logit));
            if left < 0.0 {
                return candidate.token;
            }
        }
        // Reached by the last token's share, and where the sums round differently.
        let mut last = kept - 1;
        while last > 0 && weight(f64::from(self.ranking.at(logits, last).logit)) == 0.0 {
            last -= 1;
        }
        self.ranking.at(logits, last).token
    }

    /// Sum of the weights of the `count` best tokens.
    fn mass(&mut self, logits: &[f32], count: usize, weight: impl Fn(f64) -> f64) -> f64 {
        if count == logits.len() {
            // The whole needs no order.
            return logits.iter().map(|&logit| weight(f64::from(logit))).sum();
        }
        (0..count).map(|rank| weight(f64::from(self.ranking.at(logits, rank).logit))).sum()
    }

    /// A number in `[0, 1)` that depends on the seed and the step alone.
    fn uniform(&mut self) -> f64 {
        // A stream of its own for each step: how much randomness one step takes never moves the next.
        self.generator.set_stream(self.step);
        self.generator.set_word_pos(0);
        self.step += 1;
        // 53 bits are what an f64 holds below 1.
        (self.generator.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The token of the largest logit, the lowest of equal ones.
fn best(logits: &[f32]) -> Result<u32, Error> {
    let (mut best, mut peak) = (0, f32::NEG_INFINITY);
    for (token, &logit) in (0_u32..).zip(logits) {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(Error::Logits(format!("that of token {token} is {logit}")));
        }
        if logit > peak {
            (best, peak) = (token, logit);
        }
    }
    if peak == f32::NEG_INFINITY {
        return Err(Error::Logits("every one is -inf, so no token is possible".into()));
    }
    Ok(best)
}

/// A token and its logit.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    logit: f32,
    token: u32,
}

impl Candidate {
    /// Falling logits, then rising ids. No logit is NaN here.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        other.logit.partial_cmp(&self.logit).unwrap_or(std::cmp::Ordering::Equal).then(self.token.cmp(&other.token))
    }
}

/// The tokens by falling logit, known as far as somebody has looked.
#[derive(Clone, Debug)]
struct Ranking {
    /// How far anybody may look.
    limit: usize,
    /// The best tokens, in order.
    best: Vec<Candidate>,
}

impl Ranking {
    /// A first look: what the usual filters need.
    const LOOK: usize = 64;
    /// Each further look is deeper by this factor, so that all looks together cost little more than the last.
    const DEEPER: usize = 8;

    fn new(limit: usize, vocabulary: usize) -> Self {
        Self { limit, best: Vec::with_capacity(limit.saturating_mul(2).min(vocabulary)) }
    }

    /// Forgets the tokens of another step.
    fn start(&mut self) {
        self.best.clear();
    }

    /// The token of rank `rank < limit`.
    fn at(&mut self, logits: &[f32], rank: usize) -> Candidate {
        if rank >= self.best.len() {
            let depth = (self.best.len() * Self::DEEPER).max(Self::LOOK).max(rank + 1);
            self.look(logits, depth.min(self.limit));
        }
        self.best[rank]
    }

    /// Finds the `depth` best tokens in one pass: whatever beats the worst of the best so far is set aside, and the
    /// heap of these is cut back to the best whenever it has twice their number.
    fn look(&mut self, logits: &[f32], depth: usize) {
        self.best.clear();
        let mut bar = f32::NEG_INFINITY;
        for (token, &logit) in (0_u32..).zip(logits) {
            // An equal logit of a higher id never wins a place that is taken.
            if logit > bar || self.best.len() < depth {
                self.best.push(Candidate { logit, token });
                if self.best.len() == 2 * depth {
                    self.best.select_nth_unstable_by(depth - 1, Candidate::order);
                    self.best.truncate(depth);
                    bar = self.best[depth - 1].logit;
                }
            }
        }
        self.best.sort_unstable_by(Candidate::order);
        self.best.truncate(depth);
    }
}

#[cfg(test)]
mod tests;
