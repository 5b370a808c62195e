//! FAVOR+ against its formula in f64, and against the attention that it estimates.

use proptest::prelude::*;
use regard_attention::{Direction, Favor, FavorFeatures, FavorInputs, FavorOutputs};
use regard_memory::{Tensor, TensorMut};
use regard_oracle::{numbers, widen};
use regard_simd::Isa;

use crate::support::{pool, soiled, tries};

/// A call of one batch entry, its numbers in the order of tensors.
#[derive(Clone, Debug)]
struct Call {
    heads: usize,
    kv_heads: usize,
    tokens: usize,
    dim_k: usize,
    dim_v: usize,
    scale: f64,
    direction: Direction,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

type State = (Vec<f32>, Vec<f32>);

impl Call {
    fn draw(sizes: [usize; 5], scale: f64, direction: Direction, seed: u64) -> Call {
        let [heads, kv_heads, tokens, dim_k, dim_v] = sizes;
        let (q, k) = (numbers(seed, heads * tokens * dim_k), numbers(seed ^ 1, kv_heads * tokens * dim_k));
        let v = numbers(seed ^ 2, kv_heads * tokens * dim_v);
        Call { heads, kv_heads, tokens, dim_k, dim_v, scale, direction, q, k, v }
    }

    fn run(&self, features: &FavorFeatures, isa: Isa, state: Option<&State>) -> (Vec<f32>, State) {
        let &Call { heads, kv_heads, tokens, dim_k, dim_v, .. } = self;
        let sums = [1, kv_heads, features.count(), dim_v + 1];
        let inputs = FavorInputs {
            q: Tensor::contiguous(&self.q, [1, heads, tokens, dim_k]).unwrap(),
            k: Tensor::contiguous(&self.k, [1, kv_heads, tokens, dim_k]).unwrap(),
            v: Tensor::contiguous(&self.v, [1, kv_heads, tokens, dim_v]).unwrap(),
            state: state.map(|(before, largest)| {
                (Tensor::contiguous(before, sums).unwrap(), Tensor::contiguous(largest, [1, kv_heads, 1, 1]).unwrap())
            }),
        };
        let mut out = vec![f32::NAN; heads * tokens * dim_v];
        let (mut after, mut largest) = (vec![f32::NAN; sums.iter().product()], vec![f32::NAN; kv_heads]);
        let outputs = FavorOutputs {
            out: TensorMut::contiguous(&mut out, [1, heads, tokens, dim_v]).unwrap(),
            state: (
                TensorMut::contiguous(&mut after, sums).unwrap(),
                TensorMut::contiguous(&mut largest, [1, kv_heads, 1, 1]).unwrap(),
            ),
        };
        let favor = Favor::new(features, Some(isa)).unwrap().with_scale(self.scale).unwrap();
        let favor = favor.with_direction(self.direction);
        favor.run(&inputs, outputs, &mut soiled(), pool()).unwrap();
        (out, (after, largest))
    }

    /// Weights `w(q, k)` of pairs, in f64: the results that they make.
    fn weighed(&self, weight: impl Fn(&[f64], &[f64]) -> f64) -> Vec<f64> {
        let &Call { heads, kv_heads, tokens, dim_k, dim_v, .. } = self;
        let (q, k, v) = (widen(&self.q), widen(&self.k), widen(&self.v));
        let mut out = Vec::new();
        for (head, i) in (0..heads).flat_map(|head| (0..tokens).map(move |i| (head, i))) {
            let kv = head / (heads / kv_heads);
            let seen = if self.direction == Direction::Both { tokens } else { i + 1 };
            let query = &q[(head * tokens + i) * dim_k..][..dim_k];
            let weights: Vec<f64> =
                (0..seen).map(|j| weight(query, &k[(kv * tokens + j) * dim_k..][..dim_k])).collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..dim_v).map(|c| {
                let weighed = weights.iter().enumerate().map(|(j, w)| w * v[(kv * tokens + j) * dim_v + c]);
                weighed.sum::<f64>() / sum
            }));
        }
        out
    }

    /// The formula: features without stabilisers.
    fn by_features(&self, features: &FavorFeatures) -> Vec<f64> {
        let (rows, root) = (widen(features.rows()), self.scale.sqrt());
        let phi = |x: &[f64]| -> Vec<f64> {
            let half: f64 = x.iter().map(|x| x * x).sum::<f64>() * self.scale / 2.0;
            let dot = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x * root).sum::<f64>();
            rows.chunks(self.dim_k).map(|row| (dot(row) - half).exp()).collect()
        };
        self.weighed(|q, k| phi(q).iter().zip(phi(k)).map(|(a, b)| a * b).sum())
    }

    fn exact(&self) -> Vec<f64> {
        self.weighed(|q, k| (self.scale * q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>()).exp())
    }
}

fn largest_difference(a: &[f32], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - b).abs()).fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(tries(40))]

    #[test]
    fn results_are_the_formula_s(
        (kv_heads, group) in (1..=2_usize, 1..=3_usize),
        (tokens, dim_k, dim_v, count) in (0..=140_usize, 1..=40_usize, 1..=20_usize, 1..=70_usize),
        both: bool,
        seed: u64,
    ) {
        let direction = if both { Direction::Both } else { Direction::Causal };
        let scale = 0.5 / (dim_k as f64).sqrt();
        let call = Call::draw([kv_heads * group, kv_heads, tokens, dim_k, dim_v], scale, direction, seed);
        let features = FavorFeatures::new(dim_k, count, seed).unwrap();
        let exact = call.by_features(&features);
        for isa in Isa::available() {
            let (out, _) = call.run(&features, isa, None);
            // Exponents of some size carry the rounding of their sums.
            let off = largest_difference(&out, &exact);
            prop_assert!(off < 2e-5, "{}: off by {}", isa, off);
        }
    }

    #[test]
    fn no_later_key_reaches_an_earlier_result(tokens in 2..=140_usize, at: proptest::sample::Index, seed: u64) {
        let token = 1 + at.index(tokens - 1);
        let call = Call::draw([2, 1, tokens, 8, 5], 0.3, Direction::Causal, seed);
        let mut other = call.clone();
        // A key whose exponents are far larger than all before.
        other.k[token * 8..].iter_mut().for_each(|x| *x *= 40.0);
        other.v[token * 5..].fill(f32::NAN);
        let features = FavorFeatures::new(8, 33, seed).unwrap();
        for isa in Isa::available() {
            let earlier = |call: &Call| -> Vec<u32> {
                let (out, _) = call.run(&features, isa, None);
                out.chunks(tokens * 5).flat_map(|head| head[..token * 5].iter().map(|x| x.to_bits())).collect()
            };
            prop_assert_eq!(earlier(&call), earlier(&other), "{}", isa);
        }
    }

    #[test]
    fn parts_are_the_whole(tokens in 2..=140_usize, at: proptest::sample::Index, seed: u64) {
        let cut = 1 + at.index(tokens - 1);
        let call = Call::draw([2, 2, tokens, 8, 5], 0.4, Direction::Causal, seed);
        let features = FavorFeatures::new(8, 24, seed).unwrap();
        let part = |from: usize, to: usize| {
            let some = |numbers: &[f32], width: usize| -> Vec<f32> {
                numbers.chunks(tokens * width).flat_map(|head| head[from * width..to * width].to_vec()).collect()
            };
            Call { tokens: to - from, q: some(&call.q, 8), k: some(&call.k, 8), v: some(&call.v, 5), ..call.clone() }
        };
        for isa in Isa::available() {
            let (whole, _) = call.run(&features, isa, None);
            let (first, state) = part(0, cut).run(&features, isa, None);
            let (second, _) = part(cut, tokens).run(&features, isa, Some(&state));
            for head in 0..2 {
                let parts = [&first[head * cut * 5..][..cut * 5], &second[head * (tokens - cut) * 5..][..(tokens - cut) * 5]];
                let off = largest_difference(&parts.concat(), &widen(&whole[head * tokens * 5..][..tokens * 5]));
                prop_assert!(off < 1e-5, "{}: off by {}", isa, off);
            }
        }
    }
}

/// `φ(q)·φ(k)` is `e^(q·k)` on the mean over redraws, within its standard error.
#[test]
fn features_are_unbiased() {
    const DRAWS: u64 = 400;
    let (q, k) = (widen(&numbers(1, 16)), widen(&numbers(2, 16)));
    let (q, k): (Vec<f64>, Vec<f64>) = (q.iter().map(|x| x / 4.0).collect(), k.iter().map(|x| x / 4.0).collect());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let estimates: Vec<f64> = (0..DRAWS)
        .map(|seed| {
            let features = FavorFeatures::new(16, 32, seed).unwrap();
            let rows = widen(features.rows());
            let phi = |x: &[f64], row: &[f64]| (dot(row, x) - dot(x, x) / 2.0).exp();
            rows.chunks(16).map(|row| phi(&q, row) * phi(&k, row)).sum::<f64>() / 32.0
        })
        .collect();
    let mean = estimates.iter().sum::<f64>() / DRAWS as f64;
    let variance = estimates.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (DRAWS - 1) as f64;
    let (exact, error) = (dot(&q, &k).exp(), (variance / DRAWS as f64).sqrt());
    assert!((mean - exact).abs() < 3.0 * error && error < 0.05 * exact, "{mean} ± {error}, exactly {exact}");
}

/// Twice as good with four times the features.
#[test]
fn the_error_falls_with_the_root_of_the_features() {
    let call = Call::draw([1, 1, 64, 16, 8], 0.05, Direction::Both, 5);
    let exact = call.exact();
    let error = |count: usize| {
        let of = |seed: u64| {
            let features = FavorFeatures::new(16, count, seed).unwrap();
            let (out, _) = call.run(&features, Isa::best(), None);
            out.iter().zip(&exact).map(|(&a, &b)| (f64::from(a) - b).powi(2)).sum::<f64>()
        };
        ((0..48).map(of).sum::<f64>() / (48.0 * exact.len() as f64)).sqrt()
    };
    let [few, more, most] = [32, 128, 512].map(error);
    for ratio in [few / more, more / most] {
        assert!((1.5..2.7).contains(&ratio), "errors {few}, {more}, {most}");
    }
}

/// No token leaves the state as it was; in both directions a state is seen by all.
#[test]
fn a_state_outlasts_a_call_without_tokens() {
    let features = FavorFeatures::new(8, 24, 3).unwrap();
    for direction in [Direction::Causal, Direction::Both] {
        let call = |tokens: usize| Call::draw([2, 2, tokens, 8, 5], 0.4, direction, 4);
        for isa in Isa::available() {
            let (_, state) = call(70).run(&features, isa, None);
            let (out, same) = call(0).run(&features, isa, Some(&state));
            assert!(out.is_empty() && same == state, "{isa}");
        }
    }
}

#[test]
fn features_that_cannot_be() {
    assert_eq!(FavorFeatures::new(8, 0, 1).unwrap_err().to_string(), "features is 0, it must be at least 1");
    let features = FavorFeatures::new(8, 4, 1).unwrap();
    let error = Favor::new(&features, None).unwrap().with_scale(-1.0).unwrap_err().to_string();
    assert_eq!(error, "scale is -1, it must be at least 0, and finite in f32");
    assert_ne!(features, FavorFeatures::new(8, 4, 2).unwrap());
    assert_eq!(features, FavorFeatures::new(8, 4, 1).unwrap());
}
