//! Softmax attention between projections: windows, caps, sinks, positions, dropout.

use proptest::prelude::*;
use regard_kernels::{DropoutRow, Rotary, RotaryScaling};
use regard_layers::{Bias, FlashAttention, FlashConfig, HeadSizes, Mode, Parameters, Scope, Sinks, Workspace};
use regard_masks::Mask;
use regard_oracle::layers::{self, Tensor, Tensors, differences, heads_of, merge_heads};
use regard_oracle::{Attention, Dropout, Pair, Sizes};

use crate::support::{Draw, Made, SEED, hold_results, made, tries};
use crate::weights;

/// A layer and how much it reads.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    config: FlashConfig,
    theta: f64,
    batch: usize,
    tokens: usize,
    seed: u64,
}

/// Sizes of heads and widths.
pub(crate) fn sizes(dim: usize) -> impl Strategy<Value = HeadSizes> {
    (1usize..=7, 1usize..=2, 1usize..=3, 1..=dim, 1..=dim).prop_map(|(width, kv_heads, share, dim_k, dim_v)| {
        HeadSizes { width, heads: kv_heads * share, kv_heads, dim_k, dim_v }
    })
}

fn problems(tokens: usize, dim: usize) -> impl Strategy<Value = Problem> {
    let masks = prop_oneof![
        Just(Mask::full()),
        Just(Mask::causal()),
        (0usize..4, 0usize..3).prop_map(|(left, right)| Mask::window(Some(left), Some(right))),
        (1usize..5).prop_map(|left| Mask::window(Some(left), Some(0))),
    ];
    let options = (prop::option::of(0.2..0.8f64), prop::option::of(0.5..3.0f64), prop::option::of(0..=dim / 2));
    let parts = (any::<bool>(), any::<[bool; 2]>(), prop_oneof![Just(0.0), 0.1f32..0.6]);
    let counts = (1usize..=3, 1..=tokens, any::<u64>());
    (sizes(dim), masks, options, parts, counts).prop_map(
        |(sizes, mask, (scale, softcap, pairs), (sinks, biases, dropout), (batch, tokens, seed))| {
            let theta = 100.0;
            // Of some or all numbers of a head, two by two.
            let dims = pairs.map(|pairs| (2 * pairs).min(sizes.dim_k / 2 * 2));
            let rotary = dims.map(|dims| Rotary::new(dims, theta as f32, &RotaryScaling::None, usize::MAX));
            let sinks = if sinks { Sinks::Learned } else { Sinks::None };
            let bias = biases.map(|biased| if biased { Bias::Learned } else { Bias::None });
            let config = FlashConfig { scale, softcap, rotary, sinks, bias, dropout, ..FlashConfig::new(sizes, mask) };
            Problem { config, theta, batch, tokens, seed }
        },
    )
}

/// Weights of projections by the reference's names, under which scores and results are of order one.
pub(crate) fn projections(sizes: HeadSizes, biases: [bool; 2], draw: &mut Draw) -> Tensors {
    let HeadSizes { width, heads, kv_heads, dim_k, dim_v } = sizes;
    let mut weight = |shape: &[usize], inputs: usize| draw.normal(shape, 0.8 * (inputs as f64).powf(-0.5));
    let mut all = Tensors::from_iter([
        ("w_q", weight(&[1, heads, dim_k, width], width)),
        ("w_k", weight(&[kv_heads, dim_k, width], width)),
        ("w_v", weight(&[kv_heads, dim_v, width], width)),
        ("w_out", weight(&[heads, dim_v, width], heads * dim_v)),
    ]);
    if biases[0] {
        all = all.and("b_q", weight(&[heads, dim_k], 4)).and("b_k", weight(&[kv_heads, dim_k], 4));
        all = all.and("b_v", weight(&[kv_heads, dim_v], 4));
    }
    if biases[1] { all.and("b_out", weight(&[width], 4)) } else { all }
}

impl Problem {
    fn given(&self) -> Tensors {
        let (sizes, mut draw) = (self.config.sizes, Draw(self.seed));
        let all = projections(sizes, self.config.bias.map(|bias| bias == Bias::Learned), &mut draw);
        let all = all.and("x", draw.normal(&[self.batch, self.tokens, sizes.width], 1.0));
        match self.config.sinks {
            Sinks::Learned => all.and("sinks", draw.normal(&[sizes.heads], 1.0)),
            Sinks::None => all,
        }
    }

    fn dout(&self) -> Tensor {
        Draw(!self.seed).normal(&[self.batch, self.tokens, self.config.sizes.width], 1.0)
    }

    /// The formulas, where weights fall that dropout does not keep in a pass that begins with this sequence.
    fn exact(&self, t: &Tensors, first_sequence: Option<u64>) -> Tensor {
        let FlashConfig { sizes, ref mask, scale, softcap, ref rotary, dropout, .. } = self.config;
        let HeadSizes { heads, kv_heads, dim_k, dim_v, .. } = sizes;
        let (batch, tokens) = (self.batch, self.tokens);
        let turned = |x: Tensor| match rotary {
            Some(rotary) => layers::Rotary { theta: self.theta, dims: Some(rotary.dims()) }.apply(&x, 0),
            None => x,
        };
        let q = turned(heads_of(&t["x"], &t["w_q"].part(0), t.get("b_q")));
        let k = turned(heads_of(&t["x"], &t["w_k"], t.get("b_k")));
        let v = heads_of(&t["x"], &t["w_v"], t.get("b_v"));
        let seed = Parameters::new(SEED).root().seed();
        let keeps = |pair: &Pair| {
            let sequence = first_sequence.unwrap_or(0) + pair.batch as u64;
            DropoutRow::new(seed, sequence, pair.head as u64, pair.i as u64, dropout).keeps(pair.j as u32)
        };
        let attended = Attention {
            sizes: Sizes { batch, heads, kv_heads, queries: tokens, keys: tokens, dim_k, dim_v },
            q: &q.values,
            k: &k.values,
            v: &v.values,
            allows: &|pair| mask.allows(pair.p, pair.j, tokens),
            scale,
            softcap,
            sinks: t.get("sinks").map(|sinks| &sinks.values[..]),
            dropout: first_sequence.map(|_| Dropout { probability: dropout.into(), keeps: &keeps }),
            ..Attention::default()
        }
        .exact();
        merge_heads(&Tensor::new(&[batch, heads, tokens, dim_v], attended.out), &t["w_out"], t.get("b_out"))
    }

    fn made(&self, given: &Tensors, mode: Mode) -> Made {
        let new = |scope: &mut Scope<'_>| FlashAttention::new(scope, self.config.clone());
        made(new, &weights::projections(given), &self.dout(), mode, &mut Workspace::new().unwrap())
    }
}

proptest! {
    #![proptest_config(tries(60))]

    #[test]
    fn small_ones_are_the_references(problem in problems(8, 5), first_sequence in any::<u32>()) {
        let (given, dout, name) = (problem.given(), problem.dout(), format!("{problem:?}"));
        let first = u64::from(first_sequence);
        let made = problem.made(&given, Mode::Training { first_sequence: first });
        let slopes = differences(&given, |t| problem.exact(t, Some(first)).dot(&dout));
        made.hold(&name, &problem.exact(&given, Some(first)), &weights::projections(&slopes));
        let evaluated = problem.made(&given, Mode::Evaluation);
        hold_results(&name, &evaluated.out, &problem.exact(&given, None));
    }
}

proptest! {
    #![proptest_config(tries(12))]

    #[test]
    fn large_ones_are_the_references(problem in problems(150, 18)) {
        let (given, dout, name) = (problem.given(), problem.dout(), format!("{problem:?}"));
        let made = problem.made(&given, Mode::Training { first_sequence: 3 });
        let exact = |given: &Tensors| problem.exact(given, Some(3));
        made.hold_results(&name, &exact(&given));
        made.hold_along(&name, &given, &dout, weights::projections, exact);
    }
}
