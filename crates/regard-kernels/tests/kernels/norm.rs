//! RMSNorm against `x / √(mean(x²) + eps) · weight`.

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
