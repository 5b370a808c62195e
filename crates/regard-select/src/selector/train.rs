//! Gradient descent on lessons.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_memory::each_of;
use regard_threads::Pool;

use crate::selector::head::Weights;
use crate::selector::lesson::{examples, units};
use crate::{Error, Lesson, Selector, check};

/// How a selector is trained: by Adam (Kingma and Ba, 2014) on all lessons at once, each head by itself, at a rate that falls to 0
/// along half a cosine. `A` and `B` decay apart from the gradient (Loshchilov and Hutter, 2017).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Training {
    /// Rows of `A` and `B`; 0 for none, then little but the distance is learned.
    pub rank: usize,
    /// Steps.
    pub steps: usize,
    /// How far a step goes at the most, at first.
    pub rate: f64,
    /// The share of `A` and `B` that a step takes away, beside the rate.
    pub decay: f64,
    /// What `A` is drawn from before training: the same seed gives the same bits, with any number of threads.
    pub seed: u64,
}

/// What did best on two windows beside eight that were learned from, in five layers of SmolLM2-135M: less decay fits those better
/// and others worse.
impl Default for Training {
    fn default() -> Self {
        Training { rank: 8, steps: 200, rate: 0.01, decay: 3.0, seed: 1 }
    }
}

/// What training has made.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The selector.
    pub selector: Selector,
    /// The [loss](Selector::loss) on the lessons before each step, and after the last.
    pub losses: Vec<f64>,
}

const FIRST_MOMENT: f64 = 0.9;
const SECOND_MOMENT: f64 = 0.999;
const TINY: f64 = 1e-8;

impl Selector {
    /// Trains a selector on lessons of one layer, which may be of different lengths.
    ///
    /// # Errors
    /// [`Error::Parameter`] where there are no lessons, or for a rate or a decay that is negative or not finite; [`Error::Axis`]
    /// where lessons differ in their heads; [`Error::Diverged`] where the rate is too high.
    pub fn train(lessons: &[Lesson], training: &Training) -> Result<Trained, Error> {
        check::at_least_one("lessons", lessons.len())?;
        for (parameter, has) in [("rate", training.rate), ("decay", training.decay)] {
            check::within(parameter, has, has >= 0.0 && has.is_finite(), "0 or above, and finite")?;
        }
        let heads = lessons[0].heads();
        for lesson in lessons {
            let has = lesson.heads();
            check::extent("lesson", "heads", has.heads, heads.heads)?;
            check::extent("lesson", "key/value heads", has.kv_heads, heads.kv_heads)?;
            check::extent("lesson", "dim", has.dim, heads.dim)?;
        }
        let mut of_heads: Vec<Option<Run>> = vec![None; heads.heads];
        Pool::global().run(each_of(&mut of_heads), |head, run| *run = Some(Run::of(lessons, head, training)));
        let runs: Vec<Run> = of_heads.into_iter().flatten().collect();
        if let Some((head, run)) = runs.iter().enumerate().find(|(_, run)| !run.losses.iter().all(|x| x.is_finite())) {
            let steps = run.losses.iter().take_while(|x| x.is_finite()).count();
            return Err(Error::Diverged { head, steps, rate: training.rate });
        }
        let masses: Vec<f64> = runs.iter().map(|run| run.mass).collect();
        let loss = |step: usize| {
            let losses: Vec<f64> = runs.iter().map(|run| run.losses[step] * run.mass).collect();
            mean(&losses, &masses)
        };
        let losses = (0..=training.steps).map(loss).collect();
        let selector = Selector { dim: heads.dim, heads: runs.into_iter().map(|run| run.weights).collect() };
        Ok(Trained { selector, losses })
    }
}

/// A sum over heads as a mean over their masses.
pub(crate) fn mean(sums: &[f64], masses: &[f64]) -> f64 {
    let mass: f64 = masses.iter().sum();
    if mass > 0.0 { sums.iter().sum::<f64>() / mass } else { 0.0 }
}

/// The training of one head.
#[derive(Clone, Debug)]
struct Run {
    weights: Weights,
    losses: Vec<f64>,
    /// What its lessons have to choose from.
    mass: f64,
}

impl Run {
    fn of(lessons: &[Lesson], head: usize, training: &Training) -> Run {
        let &Training { rank, steps, rate, decay, seed } = training;
        let units = units(lessons, head);
        let examples = examples(lessons, head, units);
        let mut weights = Weights::drawn(lessons[0].heads().dim, rank, units, seed, head);
        let [_, a, b] = weights.ranges();
        let mut moments = vec![[0.0; 2]; weights.len()];
        let mut losses = Vec::with_capacity(steps + 1);
        for step in 0..steps {
            let (loss, gradient) = weights.gradient(&examples);
            losses.push(loss);
            let rate = rate * 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
            // Moments start at 0 and would be too small at first.
            let grown = |moment: f64| 1.0 - moment.powi(step as i32 + 1);
            weights.numbers[a.start..b.end].iter_mut().for_each(|weight| *weight -= rate * decay * *weight);
            for ((weight, [first, second]), slope) in
                weights.numbers.iter_mut().zip(&mut moments).zip(&gradient.numbers)
            {
                *first += (1.0 - FIRST_MOMENT) * (slope - *first);
                *second += (1.0 - SECOND_MOMENT) * (slope * slope - *second);
                *weight -= rate * (*first / grown(FIRST_MOMENT)) / ((*second / grown(SECOND_MOMENT)).sqrt() + TINY);
            }
        }
        losses.push(weights.loss(&examples));
        let mass = examples.iter().map(|example| example.mass).sum();
        Run { weights, losses, mass }
    }
}

impl Weights {
    /// Those before training: block routing, with an `A` that keeps the size of what it is applied to.
    fn drawn(dim: usize, rank: usize, units: crate::selector::head::Units, seed: u64, head: usize) -> Weights {
        let mut weights = Weights::zeros(dim, rank, units);
        weights.numbers[0] = 1.0;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(head as u64);
        // Uniform numbers in ±√3 have a variance of 1.
        let most = (3.0 / (dim + 1) as f64).sqrt();
        let [_, a, _] = weights.ranges();
        weights.numbers[a].iter_mut().for_each(|weight| *weight = random.random_range(-most..=most));
        weights
    }
}
