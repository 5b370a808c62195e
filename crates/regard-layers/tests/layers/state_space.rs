//! Mamba-2's mixer, step by step.

use proptest::prelude::*;
use regard_layers::{Mode, Scope, StateSpace, StateSpaceConfig, Workspace};
use regard_oracle::layers::{self, Tensor, Tensors, differences};

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
        // Of each group by itself.
        let gated = self.reference().gated(&given["x"], given);
        let group = gated.width() / self.config.groups;
        let rows = gated.reshaped(&[gated.values.len() / group, group]);
        Made { amplified: amplified_by_norm(&rows, self.config.eps.into()), ..made }
    }

    fn exact(&self, given: &Tensors) -> Tensor {
        self.reference().forward(&given["x"], given)
    }

    fn reference(&self) -> layers::StateSpace {
        let StateSpaceConfig { heads, groups, eps, .. } = self.config;
        layers::StateSpace { heads, groups, epsilon: eps.into() }
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
