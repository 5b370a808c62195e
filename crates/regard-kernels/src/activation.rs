//! Activations of feed-forward layers, fused with the product behind them.

use std::f32::consts::LOG2_E;

use regard_simd::math::exp2;
use regard_simd::{Kernel, Simd};

use crate::{Error, Kernels};

impl Kernels {
    /// SwiGLU (Shazeer, 2020): `out = silu(gate) · up`, `silu(x) = x / (1 + e⁻ˣ)`.
    ///
    /// The three slices are of one length. Relatively within 4·10⁻⁶ of the exact result where `gate ≥ −87`; 0 below −88.7,
    /// where `e⁻ˣ` is no longer finite.
    ///
    /// ```
    /// use regard_kernels::Kernels;
    /// use regard_simd::Isa;
    ///
    /// let mut out = [0.0; 2];
    /// Kernels::new(Isa::best()).silu_mul(&[0.0, 1.0], &[5.0, 2.0], &mut out)?;
    /// assert_eq!(out[0], 0.0);
    /// assert!((out[1] - 2.0 / (1.0 + (-1.0f32).exp())).abs() < 1e-6);
    /// # Ok::<(), regard_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn silu_mul(self, gate: &[f32], up: &[f32], out: &mut [f32]) -> Result<(), Error> {
        for (name, has) in [("up", up.len()), ("gated row", out.len())] {
            if has != gate.len() {
                return Err(Error::Length { name, has, expected: gate.len() });
            }
        }
        self.isa().run(SiluMul { gate, up, out });
        Ok(())
    }
}

struct SiluMul<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for SiluMul<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        /// The most lanes of any instruction set.
        const MOST: usize = 16;
        let SiluMul { gate, up, out } = self;
        let whole = gate.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: all three slices hold `at + LANES` numbers.
            unsafe { silu_mul(s, gate[at..].as_ptr(), up[at..].as_ptr(), out[at..].as_mut_ptr()) };
        }
        // The rest as a vector too, so that a number's bits do not depend on where it stands.
        let rest = gate.len() - whole;
        let (mut a, mut b, mut c) = ([0.0; MOST], [0.0; MOST], [0.0; MOST]);
        a[..rest].copy_from_slice(&gate[whole..]);
        b[..rest].copy_from_slice(&up[whole..]);
        // SAFETY: three arrays of MOST ≥ LANES numbers.
        unsafe { silu_mul(s, a.as_ptr(), b.as_ptr(), c.as_mut_ptr()) };
        out[whole..].copy_from_slice(&c[..rest]);
    }
}

/// # Safety
/// `LANES` numbers at each pointer.
#[inline(always)]
unsafe fn silu_mul<S: Simd>(s: S, gate: *const f32, up: *const f32, out: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        let x = s.load(gate);
        let exp = exp2(s, s.mul(x, s.splat(-LOG2_E)));
        let silu = s.div(x, s.add(s.splat(1.0), exp));
        s.store(out, s.mul(silu, s.load(up)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regard_simd::Isa;

    use super::*;

    proptest! {
        #[test]
        fn is_the_formula(rows in prop::collection::vec((-30.0f32..30.0, -50.0f32..50.0), 0..100)) {
            let (gate, up): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; gate.len()];
                Kernels::new(isa).silu_mul(&gate, &up, &mut out).unwrap();
                for ((out, &gate), &up) in out.iter().zip(&gate).zip(&up) {
                    let gate = f64::from(gate);
                    let exact = gate / (1.0 + (-gate).exp()) * f64::from(up);
                    // x·log₂e is rounded: an exponent of up to 44 moves by half of 2⁻¹⁸, so e⁻ˣ by 1.3e-6.
                    prop_assert!((f64::from(*out) - exact).abs() <= 3e-6 * exact.abs(), "{isa}: {out}, {exact}");
                }
            }
        }
    }

    #[test]
    fn ends_of_the_range() {
        for isa in Isa::available() {
            let gate = [-1e30, -200.0, 200.0, 1e30, f32::NAN, 0.0];
            let mut out = [0.5; 6];
            Kernels::new(isa).silu_mul(&gate, &[1.0; 6], &mut out).unwrap();
            assert_eq!(out[..4], [0.0, 0.0, 200.0, 1e30], "{isa}");
            assert!(out[4].is_nan() && out[5] == 0.0, "{isa}");
        }
    }
}
