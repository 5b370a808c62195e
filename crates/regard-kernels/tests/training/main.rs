//! The kernels of training, on every instruction set that this CPU has, against their definitions in f64.

mod activation;
mod dropout;
mod logistic;
mod loss;
mod norm;
mod optimiser;
mod rotary;
mod sums;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a result in f32 is off by at most, relatively.
const ROUNDING: f64 = 1.0 / 16_777_216.0;

/// `count` numbers within a bound.
fn numbers(seed: u64, count: usize, bound: f32) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(-bound..bound)).collect()
}

fn doubles(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// The derivative of `f` by `x[i]`, from both sides.
fn slope(f: impl Fn(&[f64]) -> f64, x: &[f64], i: usize) -> f64 {
    const STEP: f64 = 1e-5;
    let at = |step: f64| {
        let mut x = x.to_vec();
        x[i] += step;
        f(&x)
    };
    (at(STEP) - at(-STEP)) / (2.0 * STEP)
}
