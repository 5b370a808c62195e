//! Activations of feed-forward layers, alone or fused with the product behind them.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use regard_simd::math::exp2;
use regard_simd::{Kernel, Simd};

use crate::each::each;
use crate::{Error, Kernels};

/// What a feed-forward layer applies to each number between its two products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + e⁻ˣ)` (Elfwing et al., 2017), also called swish. Relatively within 4·10⁻⁶ where `x ≥ −87`; 0 below −88.7,
    /// where `e⁻ˣ` is no longer finite.
    Silu,
    /// `x·Φ(x)` with the normal distribution Φ (Hendrycks and Gimpel, 2016, section 2), within `3·10⁻⁷·|x|`.
    Gelu,
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))` (Hendrycks and Gimpel, 2016, section 2), within `2·10⁻⁶·|x|`.
    GeluTanh,
}

impl Kernels {
    /// A gated linear unit (Shazeer, 2020): `out = activation(gate) · up`; SwiGLU with [`Activation::Silu`], GeGLU with the
    /// others.
    ///
    /// The three slices are of one length.
    ///
    /// ```
    /// use regard_kernels::{Activation, Kernels};
    /// use regard_simd::Isa;
    ///
    /// let mut out = [0.0; 2];
    /// Kernels::new(Isa::best()).gate(Activation::Silu, &[0.0, 1.0], &[5.0, 2.0], &mut out)?;
    /// assert_eq!(out[0], 0.0);
    /// assert!((out[1] - 2.0 / (1.0 + (-1.0f32).exp())).abs() < 1e-6);
    /// # Ok::<(), regard_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn gate(self, activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) -> Result<(), Error> {
        for (name, has) in [("up", up.len()), ("gated row", out.len())] {
            if has != gate.len() {
                return Err(Error::Length { name, has, expected: gate.len() });
            }
        }
        out.copy_from_slice(gate);
        self.isa().run(Apply { activation, x: out, up: Some(up) });
        Ok(())
    }

    /// `x = activation(x)`.
    ///
    /// ```
    /// use regard_kernels::{Activation, Kernels};
    /// use regard_simd::Isa;
    ///
    /// let mut x = [0.0, 1.0];
    /// Kernels::new(Isa::best()).activate(Activation::Gelu, &mut x);
    /// assert_eq!(x[0], 0.0);
    /// assert!((x[1] - 0.841_344_75).abs() < 1e-6);
    /// ```
    pub fn activate(self, activation: Activation, x: &mut [f32]) {
        self.isa().run(Apply { activation, x, up: None });
    }
}

impl Activation {
    /// `x = activation(x)` within a kernel: a function of its own, so that it is compiled once for an instruction set and not
    /// for every product that ends with it.
    pub(crate) fn apply<S: Simd>(self, s: S, x: &mut [f32]) {
        s.vectorize(
            #[inline(always)]
            || Apply { activation: self, x, up: None }.run(s),
        );
    }
}

/// An activation as a type: what is generic over it is compiled, and inlined, for each. (Through a function that is passed on,
/// the instructions of [`Simd`] would not be inlined.)
trait Shape {
    fn of<S: Simd>(s: S, x: S::F32) -> S::F32;
}

/// `x = activation(x)`, times `up` where that is given, of the same length.
struct Apply<'a> {
    activation: Activation,
    x: &'a mut [f32],
    up: Option<&'a [f32]>,
}

impl Kernel for Apply<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.activation {
            Activation::Silu => self.apply::<S, Silu>(s),
            Activation::Gelu => self.apply::<S, Gelu>(s),
            Activation::GeluTanh => self.apply::<S, GeluTanh>(s),
        }
    }
}

impl Apply<'_> {
    #[inline(always)]
    fn apply<S: Simd, A: Shape>(self, s: S) {
        match self.up {
            Some(up) => each(
                s,
                [up],
                [self.x],
                #[inline(always)]
                |[up], [x]| [s.mul(A::of(s, x), up)],
            ),
            None => each(
                s,
                [],
                [self.x],
                #[inline(always)]
                |[], [x]| [A::of(s, x)],
            ),
        }
    }
}

/// `x / (1 + e⁻ʸ)`: `x` times the logistic function of `y`.
#[inline(always)]
fn times_logistic<S: Simd>(s: S, x: S::F32, y: S::F32) -> S::F32 {
    s.div(x, s.add(s.splat(1.0), exp2(s, s.mul(y, s.splat(-LOG2_E)))))
}

struct Silu;

impl Shape for Silu {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F32) -> S::F32 {
        times_logistic(s, x, x)
    }
}

/// `2·√(2/π)`, and 0.044715 times that: twice what the hyperbolic tangent is taken of is `LINEAR·x + CUBIC·x³`.
pub(crate) const LINEAR: f32 = 1.595_769;
pub(crate) const CUBIC: f32 = 0.071_354_82;

struct GeluTanh;

impl Shape for GeluTanh {
    /// `(1 + tanh u)/2` is the logistic function of `2u`.
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F32) -> S::F32 {
        let square = s.mul(x, x);
        let y = s.mul(x, s.fma(square, s.splat(CUBIC), s.splat(LINEAR)));
        times_logistic(s, x, y)
    }
}

struct Gelu;

impl Shape for Gelu {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F32) -> S::F32 {
        s.mul(x, normal(s, x).0)
    }
}

/// `(Φ(x), e^(−x²/2))` of the normal distribution Φ: `1 − Φ(|x|)` is `½·e^(−x²/2)·t·(c₁ + t·(c₂ + …))` with
/// `t = 1/(1 + p·|x|/√2)` (Hastings, 1955; Abramowitz and Stegun, 7.1.26), within 7.5·10⁻⁸.
#[inline(always)]
pub(crate) fn normal<S: Simd>(s: S, x: S::F32) -> (S::F32, S::F32) {
    const P: f32 = 0.327_591_1 * FRAC_1_SQRT_2;
    const HALVES: [f32; 5] = [0.127_414_8, -0.142_248_37, 0.710_706_9, -0.726_576, 0.530_702_7];

    let a = s.abs(x);
    let t = s.div(s.splat(1.0), s.fma(a, s.splat(P), s.splat(1.0)));
    let [lower @ .., highest] = HALVES;
    let p = s.mul(t, lower.iter().rev().fold(s.splat(highest), |p, c| s.fma(p, t, s.splat(*c))));
    let power = exp2(s, s.mul(s.mul(x, x), s.splat(-0.5 * LOG2_E)));
    let tail = s.mul(p, power);
    // On the side of x; where x is NaN, so is the tail.
    (s.select(s.lt(s.splat(0.0), x), s.sub(s.splat(1.0), tail), tail), power)
}
