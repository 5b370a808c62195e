//! Queries and keys lifted to their features, which is what the recurrence takes.

use regard_kernels::{Band, Before, Left, Scaling};
use regard_memory::{Frame, Need, Rows, RowsMut, Tensor, TensorMut, chunks_of};
use regard_threads::Pool;

use super::{Favor, FavorInputs, Sizes};
use crate::linear::gate::Decays;
use crate::linear::{Direction, RecurrentGradients, RecurrentInputs, RecurrentOutputs};
use crate::task::Failure;
use crate::{Element, Error};

/// Features and values of a call as the recurrence takes them, or the gradients of all these.
pub(super) struct Lifted<'a> {
    pub(super) sizes: Sizes,
    /// `[batch, heads, tokens, width]`.
    pub(super) q: &'a mut [f32],
    /// `[batch, kv_heads, tokens, width]`.
    pub(super) k: &'a mut [f32],
    /// `[batch, kv_heads, tokens, dim_v + 1]`, with ones behind the values.
    pub(super) v: &'a mut [f32],
    /// `[batch, kv_heads, tokens, 1]`.
    log_decay: &'a mut [f32],
    /// `[batch, kv_heads, width, dim_v + 1]`: the states before.
    pub(super) before: &'a mut [f32],
}

impl<'a> Lifted<'a> {
    fn shapes(sizes: &Sizes) -> [[usize; 4]; 5] {
        let Sizes { batch, heads, kv_heads, tokens, dim_v, width, .. } = *sizes;
        let columns = dim_v.saturating_add(1);
        [
            [batch, heads, tokens, width],
            [batch, kv_heads, tokens, width],
            [batch, kv_heads, tokens, columns],
            [batch, kv_heads, tokens, 1],
            [batch, kv_heads, width, columns],
        ]
    }

    pub(super) fn need(sizes: &Sizes) -> Need {
        needs(Lifted::shapes(sizes))
    }

    pub(super) fn take(frame: &mut Frame<'a>, sizes: &Sizes) -> Self {
        let [q, k, v, log_decay, before] = Lifted::shapes(sizes).map(|shape| frame.take(numbers(shape)));
        Lifted { sizes: *sizes, q, k, v, log_decay, before }
    }

    /// What the recurrence takes; a state where one is `given`, and decays where something is forgotten.
    pub(super) fn inputs(&self, decays: Decays, given: bool) -> Result<RecurrentInputs<'_, f32>, Error> {
        let [q, k, v, log_decay, before] = Lifted::shapes(&self.sizes);
        Ok(RecurrentInputs {
            q: Tensor::contiguous(self.q, q)?,
            k: Tensor::contiguous(self.k, k)?,
            v: Tensor::contiguous(self.v, v)?,
            log_decay: match decays {
                Decays::Never => None,
                _ => Some(Tensor::contiguous(self.log_decay, log_decay)?),
            },
            beta: None,
            state: if given { Some(Tensor::contiguous(self.before, before)?) } else { None },
        })
    }

    /// Where the recurrence's gradients of all that go.
    pub(super) fn gradients(&mut self) -> Result<RecurrentGradients<'_>, Error> {
        let [q, k, v, log_decay, before] = Lifted::shapes(&self.sizes);
        Ok(RecurrentGradients {
            q: TensorMut::contiguous(self.q, q)?,
            k: TensorMut::contiguous(self.k, k)?,
            v: TensorMut::contiguous(self.v, v)?,
            log_decay: TensorMut::contiguous(self.log_decay, log_decay)?,
            beta: TensorMut::contiguous(&mut [], [0; 4])?,
            state: TensorMut::contiguous(self.before, before)?,
        })
    }
}

/// What the recurrence makes of features, or the gradients of that; and what features are relative to.
pub(super) struct Sums<'a> {
    /// `[batch, heads, tokens, dim_v + 1]`: numerators, and denominators behind them.
    pub(super) out: &'a mut [f32],
    /// `[batch, kv_heads, width, dim_v + 1]`: the states after.
    pub(super) after: &'a mut [f32],
    /// `[batch, kv_heads]`: the largest exponent of all keys.
    pub(super) largest: &'a mut [f32],
}

impl<'a> Sums<'a> {
    pub(super) fn shapes(sizes: &Sizes) -> [[usize; 4]; 3] {
        let Sizes { batch, heads, kv_heads, tokens, dim_v, width, .. } = *sizes;
        let columns = dim_v.saturating_add(1);
        [[batch, heads, tokens, columns], [batch, kv_heads, width, columns], [batch, kv_heads, 1, 1]]
    }

    pub(super) fn need(sizes: &Sizes) -> Need {
        needs(Sums::shapes(sizes))
    }

    fn take(frame: &mut Frame<'a>, sizes: &Sizes) -> Self {
        let [out, after, largest] = Sums::shapes(sizes).map(|shape| frame.take(numbers(shape)));
        Sums { out, after, largest }
    }
}

/// How many numbers a shape has, or more than any memory holds.
fn numbers(shape: [usize; 4]) -> usize {
    shape.into_iter().fold(1, usize::saturating_mul)
}

fn needs<const N: usize>(shapes: [[usize; 4]; N]) -> Need {
    shapes.into_iter().fold(Need::NONE, |need, shape| need.and(Need::of::<f32>(numbers(shape))))
}

impl Favor<'_> {
    /// `√scale·ω` down its columns, `[dim][width]`.
    fn directions(&self, sizes: &Sizes, down: &mut [f32]) {
        let Sizes { dim_k, width, .. } = *sizes;
        let root = self.root(dim_k);
        down.fill(0.0);
        for (feature, row) in self.features.rows.chunks_exact(dim_k).enumerate() {
            row.iter().enumerate().for_each(|(c, &x)| down[c * width + feature] = root * x);
        }
    }

    /// The features of all queries, keys, and the values with ones: what the recurrence takes.
    fn lift<T: Element>(
        &self,
        inputs: &FavorInputs<'_, T>,
        down: &[f32],
        (lifted, largest): (&mut Lifted<'_>, &mut [f32]),
        rows: &mut Frame<'_>,
        pool: &Pool,
    ) -> Result<(), Error> {
        let sizes = lifted.sizes;
        let Sizes { heads, kv_heads, tokens, dim_k, dim_v, count, width, .. } = sizes;
        if tokens == 0 {
            let each = largest.iter_mut().enumerate();
            each.for_each(|(index, largest)| *largest = inputs.exponent(index / kv_heads, index % kv_heads));
            return Ok(());
        }
        let kernels = self.kernels;
        let down = Rows::contiguous(down, dim_k, width)?;
        let factor = 1.0 / (count as f32).sqrt();
        let scale = f64::from(self.root(dim_k)).powi(2);
        let failure = Failure::default();
        let need = sizes.rows_need();
        // Exponents of a head's rows, and what scratch they take: the rows in single precision, and a number for each.
        let exponents = |frame: &mut Frame<'_>, x: Rows<'_, T>, to: &mut [f32]| -> Result<(), Error> {
            let mut frame = frame.scope();
            let wide = frame.take::<f32>(tokens * dim_k);
            kernels.scale_rows(x, Scaling::All(1.0), RowsMut::contiguous(wide, tokens, dim_k)?)?;
            let left = Left::Rows(Rows::contiguous(wide, tokens, dim_k)?);
            let to = RowsMut::contiguous(to, tokens, width)?;
            Ok(kernels.multiply(left, down, Band::Whole, Before::Replaced, to)?)
        };
        let queries = chunks_of(lifted.q, tokens * width);
        pool.run_in(rows.scope().split(pool.threads(), need), queries, |frame, index, to| {
            failure.catch(|| {
                // What a query's exponents have in common is above and below its results' line.
                exponents(frame, inputs.q.rows(index / heads, index % heads), to)?;
                let mut frame = frame.scope();
                let shifts = frame.take::<f32>(tokens);
                kernels.row_maxima(Rows::new(to, tokens, count, width)?, shifts)?;
                Ok(kernels.exp_rows(RowsMut::contiguous(to, tokens, width)?, count, shifts, factor)?)
            });
        });
        let keys = (
            chunks_of(lifted.k, tokens * width),
            (chunks_of(lifted.log_decay, tokens), chunks_of(largest, 1)),
            chunks_of(lifted.v, tokens * (dim_v + 1)),
        );
        pool.run_in(rows.scope().split(pool.threads(), need), keys, |frame, index, (to, (decays, largest), v)| {
            failure.catch(|| {
                let (batch, head) = (index / kv_heads, index % kv_heads);
                exponents(frame, inputs.k.rows(batch, head), to)?;
                let mut frame = frame.scope();
                let (shifts, halves) = (frame.take::<f32>(tokens), frame.take::<f64>(tokens));
                kernels.row_maxima(Rows::new(to, tokens, count, width)?, shifts)?;
                for (half, key) in halves.iter_mut().zip(inputs.k.rows(batch, head).iter()) {
                    // An exponent's error is one of all that a key weighs, so it is not to grow with the dim or the key.
                    let squares: f64 = key.iter().map(|x| f64::from(x.to_f32()).powi(2)).sum();
                    *half = scale / 2.0 * squares;
                }
                let mut most = inputs.exponent(batch, head);
                for ((shift, half), decay) in shifts.iter_mut().zip(&*halves).zip(decays.iter_mut()) {
                    // Of the longest keys it is finite still.
                    let new = (f64::from(*shift) - half).max(f64::from(f32::MIN)) as f32;
                    // A NaN is no largest exponent, and shows in the features.
                    let next = if new > most { new } else { most };
                    // Before the first key nothing is in the state.
                    *decay = if most == f32::NEG_INFINITY { 0.0 } else { most - next };
                    (*shift, most) = (next, next);
                }
                largest[0] = most;
                for (shift, half) in shifts.iter_mut().zip(&*halves) {
                    // Of both directions all keys are relative to one exponent.
                    let from = if self.direction == Direction::Both { most } else { *shift };
                    *shift = (half + f64::from(from)) as f32;
                }
                kernels.exp_rows(RowsMut::contiguous(to, tokens, width)?, count, shifts, factor)?;
                for (to, value) in v.chunks_exact_mut(dim_v + 1).zip(inputs.v.rows(batch, head).iter()) {
                    to.iter_mut().zip(value).for_each(|(to, x)| *to = x.to_f32());
                    to[dim_v] = 1.0;
                }
                Ok(())
            });
        });
        failure.into_result()
    }

    /// What the sums of a state before are multiplied by as the recurrence takes them. In one direction gates make them smaller,
    /// and where no key was seen, nothing is what stands there.
    pub(super) fn fall(&self, tokens: usize, before: f32, largest: f32) -> f32 {
        match self.direction {
            _ if tokens == 0 => 1.0,
            _ if before == f32::NEG_INFINITY => 0.0,
            Direction::Both => (before - largest).exp(),
            Direction::Causal => 1.0,
        }
    }

    /// The state before the first token as the recurrence takes it.
    fn begin<T>(&self, inputs: &FavorInputs<'_, T>, lifted: &mut Lifted<'_>, largest: &[f32]) {
        let Sizes { kv_heads, tokens, dim_v, count, width, .. } = lifted.sizes;
        let Some((sums, _)) = inputs.state else { return };
        let states = lifted.before.chunks_exact_mut(width * (dim_v + 1));
        for ((index, before), &largest) in states.enumerate().zip(largest) {
            let (batch, head) = (index / kv_heads, index % kv_heads);
            let fall = self.fall(tokens, inputs.exponent(batch, head), largest);
            before.fill(0.0);
            if fall == 0.0 {
                continue;
            }
            for (to, from) in before.chunks_exact_mut(dim_v + 1).zip(sums.rows(batch, head).iter()).take(count) {
                to.iter_mut().zip(from).for_each(|(to, &x)| *to = fall * x);
            }
        }
    }

    /// Scratch of a call before the recurrence begins, and of what it makes; and what workers take for heads' rows, and for the
    /// recurrence after them, is `work`.
    pub(super) fn forward_need(sizes: &Sizes, work: Need, threads: usize) -> Need {
        let directions = Need::of::<f32>(sizes.dim_k.saturating_mul(sizes.width));
        directions.and(Lifted::need(sizes)).and(Sums::need(sizes)).and(sizes.rows_need().or(work).times(threads))
    }

    /// The features, and the results before they are divided and the states: scratch that stays taken.
    pub(super) fn forward<'a, T: Element>(
        &self,
        inputs: &FavorInputs<'_, T>,
        sizes: &Sizes,
        frame: &mut Frame<'a>,
        pool: &Pool,
    ) -> Result<(Lifted<'a>, Sums<'a>), Error> {
        let Sizes { dim_k, width, .. } = *sizes;
        let down = frame.take::<f32>(dim_k * width);
        self.directions(sizes, down);
        let (mut lifted, sums) = (Lifted::take(frame, sizes), Sums::take(frame, sizes));
        self.lift(inputs, down, (&mut lifted, sums.largest), &mut frame.scope(), pool)?;
        self.begin(inputs, &mut lifted, sums.largest);
        let [out, state, _] = Sums::shapes(sizes);
        let outputs = RecurrentOutputs {
            out: TensorMut::contiguous(sums.out, out)?,
            state: TensorMut::contiguous(sums.after, state)?,
        };
        let of = lifted.inputs(self.decays(), inputs.state.is_some())?;
        self.recurrent().run_within(&of, outputs, &mut frame.scope(), pool)?;
        Ok((lifted, sums))
    }
}
