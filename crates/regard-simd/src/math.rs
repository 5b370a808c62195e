//! Mathematics on vectors: each function says its largest error, in units in the last place (ULP) of the result.
//!
//! The errors are measured, over every float at which a function is not constant to the last bit. A second number
//! stands where the portable token, whose [`Simd::fma`] rounds twice, is not as good as the others. Of results under
//! 2⁻¹²⁶ each function says what holds instead.
//!
//! ```
//! use regard_simd::{Isa, Kernel, Simd, math};
//!
//! /// `e` to the power of each number, in place; the slice holds whole vectors.
//! struct Exp<'a>(&'a mut [f32]);
//!
//! impl Kernel for Exp<'_> {
//!     type Output = ();
//!     #[inline(always)]
//!     fn run<S: Simd>(self, s: S) {
//!         for chunk in self.0.chunks_exact_mut(S::LANES) {
//!             // SAFETY: every chunk holds LANES floats.
//!             unsafe { s.store(chunk.as_mut_ptr(), math::exp(s, s.load(chunk.as_ptr()))) };
//!         }
//!     }
//! }
//!
//! let mut x = [1.0; 16];
//! Isa::best().run(Exp(&mut x));
//! assert!(x.iter().all(|x| (x - std::f32::consts::E).abs() < 3e-7));
//! ```

use crate::Simd;

/// `2ᶠ` on `[−½, ½]` is `1 + f·(c₁ + f·(c₂ + …))`. The coefficients minimise the largest relative error (Lawson's
/// iteration); with the constant fixed at 1, whole powers are exact. Largest relative error of each degree: 1.0e-4,
/// 2.8e-6, 9.1e-8, 2.0e-9.
const DEGREE_3: [f32; 3] = [0.693_282_9, 0.242_210_97, 0.055_008_933];
const DEGREE_4: [f32; 4] = [0.693_124_2, 0.240_240_99, 0.055_906_426, 0.009_582_853];
#[allow(clippy::approx_constant, reason = "c₁ is near ln 2, and is not it")]
const DEGREE_5: [f32; 5] = [0.693_147, 0.240_222_42, 0.055_507_336, 0.009_671_513, 0.001_326_472_7];
#[allow(clippy::approx_constant, reason = "the same; here they are one float")]
const DEGREE_6: [f32; 6] = [0.693_147_2, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_5, 0.000_153_533_62];

/// `2ˣ` for `x ≤ 128` by a polynomial of `DEGREE` 3 to 6; −∞ gives exactly 0, NaN gives NaN, and whole powers are exact.
///
/// Method: `x = n + f` with `n` the nearest integer, a polynomial for `2ᶠ`, and `n` into the exponent.
///
/// | degree | ULP | portable |
/// | --- | --- | --- |
/// | 3 | 1346 | |
/// | 4 | 43 | |
/// | 5 | 2.04 | 2.30 |
/// | 6 | 0.96 | 1.23 |
///
/// A result under 2⁻¹²⁶ may be any number of `[0, 2⁻¹²⁶]`, and is 0 for `x ≤ −150`.
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

/// `2ˣ`, within 0.96 ULP (portable: 1.23): [`exp2_of_degree`] 6, for every `x`. `2^∞ = ∞`, `2^−∞ = 0` exactly, and NaN
/// stays NaN.
#[inline(always)]
pub fn exp2<S: Simd>(s: S, x: S::F32) -> S::F32 {
    exp2_of_degree::<S, 6>(s, s.min(s.splat(128.0), x))
}

/// ln 2 in two parts (Cody and Waite, _Software Manual for the Elementary Functions_, 1980). The first has nine
/// significant bits, so that its product with a whole number of eight is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -0.000_212_194_44;

/// `eᶠ` on `[−½·ln 2, ½·ln 2]` is `1 + f + f²·(c₂ + f·(c₃ + …))`, with coefficients as for `2ᶠ`. Largest relative error:
/// 3.1e-9.
const EXP_FROM_2: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_262, 0.008_368_671, 0.001_382_090_6];

/// `(n, q)` of `eˣ = 2ⁿ·(1 + q)`, for |x| < 2²¹: `n` is the integer nearest to `x / ln 2`, and `q = eᶠ − 1` of the rest
/// `f = x − n·ln 2`. For small `x` this is `eˣ − 1` without the loss of a subtraction.
#[inline(always)]
fn split_exp<S: Simd>(s: S, x: S::F32) -> (S::F32, S::F32) {
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let f = s.fma(n, s.splat(-LN_2_HIGH), x);
    let f = s.fma(n, s.splat(-LN_2_LOW), f);
    let [lower @ .., highest] = EXP_FROM_2;
    let p = lower.iter().rev().fold(s.splat(highest), |p, c| s.fma(p, f, s.splat(*c)));
    (n, s.fma(s.mul(f, f), p, f))
}

/// `eˣ`, within 1.02 ULP; 0 where it is under 2⁻¹²⁶, ∞ where it is 2¹²⁸ or more, and NaN stays NaN.
///
/// Method: `x = n·ln 2 + f` with `n` the nearest integer, a polynomial for `eᶠ − 1`, and `n` into the exponent.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F32) -> S::F32 {
    /// The largest float under `128·ln 2`.
    const LARGEST: f32 = 88.722_83;
    /// The smallest float over `−126·ln 2`.
    const SMALLEST: f32 = -87.336_54;

    let (n, q) = split_exp(s, x);
    let y = s.scale_by_power(s.add(s.splat(1.0), q), n);
    // A NaN is on neither side, and stays.
    let y = s.select(s.lt(x, s.splat(SMALLEST)), s.splat(0.0), y);
    s.select(s.lt(s.splat(LARGEST), x), s.splat(f32::INFINITY), y)
}

/// `ln((1 + t)/(1 − t))` is `2t + t·z·(c₁ + z·(c₂ + …))` with `z = t²`, for `|t| ≤ 3 − 2√2`, with coefficients as for `2ᶠ`.
/// Largest relative error: 2.5e-11.
const LN: [f32; 4] = [0.666_666_6, 0.400_009_72, 0.284_987_66, 0.242_800_19];

/// `ln x`, within 0.85 ULP; −∞ at 0, ∞ at ∞, NaN below 0, and NaN stays NaN.
///
/// Method: `x = 2ⁿ·(1 + f)` with `1 + f` in `[√½, √2)`, and `t = f/(2 + f)` for `ln(1 + f)`, whose first two terms are
/// `f − f²/2` without the rounding of the quotient (as in Ng's fdlibm).
#[inline(always)]
pub fn ln<S: Simd>(s: S, x: S::F32) -> S::F32 {
    const ONE: i32 = 0x3F80_0000;
    /// The bits of √½.
    const LEAST: i32 = 0x3F35_04F3;

    // Numbers below 2⁻¹²⁶ have less digits than the bits below take them for.
    let tiny = s.lt(x, s.splat(f32::MIN_POSITIVE));
    let scaled = s.select(tiny, s.mul(x, s.splat(8_388_608.0)), x);
    let bits = s.add_i32(s.to_bits(scaled), s.splat_i32(ONE - LEAST));
    let n = s.sub(s.to_f32(s.shr::<23>(bits)), s.select(tiny, s.splat(150.0), s.splat(127.0)));
    let f = s.from_bits(s.add_i32(s.and(bits, s.splat_i32(0x007F_FFFF)), s.splat_i32(LEAST)));
    let f = s.sub(f, s.splat(1.0));
    let t = s.div(f, s.add(s.splat(2.0), f));
    let z = s.mul(t, t);
    let [lower @ .., highest] = LN;
    let p = s.mul(z, lower.iter().rev().fold(s.splat(highest), |p, c| s.fma(p, z, s.splat(*c))));
    let half = s.mul(s.splat(0.5), s.mul(f, f));
    let rest = s.fma(t, s.add(half, p), s.mul(n, s.splat(LN_2_LOW)));
    let y = s.fma(n, s.splat(LN_2_HIGH), s.sub(f, s.sub(half, rest)));

    let zero = s.splat(0.0);
    let edge = s.select(s.lt(x, zero), s.splat(f32::NAN), s.splat(f32::NEG_INFINITY));
    let y = s.select(s.lt(zero, x), y, edge);
    // Neither a NaN nor ∞ is less.
    s.select(s.lt(x, s.splat(f32::INFINITY)), y, x)
}

/// `tanh x`, within 2.61 ULP (portable: 2.67), for tiny `x` exactly `x`; odd to the bit, ±1 at ±∞, and NaN stays NaN.
///
/// Method: with `e = e²ᵃ − 1` for `a = |x|`, it is `e / (e + 2)` (as in Sun's fdlibm, in one branch). `e` is
/// `2ⁿ·q + (2ⁿ − 1)`, which cancels nothing: where `q` is negative, `2ⁿ` is at least 2.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F32) -> S::F32 {
    /// From 9.02 on, tanh rounds to 1.
    const SATURATED: f32 = 10.0;

    // The constant stands first, so that a NaN in `x` is what stays.
    let a = s.min(s.splat(SATURATED), s.abs(x));
    let (n, q) = split_exp(s, s.add(a, a));
    let power = s.scale_by_power(s.splat(1.0), n);
    let e = s.fma(power, q, s.sub(power, s.splat(1.0)));
    s.copy_sign(s.div(e, s.add(e, s.splat(2.0))), x)
}
