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
        if out.len() != x.len() {
            return Err(Error::Length { name: "normed row", has: out.len(), expected: x.len() });
        }
        out.copy_from_slice(x);
        self.rms_norm_in(out, weight, eps)
    }

    /// [`rms_norm`](Self::rms_norm) in place.
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn rms_norm_in(self, x: &mut [f32], weight: &[f32], eps: f32) -> Result<(), Error> {
        if weight.len() != x.len() {
            return Err(Error::Length { name: "norm weight", has: weight.len(), expected: x.len() });
        }
        self.isa().run(RmsNorm { x, weight, eps });
        Ok(())
    }

    /// LayerNorm (Ba et al., 2016, equation 3): `out = (x − mean(x)) / √(var(x) + eps) · weight + bias`, with the variance
    /// over all numbers.
    ///
    /// `x`, `weight`, `bias` and `out` are of one length. A NaN in `x` makes the row NaN.
    ///
    /// ```
    /// use regard_kernels::Kernels;
    /// use regard_simd::Isa;
    ///
    /// let mut out = [0.0; 2];
    /// Kernels::new(Isa::best()).layer_norm(&[3.0, 5.0], &[1.0, 2.0], &[0.5, 0.0], 0.0, &mut out)?;
    /// assert_eq!(out, [-0.5, 2.0]);
    /// # Ok::<(), regard_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn layer_norm(self, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) -> Result<(), Error> {
        if out.len() != x.len() {
            return Err(Error::Length { name: "normed row", has: out.len(), expected: x.len() });
        }
        out.copy_from_slice(x);
        self.layer_norm_in(out, weight, bias, eps)
    }

    /// [`layer_norm`](Self::layer_norm) in place.
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn layer_norm_in(self, x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) -> Result<(), Error> {
        for (name, has) in [("norm weight", weight.len()), ("norm bias", bias.len())] {
            if has != x.len() {
                return Err(Error::Length { name, has, expected: x.len() });
            }
        }
        self.isa().run(LayerNorm { x, weight, bias, eps });
        Ok(())
    }
}

struct LayerNorm<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
}

impl Kernel for LayerNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let LayerNorm { x, weight, bias, eps } = self;
        let whole = x.len() / S::LANES * S::LANES;
        let mut sums = s.splat(0.0);
        for x in x[..whole].chunks_exact(S::LANES) {
            // SAFETY: a chunk holds LANES numbers.
            sums = s.add(unsafe { s.load(x.as_ptr()) }, sums);
        }
        let mean = (s.reduce_add(sums) + x[whole..].iter().sum::<f32>()) / x.len() as f32;
        // Over the differences from the mean, which loses no digits to a mean far from 0.
        let (means, mut squares) = (s.splat(mean), s.splat(0.0));
        for x in x[..whole].chunks_exact(S::LANES) {
            // SAFETY: a chunk holds LANES numbers.
            let apart = s.sub(unsafe { s.load(x.as_ptr()) }, means);
            squares = s.fma(apart, apart, squares);
        }
        let rest = x[whole..].iter().map(|x| (x - mean) * (x - mean)).sum::<f32>();
        let factor = 1.0 / ((s.reduce_add(squares) + rest) / x.len() as f32 + eps).sqrt();
        let factors = s.splat(factor);
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: all three slices hold `at + LANES` numbers.
            unsafe {
                let normed = s.mul(s.sub(s.load(x[at..].as_ptr()), means), factors);
                let weighed = s.fma(normed, s.load(weight[at..].as_ptr()), s.load(bias[at..].as_ptr()));
                s.store(x[at..].as_mut_ptr(), weighed);
            }
        }
        for ((x, weight), bias) in x[whole..].iter_mut().zip(&weight[whole..]).zip(&bias[whole..]) {
            *x = (*x - mean) * factor * weight + bias;
        }
    }
}

struct RmsNorm<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RmsNorm { x, weight, eps } = self;
        let whole = x.len() / S::LANES * S::LANES;
        let mut squares = s.splat(0.0);
        for x in x[..whole].chunks_exact(S::LANES) {
            // SAFETY: a chunk holds LANES numbers.
            let x = unsafe { s.load(x.as_ptr()) };
            squares = s.fma(x, x, squares);
        }
        let mut sum = s.reduce_add(squares);
        for x in &x[whole..] {
            sum += x * x;
        }
        let factor = 1.0 / (sum / x.len() as f32 + eps).sqrt();
        let factors = s.splat(factor);
        for (x, weight) in x[..whole].chunks_exact_mut(S::LANES).zip(weight.chunks_exact(S::LANES)) {
            // SAFETY: both chunks hold LANES numbers.
            unsafe {
                let normed = s.mul(s.load(x.as_ptr()), factors);
                s.store(x.as_mut_ptr(), s.mul(normed, s.load(weight.as_ptr())));
            }
        }
        for (x, weight) in x[whole..].iter_mut().zip(&weight[whole..]) {
            *x = *x * factor * weight;
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
