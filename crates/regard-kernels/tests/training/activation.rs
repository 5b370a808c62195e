//! Derivatives of activations against their formulas in f64, and these against differences.

use proptest::prelude::*;
use regard_kernels::{Activation, Error, Kernels};
use regard_simd::Isa;

use crate::{ROUNDING, bits, numbers, slope};

const ALL: [Activation; 3] = [Activation::Silu, Activation::Gelu, Activation::GeluTanh];

/// Φ by its series around 0 (Abramowitz and Stegun, 26.2.11) and, far out, its continued fraction (26.2.14).
fn normal(x: f64) -> f64 {
    let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x.abs() < 4.0 {
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 2.0;
            term *= x * x / n;
            sum += term;
        }
        0.5 + density * sum
    } else {
        let tail = density / (1..100).rev().fold(x.abs(), |below, k| x.abs() + f64::from(k) / below);
        if x < 0.0 { tail } else { 1.0 - tail }
    }
}

/// The activation and its derivative.
fn definition(activation: Activation, x: f64) -> (f64, f64) {
    let logistic = |y: f64| 1.0 / (1.0 + (-y).exp());
    // The share of x that passes, and its derivative.
    let (share, slope) = match activation {
        Activation::Silu => (logistic(x), logistic(x) * logistic(-x)),
        Activation::Gelu => (normal(x), (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()),
        Activation::GeluTanh => {
            let twice = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
            let y = twice * (x + 0.044715 * x.powi(3));
            (logistic(y), logistic(y) * logistic(-y) * twice * (1.0 + 3.0 * 0.044715 * x * x))
        }
    };
    (x * share, share + x * slope)
}

proptest! {
    #[test]
    fn definitions_are_derivatives(x in -9.0..9.0_f64) {
        for activation in ALL {
            let by_x = slope(|x| definition(activation, x[0]).0, &[x], 0);
            prop_assert!((definition(activation, x).1 - by_x).abs() < 1e-9, "{activation:?} at {x}");
        }
    }

    #[test]
    fn gradients_are_their_definitions(
        x in prop::collection::vec(prop_oneof![-8.0..8.0_f32, -80.0..80.0_f32], 0..100),
        seed: u64,
    ) {
        let [up, dout] = [1, 2].map(|i| numbers(seed ^ i, x.len(), 2.0));
        for isa in Isa::available() {
            for activation in ALL {
                let (kernels, mut dx, mut dgate, mut dup) = (Kernels::new(isa), dout.clone(), x.clone(), up.clone());
                kernels.activate_backward(activation, &x, &mut dx).unwrap();
                kernels.gate_backward(activation, &mut dgate, &mut dup, &dout).unwrap();
                for i in 0..x.len() {
                    let (value, slope) = definition(activation, f64::from(x[i]));
                    let [up, dout] = [up[i], dout[i]].map(f64::from);
                    let error = (f64::from(dx[i]) - dout * slope).abs();
                    prop_assert!(error <= 4e-7 * dout.abs(), "{isa} {activation:?}: {} at {}", dx[i], x[i]);
                    let error = (f64::from(dgate[i]) - dout * up * slope).abs();
                    prop_assert!(error <= 5e-7 * (dout * up).abs(), "{isa} {activation:?}: {} at {}", dgate[i], x[i]);
                    let error = (f64::from(dup[i]) - dout * value).abs();
                    let bound = 2e-6 * (dout * f64::from(x[i])).abs();
                    prop_assert!(error <= bound, "{isa} {activation:?}: {} at {}", dup[i], x[i]);
                }
            }
        }
    }

    /// The bits of a number depend neither on where it stands nor on what stands beside it.
    #[test]
    fn same_bits_everywhere(len in 1..70_usize, cut in 0..70_usize, seed: u64) {
        let [gate, up, dout] = [1, 2, 3].map(|i| numbers(seed ^ i, len, 9.0));
        let cut = cut.min(len);
        for isa in Isa::available() {
            for activation in ALL {
                let run = |part: std::ops::Range<usize>| {
                    let (mut dgate, mut dup, dout) = (gate[part.clone()].to_vec(), up[part.clone()].to_vec(), &dout[part]);
                    Kernels::new(isa).gate_backward(activation, &mut dgate, &mut dup, dout).unwrap();
                    [bits(&dgate), bits(&dup)]
                };
                let [left, right] = [run(0..cut), run(cut..len)];
                for (i, all) in run(0..len).into_iter().enumerate() {
                    prop_assert_eq!(all, [&left[i][..], &right[i]].concat(), "{}", isa);
                }
            }
        }
    }
}

/// Every place where a formula changes its terms, in steps of 1/1024.
#[test]
fn errors_are_as_documented() {
    let x: Vec<f32> = (-20 * 1024..20 * 1024).map(|i| i as f32 / 1024.0).collect();
    for isa in Isa::available() {
        for activation in ALL {
            let mut dx = vec![1.0; x.len()];
            Kernels::new(isa).activate_backward(activation, &x, &mut dx).unwrap();
            let errors =
                dx.iter().zip(&x).map(|(&dx, &x)| (f64::from(dx) - definition(activation, f64::from(x)).1).abs());
            let worst = errors.fold(0.0, f64::max);
            println!("{isa} {activation:?}: {:.1} · 2⁻²⁴", worst / ROUNDING);
            assert!(worst <= 3e-7, "{isa} {activation:?}: {worst}");
        }
    }
}

#[test]
fn ends_of_the_range() {
    for isa in Isa::available() {
        for activation in ALL {
            let kernels = Kernels::new(isa);
            let x = [f32::NEG_INFINITY, f32::MIN, -1e4, -200.0, 0.0, 200.0, 1e20, f32::MAX, f32::INFINITY, f32::NAN];
            let mut dx = [1.0; 10];
            kernels.activate_backward(activation, &x, &mut dx).unwrap();
            assert_eq!(dx[..9], [0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0], "{isa} {activation:?}");
            assert!(dx[9].is_nan(), "{isa} {activation:?}");
            let (mut gate, mut up) = (x, [1.0; 10]);
            kernels.gate_backward(activation, &mut gate, &mut up, &[1.0; 10]).unwrap();
            assert_eq!(gate[..9], dx[..9], "{isa} {activation:?}");
            assert_eq!(up[1..9], [0.0, 0.0, 0.0, 0.0, 200.0, 1e20, f32::MAX, f32::INFINITY], "{isa} {activation:?}");
            assert!(gate[9].is_nan() && up[9].is_nan(), "{isa} {activation:?}");
        }
    }
}

#[test]
fn lengths_are_named() {
    let kernels = Kernels::new(Isa::best());
    let error = kernels.activate_backward(Activation::Silu, &[1.0; 3], &mut [0.0; 2]).unwrap_err();
    assert_eq!(error, Error::Length { name: "gradient of an activation", has: 2, expected: 3 });
    let error = kernels.gate_backward(Activation::Silu, &mut [1.0; 3], &mut [0.0; 2], &[1.0; 3]).unwrap_err();
    assert_eq!(error, Error::Length { name: "up", has: 2, expected: 3 });
}
