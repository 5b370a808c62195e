//! Cross-entropy: what a row of logits says of the one class that was right.

use regard_simd::math::exp;
use regard_simd::{Kernel, Simd};

use crate::each::{each, fold};
use crate::{Error, Kernels};

/// Numbers summed in f32, 128 in a lane at most; these sums are added up in f64. They stay in the first cache.
const BLOCK: usize = 512;

impl Kernels {
    /// The loss of a row of logits, `weight·(ln Σ e^logits − logits[target])`; the logits become its gradient,
    /// `weight·(softmax(logits) − [1 at the target])`.
    ///
    /// - `weight`: what this row counts, such as 1 / rows for a mean over rows.
    ///
    /// Of finite logits the gradient is finite, and so is the loss unless it is beyond f32 itself. A logit of −∞ has no
    /// part, and a NaN makes the loss and the whole row NaN. The loss is within 10⁻⁷·|weight| and a
    /// rounding.
    ///
    /// ```
    /// use regard_kernels::Kernels;
    /// use regard_simd::Isa;
    ///
    /// let mut logits = [7.0; 4];
    /// let loss = Kernels::new(Isa::best()).cross_entropy(&mut logits, 2, 1.0)?;
    /// assert!((loss - 4f32.ln()).abs() < 1e-6);
    /// assert_eq!(logits, [0.25, 0.25, -0.75, 0.25]);
    /// # Ok::<(), regard_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Size`] if no logit is the target's.
    pub fn cross_entropy(self, logits: &mut [f32], target: usize, weight: f32) -> Result<f32, Error> {
        check(logits, target)?;
        Ok(self.isa().run(WithGradient { logits, target, weight }))
    }

    /// The loss of [`cross_entropy`](Self::cross_entropy), which leaves the logits as they are.
    ///
    /// # Errors
    /// [`Error::Size`] if no logit is the target's.
    pub fn cross_entropy_loss(self, logits: &[f32], target: usize, weight: f32) -> Result<f32, Error> {
        check(logits, target)?;
        Ok(self.isa().run(LossOnly { logits, target, weight }))
    }
}

fn check(logits: &[f32], target: usize) -> Result<(), Error> {
    if target < logits.len() {
        return Ok(());
    }
    Err(Error::Size { name: "target", has: target, expected: "the number of a logit" })
}

/// The largest logit; a NaN beside it shows in the sum.
#[inline(always)]
fn largest<S: Simd>(s: S, logits: &[f32]) -> f32 {
    let [max] = fold(
        s,
        [logits],
        f32::NEG_INFINITY,
        [s.splat(f32::NEG_INFINITY)],
        #[inline(always)]
        |[max], [x]| [s.max(x, max)],
    );
    s.reduce_max(max)
}

/// The loss, given the sum of `e^(logits − max)`. In f64: logits may lie further apart than f32 goes.
fn loss(weight: f32, max: f32, sum: f64, target: f32) -> f32 {
    (f64::from(weight) * (f64::from(max) - f64::from(target) + sum.ln())) as f32
}

struct LossOnly<'a> {
    logits: &'a [f32],
    target: usize,
    weight: f32,
}

impl Kernel for LossOnly<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let LossOnly { logits, target, weight } = self;
        let max = largest(s, logits);
        let maxima = s.splat(max);
        let mut sum = 0.0;
        for block in logits.chunks(BLOCK) {
            let [powers] = fold(
                s,
                [block],
                f32::NEG_INFINITY,
                [s.splat(0.0)],
                #[inline(always)]
                |[powers], [x]| [s.add(exp(s, s.sub(x, maxima)), powers)],
            );
            sum += f64::from(s.reduce_add(powers));
        }
        loss(weight, max, sum, logits[target])
    }
}

struct WithGradient<'a> {
    logits: &'a mut [f32],
    target: usize,
    weight: f32,
}

impl Kernel for WithGradient<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let WithGradient { logits, target, weight } = self;
        let (max, right) = (largest(s, logits), logits[target]);
        let maxima = s.splat(max);
        let mut sum = 0.0;
        for block in logits.chunks_mut(BLOCK) {
            each(
                s,
                [],
                [&mut *block],
                #[inline(always)]
                |[], [x]| [exp(s, s.sub(x, maxima))],
            );
            let [powers] = fold(
                s,
                [&*block],
                0.0,
                [s.splat(0.0)],
                #[inline(always)]
                |[powers], [x]| [s.add(x, powers)],
            );
            sum += f64::from(s.reduce_add(powers));
        }
        let share = s.splat((f64::from(weight) / sum) as f32);
        each(
            s,
            [],
            [&mut *logits],
            #[inline(always)]
            |[], [x]| [s.mul(x, share)],
        );
        logits[target] -= weight;
        loss(weight, max, sum, right)
    }
}
