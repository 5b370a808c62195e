//! SwiGLU against `gate / (1 + e^−gate) · up`.

use std::f32::consts::LOG2_E;

use proptest::prelude::*;
use regard_kernels::{Activation, Error, Kernels};
use regard_simd::Isa;

use crate::support::ROUNDING;

fn silu_mul(isa: Isa, gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; gate.len()];
    Kernels::new(isa).gate(Activation::Silu, gate, up, &mut out).unwrap();
    out
}

fn definition(gate: f32, up: f32) -> f64 {
    let (gate, up) = (f64::from(gate), f64::from(up));
    gate / (1.0 + (-gate).exp()) * up
}

/// How far off the result may be, relatively: an exponent in base 2 is a product with a constant, and both are rounded;
/// that moves the power as much as the exponent. Then come a power of 1.3 ULP, a sum, a quotient and a product.
fn bound(gate: f32) -> f64 {
    let constant = (f64::from(LOG2_E) - std::f64::consts::LOG2_E).abs();
    let exponent = f64::from(gate.abs()) * f64::from(LOG2_E);
    let moved = f64::from(gate.abs()) * constant + exponent.log2().ceil().max(-20.0).exp2() * ROUNDING;
    std::f64::consts::LN_2 * moved + 7.0 * ROUNDING
}

proptest! {
    #[test]
    fn is_the_definition(numbers in prop::collection::vec((-88.0..200.0_f32, -50.0..50.0_f32), 0..100)) {
        let (gate, up): (Vec<f32>, Vec<f32>) = numbers.into_iter().unzip();
        for isa in Isa::available() {
            for ((&y, &gate), &up) in silu_mul(isa, &gate, &up).iter().zip(&gate).zip(&up) {
                let (exact, bound) = (definition(gate, up), bound(gate));
                let error = (f64::from(y) - exact).abs();
                prop_assert!(error <= bound * exact.abs() + 1e-38, "{isa}: {y}, {exact} at {gate}, {up}");
            }
        }
    }

    /// Below, e^−gate is beyond f32, and the result is smaller than 3·10⁻³⁷ times `up`.
    #[test]
    fn vanishes_far_below(gates in prop::collection::vec(-1e6..-88.0_f32, 1..40), up in -1e6..1e6_f32) {
        for isa in Isa::available() {
            for (&y, &gate) in silu_mul(isa, &gates, &vec![up; gates.len()]).iter().zip(&gates) {
                let error = (f64::from(y) - definition(gate, up)).abs();
                prop_assert!(error <= 3e-37 * f64::from(up.abs()) + 1e-38, "{isa}: {y} at {gate}");
            }
        }
    }

    /// The bits of a number depend neither on where it stands nor on what stands beside it.
    #[test]
    fn same_bits_everywhere(numbers in prop::collection::vec((-100.0..100.0_f32, -50.0..50.0_f32), 1..40)) {
        let (gate, up): (Vec<f32>, Vec<f32>) = numbers.into_iter().unzip();
        for isa in Isa::available() {
            let all = silu_mul(isa, &gate, &up);
            for (i, y) in all.iter().enumerate() {
                prop_assert_eq!(silu_mul(isa, &gate[i..=i], &up[i..=i])[0].to_bits(), y.to_bits(), "{}: {}", isa, i);
            }
        }
    }
}

#[test]
fn ends_of_the_range() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let cases = [
        // Gate, up, and the result: what the formula gives, and so NaN for −∞ / ∞.
        (inf, 1.0, inf),
        (inf, -2.0, -inf),
        (inf, 0.0, nan),
        (-inf, 1.0, nan),
        (f32::MAX, 1.0, f32::MAX),
        (f32::MIN, 1.0, 0.0),
        (1e30, -2.0, -2e30),
        (f32::MAX, 2.0, inf),
        (-1e4, 5.0, 0.0),
        (1.0, inf, inf),
        (-1.0, inf, -inf),
        (0.0, inf, nan),
        (nan, 1.0, nan),
        (1.0, nan, nan),
        (nan, 0.0, nan),
    ];
    for isa in Isa::available() {
        // At every place of a vector and behind the last whole one; 1 stands beside.
        for at in 0..37 {
            for (gate, up, expected) in cases {
                let (mut gates, mut ups) = ([1.0; 37], [1.0; 37]);
                (gates[at], ups[at]) = (gate, up);
                let y = silu_mul(isa, &gates, &ups);
                assert!(y[at] == expected || y[at].is_nan() && expected.is_nan(), "{isa}: {gate}, {up} gave {}", y[at]);
                let beside = |(i, y): (usize, &f32)| i == at || (f64::from(*y) - definition(1.0, 1.0)).abs() < 1e-6;
                assert!(y.iter().enumerate().all(beside), "{isa}: beside {gate}");
            }
        }
        for (gate, up) in [(0.0_f32, 3.0_f32), (-0.0, 3.0), (0.0, -3.0), (-0.0, -3.0)] {
            assert_eq!(silu_mul(isa, &[gate], &[up])[0].to_bits(), (gate * up).to_bits(), "{isa}: the sign of 0");
        }
    }
}

#[test]
fn lengths_are_named() {
    let kernels = Kernels::new(Isa::best());
    let error = kernels.gate(Activation::Silu, &[1.0; 3], &[1.0; 4], &mut [0.0; 3]).unwrap_err();
    assert_eq!(error, Error::Length { name: "up", has: 4, expected: 3 });
    let error = kernels.gate(Activation::Silu, &[1.0; 3], &[1.0; 3], &mut [0.0; 4]).unwrap_err();
    assert_eq!(error, Error::Length { name: "gated row", has: 4, expected: 3 });
}

/// In f64; erf by its series and, far out, its continued fraction (Abramowitz and Stegun, 7.1.6 and 7.1.14).
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    let scale = 2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp();
    if x < 2.5 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term > 1e-18 * sum {
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
        }
        1.0 - scale * sum
    } else {
        let fraction = (1..60).rev().fold(x, |below, k| x + f64::from(k) / 2.0 / below);
        scale / 2.0 / fraction
    }
}

fn exactly(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => x / 2.0 * erfc(-x / std::f64::consts::SQRT_2),
        Activation::GeluTanh => {
            x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
    }
}

const ALL: [Activation; 3] = [Activation::Silu, Activation::Gelu, Activation::GeluTanh];

proptest! {
    #[test]
    fn others_are_their_definitions(x in prop::collection::vec(prop_oneof![-8.0..8.0_f32, -80.0..80.0_f32], 0..100)) {
        for isa in Isa::available() {
            for (activation, bound) in ALL.into_iter().zip([4e-6, 3e-7, 2e-6]) {
                let mut y = x.clone();
                Kernels::new(isa).activate(activation, &mut y);
                for (&x, &y) in x.iter().zip(&y) {
                    let exact = exactly(activation, f64::from(x));
                    let error = (f64::from(y) - exact).abs();
                    prop_assert!(error <= bound * f64::from(x.abs()), "{isa} {activation:?}: {y}, {exact} at {x}");
                }
            }
        }
    }

    /// A gate is the activation times what it opens for, and neither's bits depend on where a number stands.
    #[test]
    fn a_gate_is_an_activation_and_a_product(numbers in prop::collection::vec((-9.0..9.0_f32, -5.0..5.0_f32), 0..70)) {
        let (gate, up): (Vec<f32>, Vec<f32>) = numbers.into_iter().unzip();
        for isa in Isa::available() {
            for activation in ALL {
                let (mut gated, mut all) = (vec![f32::NAN; gate.len()], gate.clone());
                Kernels::new(isa).gate(activation, &gate, &up, &mut gated).unwrap();
                Kernels::new(isa).activate(activation, &mut all);
                for (i, (&gated, &active)) in gated.iter().zip(&all).enumerate() {
                    let mut alone = [gate[i]];
                    Kernels::new(isa).activate(activation, &mut alone);
                    prop_assert_eq!(active.to_bits(), alone[0].to_bits());
                    prop_assert_eq!(gated.to_bits(), (active * up[i]).to_bits());
                }
            }
        }
    }
}

#[test]
fn others_at_the_ends() {
    for isa in Isa::available() {
        for activation in ALL {
            let mut x = [-1e30, -200.0, 0.0, 200.0, 1e30, f32::INFINITY, f32::NAN];
            Kernels::new(isa).activate(activation, &mut x);
            assert_eq!(x[..6], [0.0, 0.0, 0.0, 200.0, 1e30, f32::INFINITY], "{isa} {activation:?}");
            assert!(x[6].is_nan(), "{isa} {activation:?}");
        }
    }
}
