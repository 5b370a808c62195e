//! RMSNorm against `x / √(mean(x²) + eps) · weight`, and LayerNorm against `(x − mean) / √(var + eps) · weight + bias`.

use proptest::prelude::*;
use rand::RngExt;
use regard_kernels::{Error, Kernels};
use regard_simd::Isa;

use crate::support::{ROUNDING, seeded};

fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len()];
    Kernels::new(isa).rms_norm(x, weight, eps, &mut out).unwrap();
    out
}

fn definition(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
    let root = (mean + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(&x, &weight)| f64::from(x) / root * f64::from(weight)).collect()
}

proptest! {
    #[test]
    fn is_the_definition(len in 0..5000_usize, exponent in -40..40_i32, eps in 0.0..1e-3_f32, seed: u64) {
        let mut random = seeded(seed);
        let x: Vec<f32> = (0..len).map(|_| random.random_range(-1.0_f32..1.0) * 2f32.powi(exponent)).collect();
        let weight: Vec<f32> = (0..len).map(|_| random.random_range(-3.0..3.0)).collect();
        let exact = definition(&x, &weight, eps);
        // The root halves the error of the mean, which is a sum in at least four lanes; seven roundings lie around it.
        let bound = ((len / 4 + 8) as f64 / 2.0 + 7.0) * ROUNDING;
        for isa in Isa::available() {
            for (i, (&y, &exact)) in rms_norm(isa, &x, &weight, eps).iter().zip(&exact).enumerate() {
                prop_assert!((f64::from(y) - exact).abs() <= bound * exact.abs() + 1e-38, "{isa}: {y}, {exact} at {i}");
            }
        }
    }
}

#[test]
fn what_is_not_finite() {
    for isa in Isa::available() {
        for len in [1, 7, 16, 37] {
            for at in [0, len / 2, len - 1] {
                let (mut x, weight) = (vec![1.5; len], vec![2.0; len]);
                x[at] = f32::NAN;
                assert!(rms_norm(isa, &x, &weight, 1e-5).iter().all(|y| y.is_nan()), "{isa}");
                // Infinity over infinity is NaN, and what is finite vanishes beside it.
                x[at] = f32::NEG_INFINITY;
                let y = rms_norm(isa, &x, &weight, 1e-5);
                assert!(
                    y.iter().enumerate().all(|(i, &y)| if i == at { y.is_nan() } else { y == 0.0 }),
                    "{isa}: {y:?}"
                );
            }
        }
        assert_eq!(rms_norm(isa, &[0.0; 21], &[1.0; 21], 1e-5), [0.0; 21]);
        assert!(rms_norm(isa, &[0.0; 21], &[1.0; 21], 0.0).iter().all(|y| y.is_nan()), "{isa}: 0 / 0");
    }
}

#[test]
fn lengths_are_named() {
    let kernels = Kernels::new(Isa::best());
    let error = kernels.rms_norm(&[1.0; 3], &[1.0; 4], 0.0, &mut [0.0; 3]).unwrap_err();
    assert_eq!(error, Error::Length { name: "norm weight", has: 4, expected: 3 });
    let error = kernels.rms_norm(&[1.0; 3], &[1.0; 3], 0.0, &mut [0.0; 2]).unwrap_err();
    assert_eq!(error.to_string(), "normed row holds 2 elements, 3 were expected");
}

fn layer_norm(isa: Isa, x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len()];
    Kernels::new(isa).layer_norm(x, weight, bias, eps, &mut out).unwrap();
    out
}

proptest! {
    #[test]
    fn layers_are_their_definition(len in 1..3000_usize, mean in -20.0..20.0_f32, eps in 1e-12..1e-3_f32, seed: u64) {
        let mut random = seeded(seed);
        let [x, weight, bias]: [Vec<f32>; 3] =
            std::array::from_fn(|_| (0..len).map(|_| random.random_range(-3.0_f32..3.0)).collect());
        let x: Vec<f32> = x.iter().map(|x| x + mean).collect();
        let centre = x.iter().map(|&x| f64::from(x)).sum::<f64>() / len as f64;
        let variance = x.iter().map(|&x| (f64::from(x) - centre).powi(2)).sum::<f64>() / len as f64;
        let root = (variance + f64::from(eps)).sqrt();
        for isa in Isa::available() {
            for (i, &y) in layer_norm(isa, &x, &weight, &bias, eps).iter().enumerate() {
                let normed = (f64::from(x[i]) - centre) / root;
                let exact = normed * f64::from(weight[i]) + f64::from(bias[i]);
                // The mean is off by the rounding of a sum in at least four lanes, and with it every difference.
                let mean = (len / 4 + 8) as f64 * ROUNDING * f64::from(mean.abs() + 3.0) / root;
                let bound = (mean + ((len / 4 + 8) as f64 + 8.0) * ROUNDING * (normed.abs() + 1.0)) * 3.0 + 3.0 * ROUNDING;
                prop_assert!((f64::from(y) - exact).abs() <= bound, "{isa}: {y}, {exact} at {i} of {len}");
            }
        }
    }
}

#[test]
fn layers_that_are_not_finite() {
    for isa in Isa::available() {
        for len in [1, 7, 37] {
            let (mut x, ones) = (vec![1.5; len], vec![1.0; len]);
            // A variance of 0 leaves the bias.
            assert_eq!(layer_norm(isa, &x, &ones, &vec![0.25; len], 1e-5), vec![0.25; len], "{isa}");
            x[len / 2] = f32::NAN;
            assert!(layer_norm(isa, &x, &ones, &ones, 1e-5).iter().all(|y| y.is_nan()), "{isa}");
        }
    }
    let error = Kernels::new(Isa::best()).layer_norm(&[1.0; 3], &[1.0; 3], &[1.0; 2], 0.0, &mut [0.0; 3]).unwrap_err();
    assert_eq!(error, Error::Length { name: "norm bias", has: 2, expected: 3 });
}
