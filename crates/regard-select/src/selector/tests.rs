//! The gradient that is written out, against the loss itself.

use ndarray::Array4;
use proptest::prelude::*;
use regard_attention::Direction;
use regard_oracle::numbers;

use crate::selector::head::Weights;
use crate::selector::lesson::{examples, units};
use crate::{Lesson, Select};

fn lesson(seed: u64, [batch, heads, kv_heads, tokens]: [usize; 4], direction: Direction) -> Lesson {
    let draw = |stream, heads, size: f32| {
        let of = numbers(seed * 2 + stream, batch * heads * tokens * 5);
        Array4::from_shape_vec((batch, heads, tokens, 5), of.iter().map(|x| x * size).collect()).unwrap()
    };
    let (q, k) = (draw(0, heads, 2.0), draw(1, kv_heads, 3.0));
    Select::new(q.view(), k.view()).block(4).direction(direction).lesson().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every parameter, over lessons of several lengths and batch entries.
    #[test]
    fn the_gradient_is_that_of_the_loss(seed in 0..1000_u64, tokens in 1..40_usize, rank in 0..4_usize, both: bool) {
        let direction = if both { Direction::Both } else { Direction::Causal };
        let lessons = [lesson(seed, [2, 4, 2, tokens], direction), lesson(seed + 7, [1, 4, 2, 30], direction)];
        let units = units(&lessons, 3);
        let examples = examples(&lessons, 3, units);
        let mut weights = Weights::zeros(5, rank, units);
        let drawn = numbers(seed + 3, weights.len());
        weights.numbers.iter_mut().zip(drawn).for_each(|(weight, x)| *weight = 0.5 * f64::from(x));
        let (loss, gradient) = weights.gradient(&examples);
        prop_assert!((loss - weights.loss(&examples)).abs() <= 1e-12 * loss.abs());
        let largest = gradient.numbers.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        prop_assert!(largest > 1e-3, "something is to be learned: {largest}");
        for at in 0..weights.len() {
            let step = 1e-5;
            let moved = |by: f64| {
                let mut weights = weights.clone();
                weights.numbers[at] += by;
                weights.loss(&examples)
            };
            // Of fourth order.
            let difference = (8.0 * (moved(step) - moved(-step)) - (moved(2.0 * step) - moved(-2.0 * step))) / (12.0 * step);
            let error = (difference - gradient.numbers[at]).abs();
            prop_assert!(error <= 1e-8 * (1.0 + largest), "{at}: {} and {difference}", gradient.numbers[at]);
        }
    }
}
