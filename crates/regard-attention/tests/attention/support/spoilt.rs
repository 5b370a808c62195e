//! Calls with a few numbers that are none.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use regard_oracle::Problem;

/// A tensor, a number of it, and what is put there.
pub(crate) type Place = (usize, Index, f32);

/// NaN or an infinity in a few places of the tensors, most of them of keys and values; few, so that most rows stay sound.
pub(crate) fn places() -> impl Strategy<Value = Vec<Place>> {
    let odd = select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    let tensor = select(vec![0, 1, 1, 1, 2, 2, 2, 3, 4, 5]);
    prop::collection::vec((tensor, any::<Index>(), odd), 1..6)
}

/// A problem with these numbers in it.
///
/// Slopes are gentle, so that no weight of a pair that is kept is 0 in f32 alone: 0·∞ would be NaN there, and ∞ in f64.
pub(crate) fn spoil(mut problem: Problem, places: &[Place]) -> Problem {
    let longest = (problem.sizes.queries + problem.sizes.keys) as f32;
    if let Some(slopes) = &mut problem.slopes {
        slopes.iter_mut().for_each(|slope| *slope = slope.min(10.0 / longest));
    }
    for (tensor, at, odd) in places {
        let Problem { q, k, v, dout, dlse, bias, .. } = &mut problem;
        let numbers = match tensor {
            0 => Some(q),
            1 => Some(k),
            2 => Some(v),
            3 => Some(dout),
            4 => Some(dlse),
            _ => bias.as_mut().map(|(_, values)| values),
        };
        if let Some(numbers) = numbers.filter(|numbers| !numbers.is_empty()) {
            let at = at.index(numbers.len());
            numbers[at] = *odd;
        }
    }
    problem
}

/// Problems with odd numbers in them.
pub(crate) fn spoilt(problems: impl Strategy<Value = Problem>) -> impl Strategy<Value = Problem> {
    (problems, places()).prop_map(|(problem, places)| spoil(problem, &places))
}
