//! Gradients of norms against differences of `Σ dout·norm(x)` in f64.

use proptest::prelude::*;
use regard_kernels::{Error, Kernels};
use regard_simd::Isa;

use crate::{ROUNDING, doubles, numbers, slope};

/// What is centred is a layer norm; the weight's dot product with the normed row's gradient is the loss.
fn loss(x: &[f64], weight: &[f64], bias: &[f64], dout: &[f64], eps: f64, centred: bool) -> f64 {
    let len = x.len() as f64;
    let mean = if centred { x.iter().sum::<f64>() / len } else { 0.0 };
    let root = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / len + eps).sqrt();
    (0..x.len()).map(|i| dout[i] * ((x[i] - mean) / root * weight[i] + bias[i])).sum()
}

/// The gradients in f64, `[dx, dweight]`.
fn definition(x: &[f64], weight: &[f64], dout: &[f64], eps: f64, centred: bool) -> [Vec<f64>; 2] {
    let mean_of = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let mean = if centred { mean_of(x) } else { 0.0 };
    let apart: Vec<f64> = x.iter().map(|x| x - mean).collect();
    let root = (mean_of(&apart.iter().map(|x| x * x).collect::<Vec<_>>()) + eps).sqrt();
    let normed: Vec<f64> = apart.iter().map(|x| x / root).collect();
    let g: Vec<f64> = dout.iter().zip(weight).map(|(dout, weight)| dout * weight).collect();
    let shift = if centred { mean_of(&g) } else { 0.0 };
    let along = mean_of(&g.iter().zip(&normed).map(|(g, normed)| g * normed).collect::<Vec<_>>());
    let dx = g.iter().zip(&normed).map(|(g, normed)| (g - shift - normed * along) / root).collect();
    [dx, dout.iter().zip(&normed).map(|(dout, normed)| dout * normed).collect()]
}

struct Gradients {
    dx: Vec<f32>,
    dweight: Vec<f32>,
    dbias: Vec<f32>,
}

/// What is added to 0.5, 0.25 and 2.
fn gradients(isa: Isa, x: &[f32], weight: &[f32], dout: &[f32], eps: f32, centred: bool) -> Gradients {
    let len = x.len();
    let (kernels, mut dx, mut dweight, mut dbias) =
        (Kernels::new(isa), vec![0.5; len], vec![0.25; len], vec![2.0; len]);
    if centred {
        kernels.layer_norm_backward(x, weight, eps, dout, &mut dx, [&mut dweight, &mut dbias]).unwrap();
    } else {
        kernels.rms_norm_backward(x, weight, eps, dout, &mut dx, &mut dweight).unwrap();
    }
    Gradients { dx, dweight, dbias }
}

proptest! {
    #[test]
    fn definitions_are_derivatives(len in 1..20_usize, seed: u64, eps in 1e-3..1e-1_f64, centred: bool) {
        let [x, weight, bias, dout] = [1, 2, 3, 4].map(|i| doubles(&numbers(seed ^ i, len, 2.0)));
        let [dx, dweight] = definition(&x, &weight, &dout, eps, centred);
        for i in 0..len {
            let by_x = slope(|x| loss(x, &weight, &bias, &dout, eps, centred), &x, i);
            let by_weight = slope(|weight| loss(&x, weight, &bias, &dout, eps, centred), &weight, i);
            // A difference errs by its step squared, times third derivatives, which go with eps^−3/2.
            prop_assert!((dx[i] - by_x).abs() <= 1e-10 * eps.powf(-1.5) * len as f64 + 1e-8, "{} {by_x}", dx[i]);
            prop_assert!((dweight[i] - by_weight).abs() <= 1e-8, "{} {by_weight}", dweight[i]);
        }
    }

    #[test]
    fn are_added(len in 0..3000_usize, seed: u64, mean in -4.0..4.0_f32, eps in 1e-6..1e-2_f32, centred: bool) {
        let [x, weight, dout] = [1, 2, 3].map(|i| numbers(seed ^ i, len, 3.0));
        let x: Vec<f32> = x.iter().map(|x| x + mean).collect();
        let [dx, dweight] = definition(&doubles(&x), &doubles(&weight), &doubles(&dout), f64::from(eps), centred);
        let centre = if centred && len > 0 { doubles(&x).iter().sum::<f64>() / len as f64 } else { 0.0 };
        let spread = x.iter().map(|&x| (f64::from(x) - centre).powi(2)).sum::<f64>() / len as f64;
        let root = (spread + f64::from(eps)).sqrt();
        // Sums in at least four lanes, each of which errs by less than its length; the mean moves every difference.
        let sums = (len / 4 + 16) as f64 * ROUNDING;
        let moved = if centred { sums * f64::from(mean.abs() + 3.0) / root } else { 0.0 };
        for isa in Isa::available() {
            let got = gradients(isa, &x, &weight, &dout, eps, centred);
            for i in 0..len {
                let normed = (f64::from(x[i]) - centre).abs() / root;
                // |g| is at most 9, and so is its mean's product with a normed row.
                let bound = (sums + 2.0 * moved) * 9.0 * (2.0 + normed) * 2.0 / root + ROUNDING * (1.0 + dx[i].abs());
                let error = (f64::from(got.dx[i]) - 0.5 - dx[i]).abs();
                prop_assert!(error <= bound, "{isa}: dx {} {} of {len}, {bound}", got.dx[i], dx[i]);
                let bound = 3.0 * (sums * (1.0 + normed) + moved) + ROUNDING * (1.0 + dweight[i].abs());
                let error = (f64::from(got.dweight[i]) - 0.25 - dweight[i]).abs();
                prop_assert!(error <= bound, "{isa}: dweight {} {}", got.dweight[i], dweight[i]);
                prop_assert_eq!(got.dbias[i], if centred { 2.0 + dout[i] } else { 2.0 });
            }
        }
    }
}

#[test]
fn nan_stays_in_the_row() {
    for isa in Isa::available() {
        for (len, centred) in [(1, false), (7, true), (37, false), (37, true)] {
            let (mut x, ones) = (numbers(1, len, 1.0), vec![1.0; len]);
            x[len - 1] = f32::NAN;
            let got = gradients(isa, &x, &ones, &ones, 1e-5, centred);
            assert!(got.dx.iter().chain(&got.dweight).all(|x| x.is_nan()), "{isa}");
            // A NaN in the gradient reaches all of x, and of the weight its own place.
            let (x, mut dout) = (numbers(1, len, 1.0), ones.clone());
            dout[len / 2] = f32::NAN;
            let got = gradients(isa, &x, &ones, &dout, 1e-5, centred);
            assert!(got.dx.iter().all(|x| x.is_nan()), "{isa}");
            assert!(got.dweight.iter().enumerate().all(|(i, x)| x.is_nan() == (i == len / 2)), "{isa}");
        }
    }
}

/// What fills the last vector has no part, however large the mean.
#[test]
fn constant_rows_have_no_gradient() {
    for isa in Isa::available() {
        let got = gradients(isa, &[65536.0 * 65536.0 * 65536.0 * 65536.0; 5], &[1.0; 5], &[1.0; 5], 1e-5, true);
        assert_eq!((got.dx, got.dweight), (vec![0.5; 5], vec![0.25; 5]), "{isa}");
    }
}

#[test]
fn lengths_are_named() {
    let kernels = Kernels::new(Isa::best());
    let [mut two, mut three] = [vec![0.0; 2], vec![0.0; 3]];
    let error = kernels.rms_norm_backward(&[1.0; 3], &[1.0; 3], 0.0, &[1.0; 3], &mut two, &mut three).unwrap_err();
    assert_eq!(error, Error::Length { name: "gradient of a row to norm", has: 2, expected: 3 });
    let mut dx = [0.0; 3];
    let error =
        kernels.layer_norm_backward(&[1.0; 3], &[1.0; 3], 0.0, &[1.0; 3], &mut dx, [&mut three, &mut two]).unwrap_err();
    assert_eq!(error, Error::Length { name: "gradient of a norm bias", has: 2, expected: 3 });
}
