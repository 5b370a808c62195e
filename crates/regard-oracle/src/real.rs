//! The number type that a formula is worked out in.

use std::ops::AddAssign;

use num_traits::Float;

/// f64, for what is exact, or f32, for the yardstick.
pub(crate) trait Real: Float + AddAssign {
    /// The nearest number.
    fn of(x: f64) -> Self;
    fn widen(self) -> f64;
}

impl Real for f64 {
    fn of(x: f64) -> f64 {
        x
    }

    fn widen(self) -> f64 {
        self
    }
}

impl Real for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }

    fn widen(self) -> f64 {
        f64::from(self)
    }
}

/// `Σ a·b`.
pub(crate) fn dot<F: Real>(a: &[f64], b: &[f64]) -> F {
    a.iter().zip(b).fold(F::zero(), |sum, (&a, &b)| sum + F::of(a) * F::of(b))
}

/// `to += factor·x`.
pub(crate) fn add<F: Real>(to: &mut [F], factor: F, x: &[f64]) {
    to.iter_mut().zip(x).for_each(|(to, &x)| *to += factor * F::of(x));
}
