//! What looks at one token at a time.

use std::f64::consts::{FRAC_PI_2, LN_2};

use regard_oracle::layers::{
    Activation, Rotary, Tensor, Tensors, cross_entropy, differences, embedding, erf, feed_forward, layer_norm, linear,
    rms_norm,
};

use super::{drawn, random, row, same, vector};
use crate::close;

#[test]
fn differences_are_derivatives() {
    let at = drawn(1, [("a", &[2, 3]), ("b", &[6])]);
    let slopes = differences(&at, |t| t["a"].values.iter().zip(&t["b"].values).map(|(a, b)| a.sin() * b * b).sum());
    let of = |name: &str| at[name].values.clone();
    let by_a: Vec<f64> = of("a").iter().zip(of("b")).map(|(a, b)| a.cos() * b * b).collect();
    let by_b: Vec<f64> = of("a").iter().zip(of("b")).map(|(a, b)| 2.0 * a.sin() * b).collect();
    close(&slopes["a"].values, &by_a, 1e-9).unwrap();
    close(&slopes["b"].values, &by_b, 1e-9).unwrap();
}

#[test]
fn linear_by_hand() {
    let (x, w) = (row(&[1.0, 2.0]), Tensor::new(&[3, 2], vec![1.0, 0.0, 0.0, 1.0, -1.0, 3.0]));
    same(&linear(&x, &w, None), &row(&[1.0, 2.0, 5.0]));
    same(&linear(&x, &w, Some(&vector(&[10.0, 20.0, 30.0]))), &row(&[11.0, 22.0, 35.0]));
}

#[test]
fn norms_by_hand() {
    let (x, w) = (row(&[3.0, 5.0]), vector(&[2.0, -1.0]));
    // The mean square is 17; the mean is 4 and the variance 1.
    same(&rms_norm(&x, &w, 8.0), &row(&[6.0 / 5.0, -1.0]));
    same(&layer_norm(&x, &w, Some(&vector(&[0.5, 0.0])), 3.0), &row(&[-0.5, -0.5]));
    same(&layer_norm(&x, &w, None, 0.0), &row(&[-2.0, -1.0]));
    // Each row for itself.
    let many = random(1, &[4, 3, 6]);
    let weight = random(2, &[6]);
    let alone: Vec<f64> = many.rows().flat_map(|x| rms_norm(&row(x), &weight, 1e-6).values).collect();
    same(&rms_norm(&many, &weight, 1e-6), &Tensor::new(&[4, 3, 6], alone));
}

/// Values of Abramowitz and Stegun, table 7.1.
#[test]
fn the_error_function_is_the_tables() {
    for (x, y) in [(0.0, 0.0), (0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650)] {
        assert!((erf(x) - y).abs() < 1e-10 && erf(-x) == -erf(x), "{x}: {}", erf(x));
    }
    let slope = |x: f64| (erf(x + 1e-5) - erf(x - 1e-5)) / 2e-5;
    for x in [0.1_f64, 0.9, 2.5, 4.0, 5.9999] {
        let exact = 2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp();
        assert!((slope(x) - exact).abs() < 1e-10, "{x}: {} and {exact}", slope(x));
    }
    assert_eq!((erf(7.0), erf(f64::NEG_INFINITY)), (1.0, -1.0));
    assert!(erf(f64::NAN).is_nan());
}

#[test]
fn activations_have_the_marks_of_theirs() {
    // σ(ln 3) = 3/4.
    assert!((Activation::Silu.of(3f64.ln()) - 0.75 * 3f64.ln()).abs() < 1e-15);
    for x in [0.0, 0.3, 1.0, 2.5, 8.0, 40.0] {
        for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            // Each is x times something that is one for x and −x together.
            assert!((activation.of(x) - activation.of(-x) - x).abs() < 1e-14, "{activation:?} at {x}");
        }
        assert!((Activation::Gelu.of(x) - Activation::GeluTanh.of(x)).abs() < 1e-3, "{x}");
    }
    // Φ(1) is 0.8413447461.
    assert!((Activation::Gelu.of(1.0) - 0.8413447461).abs() < 1e-10);
}

#[test]
fn feed_forward_by_hand() {
    // The gates are σ(ln 3)·ln 3 and 0, what goes through 2 and 5.
    let weights = [("w_gate", vec![3f64.ln(), 0.0]), ("w_up", vec![2.0, 5.0])];
    let weights = Tensors::from_iter(weights.map(|(name, w)| (name, Tensor::new(&[2, 1], w))));
    let weights = weights.and("w_down", row(&[4.0, 7.0]));
    same(&feed_forward(&row(&[1.0]), &weights, Activation::Silu), &row(&[6.0 * 3f64.ln()]));
    // Biases move each part, and without a gate what goes through is what is activated.
    let weights = Tensors::from_iter([("w_up", row(&[1.0])), ("w_down", row(&[4.0])), ("b_down", vector(&[1.0]))]);
    let weights = weights.and("b_up", vector(&[2.0 * LN_2]));
    let exact = 4.0 * (0.8 * 4f64.ln()) + 1.0;
    same(&feed_forward(&row(&[0.0]), &weights, Activation::Silu), &row(&[exact]));
}

#[test]
fn rotary_turns() {
    // Two angles, one turn for each step and one a hundred times slower; the last number stays.
    let rotary = Rotary { theta: 1e4, dims: Some(4) };
    let x = Tensor::new(&[2, 5], [[1.0, 0.0, 0.0, 2.0, 7.0]; 2].concat());
    let (s, c) = 0.01f64.sin_cos();
    let exact = [[1.0, 0.0, 0.0, 2.0, 7.0], [1f64.cos(), -2.0 * s, 1f64.sin(), 2.0 * c, 7.0]];
    same(&rotary.apply(&x, 0), &Tensor::new(&[2, 5], exact.concat()));
    // Where the first token stands moves all of them.
    let quarter = Rotary { theta: (4.0 * FRAC_PI_2).powi(2), dims: None };
    let x = random(1, &[3, 2, 4, 6]);
    let moved = quarter.apply(&x, 3);
    same(&quarter.apply(&Tensor::new(&[1, 6], x.values[6..12].to_vec()), 4), &row(&moved.values[6..12]));
    // A product of two depends on how far they stand apart.
    let (a, b) = (random(2, &[1, 6]), random(3, &[1, 6]));
    let product = |p, q| quarter.apply(&a, p).dot(&quarter.apply(&b, q));
    assert!((product(2, 5) - product(11, 14)).abs() < 1e-12 && (product(2, 5) - product(2, 6)).abs() > 1e-3);
}

#[test]
fn tokens_and_targets() {
    let table = random(1, &[5, 3]);
    let rows = embedding(&table, &[4, 0, 4]);
    same(&rows, &Tensor::new(&[3, 3], [4, 0, 4].map(|token| table.part(token).values).concat()));
    // One target of weight a quarter, one of a half, and one that does not count.
    let logits = Tensor::new(&[3, 2], vec![1000.0, 1000.0 + 3f64.ln(), -7.0, -7.0, 5.0, 2.0]);
    let loss = cross_entropy(&logits, &[Some(0), Some(1), None]);
    assert!((loss - (4f64.ln() + LN_2) / 2.0).abs() < 1e-12, "{loss}");
    assert_eq!(cross_entropy(&logits, &[None; 3]), 0.0);
}
