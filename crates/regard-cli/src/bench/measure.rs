//! The clock: calls of both sides in turn, and what is made of their times.

use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;

/// Rounds in which each side has its turn.
pub(crate) const FEWEST_ROUNDS: usize = 7;
const MOST_ROUNDS: usize = 21;

/// Short calls are repeated within a turn until it is about this long.
const TURN: Duration = Duration::from_millis(10);
const MOST_CALLS: usize = 64;

/// Beyond the fewest rounds, our side is given no more time than this.
const ENOUGH: Duration = Duration::from_millis(1500);

/// Cores and threads that rested while the other side had its turn are slow at first: a call of 1.4 ms took 2.8 after 300 ms of
/// rest. So long they work before they are timed.
const WAKING: Duration = Duration::from_millis(25);

/// A call as long as this is hardly longer for it, and counts at once.
const LONG: Duration = Duration::from_millis(100);

/// Our pool's threads look for work for 50 µs before they sleep: by now they do.
const REST: Duration = Duration::from_millis(1);

/// Seconds of single calls.
#[derive(Debug, Default)]
pub(crate) struct Times {
    pub(crate) ours: Vec<f64>,
    pub(crate) peer: Vec<f64>,
}

/// Times `ours`, after it has been called once untimed, in turn with `peer`, which makes so many calls and gives the
/// seconds of each, and with `between`, which measures something else once a round, on cores that are awake.
///
/// # Errors
/// Whatever a side refuses with.
pub(crate) fn alternate(
    mut ours: impl FnMut() -> Result<(), Error>,
    mut peer: impl FnMut(usize) -> Result<Vec<f64>, Error>,
    mut between: impl FnMut(),
) -> Result<Times, Error> {
    let calls = calls_of_a_turn(timed(&mut ours)?);
    let (mut times, mut rounds, mut spent) = (Times::default(), 0, 0.0);
    while rounds < FEWEST_ROUNDS || (rounds < MOST_ROUNDS && spent < ENOUGH.as_secs_f64()) {
        let seconds = turn(calls, &mut ours)?;
        spent += seconds.iter().sum::<f64>();
        times.ours.extend(seconds);
        between();
        thread::sleep(REST);
        times.peer.extend(peer(calls)?);
        rounds += 1;
    }
    Ok(times)
}

/// Calls that make up a turn, each of so many seconds.
pub(crate) fn calls_of_a_turn(seconds: f64) -> usize {
    ((TURN.as_secs_f64() / seconds.max(1e-9)).ceil() as usize).clamp(1, MOST_CALLS)
}

/// The seconds of so many calls, one after the other, on cores that are awake.
///
/// # Errors
/// Whatever they refuse with.
pub(crate) fn turn(calls: usize, mut call: impl FnMut() -> Result<(), Error>) -> Result<Vec<f64>, Error> {
    let (mut seconds, start) = (Vec::with_capacity(calls), Instant::now());
    while seconds.len() < calls {
        let awake = start.elapsed() >= WAKING;
        let last = timed(&mut call)?;
        if awake || last >= LONG.as_secs_f64() {
            seconds.push(last);
        }
    }
    Ok(seconds)
}

/// The seconds of a call.
///
/// # Errors
/// Whatever it refuses with.
pub(crate) fn timed(call: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
    let start = Instant::now();
    call()?;
    Ok(start.elapsed().as_secs_f64())
}

/// The middle of some numbers, or the mean of the middle two; NaN of none.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => numbers[len / 2],
        // Apart, so that two infinities make one.
        len if numbers[len / 2 - 1] == numbers[len / 2] => numbers[len / 2],
        len => (numbers[len / 2 - 1] + numbers[len / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn half_of_the_numbers_lie_on_each_side_of_the_median(numbers in prop::collection::vec(-1e3..1e3, 1..40)) {
            let middle = median(numbers.clone());
            let below = numbers.iter().filter(|&&x| x < middle).count();
            let above = numbers.iter().filter(|&&x| x > middle).count();
            prop_assert!(below <= numbers.len() / 2 && above <= numbers.len() / 2);
            prop_assert!(numbers.len() % 2 == 0 || numbers.contains(&middle));
            prop_assert!(numbers.len() % 2 == 1 || below == above || numbers.contains(&middle));
        }
    }

    #[test]
    fn medians_of_few() {
        assert!(median(vec![]).is_nan());
        assert_eq!(2.5, median(vec![4.0, 1.0, 2.0, 3.0]));
        assert_eq!(f64::INFINITY, median(vec![f64::INFINITY; 2]));
    }

    #[test]
    fn the_sides_take_turns_and_make_as_many_calls() {
        let log = std::cell::RefCell::new(Vec::new());
        let ours = || {
            log.borrow_mut().push('o');
            thread::sleep(Duration::from_millis(4));
            Ok(())
        };
        let peer = |calls| {
            log.borrow_mut().push('p');
            Ok(vec![0.5; calls])
        };
        let times = alternate(ours, peer, || log.borrow_mut().push('b')).unwrap();
        assert_eq!(times.ours.len(), times.peer.len());
        assert!(times.ours.len() >= FEWEST_ROUNDS && times.ours.iter().all(|&seconds| seconds >= 0.004));
        let log: String = log.into_inner().into_iter().collect();
        let turns = log.matches("obp").count();
        assert!(turns >= FEWEST_ROUNDS && log.ends_with("obp") && !log.contains("pp"), "{log}");
    }

    #[test]
    fn short_calls_wake_the_cores_before_they_count() {
        for (span, uncounted) in [(WAKING / 2, 2), (WAKING, 1), (LONG, 0)] {
            let mut made = 0;
            let call = || {
                made += 1;
                thread::sleep(span);
                Ok(())
            };
            assert_eq!(turn(2, call).unwrap().len(), 2);
            assert_eq!(made, 2 + uncounted, "{span:?}");
        }
    }

    #[test]
    fn a_side_that_refuses_ends_it() {
        let refuse = |_| Err(Error::Usage("no".into()));
        assert!(alternate(|| Ok(()), refuse, || ()).is_err());
        assert!(alternate(|| Err(Error::Usage("no".into())), |_| Ok(vec![]), || ()).is_err());
    }
}
