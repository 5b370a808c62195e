//! The gradients of a recurrence, chunk by chunk from the last one back.
//!
//! The states before all chunks are made anew first. Within a chunk everything is a product of small matrices, so gradients are
//! those of products; log decays get what every pair, query and key that they stand between gets of them.

use regard_kernels::{Band, Before, F32, Left, PANEL, Scaling};
use regard_memory::{Arena, Frame, Need, Rows, RowsMut, Tensor, TensorMut};
use regard_threads::Pool;

use super::forward::{Scratch, StateOf, copy, rows_of, tokens_of};
use super::gate::{Decays, Seen};
use super::sheet::Sheet;
use super::{CHUNK, Direction, Recurrence, RecurrentGradients, RecurrentInputs, Shape, Sizes, count_chunks};
use crate::task::Failure;
use crate::{Element, Error};

/// What the backward pass of a chunk needs beside the forward one's.
pub(super) struct Back<'a> {
    forward: Scratch<'a>,
    /// `[chunks][dim_k][width_v]`: the states before them.
    states: &'a mut [f32],
    /// Of the state after the chunk, then before it.
    dstate: Sheet<'a>,
    /// Values, and gradients of results and of what was written.
    v: Sheet<'a>,
    dout: Sheet<'a>,
    du: Sheet<'a>,
    /// Gradients of queries or of keys times −β; of keys as pairs see them, and as the state after does; of the weights.
    dq: Sheet<'a>,
    dk: Sheet<'a>,
    dk_out: Sheet<'a>,
    dp: Sheet<'a>,
    product: Sheet<'a>,
    /// What log decays up to a token's own get of it, and what those behind it do: `[CHUNK][width_k]`.
    upto: Sheet<'a>,
    behind: Sheet<'a>,
    /// `[dim_k]`: what the decay of each row of the state gets of it.
    of_rows: &'a mut [f32],
    /// Panels of what was written and of states, each down its columns.
    written: &'a mut [f32],
    turned: &'a mut [f32],
}

impl<'a> Back<'a> {
    pub(super) fn need(sizes: Sizes, decays: Decays, tokens: usize) -> Need {
        let Sizes { dim_k, dim_v, width_k, width_v } = sizes;
        let state = dim_k.saturating_mul(width_v);
        let panels = width_k.div_ceil(PANEL).saturating_mul(PANEL);
        Scratch::need(sizes, decays)
            .and(Need::of::<f32>(count_chunks(tokens).saturating_mul(state)))
            .and(Sheet::need(dim_k, width_v))
            .and(Sheet::need(CHUNK, width_v).times(3))
            .and(Sheet::need(CHUNK, width_k).times(6))
            .and(Sheet::need(CHUNK, PANEL))
            .and(Need::of::<f32>(dim_k))
            .and(Need::of::<f32>(dim_v.saturating_mul(PANEL)))
            .and(Need::of::<f32>(dim_v.saturating_mul(panels)))
    }

    fn take(frame: &mut Frame<'a>, recurrence: &Recurrence, shape: &Shape) -> Self {
        let Sizes { dim_k, dim_v, width_k, width_v } = shape.sizes;
        let keys = |frame: &mut Frame<'a>| Sheet::take(frame, CHUNK, width_k);
        let values = |frame: &mut Frame<'a>| Sheet::take(frame, CHUNK, width_v);
        Back {
            forward: Scratch::take(frame, recurrence, shape),
            states: frame.take(shape.chunks() * dim_k * width_v),
            dstate: Sheet::take(frame, dim_k, width_v),
            v: values(frame),
            dout: values(frame),
            du: values(frame),
            dq: keys(frame),
            dk: keys(frame),
            dk_out: keys(frame),
            product: keys(frame),
            upto: keys(frame),
            behind: keys(frame),
            dp: Sheet::take(frame, CHUNK, PANEL),
            of_rows: frame.take(dim_k),
            written: frame.take(dim_v * PANEL),
            turned: frame.take_zeroed(dim_v * width_k.div_ceil(PANEL) * PANEL),
        }
    }
}

/// The gradients of the heads that a group of states reads, `[1, heads, …]`.
struct Part<'a> {
    q: TensorMut<'a, f32>,
    k: TensorMut<'a, f32>,
    v: TensorMut<'a, f32>,
    log_decay: TensorMut<'a, f32>,
    beta: TensorMut<'a, f32>,
    state: TensorMut<'a, f32>,
}

impl Recurrence {
    /// The gradients of all inputs, from those of the results and of the state after the last token, which is 0 unless given.
    ///
    /// Exact, in f32 throughout. Log decays of −∞ get 0.
    ///
    /// # Errors
    /// The shapes do not fit, or there is no memory for the scratch: the states before all chunks are in it,
    /// `[chunks, dim_k, dim_v]` a thread.
    pub fn backward<T: Element>(
        &self,
        inputs: &RecurrentInputs<'_, T>,
        dout: Tensor<'_, T>,
        dstate: Option<Tensor<'_, f32>>,
        gradients: RecurrentGradients<'_>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let Shape { sizes, decays, tokens, .. } = Shape::of(inputs, self.direction)?;
        let mut frame = scratch.frame(Back::need(sizes, decays, tokens).times(pool.threads()))?;
        self.backward_within(inputs, (dout, dstate), gradients, &mut frame, pool)
    }

    /// The same in scratch that is there: [`Back::need`] for each thread.
    pub(super) fn backward_within<T: Element>(
        &self,
        inputs: &RecurrentInputs<'_, T>,
        (dout, dstate): (Tensor<'_, T>, Option<Tensor<'_, f32>>),
        gradients: RecurrentGradients<'_>,
        frame: &mut Frame<'_>,
        pool: &Pool,
    ) -> Result<(), Error> {
        let shape = Shape::of(inputs, self.direction)?;
        let Sizes { dim_k, dim_v, .. } = shape.sizes;
        let Shape { batch, tokens, states, .. } = shape;
        let expect = crate::shape::expect;
        expect("gradient of results", dout.shape(), [batch, shape.results, tokens, dim_v])?;
        if let Some(dstate) = dstate {
            expect("gradient of the state after", dstate.shape(), [batch, states, dim_k, dim_v])?;
        }
        let RecurrentGradients { mut q, mut k, mut v, mut log_decay, mut beta, mut state } = gradients;
        expect("gradient of queries", q.shape(), inputs.q.shape())?;
        expect("gradient of keys", k.shape(), inputs.k.shape())?;
        expect("gradient of values", v.shape(), inputs.v.shape())?;
        expect("gradient of the state", state.shape(), [batch, states, dim_k, dim_v])?;
        for (name, of, gradient) in
            [("gradient of log decays", inputs.log_decay, &log_decay), ("gradient of betas", inputs.beta, &beta)]
        {
            if let Some(of) = of {
                expect(name, gradient.shape(), of.shape())?;
            }
        }
        for tensor in [&mut q, &mut k, &mut v, &mut log_decay, &mut beta, &mut state] {
            zero(tensor);
        }
        if batch == 0 {
            return Ok(());
        }
        // States that read a head in common are one task.
        let common = [shape.q, shape.k, shape.v, shape.decay, shape.beta].into_iter().fold(states, gcd);
        let need = Back::need(shape.sizes, shape.decays, tokens);
        let failure = Failure::default();
        let by = |heads: usize| (heads / common).max(1);
        let rows = tokens.max(1);
        let work = |frame: &mut Frame<'_>, index: usize, part: Part<'_>| {
            let mut frame = frame.scope();
            let mut back = Back::take(&mut frame, self, &shape);
            failure.catch(|| self.group_back(inputs, &shape, (index, common), (dout, dstate), &mut back, part));
        };
        let workers = frame.split(pool.threads(), need);
        let whole = state.block_parts(by(states), dim_k);
        if tokens == 0 {
            pool.run_in(workers, whole, |frame, index, state| {
                let none = || TensorMut::contiguous(&mut [], [1, 0, 0, 0]).expect("nothing is a tensor");
                work(frame, index, Part { q: none(), k: none(), v: none(), log_decay: none(), beta: none(), state });
            });
            return failure.into_result();
        }
        let keys =
            (q.block_parts(by(shape.q), rows), k.block_parts(by(shape.k), rows), v.block_parts(by(shape.v), rows));
        // What is not there has parts without numbers.
        let (mut no_decay, mut no_beta) = ([0.0; 0], [0.0; 0]);
        let nothing = |there: bool, tensor, numbers| match there {
            true => Ok(tensor),
            false => TensorMut::contiguous(numbers, [batch, common, rows, 0]),
        };
        let log_decay = nothing(inputs.log_decay.is_some(), log_decay, &mut no_decay)?;
        let beta = nothing(inputs.beta.is_some(), beta, &mut no_beta)?;
        let (decay, betas) = (log_decay.shape()[1], beta.shape()[1]);
        let others = (log_decay.block_parts(by(decay), rows), beta.block_parts(by(betas), rows), whole);
        pool.run_in(workers, (keys, others), |frame, index, ((q, k, v), (log_decay, beta, state))| {
            work(frame, index, Part { q, k, v, log_decay, beta, state });
        });
        failure.into_result()
    }

    /// The gradients of a group of states, one after the other.
    fn group_back<T: Element>(
        &self,
        inputs: &RecurrentInputs<'_, T>,
        shape: &Shape,
        (index, common): (usize, usize),
        (dout, dstate): (Tensor<'_, T>, Option<Tensor<'_, f32>>),
        back: &mut Back<'_>,
        mut part: Part<'_>,
    ) -> Result<(), Error> {
        let Sizes { dim_k, dim_v, width_v, .. } = shape.sizes;
        let (batch, group) = (index / common, index % common);
        let each = shape.states / common;
        for number in 0..each {
            let state = group * each + number;
            let of = StateOf::new(inputs, shape, batch, state);
            self.begin(&of, shape, &mut back.forward)?;
            for (chunk, before) in back.states.chunks_exact_mut(dim_k * width_v).enumerate() {
                let tokens = tokens_of(chunk, shape.tokens);
                copy(back.forward.state.rows(dim_k, width_v), RowsMut::contiguous(before, dim_k, width_v)?);
                self.write(&of, shape, tokens.clone(), &mut back.forward)?;
                self.advance(shape, tokens.len(), &mut back.forward)?;
            }
            let after = back.dstate.rows_mut(dim_k, width_v);
            match dstate {
                Some(dstate) => self.kernels.scale_rows(dstate.rows(batch, state), Scaling::All(1.0), after)?,
                None => back.dstate.all_mut().fill(0.0),
            }
            if self.direction == Direction::Both {
                self.queries_back(inputs, shape, (batch, state, common), dout, back, &mut part)?;
            }
            for chunk in (0..shape.chunks()).rev() {
                self.chunk_back(inputs, &of, shape, (batch, state, common), chunk, dout, back, &mut part)?;
            }
            copy(back.dstate.rows(dim_k, dim_v), part.state.rows_mut(0, number));
        }
        Ok(())
    }

    /// Of both directions: the gradients of all queries, and of the state that they see.
    fn queries_back<T: Element>(
        &self,
        inputs: &RecurrentInputs<'_, T>,
        shape: &Shape,
        (batch, state, common): (usize, usize, usize),
        dout: Tensor<'_, T>,
        back: &mut Back<'_>,
        part: &mut Part<'_>,
    ) -> Result<(), Error> {
        let Sizes { dim_k, width_k, width_v, .. } = shape.sizes;
        let scale = self.scale(dim_k);
        for chunk in 0..shape.chunks() {
            let tokens = tokens_of(chunk, shape.tokens);
            let n = tokens.len();
            for member in 0..shape.group() {
                let result = state * shape.group() + member;
                let query = shape.query(result);
                let q = rows_of(inputs.q.rows(batch, query), tokens.clone());
                self.kernels.scale_rows(q, Scaling::All(scale), back.forward.q.rows_mut(n, width_k))?;
                let rows = rows_of(dout.rows(batch, result), tokens.clone());
                self.kernels.scale_rows(rows, Scaling::All(1.0), back.dout.rows_mut(n, width_v))?;
                // The state after the last chunk still stands in the forward pass's scratch.
                turn(self, shape, back.forward.state.rows(dim_k, width_v), back.turned)?;
                by_state(self, shape, back.dout.rows(n, width_v), back.turned, back.dq.rows_mut(n, width_k))?;
                self.kernels.add_scaled_rows(
                    back.dq.rows(n, dim_k),
                    Scaling::All(scale),
                    query_part(part, shape, query, common, tokens.clone()),
                )?;
                let left = Left::Columns(back.forward.q.rows(n, dim_k));
                let state = back.dstate.rows_mut(dim_k, width_v);
                self.kernels.multiply(left, back.dout.rows(n, width_v), Band::Whole, Before::Kept, state)?;
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "who computes, of what, which chunk of it, from what, and where to")]
    fn chunk_back<T: Element>(
        &self,
        inputs: &RecurrentInputs<'_, T>,
        of: &StateOf<'_, T>,
        shape: &Shape,
        (batch, state, common): (usize, usize, usize),
        chunk: usize,
        dout: Tensor<'_, T>,
        back: &mut Back<'_>,
        part: &mut Part<'_>,
    ) -> Result<(), Error> {
        let Sizes { dim_k, dim_v, width_k, width_v } = shape.sizes;
        let kernels = self.kernels;
        let (tokens, both) = (tokens_of(chunk, shape.tokens), self.direction == Direction::Both);
        let n = tokens.len();
        let before = Rows::contiguous(&back.states[chunk * dim_k * width_v..][..dim_k * width_v], dim_k, width_v)?;
        copy(before, back.forward.state.rows_mut(dim_k, width_v));
        self.write(of, shape, tokens.clone(), &mut back.forward)?;
        let Back {
            forward,
            dstate,
            v,
            dout: douts,
            du,
            dq,
            dk,
            dk_out,
            dp,
            product,
            upto,
            behind,
            written,
            turned,
            of_rows,
            ..
        } = back;
        let Scratch { gate, k, u, q, kb, t, p, spare, .. } = forward;

        // What the state after the chunk has of its keys, of what they wrote, and of the state before.
        kernels.scale_rows(k.rows(n, width_k), gate.until_end(), spare.rows_mut(n, width_k))?;
        let left = Left::Rows(spare.rows(n, dim_k));
        kernels.multiply(left, dstate.rows(dim_k, width_v), Band::Whole, Before::Replaced, du.rows_mut(n, width_v))?;
        turn(self, shape, dstate.rows(dim_k, width_v), turned)?;
        by_state(self, shape, u.rows(n, width_v), turned, product.rows_mut(n, width_k))?;
        dk.all_mut().fill(0.0);
        scale_into(self, product.rows(n, width_k), gate.until_end(), dk_out)?;
        upto.all_mut().fill(0.0);
        behind.all_mut().fill(0.0);
        let mut of_all = [0.0];
        of_rows.fill(0.0);
        if shape.decays != Decays::Never {
            kernels.add_scaled_rows(
                k.rows(n, width_k),
                Scaling::Each(dk_out.rows(n, width_k)),
                behind.rows_mut(n, width_k),
            )?;
            kernels.add_dots(before.block(0..dim_k, 0..dim_v), dstate.rows(dim_k, dim_v), of_rows)?;
            of_rows.iter_mut().zip(gate.whole()).for_each(|(of, whole)| *of *= whole);
            of_all[0] = of_rows.iter().sum();
        }
        for (row, &whole) in gate.whole().iter().enumerate() {
            dstate.rows_mut(dim_k, width_v).row_mut(row).iter_mut().for_each(|x| *x *= whole);
        }

        // The state before, and what was written, down their columns: what gradients of results are multiplied by.
        turn(self, shape, before, turned)?;
        kernels.pack_keys::<F32, f32>(u.rows(n, dim_v), 0, written)?;
        for member in 0..shape.group() {
            if both {
                break;
            }
            let result = state * shape.group() + member;
            let query = shape.query(result);
            let scale = self.scale(dim_k);
            let rows = rows_of(inputs.q.rows(batch, query), tokens.clone());
            kernels.scale_rows(rows, Scaling::All(scale), q.rows_mut(n, width_k))?;
            let rows = rows_of(dout.rows(batch, result), tokens.clone());
            kernels.scale_rows(rows, Scaling::All(1.0), douts.rows_mut(n, width_v))?;
            kernels.scale_rows(q.rows(n, width_k), gate.since_start(), spare.rows_mut(n, width_k))?;
            let seen = Seen { own: q.rows(n, width_k), since_start: spare.rows(n, width_k) };
            gate.weigh(seen, k.rows(n, width_k), p)?;
            let (weights, douts) = (Left::Columns(p.rows(n, n)), douts.rows(n, width_v));
            kernels.multiply(weights, douts, Band::StepsFrom, Before::Kept, du.rows_mut(n, width_v))?;
            let panel = Rows::contiguous(written, dim_v, PANEL)?;
            let left = Left::Rows(douts.block(0..n, 0..dim_v));
            kernels.multiply(left, panel, Band::ColumnsTo, Before::Replaced, dp.rows_mut(n, PANEL))?;
            by_state(self, shape, douts, turned, product.rows_mut(n, width_k))?;
            scale_into(self, product.rows(n, width_k), gate.since_start(), dq)?;
            gate.weigh_back((seen, k.rows(n, width_k)), dp, (dq, dk), product)?;
            if shape.decays != Decays::Never {
                kernels.add_scaled_rows(
                    q.rows(n, width_k),
                    Scaling::Each(dq.rows(n, width_k)),
                    upto.rows_mut(n, width_k),
                )?;
            }
            self.kernels.add_scaled_rows(
                dq.rows(n, dim_k),
                Scaling::All(scale),
                query_part(part, shape, query, common, tokens.clone()),
            )?;
            let left = Left::Columns(spare.rows(n, dim_k));
            kernels.multiply(left, douts, Band::Whole, Before::Kept, dstate.rows_mut(dim_k, width_v))?;
        }

        let [key, value, decay, beta] = shape.heads(state);
        let [in_k, in_v, in_decay, in_beta] =
            [(key, shape.k), (value, shape.v), (decay, shape.decay), (beta, shape.beta)]
                .map(|(head, heads)| head % (heads / common).max(1));
        if let Some(betas) = of.beta {
            kernels.solve_transposed(t.rows(n, n), du.rows_mut(n, width_v))?;
            let panel = Rows::contiguous(written, dim_v, PANEL)?;
            let left = Left::Rows(du.rows(n, dim_v));
            kernels.multiply(left, panel, Band::ColumnsTo, Before::Replaced, dp.rows_mut(n, PANEL))?;
            by_state(self, shape, du.rows(n, width_v), turned, product.rows_mut(n, width_k))?;
            scale_into(self, product.rows(n, width_k), gate.since_start(), dq)?;
            kernels.scale_rows(kb.rows(n, width_k), gate.since_start(), spare.rows_mut(n, width_k))?;
            let seen = Seen { own: kb.rows(n, width_k), since_start: spare.rows(n, width_k) };
            // No token corrects what it writes itself.
            (0..n).for_each(|token| dp.rows_mut(n, PANEL).row_mut(token)[token] = 0.0);
            gate.weigh_back((seen, k.rows(n, width_k)), dp, (dq, dk), product)?;
            if shape.decays != Decays::Never {
                kernels.add_scaled_rows(
                    kb.rows(n, width_k),
                    Scaling::Each(dq.rows(n, width_k)),
                    upto.rows_mut(n, width_k),
                )?;
            }
            let left = Left::Columns(spare.rows(n, dim_k));
            let right = du.rows(n, width_v);
            kernels.multiply(left, right, Band::Whole, Before::Kept, dstate.rows_mut(dim_k, width_v))?;
            // Of β, and through it of the keys that it multiplied.
            let (mut of_values, mut of_keys) = ([0.0; CHUNK], [0.0; CHUNK]);
            kernels.scale_rows(rows_of(of.v, tokens.clone()), Scaling::All(1.0), v.rows_mut(n, width_v))?;
            kernels.add_dots(v.rows(n, dim_v), du.rows(n, dim_v), &mut of_values[..n])?;
            kernels.add_dots(k.rows(n, dim_k), dq.rows(n, dim_k), &mut of_keys[..n])?;
            for (row, token) in tokens.clone().enumerate() {
                let beta = betas.row(token)[0];
                part.beta.rows_mut(0, in_beta).row_mut(token)[0] += of_values[row] - of_keys[row];
                dk_out
                    .rows_mut(n, dim_k)
                    .row_mut(row)
                    .iter_mut()
                    .zip(dq.rows(n, dim_k).row(row))
                    .for_each(|(dk, &dkb)| *dk -= beta * dkb);
                du.rows_mut(n, dim_v).row_mut(row).iter_mut().for_each(|x| *x *= beta);
            }
        }
        if let Some(log_decays) = of.log_decay {
            scale_into(self, dk.rows(n, width_k), Scaling::All(-1.0), product)?;
            let keys = Scaling::Each(k.rows(n, width_k));
            kernels.add_scaled_rows(product.rows(n, width_k), keys, upto.rows_mut(n, width_k))?;
            let mut gradient = part.log_decay.rows_mut(0, in_decay);
            let gradient = gradient.reborrow().block(tokens.clone(), 0..log_decays.cols());
            let of_state = if shape.decays == Decays::Head { &of_all[..] } else { of_rows };
            decay_back(
                (upto.rows(n, dim_k), behind.rows(n, dim_k)),
                of_state,
                rows_of(log_decays, tokens.clone()),
                gradient,
            );
        }
        let (mut k_part, mut v_part) = (part.k.rows_mut(0, in_k), part.v.rows_mut(0, in_v));
        self.kernels.add_scaled_rows(
            dk.rows(n, dim_k),
            Scaling::All(1.0),
            k_part.reborrow().block(tokens.clone(), 0..dim_k),
        )?;
        self.kernels.add_scaled_rows(
            dk_out.rows(n, dim_k),
            Scaling::All(1.0),
            k_part.reborrow().block(tokens.clone(), 0..dim_k),
        )?;
        self.kernels.add_scaled_rows(
            du.rows(n, dim_v),
            Scaling::All(1.0),
            v_part.reborrow().block(tokens, 0..dim_v),
        )?;
        Ok(())
    }
}

/// The gradients of log decays: each gets of every pair and state that it stands between. `upto` is what a token's own and
/// earlier ones get of it, `behind` what later ones do, and all get `of_state`.
fn decay_back(
    (upto, behind): (Rows<'_, f32>, Rows<'_, f32>),
    of_state: &[f32],
    log_decays: Rows<'_, f32>,
    mut gradient: RowsMut<'_, f32>,
) {
    let (n, width) = (upto.rows(), gradient.cols());
    let of = |rows: Rows<'_, f32>, t: usize, c: usize| match width {
        1 => rows.row(t).iter().map(|&x| f64::from(x)).sum::<f64>(),
        _ => f64::from(rows.row(t)[c]),
    };
    for (c, &of_state) in of_state.iter().enumerate().take(width) {
        let (mut before, mut sum) = ([0.0; CHUNK], 0.0);
        for (t, before) in before.iter_mut().enumerate().take(n) {
            *before = sum;
            sum += of(behind, t, c);
        }
        let mut after = 0.0;
        for t in (0..n).rev() {
            after += of(upto, t, c);
            if log_decays.row(t)[c] > f32::NEG_INFINITY {
                gradient.row_mut(t)[c] += (f64::from(of_state) + before[t] + after) as f32;
            }
        }
    }
}

/// A state `[dim_k, …]` down its columns, in panels of rows: the right side of products with its transpose.
fn turn(recurrence: &Recurrence, shape: &Shape, state: Rows<'_, f32>, turned: &mut [f32]) -> Result<(), Error> {
    let Sizes { dim_k, dim_v, .. } = shape.sizes;
    Ok(recurrence.kernels.pack_keys::<F32, f32>(state.block(0..dim_k, 0..dim_v), 0, turned)?)
}

/// `x·Sᵀ` of rows `[n, ≥ dim_v]` and a state that was turned.
fn by_state(
    recurrence: &Recurrence,
    shape: &Shape,
    x: Rows<'_, f32>,
    turned: &[f32],
    mut out: RowsMut<'_, f32>,
) -> Result<(), Error> {
    let Sizes { dim_v, width_k, .. } = shape.sizes;
    let n = x.rows();
    for (panel, first) in turned.chunks_exact(dim_v * PANEL).zip((0..width_k).step_by(PANEL)) {
        let (left, right) = (Left::Rows(x.block(0..n, 0..dim_v)), Rows::contiguous(panel, dim_v, PANEL)?);
        let out = out.reborrow().block(0..n, first..width_k.min(first + PANEL));
        recurrence.kernels.multiply(left, right, Band::Whole, Before::Replaced, out)?;
    }
    Ok(())
}

fn scale_into(
    recurrence: &Recurrence,
    from: Rows<'_, f32>,
    scaling: Scaling<'_>,
    to: &mut Sheet<'_>,
) -> Result<(), Error> {
    Ok(recurrence.kernels.scale_rows(from, scaling, to.rows_mut(from.rows(), from.cols()))?)
}

/// The gradients of a query head's tokens.
fn query_part<'p>(
    part: &'p mut Part<'_>,
    shape: &Shape,
    query: usize,
    common: usize,
    tokens: std::ops::Range<usize>,
) -> RowsMut<'p, f32> {
    part.q.rows_mut(0, query % (shape.q / common)).block(tokens, 0..shape.sizes.dim_k)
}

fn zero(tensor: &mut TensorMut<'_, f32>) {
    let [batch, heads, seq, _] = tensor.shape();
    for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
        let mut rows = tensor.rows_mut(b, h);
        (0..seq).for_each(|row| rows.row_mut(row).fill(0.0));
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
