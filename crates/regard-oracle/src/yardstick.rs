//! How far a result may be off: measured, never chosen.

use half::{bf16, f16};

/// A storage format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Single precision.
    F32,
    /// bfloat16: 8 significant bits.
    Bf16,
    /// Half precision: 11 significant bits.
    F16,
}

impl Precision {
    /// The nearest number of the format.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Precision::F32 => x,
            Precision::Bf16 => bf16::from_f32(x).to_f32(),
            Precision::F16 => f16::from_f32(x).to_f32(),
        }
    }

    /// The distance of neighbouring numbers at the magnitude of `x`.
    pub fn ulp(self, x: f64) -> f64 {
        let (bits, smallest) = match self {
            Precision::F32 => (23, -126),
            Precision::Bf16 => (7, -126),
            Precision::F16 => (10, -14),
        };
        let exponent = if x == 0.0 { smallest } else { (x.abs().log2().floor() as i32).max(smallest) };
        2f64.powi(exponent - bits)
    }
}

/// What rounding costs in f64, of what it costs in f32: the plain method's error in f32, multiplied by this, judges a
/// result in f64.
pub const DOUBLE: f64 = 1.0 / (1u64 << 29) as f64;

/// The largest magnitude among numbers, those that are not finite left out.
pub fn largest<'a>(x: impl IntoIterator<Item = &'a f32>) -> f64 {
    x.into_iter().filter(|x| x.is_finite()).fold(0.0, |most, &x| most.max(f64::from(x.abs())))
}

/// The largest error among the results that are finite.
pub fn largest_error(results: &[f64], exact: &[f64]) -> f64 {
    let error = |(x, y): (&f64, &f64)| (x - y).abs();
    results.iter().zip(exact).map(error).filter(|error| error.is_finite()).fold(0.0, f64::max)
}

/// Whether results are as good as they must be: the largest error is at most twice that of the plain method in the same
/// precision on problems of the same kind. Where the plain method makes none, on trivial problems, `floor` is allowed:
/// one unit in the last place of the largest number that a result is made of.
///
/// What is not finite must be so in the same places: NaN for NaN, and an infinity for the same one.
///
/// # Errors
/// Says where it is not so.
pub fn within_twice_plain<T: Copy + Into<f64>>(
    ours: &[T],
    exact: &[f64],
    plain_error: f64,
    floor: f64,
) -> Result<(), String> {
    if ours.len() != exact.len() {
        return Err(format!("{} results, {} exact ones", ours.len(), exact.len()));
    }
    let (mut worst, mut at) = (0f64, 0);
    for (i, (&x, &y)) in ours.iter().zip(exact).enumerate() {
        let x = x.into();
        if x == y || x.is_nan() && y.is_nan() {
            continue;
        }
        if !y.is_finite() || !x.is_finite() {
            return Err(format!("element {i} is {x}, and exactly {y}"));
        }
        if (x - y).abs() > worst {
            (worst, at) = ((x - y).abs(), i);
        }
    }
    if worst <= (2.0 * plain_error).max(floor) {
        return Ok(());
    }
    Err(format!(
        "element {at} is {}, and exactly {}: off by {worst:e}, the plain method by at most {plain_error:e}, floor {floor:e}",
        ours[at].into(),
        exact[at]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_in_the_last_place() {
        assert_eq!(Precision::F32.ulp(1.0), f64::from(f32::EPSILON));
        assert_eq!(Precision::Bf16.ulp(-3.0), 2.0 * f64::from(bf16::EPSILON.to_f32()));
        assert_eq!(Precision::F16.ulp(0.9), 0.5 * f64::from(f16::EPSILON.to_f32()));
        assert_eq!(Precision::F32.ulp(0.0), f64::from(f32::from_bits(1)));
    }

    #[test]
    fn judges() {
        let exact = [1.0, f64::NAN, f64::NEG_INFINITY];
        let plain_error = largest_error(&[1.25, f64::NAN, f64::NEG_INFINITY], &exact);
        assert_eq!(plain_error, 0.25);
        let judge = |ours: [f32; 3], floor| within_twice_plain(&ours, &exact, plain_error, floor).is_ok();
        assert!(judge([1.5, f32::NAN, f32::NEG_INFINITY], 0.0));
        assert!(!judge([1.51, f32::NAN, f32::NEG_INFINITY], 0.0));
        assert!(judge([1.51, f32::NAN, f32::NEG_INFINITY], 0.75));
        assert!(!judge([1.0, 0.0, f32::NEG_INFINITY], 0.0));
        assert!(!judge([1.0, f32::NAN, f32::INFINITY], 0.0));
        assert!(!judge([f32::NAN, f32::NAN, f32::NEG_INFINITY], 0.0));
        // A result in f64 is judged in f64.
        assert!(within_twice_plain(&[1.0 + 3e-10], &[1.0], 0.25 * DOUBLE, 0.0).is_ok());
        assert!(within_twice_plain(&[1.0 + 1e-9], &[1.0], 0.25 * DOUBLE, 0.0).is_err());
    }
}
