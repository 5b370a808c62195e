//! The logistic function and its relatives, in units of the last place.

use proptest::prelude::*;
use regard_kernels::Kernels;
use regard_simd::Isa;

type Function = (&'static str, fn(Kernels, &mut [f32]), fn(f64) -> f64, f64);

/// Each with its definition and the largest error that its documentation says.
const ALL: [Function; 3] = [
    ("sigmoid", Kernels::sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 3.0),
    ("log_sigmoid", Kernels::log_sigmoid, |x| x.min(0.0) - (-x.abs()).exp().ln_1p(), 2.0),
    ("softplus", Kernels::softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), 2.0),
];

/// An error in units of the last place of the exact result; below 2⁻¹²⁶, of that number's.
fn ulp(y: f32, exact: f64) -> f64 {
    let power = exact.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
    (f64::from(y) - exact).abs() / (power - 23.0).exp2()
}

proptest! {
    #[test]
    fn are_their_definitions(x in prop::collection::vec(prop_oneof![-4.0..4.0_f32, -87.0..300.0_f32, -300.0..87.0_f32], 0..100)) {
        for isa in Isa::available() {
            for (name, kernel, definition, bound) in ALL {
                let mut y = x.clone();
                kernel(Kernels::new(isa), &mut y);
                for (&x, &y) in x.iter().zip(&y) {
                    let exact = definition(f64::from(x));
                    let small = exact.abs() < f64::from(f32::MIN_POSITIVE) && y.abs() <= f32::MIN_POSITIVE;
                    prop_assert!(small || ulp(y, exact) <= bound, "{isa} {name}: {y}, {exact} at {x}");
                }
            }
        }
    }
}

#[test]
fn errors_are_as_documented() {
    let x: Vec<f32> = (-88 * 4096..88 * 4096).map(|i| i as f32 / 4096.0).filter(|x| x.abs() < 87.3).collect();
    for isa in Isa::available() {
        for (name, kernel, definition, bound) in ALL {
            let mut y = x.clone();
            kernel(Kernels::new(isa), &mut y);
            let worst = y.iter().zip(&x).map(|(&y, &x)| ulp(y, definition(f64::from(x)))).fold(0.0, f64::max);
            println!("{isa} {name}: {worst:.2} ULP");
            assert!(worst <= bound, "{isa} {name}: {worst}");
        }
    }
}

#[test]
fn ends_of_the_range() {
    let (inf, max) = (f32::INFINITY, f32::MAX);
    for isa in Isa::available() {
        let ends = [-inf, -max, max, inf, f32::NAN];
        for ((name, kernel, ..), expected) in
            ALL.into_iter().zip([[0.0, 0.0, 1.0, 1.0], [-inf, -max, 0.0, 0.0], [0.0, 0.0, max, inf]])
        {
            let mut y = ends;
            kernel(Kernels::new(isa), &mut y);
            assert_eq!(y[..4], expected, "{isa} {name}");
            assert!(y[4].is_nan(), "{isa} {name}");
        }
    }
}
