//! A short causal convolution of each channel by itself.

use regard_kernels::Activation;
use regard_memory::{Frame, Need, chunks_of};

use crate::{Error, Gradients, Initial, Parameter, Pass, Scope, Size};

/// Rows of a task. The gradients of the weights are sums over such blocks, one after the other.
const BLOCK: usize = 64;

/// A causal convolution along each sequence, each channel by itself, and SiLU: `silu(b + Σⱼ wⱼ∘x_{t−taps+1+j})`. Parameters
/// `weight [channels, 1, taps]` and `bias [channels]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convolution {
    weight: Parameter,
    bias: Parameter,
    channels: usize,
    taps: usize,
}

impl Convolution {
    pub(crate) fn new(scope: &mut Scope<'_>, channels: usize, taps: usize) -> Result<Convolution, Error> {
        let weight = scope.add("weight", &[channels, 1, taps], Initial::of_inputs(taps))?;
        Ok(Convolution {
            weight,
            bias: scope.add_vector("bias", &[channels], Initial::of_inputs(taps))?,
            channels,
            taps,
        })
    }

    /// Room for the weights, tap by tap.
    fn weights_need(&self) -> Need {
        Need::of::<f32>(self.taps * self.channels)
    }

    /// What [`Convolution::forward`] takes: results before and after SiLU, and passing room.
    pub(crate) fn need(&self, size: Size) -> Need {
        Need::of::<f32>(size.rows().saturating_mul(self.channels)).times(2).and(self.weights_need())
    }

    /// What [`Convolution::backward`] takes.
    pub(crate) fn backward_need(&self, size: Size) -> Need {
        let sums = size.rows().div_ceil(BLOCK).saturating_mul((self.taps + 1) * self.channels);
        Need::of::<f32>(sums).and(self.weights_need())
    }

    /// The weights as `[taps, channels]`.
    fn weights<'a>(&self, pass: &Pass<'_>, frame: &mut Frame<'a>) -> &'a [f32] {
        let turned = frame.take(self.taps * self.channels);
        for (channel, taps) in pass.parameters.of(self.weight).chunks_exact(self.taps).enumerate() {
            for (tap, weight) in taps.iter().enumerate() {
                turned[tap * self.channels + channel] = *weight;
            }
        }
        turned
    }

    /// Rows that a sequence's next ones see.
    pub(crate) fn remembered(&self) -> usize {
        (self.taps - 1) * self.channels
    }

    /// Moves the rows that come last in each sequence, `past [batch, taps − 1, channels]`, by the rows of `x`.
    pub(crate) fn remember(&self, size: Size, x: &[f32], past: &mut [f32]) {
        let (new, each) = (size.tokens * self.channels, self.remembered());
        if each == 0 || new == 0 {
            return;
        }
        for (past, x) in past.chunks_exact_mut(each).zip(x.chunks_exact(new)) {
            let kept = each.saturating_sub(new);
            past.copy_within(each - kept.., 0);
            past[kept..].copy_from_slice(&x[new - (each - kept)..]);
        }
    }

    /// The results of rows `[batch, tokens, channels]`, before SiLU and after it. Behind `past` they see what came before.
    pub(crate) fn forward<'a>(
        &self,
        pass: &Pass<'_>,
        size: Size,
        past: Option<&[f32]>,
        x: &[f32],
        tape: &mut Frame<'a>,
    ) -> (&'a mut [f32], &'a mut [f32]) {
        let Convolution { channels, taps, .. } = *self;
        let (kernels, bias, weights) = (pass.kernels, pass.parameters.of(self.bias), self.weights(pass, tape));
        let (before, after) = (tape.take::<f32>(x.len()), tape.take::<f32>(x.len()));
        let each = BLOCK * channels;
        pass.pool.run((chunks_of(&mut *before, each), chunks_of(&mut *after, each)), |block, (before, after)| {
            for (i, sum) in before.chunks_exact_mut(channels).enumerate() {
                let row = block * BLOCK + i;
                let (sequence, token) = (row / size.tokens, row % size.tokens);
                sum.copy_from_slice(bias);
                for back in 0..taps {
                    let x = match past {
                        _ if back <= token => &x[(row - back) * channels..][..channels],
                        Some(past) => &past[((sequence + 1) * (taps - 1) + token - back) * channels..][..channels],
                        // Those that came before the sequence are 0.
                        None => break,
                    };
                    let weights = &weights[(taps - 1 - back) * channels..][..channels];
                    kernels.add_products(weights, x, sum).expect("rows of one width");
                }
            }
            after.copy_from_slice(before);
            kernels.activate(Activation::Silu, after);
        });
        (before, after)
    }

    /// Writes the gradient of `x` to `dx`, from that of the results, which is used up, and adds those of the parameters.
    #[allow(clippy::too_many_arguments, reason = "both passes' inputs and both places that gradients go to")]
    pub(crate) fn backward(
        &self,
        pass: &Pass<'_>,
        size: Size,
        x: &[f32],
        before: &[f32],
        dout: &mut [f32],
        gradients: &mut Gradients,
        dx: &mut [f32],
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        let Convolution { channels, taps, .. } = *self;
        let mut frame = frame.scope();
        let (kernels, weights, each) = (pass.kernels, self.weights(pass, &mut frame), BLOCK * channels);
        let width = (taps + 1) * channels;
        let sums = frame.take_zeroed::<f32>(size.rows().div_ceil(BLOCK) * width);
        pass.pool.run((chunks_of(&mut *dout, each), chunks_of(&mut *sums, width)), |block, (d, sums)| {
            kernels.activate_backward(Activation::Silu, &before[block * each..][..d.len()], d).expect("one length");
            let (dbias, dweights) = sums.split_at_mut(channels);
            for (i, d) in d.chunks_exact(channels).enumerate() {
                let row = block * BLOCK + i;
                kernels.add(d, dbias).expect("rows of one width");
                for back in 0..taps.min(row % size.tokens + 1) {
                    let dweights = &mut dweights[(taps - 1 - back) * channels..][..channels];
                    let x = &x[(row - back) * channels..][..channels];
                    kernels.add_products(d, x, dweights).expect("rows of one width");
                }
            }
        });
        for sums in sums.chunks_exact(width) {
            kernels.add(&sums[..channels], gradients.of_mut(self.bias))?;
            let dweight = gradients.of_mut(self.weight);
            for (tap, sums) in sums[channels..].chunks_exact(channels).enumerate() {
                sums.iter().enumerate().for_each(|(channel, sum)| dweight[channel * taps + tap] += sum);
            }
        }
        let d = &*dout;
        pass.pool.run(chunks_of(dx, each), |block, dx| {
            for (i, dx) in dx.chunks_exact_mut(channels).enumerate() {
                let row = block * BLOCK + i;
                dx.fill(0.0);
                for ahead in 0..taps.min(size.tokens - row % size.tokens) {
                    let d = &d[(row + ahead) * channels..][..channels];
                    let weights = &weights[(taps - 1 - ahead) * channels..][..channels];
                    kernels.add_products(weights, d, dx).expect("rows of one width");
                }
            }
        });
        Ok(())
    }
}
