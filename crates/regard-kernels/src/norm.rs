//! Normalisation of rows.

use regard_simd::{Kernel, Simd};

use crate::{Error, Kernels};

impl Kernels {
    /// RMSNorm (Zhang and Sennrich, 2019, equation 4): `out = x / √(mean(x²) + eps) · weight`.
    ///
    /// `x`, `weight` and `out` are of one length. A NaN in `x` makes the row NaN.
    ///
    /// ```
    /// use regard_kernels::Kernels;
    /// use regard_simd::Isa;
    ///
    /// let mut out = [0.0; 2];
    /// Kernels::new(Isa::best()).rms_norm(&[3.0, 4.0], &[1.0, 2.0], 0.0, &mut out)?;
    /// let rms = 12.5f32.sqrt();
    /// assert!((out[0] - 3.0 / rms).abs() < 1e-6 && (out[1] - 8.0 / rms).abs() < 1e-6);
    /// # Ok::<(), regard_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn rms_norm(self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> Result<(), Error> {
        for (name, has) in [("norm weight", weight.len()), ("normed row", out.len())] {
            if has != x.len() {
                return Err(Error::Length { name, has, expected: x.len() });
            }
        }
        self.isa().run(RmsNorm { x, weight, eps, out });
        Ok(())
    }
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RmsNorm { x, weight, eps, out } = self;
        let whole = x.len() / S::LANES * S::LANES;
        let mut squares = s.splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: `at + LANES ≤ x.len()`.
            let x = unsafe { s.load(x[at..].as_ptr()) };
            squares = s.fma(x, x, squares);
        }
        let mut sum = s.reduce_add(squares);
        for x in &x[whole..] {
            sum += x * x;
        }
        let factor = 1.0 / (sum / x.len() as f32 + eps).sqrt();
        let factors = s.splat(factor);
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: all three slices hold `at + LANES` numbers.
            unsafe {
                let normed = s.mul(s.load(x[at..].as_ptr()), factors);
                s.store(out[at..].as_mut_ptr(), s.mul(normed, s.load(weight[at..].as_ptr())));
            }
        }
        for ((out, x), weight) in out[whole..].iter_mut().zip(&x[whole..]).zip(&weight[whole..]) {
            *out = x * factor * weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regard_simd::Isa;

    use super::*;

    proptest! {
        #[test]
        fn is_the_formula(
            rows in prop::collection::vec((-50.0f32..50.0, -2.0f32..2.0), 1..200),
            eps in 1e-6f32..1e-2,
        ) {
            let (x, weight): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
            let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
            let root = (mean + f64::from(eps)).sqrt();
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; x.len()];
                Kernels::new(isa).rms_norm(&x, &weight, eps, &mut out).unwrap();
                for ((out, x), weight) in out.iter().zip(&x).zip(&weight) {
                    let exact = f64::from(*x) / root * f64::from(*weight);
                    // Three roundings of the result, and a sum of squares whose error the root halves.
                    prop_assert!((f64::from(*out) - exact).abs() <= 1e-6 * exact.abs() + 1e-37, "{isa}: {out}, {exact}");
                }
            }
        }
    }

    #[test]
    fn nan_stays() {
        for isa in Isa::available() {
            let (mut x, weight) = ([1.0; 37], [1.0; 37]);
            x[36] = f32::NAN;
            let mut out = [0.0; 37];
            Kernels::new(isa).rms_norm(&x, &weight, 1e-5, &mut out).unwrap();
            assert!(out.iter().all(|x| x.is_nan()), "{isa}");
        }
    }

    #[test]
    fn lengths_are_checked() {
        let error = Kernels::new(Isa::best()).rms_norm(&[1.0; 3], &[1.0; 2], 1e-5, &mut [0.0; 3]).unwrap_err();
        assert_eq!(error, Error::Length { name: "norm weight", has: 2, expected: 3 });
    }
}
