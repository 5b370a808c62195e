//! Gradients of normalised rows.

use regard_simd::{Kernel, Simd};

use crate::each::{each, fold};
use crate::{Error, Kernels};

impl Kernels {
    /// Adds the gradients of one row of [`rms_norm`](Self::rms_norm), `dout` being that of its result. With
    /// `r = 1/√(mean(x²) + eps)`, `x̂ = x·r` and `g = dout·weight` they are
    /// `dx += r·(g − x̂·mean(g·x̂))` and `dweight += dout·x̂`.
    ///
    /// All slices are of one length. `dx` may already hold what goes past the norm, such as the gradient of a residual. A
    /// NaN in `x` makes both gradients NaN.
    ///
    /// ```
    /// use regard_kernels::Kernels;
    /// use regard_simd::Isa;
    ///
    /// // Along x the result does not change: only what stands across it counts.
    /// let (mut dx, mut dweight) = ([0.0; 2], [0.0; 2]);
    /// Kernels::new(Isa::best()).rms_norm_backward(&[1.0, 1.0], &[1.0, 1.0], 0.0, &[3.0, 1.0], &mut dx, &mut dweight)?;
    /// assert_eq!(dx, [1.0, -1.0]);
    /// assert_eq!(dweight, [3.0, 1.0]);
    /// # Ok::<(), regard_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn rms_norm_backward(
        self,
        x: &[f32],
        weight: &[f32],
        eps: f32,
        dout: &[f32],
        dx: &mut [f32],
        dweight: &mut [f32],
    ) -> Result<(), Error> {
        Error::check_same("norm weight", weight.len(), x.len())?;
        Error::check_same("gradient of a normed row", dout.len(), x.len())?;
        Error::check_same("gradient of a row to norm", dx.len(), x.len())?;
        Error::check_same("gradient of a norm weight", dweight.len(), x.len())?;
        self.isa().run(RmsNormBackward { x, weight, eps, dout, dx, dweight });
        Ok(())
    }

    /// Adds the gradients of one row of [`layer_norm`](Self::layer_norm), `dout` being that of its result. With
    /// `r = 1/√(var(x) + eps)`, `x̂ = (x − mean(x))·r` and `g = dout·weight` they are
    /// `dx += r·(g − mean(g) − x̂·mean(g·x̂))`, `dweight += dout·x̂` and `dbias += dout`.
    ///
    /// All slices are of one length. `dx` may already hold what goes past the norm, such as the gradient of a residual. A
    /// NaN in `x` makes `dx` and `dweight` NaN.
    ///
    /// ```
    /// use regard_kernels::Kernels;
    /// use regard_simd::Isa;
    ///
    /// let (mut dx, mut dweight, mut dbias) = ([0.0; 2], [0.0; 2], [0.0; 2]);
    /// let (x, dout) = ([3.0, 5.0], [2.0, 7.0]);
    /// Kernels::new(Isa::best())
    ///     .layer_norm_backward(&x, &[1.0, 2.0], 0.0, &dout, &mut dx, [&mut dweight, &mut dbias])?;
    /// // Two numbers are normed to −1 and 1, whatever they are.
    /// assert_eq!(dx, [0.0, 0.0]);
    /// assert_eq!((dweight, dbias), ([-2.0, 7.0], [2.0, 7.0]));
    /// # Ok::<(), regard_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn layer_norm_backward(
        self,
        x: &[f32],
        weight: &[f32],
        eps: f32,
        dout: &[f32],
        dx: &mut [f32],
        [dweight, dbias]: [&mut [f32]; 2],
    ) -> Result<(), Error> {
        Error::check_same("norm weight", weight.len(), x.len())?;
        Error::check_same("gradient of a normed row", dout.len(), x.len())?;
        Error::check_same("gradient of a row to norm", dx.len(), x.len())?;
        Error::check_same("gradient of a norm weight", dweight.len(), x.len())?;
        Error::check_same("gradient of a norm bias", dbias.len(), x.len())?;
        self.isa().run(LayerNormBackward { x, weight, eps, dout, dx, dweight, dbias });
        Ok(())
    }
}

struct RmsNormBackward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    dout: &'a [f32],
    dx: &'a mut [f32],
    dweight: &'a mut [f32],
}

impl Kernel for RmsNormBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RmsNormBackward { x, weight, eps, dout, dx, dweight } = self;
        let len = x.len() as f32;
        let [squares, dots] = fold(
            s,
            [x, weight, dout],
            0.0,
            [s.splat(0.0); 2],
            #[inline(always)]
            |[squares, dots], [x, weight, dout]| [s.fma(x, x, squares), s.fma(s.mul(dout, weight), x, dots)],
        );
        let factor = 1.0 / (s.reduce_add(squares) / len + eps).sqrt();
        // The mean of g·x̂: what of the gradient points along x.
        let along = s.splat(s.reduce_add(dots) / len * factor);
        let factor = s.splat(factor);
        each(
            s,
            [x, weight, dout],
            [dx, dweight],
            #[inline(always)]
            |[x, weight, dout], [dx, dweight]| {
                let normed = s.mul(x, factor);
                let across = s.sub(s.mul(dout, weight), s.mul(normed, along));
                [s.fma(factor, across, dx), s.fma(dout, normed, dweight)]
            },
        );
    }
}

struct LayerNormBackward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    dout: &'a [f32],
    dx: &'a mut [f32],
    dweight: &'a mut [f32],
    dbias: &'a mut [f32],
}

impl Kernel for LayerNormBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let LayerNormBackward { x, weight, eps, dout, dx, dweight, dbias } = self;
        let len = x.len() as f32;
        let [sums, shifts] = fold(
            s,
            [x, weight, dout],
            0.0,
            [s.splat(0.0); 2],
            #[inline(always)]
            |[sums, shifts], [x, weight, dout]| [s.add(x, sums), s.fma(dout, weight, shifts)],
        );
        let (mean, shift) = (s.reduce_add(sums) / len, s.splat(s.reduce_add(shifts) / len));
        let means = s.splat(mean);
        // Over the differences from the mean, as the forward pass; what fills the last vector has none.
        let [squares, dots] = fold(
            s,
            [x, weight, dout],
            mean,
            [s.splat(0.0); 2],
            #[inline(always)]
            |[squares, dots], [x, weight, dout]| {
                let apart = s.sub(x, means);
                [s.fma(apart, apart, squares), s.fma(s.mul(apart, dout), weight, dots)]
            },
        );
        let factor = 1.0 / (s.reduce_add(squares) / len + eps).sqrt();
        let along = s.splat(s.reduce_add(dots) / len * factor);
        let factor = s.splat(factor);
        each(
            s,
            [x, weight, dout],
            [dx, dweight, dbias],
            #[inline(always)]
            |[x, weight, dout], [dx, dweight, dbias]| {
                let normed = s.mul(s.sub(x, means), factor);
                let across = s.sub(s.sub(s.mul(dout, weight), shift), s.mul(normed, along));
                [s.fma(factor, across, dx), s.fma(dout, normed, dweight), s.add(dout, dbias)]
            },
        );
    }
}
