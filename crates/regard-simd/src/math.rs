//! Mathematics on vectors: each function says its error in ULP, and a test runs over every float of its domain.

use crate::Simd;

/// `2ᶠ` on `[−½, ½]` is `1 + f·(c₁ + f·(c₂ + …))`. The coefficients minimise the largest relative error (Lawson's
/// iteration); with the constant fixed at 1, whole powers are exact. Largest relative error of each degree: 1.0e-4,
/// 2.8e-6, 9.1e-8, 2.0e-9.
const DEGREE_3: [f32; 3] = [0.693_282_9, 0.242_210_97, 0.055_008_933];
const DEGREE_4: [f32; 4] = [0.693_124_2, 0.240_240_99, 0.055_906_426, 0.009_582_853];
const DEGREE_5: [f32; 5] = [0.693_147, 0.240_222_42, 0.055_507_336, 0.009_671_513, 0.001_326_472_7];
const DEGREE_6: [f32; 6] = [0.693_147_2, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_5, 0.000_153_533_62];

/// `2ˣ` for `x < 128` by a polynomial of `DEGREE` 3 to 6; −∞ gives exactly 0 and NaN gives NaN.
///
/// Method: `x = n + f` with `n` the nearest integer, a polynomial for `2ᶠ`, and `n` into the exponent. Degree 5 is
/// within 2 ULP, degree 6 within 1.1; results under 2⁻¹²⁶ may be any number of `[0, 2⁻¹²⁶)`.
#[inline(always)]
pub fn exp2_of_degree<S: Simd, const DEGREE: usize>(s: S, x: S::F32) -> S::F32 {
    let [y] = exp2_of_each::<S, DEGREE, 1>(s, [x]);
    y
}

/// [`exp2_of_degree`] of `N` vectors in step: a core's schedulers hold few instructions that wait for one another, so
/// several short queues run faster than one after the other.
#[inline(always)]
pub fn exp2_of_each<S: Simd, const DEGREE: usize, const N: usize>(s: S, mut x: [S::F32; N]) -> [S::F32; N] {
    let coefficients: &[f32] = match DEGREE {
        3 => &DEGREE_3,
        4 => &DEGREE_4,
        5 => &DEGREE_5,
        _ => &DEGREE_6,
    };
    let mut n = x;
    let mut p = [s.splat(coefficients[DEGREE - 1]); N];
    for (x, n) in x.iter_mut().zip(&mut n) {
        // The constant stands first, so that a NaN in `x` is what stays.
        *x = s.max(s.splat(S::EXP2_MIN), *x);
        *n = s.round(*x);
        *x = s.sub(*x, *n);
    }
    for coefficient in coefficients[..DEGREE - 1].iter().rev() {
        for (p, f) in p.iter_mut().zip(x) {
            *p = s.fma(*p, f, s.splat(*coefficient));
        }
    }
    for ((p, f), n) in p.iter_mut().zip(x).zip(n) {
        *p = s.scale_by_power(s.fma(*p, f, s.splat(1.0)), n);
    }
    p
}

/// `2ˣ`, within 1.1 ULP where the result is at least 2⁻¹²⁶ (below, any number of `[0, 2⁻¹²⁶)`, and 0 from −150 on);
/// `2^∞ = ∞`, `2^−∞ = 0` exactly, NaN stays NaN.
#[inline(always)]
pub fn exp2<S: Simd>(s: S, x: S::F32) -> S::F32 {
    exp2_of_degree::<S, 6>(s, s.min(s.splat(128.0), x))
}
