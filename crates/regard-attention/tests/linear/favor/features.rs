//! The features, and the attention that they estimate.

use ndarray::Array4;
use regard_attention::{Favor as Engine, FavorAttention, FavorFeatures};
use regard_oracle::{Attention, Favor, Sizes, numbers, widen};
use regard_simd::Isa;

use super::Asked;
use crate::support::pool;

/// `φ(q)·φ(k)` is `e^(q·k)` on the mean over redraws, within its standard error.
#[test]
fn features_are_unbiased() {
    const DRAWS: u64 = 400;
    let [q, k] = [1, 2].map(|seed| Array4::from_shape_vec((1, 1, 1, 16), numbers(seed, 16)).unwrap() / 4.0);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    // After one key the state is that key's features, times its value and times 1, relative to an exponent.
    let phi = |x: &Array4<f32>, features: &FavorFeatures| -> Vec<f64> {
        let call = FavorAttention::new(x.view(), x.view(), x.view(), features).scale(1.0);
        let (_, (sums, exponents)) = call.run().unwrap();
        let factor = f64::from(exponents[[0; 4]]).exp();
        (0..features.count()).map(|feature| factor * f64::from(sums[[0, 0, feature, 16]])).collect()
    };
    let estimates: Vec<f64> = (0..DRAWS)
        .map(|seed| {
            let features = FavorFeatures::new(16, 32, seed).unwrap();
            dot(&phi(&q, &features), &phi(&k, &features))
        })
        .collect();
    let mean = estimates.iter().sum::<f64>() / DRAWS as f64;
    let variance = estimates.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (DRAWS - 1) as f64;
    let [q, k] = [q, k].map(|x| widen(x.as_slice().unwrap()));
    let (exact, error) = (dot(&q, &k).exp(), (variance / DRAWS as f64).sqrt());
    assert!((mean - exact).abs() < 3.0 * error && error < 0.05 * exact, "{mean} ± {error}, exactly {exact}");
}

/// Twice as good with four times the features.
#[test]
fn the_error_falls_with_the_root_of_the_features() {
    let (tokens, dim_k, dim_v, scale) = (64, 16, 8, 0.05);
    let [q, k, v] = [(5, dim_k), (4, dim_k), (7, dim_v)].map(|(seed, dim)| widen(&numbers(seed, tokens * dim)));
    let sizes = Sizes { batch: 1, heads: 1, kv_heads: 1, queries: tokens, keys: tokens, dim_k, dim_v };
    let exact = Attention { sizes, q: &q, k: &k, v: &v, scale: Some(scale), ..Attention::default() }.exact().out;
    let error = |count: usize| {
        let of = |seed: u64| {
            let call = Favor {
                batch: 1,
                heads: 1,
                kv_heads: 1,
                tokens,
                dim_k,
                dim_v,
                directions: vec![0.0; count * dim_k],
                q: q.clone(),
                k: k.clone(),
                v: v.clone(),
                scale,
                both: true,
                ..Favor::default()
            };
            let (out, _) = Asked::new(&call, seed, Isa::best(), pool()).run::<f32>();
            out.iter().zip(&exact).map(|(&a, &b)| (f64::from(a) - b).powi(2)).sum::<f64>()
        };
        ((0..48).map(of).sum::<f64>() / (48.0 * exact.len() as f64)).sqrt()
    };
    let [few, more, most] = [32, 128, 512].map(error);
    for ratio in [few / more, more / most] {
        assert!((1.5..2.7).contains(&ratio), "errors {few}, {more}, {most}");
    }
}

#[test]
fn features_that_cannot_be() {
    assert_eq!(FavorFeatures::new(8, 0, 1).unwrap_err().to_string(), "features is 0, it must be at least 1");
    for (dim, count) in [(64, usize::MAX), (usize::MAX, 1), (64, 1 << 58), (64, 1 << 50)] {
        let error = FavorFeatures::new(dim, count, 1).unwrap_err().to_string();
        assert!(error.contains("memory"), "{error}");
    }
    let features = FavorFeatures::new(8, 4, 1).unwrap();
    let error = Engine::new(&features, None).unwrap().with_scale(-1.0).unwrap_err().to_string();
    assert_eq!(error, "scale is -1, it must be at least 0, and finite in f32");
    assert_ne!(features, FavorFeatures::new(8, 4, 2).unwrap());
    assert_eq!(features, FavorFeatures::new(8, 4, 1).unwrap());
}
