//! Derivatives of activations, alone or fused with the product behind them.

use std::f32::consts::LOG2_E;

use regard_simd::math::exp2;
use regard_simd::{Kernel, Simd};

use crate::activation::{CUBIC, LINEAR, normal};
use crate::each::each;
use crate::{Activation, Error, Kernels};

impl Kernels {
    /// The gradient of [`activate`](Self::activate): `dx = dx · activation′(x)`, with `x` as it was before.
    ///
    /// The derivative is within 3·10⁻⁷; it is 0 or 1 where `x` is far out or infinite.
    ///
    /// ```
    /// use regard_kernels::{Activation, Kernels};
    /// use regard_simd::Isa;
    ///
    /// let mut dx = [3.0, 3.0];
    /// Kernels::new(Isa::best()).activate_backward(Activation::Silu, &[0.0, 90.0], &mut dx)?;
    /// assert_eq!(dx, [1.5, 3.0]);
    /// # Ok::<(), regard_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn activate_backward(self, activation: Activation, x: &[f32], dx: &mut [f32]) -> Result<(), Error> {
        Error::check_same("gradient of an activation", dx.len(), x.len())?;
        self.isa().run(ActivateBackward { activation, x, dx });
        Ok(())
    }

    /// The gradients of [`gate`](Self::gate), `dout` being that of its result. They take the places of the numbers:
    /// `gate = dout · up · activation′(gate)` and `up = dout · activation(gate)`.
    ///
    /// The three slices are of one length. Errors are those of [`activate`](Self::activate) and
    /// [`activate_backward`](Self::activate_backward).
    ///
    /// ```
    /// use regard_kernels::{Activation, Kernels};
    /// use regard_simd::Isa;
    ///
    /// let (mut gate, mut up) = ([0.0, 90.0], [4.0, 5.0]);
    /// Kernels::new(Isa::best()).gate_backward(Activation::Silu, &mut gate, &mut up, &[1.0, 2.0])?;
    /// assert_eq!((gate, up), ([2.0, 10.0], [0.0, 180.0]));
    /// # Ok::<(), regard_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn gate_backward(
        self,
        activation: Activation,
        gate: &mut [f32],
        up: &mut [f32],
        dout: &[f32],
    ) -> Result<(), Error> {
        Error::check_same("up", up.len(), gate.len())?;
        Error::check_same("gradient of a gated row", dout.len(), gate.len())?;
        self.isa().run(GateBackward { activation, gate, up, dout });
        Ok(())
    }
}

/// An activation `x·share(x)` as a type, for the reason that [`crate::activation`] gives.
trait Slope {
    /// The share of `x`, and the derivative `share + x·share′` of the whole.
    fn of<S: Simd>(s: S, x: S::F32) -> (S::F32, S::F32);
}

struct ActivateBackward<'a> {
    activation: Activation,
    x: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for ActivateBackward<'_> {
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

impl ActivateBackward<'_> {
    #[inline(always)]
    fn apply<S: Simd, A: Slope>(self, s: S) {
        each(
            s,
            [self.x],
            [self.dx],
            #[inline(always)]
            |[x], [dx]| [s.mul(dx, A::of(s, x).1)],
        );
    }
}

struct GateBackward<'a> {
    activation: Activation,
    gate: &'a mut [f32],
    up: &'a mut [f32],
    dout: &'a [f32],
}

impl Kernel for GateBackward<'_> {
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

impl GateBackward<'_> {
    #[inline(always)]
    fn apply<S: Simd, A: Slope>(self, s: S) {
        each(
            s,
            [self.dout],
            [self.gate, self.up],
            #[inline(always)]
            |[dout], [gate, up]| {
                let (share, slope) = A::of(s, gate);
                [s.mul(s.mul(dout, up), slope), s.mul(dout, s.mul(gate, share))]
            },
        );
    }
}

/// `x`, no further out than `bound`, from where on the derivative is that of the end: 0 times ∞ would be NaN. A NaN stays.
#[inline(always)]
fn within<S: Simd>(s: S, bound: f32, x: S::F32) -> S::F32 {
    s.max(s.splat(-bound), s.min(s.splat(bound), x))
}

/// The logistic function `1 / (1 + e⁻ʸ)` and its derivative, which is it times what it lacks to 1.
#[inline(always)]
fn logistic<S: Simd>(s: S, y: S::F32) -> (S::F32, S::F32) {
    let e = exp2(s, s.mul(y, s.splat(-LOG2_E)));
    let share = s.div(s.splat(1.0), s.add(s.splat(1.0), e));
    // e·share is 1 − share without a loss of digits. Where e is ∞ the share is 0, and so is the derivative.
    let rest = s.mul(s.min(s.splat(f32::MAX), e), share);
    (share, s.mul(share, rest))
}

struct Silu;

impl Slope for Silu {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F32) -> (S::F32, S::F32) {
        let x = within(s, 100.0, x);
        let (share, slope) = logistic(s, x);
        (share, s.fma(x, slope, share))
    }
}

struct GeluTanh;

impl Slope for GeluTanh {
    /// The share is the logistic function of `LINEAR·x + CUBIC·x³`.
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F32) -> (S::F32, S::F32) {
        let x = within(s, 12.0, x);
        let square = s.mul(x, x);
        let (share, slope) = logistic(s, s.mul(x, s.fma(square, s.splat(CUBIC), s.splat(LINEAR))));
        let inner = s.mul(x, s.fma(square, s.splat(3.0 * CUBIC), s.splat(LINEAR)));
        (share, s.fma(inner, slope, share))
    }
}

struct Gelu;

impl Slope for Gelu {
    /// The share is Φ, whose derivative is `e^(−x²/2)/√(2π)`.
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F32) -> (S::F32, S::F32) {
        /// `1/√(2π)`.
        const PEAK: f32 = 0.398_942_3;

        let x = within(s, 16.0, x);
        let (share, power) = normal(s, x);
        (share, s.fma(s.mul(x, s.splat(PEAK)), power, share))
    }
}
