//! The context that blocks share.

use regard_oracle::layers::{SharedContext, Tensor, Tensors, differences, sampled_rows};

use super::{drawn, random, same, vector};
use crate::close;

#[test]
fn rows_stand_over_all_of_a_sequence() {
    assert_eq!(sampled_rows(64, 32), (0..32).map(|r| 2 * r + 1).collect::<Vec<_>>());
    assert_eq!(sampled_rows(3, 32), [0, 1, 2]);
    assert_eq!(sampled_rows(7, 2), [1, 5]);
    for tokens in 33..64 {
        let rows = sampled_rows(tokens, 32);
        let steps: Vec<usize> = rows.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(rows.len(), 32, "{tokens}");
        assert!(steps.iter().all(|&step| step == 1 || step == 2), "{tokens}: {rows:?}");
        assert!(rows[0] == 0 && rows[31] >= tokens - 2 && rows[31] < tokens, "{tokens}: {rows:?}");
    }
}

#[test]
fn similarity_is_a_squashed_correlation() {
    let context = SharedContext::default();
    // Three channels over four tokens: one, its double moved and turned round, and one that never changes.
    let x: Vec<f64> = [1.0, 2.0, 4.0, 5.0].iter().flat_map(|&x| [x, 3.0 - 2.0 * x, 9.0]).collect();
    let sim = context.similarity(&Tensor::new(&[4, 3], x.clone()), &Tensor::new(&[4, 3], x));
    let one = 1f64.tanh();
    same(&sim, &Tensor::new(&[3, 3], vec![one, -one, 0.0, -one, one, 0.0, 0.0, 0.0, 0.0]));
    // Rows are of the input, columns of the output: uncorrelated channels on one side only.
    let x = Tensor::new(&[4, 2], vec![1.0, 1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0]);
    let y = Tensor::new(&[4, 2], vec![1.0, 0.0, -1.0, 0.0, 1.0, 0.0, -1.0, 0.0]);
    same(&context.similarity(&x, &y), &Tensor::new(&[2, 2], vec![one, 0.0, 0.0, 0.0]));
}

#[test]
fn the_context_follows_the_mean_of_the_sequences() {
    let context = SharedContext { rate: 0.25, rows: 32 };
    let s = random(1, &[3, 3]);
    let pair = |seed: u64, tokens: usize| (random(seed, &[tokens, 3]), random(seed + 1, &[tokens, 3]));
    let (one, short, other) = (pair(2, 40), pair(4, 1), pair(6, 5));
    let [a, b] = [&one, &other].map(|(x, y)| context.similarity(x, y));
    let exact = s.with(&a.plus(&b), |s, sum| 0.75 * s + 0.125 * sum);
    same(&context.updated(&s, &[one, short.clone(), other]), &exact);
    assert_eq!(context.updated(&s, &[short]), s);
}

#[test]
fn gradients_are_differences() {
    let at = drawn(1, [("x", &[2, 5, 3]), ("scale", &[1])]);
    let (s, g) = (random(3, &[3, 3]), random(4, &[2, 5, 3]));
    let value = |t: &Tensors| SharedContext::apply(&t["x"], &s, t["scale"].values[0]).dot(&g);
    let slopes = differences(&at, value);
    let (dx, dscale) = SharedContext::gradients(&at["x"], &s, at["scale"].values[0], &g);
    close(&slopes["x"].values, &dx.values, 1e-8).unwrap();
    close(&slopes["scale"].values, &[dscale], 1e-8).unwrap();
    // By hand: x·S is (1, 2)·S, of which half a tenth is added.
    let s = Tensor::new(&[2, 2], vec![1.0, 2.0, 3.0, 4.0]);
    same(&SharedContext::apply(&vector(&[1.0, 2.0]), &s, 0.1), &vector(&[1.35, 2.5]));
}
