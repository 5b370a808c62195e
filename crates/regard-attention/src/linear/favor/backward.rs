//! The gradients of attention by FAVOR+: through the division, through the recurrence, and through the features.

use regard_kernels::{Band, Before, Left, Scaling};
use regard_memory::{Arena, Frame, Need, Rows, RowsMut, Tensor, TensorMut, chunks_of};
use regard_threads::Pool;

use super::lift::{Lifted, Sums};
use super::{Favor, FavorInputs, Sizes, over};
use crate::linear::backward::Back;
use crate::linear::forward::copy;
use crate::task::Failure;
use crate::{Element, Error};

/// The gradients of all inputs, in f32 and in their shapes; what stands there is written over.
#[derive(Debug)]
pub struct FavorGradients<'a> {
    /// Of the queries, `[batch, heads, tokens, dim_k]`.
    pub q: TensorMut<'a, f32>,
    /// Of the keys, `[batch, kv_heads, tokens, dim_k]`.
    pub k: TensorMut<'a, f32>,
    /// Of the values, `[batch, kv_heads, tokens, dim_v]`.
    pub v: TensorMut<'a, f32>,
    /// Of the sums of the state before the first token, `[batch, kv_heads, features, dim_v + 1]`; 0 where there was none.
    pub state: TensorMut<'a, f32>,
}

/// Features of a head's tokens, and their gradients, each `[tokens, width]`.
struct Feature<'a> {
    phi: &'a [f32],
    gradient: &'a mut [f32],
}

impl Favor<'_> {
    /// The gradients of all inputs, from those of the results and of the sums of the state after, `[batch, kv_heads, features,
    /// dim_v + 1]`, which are 0 unless given.
    ///
    /// With features `φ(q) = e^(ω'·q − s)` and `φ(k) = e^(ω'·k − scale·‖k‖²/2 − s)`, where `ω' = √scale·ω` (Choromanski et al.,
    /// 2021, lemma 1), a result is `N/D`, `N` a sum of features times values and `D` the same of ones. So
    ///
    /// - `dN = dout/D` and `dD = −Σ dout·out/D`,
    /// - `dφ` and `dv` are what the recurrence makes of these,
    /// - `da = dφ∘φ` are the gradients of exponents, `dq = Σ da·ω'`, and `dk = Σ da·ω' − scale·k·Σ da`.
    ///
    /// Exact, in f32 throughout: no result depends on what exponents are relative to (`s`), as it is in `N` and in `D`; nor on
    /// `‖q‖²`, which is left out for that. So these are constants here, and `Σ da` is 0 for a query.
    ///
    /// States are sums relative to exponents. Their gradients are of the sums with the exponents held constant, which hand on all
    /// that there is: where one call goes on with what another left, the gradient of the state before the one is that of the state
    /// after the other. Sums relative to −∞, where no key was seen, get 0. A result that is 0 for want of weight adds nothing to any
    /// gradient.
    ///
    /// # Errors
    /// The shapes do not fit, or there is no memory for the scratch: in it are the features of all tokens, their gradients, and a
    /// thread's states before all chunks of 64 tokens, `[chunks, features, dim_v + 1]`.
    pub fn backward<T: Element>(
        &self,
        inputs: &FavorInputs<'_, T>,
        dout: Tensor<'_, T>,
        dstate: Option<Tensor<'_, f32>>,
        gradients: FavorGradients<'_>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let sizes = self.sizes(inputs)?;
        let Sizes { batch, heads, kv_heads, tokens, dim_v, count, width_k, .. } = sizes;
        let (expect, state) = (crate::shape::expect, [batch, kv_heads, count, dim_v + 1]);
        expect("gradient of results", dout.shape(), [batch, heads, tokens, dim_v])?;
        if let Some(dstate) = dstate {
            expect("gradient of the state after", dstate.shape(), state)?;
        }
        expect("gradient of queries", gradients.q.shape(), inputs.q.shape())?;
        expect("gradient of keys", gradients.k.shape(), inputs.k.shape())?;
        expect("gradient of values", gradients.v.shape(), inputs.v.shape())?;
        expect("gradient of the state", gradients.state.shape(), state)?;

        let recurrence = Back::need(sizes.recurrent(), self.decays(), tokens);
        let need = Favor::forward_need(&sizes, recurrence, pool.threads());
        let across = Need::of::<f32>(count.saturating_mul(width_k));
        let mut frame = scratch.frame(need.and(Lifted::need(&sizes)).and(across))?;
        let (lifted, mut sums) = self.forward(inputs, &sizes, &mut frame, pool)?;
        divide_back(&sizes, dout, sums.out, pool);
        let mut of_lifted = Lifted::take(&mut frame, &sizes);
        let across = frame.take::<f32>(count * width_k);
        self.recurrence_back(inputs, dstate, (&lifted, &mut of_lifted), &mut sums, &mut frame.scope(), pool)?;
        self.state_back(inputs, &sizes, of_lifted.before, sums.largest, gradients.state);
        if tokens == 0 {
            return Ok(());
        }

        self.directions_across(&sizes, across);
        let across = Rows::contiguous(across, count, width_k)?;
        let failure = Failure::default();
        let (each, need) = (tokens * sizes.width, sizes.rows_need());
        let queries = (chunks_of(of_lifted.q, each), gradients.q.block_parts(1, tokens));
        pool.run_in(frame.scope().split(pool.threads(), need), queries, |frame, index, (gradient, mut to)| {
            let of = Feature { phi: &lifted.q[index * each..][..each], gradient };
            failure.catch(|| self.features_back::<T>(&sizes, of, across, None, frame, to.rows_mut(0, 0)));
        });
        let keys = (chunks_of(of_lifted.k, each), gradients.k.block_parts(1, tokens));
        let values = (chunks_of(of_lifted.v, tokens * (dim_v + 1)), gradients.v.block_parts(1, tokens));
        let workers = frame.scope().split(pool.threads(), need);
        pool.run_in(workers, (keys, values), |frame, index, ((gradient, mut to), (of_values, mut to_values))| {
            let keys = inputs.k.rows(index / kv_heads, index % kv_heads);
            let of = Feature { phi: &lifted.k[index * each..][..each], gradient };
            failure.catch(|| {
                self.features_back(&sizes, of, across, Some(keys), frame, to.rows_mut(0, 0))?;
                copy(Rows::new(of_values, tokens, dim_v, dim_v + 1)?, to_values.rows_mut(0, 0));
                Ok(())
            });
        });
        failure.into_result()
    }

    /// The gradients of what was lifted, from those of numerators, denominators and the state after.
    fn recurrence_back<T>(
        &self,
        inputs: &FavorInputs<'_, T>,
        dstate: Option<Tensor<'_, f32>>,
        (lifted, of_lifted): (&Lifted<'_>, &mut Lifted<'_>),
        sums: &mut Sums<'_>,
        frame: &mut Frame<'_>,
        pool: &Pool,
    ) -> Result<(), Error> {
        let [out, after, _] = Sums::shapes(&lifted.sizes);
        if let Some(dstate) = dstate {
            for (index, to) in sums.after.chunks_exact_mut(after[2] * after[3]).enumerate() {
                let from = dstate.rows(index / after[1], index % after[1]);
                self.kernels.scale_rows(from, Scaling::All(1.0), RowsMut::contiguous(to, after[2], after[3])?)?;
            }
        }
        let dstate = dstate.map(|_| Tensor::contiguous(sums.after, after)).transpose()?;
        let dout = Tensor::contiguous(sums.out, out)?;
        let of = lifted.inputs(self.decays(), inputs.state.is_some())?;
        self.recurrent().backward_within(&of, (dout, dstate), of_lifted.gradients()?, frame, pool)
    }

    /// The gradient of the state before, from that of the state as the recurrence took it.
    fn state_back<T>(
        &self,
        inputs: &FavorInputs<'_, T>,
        sizes: &Sizes,
        of_before: &[f32],
        largest: &[f32],
        mut to: TensorMut<'_, f32>,
    ) {
        let Sizes { kv_heads, tokens, dim_v, width, .. } = *sizes;
        let states = of_before.chunks_exact(width * (dim_v + 1));
        for ((index, of_state), &largest) in states.enumerate().zip(largest) {
            let (batch, head) = (index / kv_heads, index % kv_heads);
            // What was not there has no gradient, be what flows back no number.
            let fall = match inputs.state {
                Some(_) => self.fall(tokens, inputs.exponent(batch, head), largest),
                None => 0.0,
            };
            let mut to = to.rows_mut(batch, head);
            for (feature, row) in of_state.chunks_exact(dim_v + 1).enumerate().take(sizes.count) {
                let each = to.row_mut(feature).iter_mut().zip(row);
                each.for_each(|(to, x)| *to = if fall == 0.0 { 0.0 } else { fall * x });
            }
        }
    }

    /// `√scale·ω`, `[count][width_k]`.
    fn directions_across(&self, sizes: &Sizes, across: &mut [f32]) {
        let root = self.root(sizes.dim_k);
        let rows = self.features.rows.chunks_exact(sizes.dim_k);
        for (to, row) in across.chunks_exact_mut(sizes.width_k).zip(rows) {
            to.fill(0.0);
            to.iter_mut().zip(row).for_each(|(to, &x)| *to = root * x);
        }
    }

    /// The gradients of a head's queries, or of its `keys`, from those of their features: `da·ω'` with `da = dφ∘φ`, and of keys
    /// less `scale·k·Σ da`.
    fn features_back<T: Element>(
        &self,
        sizes: &Sizes,
        Feature { phi, gradient }: Feature<'_>,
        across: Rows<'_, f32>,
        keys: Option<Rows<'_, T>>,
        frame: &mut Frame<'_>,
        to: RowsMut<'_, f32>,
    ) -> Result<(), Error> {
        let Sizes { tokens, dim_k, count, width, width_k, .. } = *sizes;
        let mut frame = frame.scope();
        let (wide, shares) = (frame.take::<f32>(tokens * width_k), frame.take_zeroed::<f32>(tokens));
        let before = match keys {
            None => Before::Replaced,
            Some(keys) => {
                let (phi, gradient) =
                    (Rows::new(phi, tokens, count, width)?, Rows::new(gradient, tokens, count, width)?);
                self.kernels.add_dots(phi, gradient, shares)?;
                let scale = self.root(dim_k).powi(2);
                shares.iter_mut().for_each(|share| *share *= -scale);
                let to = RowsMut::contiguous(wide, tokens, width_k)?;
                self.kernels.scale_rows(keys, Scaling::Rows(shares), to)?;
                Before::Kept
            }
        };
        gradient.iter_mut().zip(phi).for_each(|(gradient, phi)| *gradient *= phi);
        let left = Left::Rows(Rows::new(gradient, tokens, count, width)?);
        self.kernels.multiply(left, across, Band::Whole, before, RowsMut::contiguous(wide, tokens, width_k)?)?;
        copy(Rows::new(wide, tokens, dim_k, width_k)?, to);
        Ok(())
    }
}

/// In place of numerators and denominators their gradients, from those of the results.
fn divide_back<T: Element>(sizes: &Sizes, dout: Tensor<'_, T>, out: &mut [f32], pool: &Pool) {
    let Sizes { heads, tokens, dim_v, .. } = *sizes;
    pool.run(chunks_of(out, (tokens * (dim_v + 1)).max(1)), |index, of_head| {
        let douts = dout.rows(index / heads, index % heads);
        for (row, dout) in of_head.chunks_exact_mut(dim_v + 1).zip(douts.iter()) {
            let Some(over) = over(row[dim_v]) else {
                row.fill(0.0);
                continue;
            };
            let mut share = 0.0;
            for (x, dout) in row.iter_mut().zip(dout) {
                let gradient = dout.to_f32() * over;
                share += gradient * *x;
                *x = gradient;
            }
            row[dim_v] = -share * over;
        }
    });
}
