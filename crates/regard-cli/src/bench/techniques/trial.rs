//! One piece of work in several ways, which take turns.

use crate::bench::measure::{calls_of_a_turn, median, timed};
use crate::error::Error;

/// Turns of each way.
pub(crate) const ROUNDS: usize = 15;

/// Work, and the ways in which it is done: the first as Regard does it.
pub(crate) struct Trial<'a> {
    /// In words.
    pub(crate) work: String,
    pub(crate) ways: Vec<Way<'a>>,
    /// Numbers of the result, which every way must give the same bits of.
    pub(crate) numbers: usize,
}

/// A way to do it.
pub(crate) struct Way<'a> {
    name: String,
    /// Writes the result.
    run: Run<'a>,
}

type Run<'a> = Box<dyn FnMut(&mut [f32]) -> Result<(), regard_attention::Error> + 'a>;

impl<'a> Way<'a> {
    pub(crate) fn new(
        name: impl Into<String>,
        run: impl FnMut(&mut [f32]) -> Result<(), regard_attention::Error> + 'a,
    ) -> Way<'a> {
        Way { name: name.into(), run: Box::new(run) }
    }
}

/// What came of a trial.
#[derive(Clone, Debug)]
pub(crate) enum Finding {
    /// The times of all ways.
    Measured { work: String, ways: Vec<Timed> },
    /// What this machine cannot show, and why.
    Skipped { work: String, why: String },
}

/// A way's times.
#[derive(Clone, Debug)]
pub(crate) struct Timed {
    pub(crate) name: String,
    /// The median of its turns, each the median of its calls.
    pub(crate) seconds: f64,
    /// Its times as multiples of the first way's of the same round: the median, and all but the least and the largest.
    pub(crate) ratio: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Timed {
    /// Whether it is another time than the first way's. By chance 14 of 15 rounds fall on one side once in a thousand times.
    pub(crate) fn differs(&self) -> bool {
        self.low > 1.0 || self.high < 1.0
    }
}

impl Trial<'_> {
    /// Does the work in all ways, in turn.
    ///
    /// # Errors
    /// The engine refuses, or two ways give other results.
    pub(crate) fn measure(mut self) -> Result<Finding, Error> {
        let mut results = vec![vec![f32::NAN; self.numbers]; self.ways.len()];
        // Untimed: memory is touched, and the results are compared.
        let mut calls = Vec::new();
        for (way, result) in self.ways.iter_mut().zip(&mut results) {
            (way.run)(result)?;
            calls.push(calls_of_a_turn(timed(|| Ok((way.run)(result)?))?));
        }
        let bits = |result: &[f32]| result.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (way, result) in self.ways.iter().zip(&results) {
            if bits(result) != bits(&results[0]) {
                return Err(Error::Wrong { cases: format!("{}: {}", self.work, way.name) });
            }
        }
        // As many calls of each: what a call finds in the caches is what the one before left.
        let calls = calls.into_iter().max().unwrap_or(1);
        let count = self.ways.len();
        let mut turns = vec![Vec::new(); count];
        for round in 0..ROUNDS {
            for at in (0..count).map(|at| (at + round) % count) {
                let (run, result) = (&mut self.ways[at].run, &mut results[at]);
                run(result)?;
                let times = (0..calls).map(|_| timed(|| Ok(run(result)?))).collect::<Result<Vec<f64>, Error>>()?;
                turns[at].push(median(times));
            }
        }
        let ways = self.ways.into_iter().zip(&turns).map(|(way, times)| compare(way.name, times, &turns[0])).collect();
        Ok(Finding::Measured { work: self.work, ways })
    }
}

/// A way's turns beside those of the first.
fn compare(name: String, turns: &[f64], first: &[f64]) -> Timed {
    let mut ratios: Vec<f64> = turns.iter().zip(first).map(|(time, first)| time / first).collect();
    ratios.sort_by(f64::total_cmp);
    let last = ratios.len() - 1;
    let (low, high) = (ratios[1.min(last)], ratios[last.saturating_sub(1)]);
    Timed { name, seconds: median(turns.to_vec()), ratio: median(ratios), low, high }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_difference_is_what_all_rounds_but_one_agree_on() {
        let first = [1.0; 15];
        let with = |times: [f64; 3]| {
            let turns: Vec<f64> = times[..2].iter().copied().chain(std::iter::repeat_n(times[2], 13)).collect();
            compare("way".into(), &turns, &first)
        };
        let slower = with([0.5, 1.2, 1.3]);
        assert!(slower.differs() && (slower.ratio, slower.low, slower.high) == (1.3, 1.2, 1.3));
        assert!(with([0.7, 1.5, 0.8]).differs());
        assert!(!with([0.5, 0.9, 1.3]).differs() && !with([1.0, 1.0, 1.0]).differs());
        assert_eq!(compare("way".into(), &[3.0], &[2.0]).ratio, 1.5);
    }

    #[test]
    fn ways_take_turns_and_are_the_first_in_turn() {
        let log = RefCell::new(String::new());
        let way = |name: char| {
            let log = &log;
            Way::new(name, move |result| {
                log.borrow_mut().push(name);
                std::thread::sleep(std::time::Duration::from_millis(11));
                result.fill(3.0);
                Ok(())
            })
        };
        let trial = Trial { work: "sleep".into(), ways: vec![way('a'), way('b')], numbers: 2 };
        let Finding::Measured { ways, .. } = trial.measure().unwrap() else { panic!("it was measured") };
        assert_eq!((ways.len(), ways[0].ratio), (2, 1.0));
        assert!(log.borrow().starts_with("aabb") && log.borrow()[4..].starts_with("aabbbbaaaabb"), "{log:?}");
        assert_eq!(log.borrow().len(), 4 + 4 * ROUNDS);
    }

    #[test]
    fn another_result_is_an_error() {
        let way = |x: f32| {
            Way::new(x.to_string(), move |result: &mut [f32]| {
                result.fill(x);
                Ok(())
            })
        };
        let trial = Trial { work: "zeros".into(), ways: vec![way(0.0), way(-0.0)], numbers: 1 };
        assert_eq!(trial.measure().unwrap_err().to_string(), "wrong results: zeros: -0");
    }
}
