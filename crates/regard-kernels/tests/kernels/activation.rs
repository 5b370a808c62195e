//! SwiGLU against `gate / (1 + e^−gate) · up`.

use std::f32::consts::LOG2_E;

use proptest::prelude::*;
use regard_kernels::{Error, Kernels};
use regard_simd::Isa;

use crate::support::ROUNDING;

fn silu_mul(isa: Isa, gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; gate.len()];
    Kernels::new(isa).silu_mul(gate, up, &mut out).unwrap();
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
    let error = kernels.silu_mul(&[1.0; 3], &[1.0; 4], &mut [0.0; 3]).unwrap_err();
    assert_eq!(error, Error::Length { name: "up", has: 4, expected: 3 });
    let error = kernels.silu_mul(&[1.0; 3], &[1.0; 3], &mut [0.0; 4]).unwrap_err();
    assert_eq!(error, Error::Length { name: "gated row", has: 4, expected: 3 });
}
