//! How many guesses pay: by what runs of the model take, and by how often guesses have been right.

use std::time::Instant;

/// The most guesses that go through the model with a token.
const MOST: usize = 8;
/// Of so many runs one is without guesses.
const PLAIN: usize = 32;
/// The weight of a new observation.
const NEW: f64 = 0.2;
/// What a guess costs before any was seen, in plain runs.
const SHARE: f64 = 0.125;
/// A run counts as so many times what was expected of it at the most.
const HELD_UP: f64 = 3.0;
/// By so much, at each run, times that were seen of other numbers of guesses fall back to what they were thought to be: a
/// machine that was busy for a moment is not so for ever.
const FADE: f64 = 0.01;

/// Times of the runs, and the share of guesses that is right.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Seconds of a run with so many guesses, where one was seen.
    seconds: [Option<f64>; MOST + 1],
    /// Of guesses whose predecessors were right, the share that was right too.
    right: f64,
    /// Runs that were counted.
    runs: usize,
    /// Whether the next run without guesses, and the next one with some, is the first after a prompt.
    cold: [bool; 2],
}

impl Default for Pace {
    fn default() -> Self {
        Pace { seconds: [None; MOST + 1], right: 0.5, runs: 0, cold: [true; 2] }
    }
}

/// A run that is being timed.
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Clock {
        Clock(Instant::now())
    }
}

impl Pace {
    /// A prompt was read: the next run waits for threads and caches, and the first guesses for a draft that reads it too. They
    /// are not counted.
    pub(super) fn begin(&mut self) {
        self.cold = [true; 2];
    }

    /// How many guesses to try now: those with which a token is expected to take least. Now and then it is none, to know what
    /// that takes.
    pub(super) fn guesses(&self) -> usize {
        if self.seconds[0].is_none() || self.runs.is_multiple_of(PLAIN) {
            return 0;
        }
        let cost = |guesses: usize| self.expected_seconds(guesses) / expected_tokens(guesses, self.right);
        (0..=MOST).min_by(|&a, &b| cost(a).total_cmp(&cost(b))).unwrap_or(0)
    }

    /// Seconds of a run: as was seen, or with as much for each guess as in the nearest run that was seen, what made the guesses
    /// included; before any, an eighth of a token.
    fn expected_seconds(&self, guesses: usize) -> f64 {
        let plain = self.seconds[0].unwrap_or(1.0);
        if let Some(seconds) = self.seconds[guesses] {
            return seconds;
        }
        let nearest =
            (1..=MOST).filter(|&seen| self.seconds[seen].is_some()).min_by_key(|&seen| seen.abs_diff(guesses));
        let each = match nearest.and_then(|seen| Some((self.seconds[seen]? - plain) / seen as f64)) {
            Some(each) => each.max(0.0),
            None => SHARE * plain,
        };
        plain + each * guesses as f64
    }

    /// Notes how long a run with so many guesses took.
    pub(super) fn took(&mut self, guesses: usize, clock: Clock) {
        if !std::mem::replace(&mut self.cold[usize::from(guesses > 0)], false) {
            self.note(guesses, clock.0.elapsed().as_secs_f64());
        }
    }

    fn note(&mut self, guesses: usize, now: f64) {
        self.runs += 1;
        // One run that was held up tells little.
        let now = if guesses > 0 { now.min(HELD_UP * self.expected_seconds(guesses)) } else { now };
        if let Some(seconds) = self.seconds.get_mut(guesses) {
            *seconds = Some(seconds.map_or(now, |before| before + NEW * (now - before)));
        }
        if let Some(plain) = self.seconds[0] {
            for (other, seconds) in self.seconds.iter_mut().enumerate().skip(1).filter(|(other, _)| *other != guesses) {
                let thought = plain * (1.0 + SHARE * other as f64);
                *seconds = seconds.map(|before| before + FADE * (thought - before));
            }
        }
    }

    /// Notes that of so many guesses the first `right` were right.
    pub(super) fn fared(&mut self, right: usize, guesses: usize) {
        if guesses == 0 {
            // Texts change: after some tokens without guesses it is tried again.
            self.right += 0.02 * (0.5 - self.right);
        }
        for guess in 0..guesses.min(right + 1) {
            let was = if guess < right { 1.0 } else { 0.0 };
            self.right += NEW * (was - self.right);
        }
    }
}

/// Tokens that a run gives: its own, and the guesses up to the first wrong one.
fn expected_tokens(guesses: usize, right: f64) -> f64 {
    (0..=guesses as i32).map(|guess| right.powi(guess)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs by a law of their time, and guesses of which the law tells whether they are right.
    fn run(pace: &mut Pace, seconds: impl Fn(usize) -> f64, right: impl Fn(usize) -> usize) -> Vec<usize> {
        let tried = |_| {
            let guesses = pace.guesses();
            pace.note(guesses, seconds(guesses));
            pace.fared(right(guesses), guesses);
            guesses
        };
        (0..300).map(tried).collect()
    }

    fn mean(counts: &[usize]) -> f64 {
        counts.iter().sum::<usize>() as f64 / counts.len() as f64
    }

    #[test]
    fn guesses_are_made_where_they_pay() {
        let cheap = |guesses: usize| 1.0 + 0.1 * guesses as f64;
        let mut pace = Pace::default();
        assert!(mean(&run(&mut pace, cheap, |guesses| guesses)[100..]) > 6.0, "all are right");
        // The text has changed: hardly any, but it is tried again.
        let tried = run(&mut pace, cheap, |_| 0);
        assert!((0.01..0.6).contains(&mean(&tried[100..])), "all are wrong: {}", mean(&tried[100..]));
        // Where a guess costs what a token does, it pays only if it is as good as certain, and a draft that costs more never.
        let dear = |guesses: usize| 1.0 + 0.95 * guesses as f64;
        assert!(mean(&run(&mut Pace::default(), dear, |guesses| guesses / 2)[100..]) < 1.0);
        let draft = |guesses: usize| 1.0 + 1.2 * guesses as f64;
        assert!(mean(&run(&mut Pace::default(), draft, |guesses| guesses)[100..]) < 0.6);
    }

    #[test]
    fn a_moment_of_trouble_is_forgotten() {
        let mut pace = Pace::default();
        let trouble = |guesses: usize| if guesses == 0 { 1.0 } else { 20.0 };
        (0..3).for_each(|_| {
            let guesses = pace.guesses();
            pace.note(guesses, trouble(guesses));
            pace.fared(guesses, guesses);
        });
        let tried = run(&mut pace, |guesses| 1.0 + 0.1 * guesses as f64, |guesses| guesses);
        assert!(mean(&tried[200..]) > 6.0, "{}", mean(&tried[200..]));
    }
}
