//! How parameters follow their gradients.

use regard_simd::{Kernel, Simd};

use crate::each::each;
use crate::{Error, Kernels};

/// One step of Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// How far a step goes.
    pub rate: f32,
    /// What the first and the second moment keep of themselves, β₁ and β₂.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// What a parameter loses of itself, times the rate.
    pub decay: f32,
    /// What the moments, which start at 0, lack: `1 − β₁ᵗ` and `1 − β₂ᵗ` at step `t`, counted from 1.
    pub correction: [f32; 2],
    /// What gradients are multiplied by first: less than 1 where they are clipped.
    pub scale: f32,
}

impl Kernels {
    /// A step of some parameters `p` with gradients `g`: with `g = scale·g`,
    ///
    /// - `first = β₁·first + (1 − β₁)·g`, `second = β₂·second + (1 − β₂)·g²`,
    /// - `p = p − rate·decay·p − rate/correction₁ · first / (√(second/correction₂) + eps)`.
    ///
    /// The four slices are of one length. The bits of a parameter do not depend on where it stands, so slices may be cut
    /// anywhere. A NaN in a gradient stays in its parameter.
    ///
    /// ```
    /// use regard_kernels::{AdamW, Kernels};
    /// use regard_simd::Isa;
    ///
    /// let betas = [0.9, 0.999];
    /// let correction = betas.map(|beta| 1.0 - beta);
    /// let step = AdamW { rate: 0.5, betas, eps: 1e-8, decay: 0.0, correction, scale: 1.0 };
    /// let (mut values, mut first, mut second) = ([1.0, 1.0], [0.0; 2], [0.0; 2]);
    /// Kernels::new(Isa::best()).adamw(&mut values, &[3.0, -0.1], &mut first, &mut second, &step)?;
    /// // The first step goes as far as the rate says, whatever the gradient.
    /// assert!((values[0] - 0.5).abs() < 1e-6 && (values[1] - 1.5).abs() < 1e-6);
    /// # Ok::<(), regard_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if the lengths differ.
    pub fn adamw(
        self,
        values: &mut [f32],
        gradients: &[f32],
        first: &mut [f32],
        second: &mut [f32],
        step: &AdamW,
    ) -> Result<(), Error> {
        Error::check_same("gradients", gradients.len(), values.len())?;
        Error::check_same("first moments", first.len(), values.len())?;
        Error::check_same("second moments", second.len(), values.len())?;
        self.isa().run(Step { values, gradients, first, second, step });
        Ok(())
    }
}

struct Step<'a> {
    values: &'a mut [f32],
    gradients: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    step: &'a AdamW,
}

impl Kernel for Step<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Step { values, gradients, first, second, step } = self;
        let AdamW { rate, betas: [beta1, beta2], eps, decay, correction: [lack1, lack2], scale } = *step;
        let [scale, eps] = [s.splat(scale), s.splat(eps)];
        let [new1, beta2, new2] = [s.splat(1.0 - beta1), s.splat(beta2), s.splat(1.0 - beta2)];
        let [pace, lost] = [s.splat(rate / lack1), s.splat(rate * decay)];
        let root = s.splat((1.0 / f64::from(lack2).sqrt()) as f32);
        each(
            s,
            [gradients],
            [values, first, second],
            #[inline(always)]
            |[gradient], [value, first, second]| {
                let gradient = s.mul(gradient, scale);
                let first = s.fma(new1, s.sub(gradient, first), first);
                let second = s.fma(s.mul(new2, gradient), gradient, s.mul(beta2, second));
                let move_by = s.div(s.mul(pace, first), s.fma(s.sqrt(second), root, eps));
                // Rounded once at the size of the value: what it moves by is small beside it.
                [s.sub(value, s.fma(lost, value, move_by)), first, second]
            },
        );
    }
}
