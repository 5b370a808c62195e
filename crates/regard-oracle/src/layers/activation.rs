//! Functions of one number.

use std::f64::consts::{FRAC_2_SQRT_PI, SQRT_2};

/// What stands between two linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x·σ(x)`.
    Silu,
    /// `x·Φ(x) = x/2·(1 + erf(x/√2))`.
    Gelu,
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    GeluTanh,
}

impl Activation {
    /// The function's value.
    pub fn of(self, x: f64) -> f64 {
        match self {
            Activation::Silu => x * sigmoid(x),
            Activation::Gelu => x / 2.0 * (1.0 + erf(x / SQRT_2)),
            Activation::GeluTanh => {
                let inner = FRAC_2_SQRT_PI / SQRT_2 * (x + 0.044715 * x.powi(3));
                x / 2.0 * (1.0 + inner.tanh())
            }
        }
    }
}

/// `σ(x) = 1/(1 + e^−x)`.
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function, `2/√π·∫₀ˣ e^−t² dt`, to a few units of 1e−16: `2/√π·e^−x²·Σₙ 2ⁿx²ⁿ⁺¹/(2n + 1)!!`, a series all of whose
/// terms have the sign of x.
pub fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        // What is missing to one is below 2.2e−17 there.
        return x.signum();
    }
    let (mut sum, mut term, mut n) = (0f64, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        sum += term;
        n += 2.0;
        term *= 2.0 * x * x / n;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}
