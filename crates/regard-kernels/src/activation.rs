//! Activations of feed-forward layers, alone or fused with the product behind them.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use regard_simd::math::exp2;
use regard_simd::{Kernel, Simd};

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
            Activation::Silu => self.each::<S, Silu>(s),
            Activation::Gelu => self.each::<S, Gelu>(s),
            Activation::GeluTanh => self.each::<S, GeluTanh>(s),
        }
    }
}

impl Apply<'_> {
    #[inline(always)]
    fn each<S: Simd, A: Shape>(self, s: S) {
        let Apply { x, up, .. } = self;
        let whole = x.len() / S::LANES * S::LANES;
        let (vectors, last) = x.split_at_mut(whole);
        for (at, x) in vectors.chunks_exact_mut(S::LANES).enumerate() {
            // SAFETY: a chunk holds LANES numbers, and `up` as many at its place.
            unsafe {
                let y = A::of(s, s.load(x.as_ptr()));
                let y = match up {
                    Some(up) => s.mul(y, s.load(up[at * S::LANES..][..S::LANES].as_ptr())),
                    None => y,
                };
                s.store(x.as_mut_ptr(), y);
            }
        }
        // The rest as a vector too, so that a number's bits do not depend on where it stands.
        let mut rest = [0.0; MOST];
        rest[..last.len()].copy_from_slice(last);
        // SAFETY: an array of MOST ≥ LANES numbers.
        unsafe { s.store(rest.as_mut_ptr(), A::of(s, s.load(rest.as_ptr()))) };
        for (i, (x, y)) in last.iter_mut().zip(rest).enumerate() {
            *x = up.map_or(y, |up| y * up[whole + i]);
        }
    }
}

/// The most lanes of any instruction set.
const MOST: usize = 16;

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

struct GeluTanh;

impl Shape for GeluTanh {
    /// `(1 + tanh u)/2` is the logistic function of `2u`.
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F32) -> S::F32 {
        /// `2·√(2/π)`, and 0.044715 times that.
        const LINEAR: f32 = 1.595_769;
        const CUBIC: f32 = 0.071_354_82;

        let square = s.mul(x, x);
        let y = s.mul(x, s.fma(square, s.splat(CUBIC), s.splat(LINEAR)));
        times_logistic(s, x, y)
    }
}

struct Gelu;

impl Shape for Gelu {
    /// `1 − Φ(|x|)` is `½·e^(−x²/2)·t·(c₁ + t·(c₂ + …))` with `t = 1/(1 + p·|x|/√2)` (Hastings, 1955; Abramowitz and
    /// Stegun, 7.1.26), within 7.5·10⁻⁸.
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F32) -> S::F32 {
        const P: f32 = 0.327_591_1 * FRAC_1_SQRT_2;
        const HALVES: [f32; 5] = [0.127_414_8, -0.142_248_37, 0.710_706_9, -0.726_576, 0.530_702_7];

        let a = s.abs(x);
        let t = s.div(s.splat(1.0), s.fma(a, s.splat(P), s.splat(1.0)));
        let [lower @ .., highest] = HALVES;
        let p = s.mul(t, lower.iter().rev().fold(s.splat(highest), |p, c| s.fma(p, t, s.splat(*c))));
        let tail = s.mul(p, exp2(s, s.mul(s.mul(x, x), s.splat(-0.5 * LOG2_E))));
        // Φ on the side of x; where x is NaN, so is the tail.
        let share = s.select(s.lt(s.splat(0.0), x), s.sub(s.splat(1.0), tail), tail);
        s.mul(x, share)
    }
}
