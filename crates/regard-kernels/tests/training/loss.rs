//! Cross-entropy against its definition in f64, and the gradient against differences of that.

use proptest::prelude::*;
use regard_kernels::{Error, Kernels};
use regard_simd::Isa;

use crate::{ROUNDING, doubles, numbers, slope};

fn definition(logits: &[f64], target: usize, weight: f64) -> f64 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    weight * (logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max - logits[target])
}

fn gradient(logits: &[f64], target: usize, weight: f64) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum = logits.iter().map(|x| (x - max).exp()).sum::<f64>();
    logits.iter().enumerate().map(|(i, x)| weight * ((x - max).exp() / sum - f64::from(i == target))).collect()
}

fn is_the_definition(logits: &[f32], target: usize, weight: f32, bound: f32) -> Result<(), TestCaseError> {
    let double = doubles(logits);
    let exact = definition(&double, target, f64::from(weight));
    let slopes = gradient(&double, target, f64::from(weight));
    for isa in Isa::available() {
        let (kernels, mut dlogits) = (Kernels::new(isa), logits.to_vec());
        let loss = kernels.cross_entropy(&mut dlogits, target, weight).unwrap();
        // The sum errs by little more than a rounding, as those within are of either sign; the result errs by one.
        let (error, weighs) = ((f64::from(loss) - exact).abs(), f64::from(weight));
        prop_assert!(error <= ROUNDING * (1.7 * weighs + exact.abs()), "{isa}: {loss}, {exact}");
        prop_assert_eq!(kernels.cross_entropy_loss(logits, target, weight).unwrap().to_bits(), loss.to_bits());
        for (i, (&got, &exact)) in dlogits.iter().zip(&slopes).enumerate() {
            // The difference to the largest is rounded, and so are the power, the factor, and the products.
            let power = exact.abs() + if i == target { weighs } else { 0.0 };
            let bound = ROUNDING * (7.0 + 2.0 * f64::from(bound)) * power + 1e-37;
            prop_assert!((f64::from(got) - exact).abs() <= bound, "{isa}: {got}, {exact} at {i}, {target}");
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn the_gradient_is_the_derivative(len in 1..20_usize, target in 0..20_usize, seed: u64) {
        let (logits, target) = (doubles(&numbers(seed, len, 5.0)), target % len);
        for (i, exact) in gradient(&logits, target, 0.7).into_iter().enumerate() {
            let by_logit = slope(|logits| definition(logits, target, 0.7), &logits, i);
            prop_assert!((exact - by_logit).abs() < 1e-9, "{exact} {by_logit}");
        }
    }

    #[test]
    fn rows(len in 1..2000_usize, target: prop::sample::Index, bound in 0.1..60.0_f32, weight in 0.0..2.0_f32, seed: u64) {
        is_the_definition(&numbers(seed, len, bound), target.index(len), weight, bound)?;
    }
}

#[test]
fn long_rows() {
    for (seed, bound) in [0.01, 1.0, 3.0, 20.0].into_iter().enumerate() {
        is_the_definition(&numbers(seed as u64, 50_257, bound), 31_337, 1.0, bound).unwrap();
    }
    is_the_definition(&[0.1; 50_257], 7, 1.0, 0.1).unwrap();
}

#[test]
fn odd_numbers() {
    let (inf, nan, max) = (f32::INFINITY, f32::NAN, f32::MAX);
    for isa in Isa::available() {
        let kernels = Kernels::new(isa);
        for len in [3, 16, 37] {
            // As far apart as floats go: the loss is what is beyond f32.
            let mut logits = vec![-max; len];
            logits[len - 1] = max;
            assert_eq!(kernels.cross_entropy(&mut logits, 0, 0.25).unwrap(), max / 2.0, "{isa}");
            assert_eq!((logits[0], logits[1], logits[len - 1]), (-0.25, 0.0, 0.25), "{isa}");
            // Masked logits have no part.
            let mut logits = vec![-inf; len];
            logits[1] = 3.0;
            assert_eq!(kernels.cross_entropy_loss(&logits, 1, 1.0).unwrap(), 0.0, "{isa}");
            assert_eq!(kernels.cross_entropy_loss(&logits, 0, 1.0).unwrap(), inf, "{isa}");
            kernels.cross_entropy(&mut logits, 1, 1.0).unwrap();
            assert!(logits.iter().all(|x| *x == 0.0), "{isa}");
            for at in [0, len - 1] {
                let mut logits = vec![1.0; len];
                logits[at] = nan;
                assert!(kernels.cross_entropy_loss(&logits, 1, 1.0).unwrap().is_nan(), "{isa}");
                assert!(kernels.cross_entropy(&mut logits, 1, 1.0).unwrap().is_nan(), "{isa}");
                assert!(logits.iter().all(|x| x.is_nan()), "{isa}");
            }
        }
        let expected = Error::Size { name: "target", has: 3, expected: "the number of a logit" };
        assert_eq!(kernels.cross_entropy(&mut [0.0; 3], 3, 1.0).unwrap_err(), expected);
        assert!(kernels.cross_entropy_loss(&[], 0, 1.0).is_err());
    }
}
