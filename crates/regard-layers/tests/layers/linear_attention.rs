//! Linear attention by all rules, token by token.

use proptest::prelude::*;
use regard_attention::Direction;
use regard_layers::{HeadSizes, LinearAttention, LinearConfig, LinearRule, Mode, Scope, Workspace};
use regard_oracle::Recurrence;
use regard_oracle::layers::{Rotary, Tensor, Tensors, differences, heads_of, merge_heads, rms_norm};

use crate::flash::{projections, sizes};
use crate::support::{Draw, Made, amplified_by_norm, made, tries};
use crate::weights;

const RULES: [LinearRule; 5] =
    [LinearRule::Plain, LinearRule::Gated, LinearRule::GatedByChannel, LinearRule::Delta, LinearRule::GatedDelta];

#[derive(Clone, Debug)]
struct Problem {
    config: LinearConfig,
    /// The base of the positions, where there are any.
    theta: Option<f64>,
    batch: usize,
    tokens: usize,
    seed: u64,
}

fn problems(tokens: usize, dim: usize) -> impl Strategy<Value = Problem> {
    let counts = (1usize..=3, 1..=tokens, any::<u64>());
    (sizes(dim), prop::sample::select(&RULES), any::<[bool; 2]>(), counts).prop_map(
        |(sizes, rule, [both, turned], (batch, tokens, seed))| {
            // Only one rule has a form in which tokens see those behind them.
            let direction = if both && rule == LinearRule::Plain { Direction::Both } else { Direction::Causal };
            let config = LinearConfig { direction, ..LinearConfig::new(sizes, rule) };
            let theta = turned.then_some(100.0);
            let config = if turned { config.with_rotary(100.0) } else { config };
            Problem { config, theta, batch, tokens, seed }
        },
    )
}

/// Gates of a token: none, one for each key/value head, or one for each number of its keys.
fn gates(rule: LinearRule, dim_k: usize) -> Option<usize> {
    match rule {
        LinearRule::Plain | LinearRule::Delta => None,
        LinearRule::Gated | LinearRule::GatedDelta => Some(1),
        LinearRule::GatedByChannel => Some(dim_k),
    }
}

fn is_delta(rule: LinearRule) -> bool {
    [LinearRule::Delta, LinearRule::GatedDelta].contains(&rule)
}

/// Weights of a layer; those of the gates are as large as makes gates between some hundredths and one.
pub(crate) fn weights_of(config: &LinearConfig, draw: &mut Draw) -> Tensors {
    let (HeadSizes { width, kv_heads, dim_k, dim_v, .. }, rule) = (config.sizes, config.rule);
    let mut all = projections(config.sizes, [false; 2], draw).and("norm.weight", draw.around_one(dim_v));
    if let Some(gates) = gates(rule, dim_k) {
        all = all.and("decay_proj.weight", draw.normal(&[kv_heads * gates, width], 6.0));
        all = all.and("decay_proj.bias", draw.normal(&[kv_heads * gates], 2.0));
    }
    if is_delta(rule) {
        all = all.and("beta_proj.weight", draw.normal(&[kv_heads, width], 1.0));
        all = all.and("beta_proj.bias", draw.normal(&[kv_heads], 1.0));
    }
    all
}

/// The formulas, of x `[batch, tokens, width]`, and how much its norm amplifies errors.
pub(crate) fn exact(config: &LinearConfig, theta: Option<f64>, x: &Tensor, t: &Tensors) -> (Tensor, f64) {
    let (HeadSizes { width, heads, kv_heads, dim_k, dim_v }, rule) = (config.sizes, config.rule);
    let (batch, tokens) = (x.shape[0], x.shape[1]);
    let (q, k) = (heads_of(x, &t["w_q"].part(0), None), heads_of(x, &t["w_k"], None));
    // What comes of small queries and keys is amplified by two norms, one after the other.
    let amplified = if is_delta(rule) { amplified_by_norm(&q, 1e-6).max(amplified_by_norm(&k, 1e-6)) } else { 1.0 };
    // Of length 1 with the delta rule, but for what keeps it from 0.
    let short = |x: Tensor| match is_delta(rule) {
        true => x.by_row(dim_k, |x| {
            let length = x.iter().map(|x| x * x + 1e-6).sum::<f64>().sqrt();
            x.iter().map(|x| x / length).collect()
        }),
        false => x,
    };
    let at_their_places = |x: Tensor| match theta {
        Some(theta) => Rotary { theta, dims: Some(dim_k / 2 * 2) }.apply(&x, 0),
        None => x,
    };
    let of_heads = |name: &str, gates: usize| {
        let w = t[&format!("{name}.weight")].reshaped(&[kv_heads, gates, width]);
        heads_of(x, &w, t.get(&format!("{name}.bias")))
    };
    let decay = gates(rule, dim_k).map(|gates| of_heads("decay_proj", gates));
    let beta = is_delta(rule).then(|| of_heads("beta_proj", 1));
    let values = |tensor: Option<Tensor>, of: fn(f64) -> f64| -> Vec<f64> {
        tensor.map_or(vec![], |tensor| tensor.values.into_iter().map(of).collect())
    };
    let call = Recurrence {
        batch,
        tokens,
        dim_k,
        dim_v,
        heads: [heads, kv_heads, kv_heads, kv_heads, kv_heads],
        q: at_their_places(short(q)).values,
        k: at_their_places(short(k)).values,
        v: heads_of(x, &t["w_v"], None).values,
        // ln σ(z) / 16.
        log_decay: values(decay, |z| -(-z).exp().ln_1p() / 16.0),
        beta: values(beta, |z| 1.0 / (1.0 + (-z).exp())),
        state: vec![],
        scale: (dim_k as f64).powf(-0.5),
        both: config.direction == Direction::Both,
    };
    let out = Tensor::new(&[batch, heads, tokens, dim_v], call.exact().0);
    // The constant is the f32 of 1e-5.
    let normed = rms_norm(&out, &t["norm.weight"], f64::from(1e-5f32));
    (merge_heads(&normed, &t["w_out"], None), amplified * amplified_by_norm(&out, 1e-5))
}

impl Problem {
    fn given(&self) -> Tensors {
        let mut draw = Draw(self.seed);
        let all = weights_of(&self.config, &mut draw);
        all.and("x", draw.normal(&[self.batch, self.tokens, self.config.sizes.width], 1.0))
    }

    fn dout(&self) -> Tensor {
        Draw(!self.seed).normal(&[self.batch, self.tokens, self.config.sizes.width], 1.0)
    }

    fn made(&self, given: &Tensors) -> Made {
        let new = |scope: &mut Scope<'_>| LinearAttention::new(scope, self.config.clone());
        let made =
            made(new, &weights::projections(given), &self.dout(), Mode::Evaluation, &mut Workspace::new().unwrap());
        Made { amplified: exact(&self.config, self.theta, &given["x"], given).1, ..made }
    }

    fn exact(&self, given: &Tensors) -> Tensor {
        exact(&self.config, self.theta, &given["x"], given).0
    }
}

proptest! {
    #![proptest_config(tries(60))]

    #[test]
    fn small_ones_are_the_references(problem in problems(9, 5)) {
        let (given, dout) = (problem.given(), problem.dout());
        let slopes = differences(&given, |given| problem.exact(given).dot(&dout));
        problem.made(&given).hold(&format!("{problem:?}"), &problem.exact(&given),
            &weights::projections(&slopes),
        );
    }
}

proptest! {
    #![proptest_config(tries(20))]

    /// Over several chunks of the recurrence.
    #[test]
    fn large_ones_are_the_references(problem in problems(200, 18)) {
        let (given, dout, name) = (problem.given(), problem.dout(), format!("{problem:?}"));
        let made = problem.made(&given);
        made.hold_results(&name, &problem.exact(&given));
        made.hold_along(&name, &given, &dout, weights::projections, |given| problem.exact(given));
    }
}
