//! Mamba-2's mixer, step by step.

use proptest::prelude::*;
use regard_layers::{Mode, Scope, StateSpace, StateSpaceConfig, Workspace};
use regard_oracle::layers::{Activation, Tensor, Tensors, differences, linear, rms_norm};

use crate::support::{Draw, Made, amplified_by_norm, made, tries};

#[derive(Clone, Debug)]
struct Problem {
    config: StateSpaceConfig,
    batch: usize,
    tokens: usize,
    seed: u64,
}

fn problems(tokens: usize, dim: usize) -> impl Strategy<Value = Problem> {
    let counts = (1usize..=3, 1..=tokens, any::<u64>());
    (1usize..=6, 1usize..=2, 1usize..=2, 1..=dim, 1..=dim, 1usize..=5, counts).prop_map(
        |(width, groups, share, head_dim, state, taps, (batch, tokens, seed))| {
            let config = StateSpaceConfig { width, heads: groups * share, head_dim, groups, state, taps, eps: 1e-3 };
            Problem { config, batch, tokens, seed }
        },
    )
}

/// Weights by the names that transformers has.
pub(crate) fn weights_of(config: &StateSpaceConfig, draw: &mut Draw) -> Tensors {
    let StateSpaceConfig { width, heads, head_dim, groups, state, taps, .. } = *config;
    let inner = heads * head_dim;
    let channels = inner + 2 * groups * state;
    Tensors::from_iter([
        ("in_proj.weight", draw.weight(inner + channels + heads, width)),
        ("conv1d.weight", draw.normal(&[channels, 1, taps], (taps as f64).powf(-0.5))),
        ("conv1d.bias", draw.normal(&[channels], 0.5)),
        ("A_log", draw.normal(&[heads], 1.0)),
        ("D", draw.normal(&[heads], 1.0)),
        ("dt_bias", draw.normal(&[heads], 1.0)),
        ("norm.weight", draw.around_one(inner)),
        ("out_proj.weight", draw.weight(width, inner)),
    ])
}

/// The recurrence of Dao and Gu, 2024: `h ← e^(−Δ·e^A)·h + Δ·x⊗B`, `y = h·C + D·x`, between a convolution and a gated norm;
/// and how much that amplifies errors.
pub(crate) fn exact(config: &StateSpaceConfig, x: &Tensor, t: &Tensors) -> (Tensor, f64) {
    let StateSpaceConfig { heads, head_dim, groups, state, taps, eps, .. } = *config;
    let (batch, tokens, inner) = (x.shape[0], x.shape[1], heads * head_dim);
    let keys = groups * state;
    let channels = inner + 2 * keys;
    let projected = linear(x, &t["in_proj.weight"], None);
    let (weight, bias) = (&t["conv1d.weight"].values, &t["conv1d.bias"].values);
    let mut gated = Vec::new();
    for entry in 0..batch {
        let row = |token: usize| &projected.values[(entry * tokens + token) * projected.width()..][..projected.width()];
        let mut h = vec![0.0; heads * head_dim * state];
        for token in 0..tokens {
            // What of the convolution's taps lies within the sequence.
            let convolved: Vec<f64> = (0..channels)
                .map(|c| {
                    let seen = (0..taps).filter(|tap| token + tap + 1 >= taps);
                    let of = |tap: usize| weight[c * taps + tap] * row(token + tap + 1 - taps)[inner + c];
                    Activation::Silu.of(bias[c] + seen.map(of).sum::<f64>())
                })
                .collect();
            let (values, rest) = convolved.split_at(inner);
            let (b, c) = rest.split_at(keys);
            for head in 0..heads {
                let delta = (row(token)[inner + channels + head] + t["dt_bias"].values[head]).exp().ln_1p();
                let left = (-delta * t["A_log"].values[head].exp()).exp();
                let group = head / (heads / groups) * state;
                for i in 0..head_dim {
                    let (x, z) = (values[head * head_dim + i], row(token)[head * head_dim + i]);
                    let mut y = t["D"].values[head] * x;
                    for n in 0..state {
                        let h = &mut h[(head * head_dim + i) * state + n];
                        *h = left * *h + delta * x * b[group + n];
                        y += *h * c[group + n];
                    }
                    gated.push(y * Activation::Silu.of(z));
                }
            }
        }
    }
    let gated = Tensor::new(&[batch, tokens, inner], gated);
    let normed = rms_norm(&gated, &t["norm.weight"], eps.into());
    (linear(&normed, &t["out_proj.weight"], None), amplified_by_norm(&gated, eps.into()))
}

impl Problem {
    fn given(&self) -> Tensors {
        let mut draw = Draw(self.seed);
        let all = weights_of(&self.config, &mut draw);
        all.and("x", draw.normal(&[self.batch, self.tokens, self.config.width], 1.0))
    }

    fn dout(&self) -> Tensor {
        Draw(!self.seed).normal(&[self.batch, self.tokens, self.config.width], 1.0)
    }

    fn made(&self, given: &Tensors) -> Made {
        let new = |scope: &mut Scope<'_>| StateSpace::new(scope, self.config);
        let made = made(new, given, &self.dout(), Mode::Evaluation, &mut Workspace::new().unwrap());
        Made { amplified: exact(&self.config, &given["x"], given).1, ..made }
    }

    fn exact(&self, given: &Tensors) -> Tensor {
        exact(&self.config, &given["x"], given).0
    }
}

proptest! {
    #![proptest_config(tries(50))]

    #[test]
    fn small_ones_are_the_references(problem in problems(9, 4)) {
        let (given, dout) = (problem.given(), problem.dout());
        let slopes = differences(&given, |given| problem.exact(given).dot(&dout));
        problem.made(&given).hold(&format!("{problem:?}"), &problem.exact(&given), &slopes);
    }
}

proptest! {
    #![proptest_config(tries(16))]

    /// Over several chunks of the recurrence.
    #[test]
    fn large_ones_are_the_references(problem in problems(200, 18)) {
        let (given, dout, name) = (problem.given(), problem.dout(), format!("{problem:?}"));
        let made = problem.made(&given);
        made.hold_results(&name, &problem.exact(&given));
        made.hold_along(&name, &given, &dout, Tensors::clone, |given| problem.exact(given));
    }
}
