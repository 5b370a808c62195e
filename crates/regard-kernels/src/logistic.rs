//! The logistic function, its logarithm, and its integral: gates, and what is learned of two choices.

use regard_simd::math::{exp, ln};
use regard_simd::{Kernel, Simd};

use crate::Kernels;
use crate::each::each;

impl Kernels {
    /// `x = σ(x)` with the logistic function `σ(x) = 1 / (1 + e⁻ˣ)`, within 3 ULP; 0 below −88.7, where `e⁻ˣ` is no longer
    /// finite. Its derivative is `σ(x)·(1 − σ(x))`.
    ///
    /// ```
    /// use regard_kernels::Kernels;
    /// use regard_simd::Isa;
    ///
    /// let mut x = [0.0, f32::INFINITY, f32::NEG_INFINITY];
    /// Kernels::new(Isa::best()).sigmoid(&mut x);
    /// assert_eq!(x, [0.5, 1.0, 0.0]);
    /// ```
    pub fn sigmoid(self, x: &mut [f32]) {
        self.isa().run(Sigmoid(x));
    }

    /// `x = ln σ(x)`, within 2 ULP where that is at least 2⁻¹²⁶ in magnitude. Its derivative is `σ(−x)`.
    ///
    /// ```
    /// use regard_kernels::Kernels;
    /// use regard_simd::Isa;
    ///
    /// let mut x = [0.0, 200.0, -200.0];
    /// Kernels::new(Isa::best()).log_sigmoid(&mut x);
    /// assert!((x[0] - 0.5f32.ln()).abs() < 1e-6);
    /// assert_eq!(x[1..], [0.0, -200.0]);
    /// ```
    pub fn log_sigmoid(self, x: &mut [f32]) {
        self.isa().run(LogSigmoid(x));
    }

    /// `x = ln(1 + eˣ)` (Dugas et al., 2000), within 2 ULP where that is at least 2⁻¹²⁶. Its derivative is `σ(x)`.
    ///
    /// ```
    /// use regard_kernels::Kernels;
    /// use regard_simd::Isa;
    ///
    /// let mut x = [0.0, 200.0, -200.0];
    /// Kernels::new(Isa::best()).softplus(&mut x);
    /// assert!((x[0] - 2f32.ln()).abs() < 1e-6);
    /// assert_eq!(x[1..], [200.0, 0.0]);
    /// ```
    pub fn softplus(self, x: &mut [f32]) {
        self.isa().run(Softplus(x));
    }
}

struct Sigmoid<'a>(&'a mut [f32]);

impl Kernel for Sigmoid<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let one = s.splat(1.0);
        each(
            s,
            [],
            [self.0],
            #[inline(always)]
            |[], [x]| [s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))],
        );
    }
}

/// `ln(1 + e^−|x|)`, by which both functions below differ from their asymptotes.
#[inline(always)]
fn corner<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let t = exp(s, s.sub(s.splat(0.0), s.abs(x)));
    let sum = s.add(s.splat(1.0), t);
    // What the sum has lost of t; it moves the logarithm by its share of the sum.
    let lost = s.sub(t, s.sub(sum, s.splat(1.0)));
    s.add(ln(s, sum), s.div(lost, sum))
}

struct LogSigmoid<'a>(&'a mut [f32]);

impl Kernel for LogSigmoid<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        each(
            s,
            [],
            [self.0],
            #[inline(always)]
            // The constant stands first, so that a NaN in x is what stays.
            |[], [x]| [s.sub(s.min(s.splat(0.0), x), corner(s, x))],
        );
    }
}

struct Softplus<'a>(&'a mut [f32]);

impl Kernel for Softplus<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        each(
            s,
            [],
            [self.0],
            #[inline(always)]
            |[], [x]| [s.add(s.max(s.splat(0.0), x), corner(s, x))],
        );
    }
}
