//! Chunk after chunk: what tokens see of the state, what they see of each other, and what they leave in the state.

use regard_kernels::{Band, Before, Left, PANEL, Scaling};
use regard_memory::{Arena, Frame, Need, Rows, RowsMut, Tensor, TensorMut};
use regard_threads::Pool;

use super::gate::{Decays, Gate, Seen};
use super::sheet::Sheet;
use super::{CHUNK, Direction, Recurrence, RecurrentInputs, RecurrentOutputs, Shape, Sizes};
use crate::task::Failure;
use crate::{Element, Error};

/// What a chunk is computed in.
pub(super) struct Scratch<'a> {
    pub(super) gate: Gate<'a>,
    /// Keys, values or what the state takes in their place, and queries times the scale.
    pub(super) k: Sheet<'a>,
    pub(super) u: Sheet<'a>,
    pub(super) q: Sheet<'a>,
    /// By the delta rule: keys times −β, and how tokens change what later ones write.
    pub(super) kb: Sheet<'a>,
    pub(super) t: Sheet<'a>,
    /// The weights of pairs, results, and something of the width of keys.
    pub(super) p: Sheet<'a>,
    pub(super) o: Sheet<'a>,
    pub(super) spare: Sheet<'a>,
    /// `[dim_k][width_v]`.
    pub(super) state: Sheet<'a>,
}

impl<'a> Scratch<'a> {
    pub(super) fn need(sizes: Sizes, decays: Decays) -> Need {
        let Sizes { dim_k, width_k, width_v, .. } = sizes;
        let (keys, values, pairs) =
            (Sheet::need(CHUNK, width_k), Sheet::need(CHUNK, width_v), Sheet::need(CHUNK, PANEL));
        let gate = Gate::need(sizes, decays);
        gate.and(keys.times(4)).and(values.times(2)).and(pairs.times(2)).and(Sheet::need(dim_k, width_v))
    }

    pub(super) fn take(frame: &mut Frame<'a>, recurrence: &Recurrence, shape: &Shape) -> Self {
        let Sizes { dim_k, width_k, width_v, .. } = shape.sizes;
        Scratch {
            gate: Gate::take(frame, recurrence.kernels, shape.sizes, shape.decays),
            k: Sheet::take(frame, CHUNK, width_k),
            u: Sheet::take(frame, CHUNK, width_v),
            q: Sheet::take(frame, CHUNK, width_k),
            kb: Sheet::take(frame, CHUNK, width_k),
            t: Sheet::take(frame, CHUNK, PANEL),
            p: Sheet::take(frame, CHUNK, PANEL),
            o: Sheet::take(frame, CHUNK, width_v),
            spare: Sheet::take(frame, CHUNK, width_k),
            state: Sheet::take(frame, dim_k, width_v),
        }
    }
}

/// A state, and what it is made of.
pub(super) struct StateOf<'a, T> {
    pub(super) k: Rows<'a, T>,
    pub(super) v: Rows<'a, T>,
    pub(super) log_decay: Option<Rows<'a, f32>>,
    pub(super) beta: Option<Rows<'a, f32>>,
    pub(super) before: Option<Rows<'a, f32>>,
}

impl<'a, T: Copy> StateOf<'a, T> {
    pub(super) fn new(inputs: &RecurrentInputs<'a, T>, shape: &Shape, batch: usize, state: usize) -> Self {
        let [k, v, decay, beta] = shape.heads(state);
        let rows =
            |tensor: Option<Tensor<'a, f32>>, head| tensor.map(|tensor: Tensor<'a, f32>| tensor.rows(batch, head));
        StateOf {
            k: inputs.k.rows(batch, k),
            v: inputs.v.rows(batch, v),
            log_decay: rows(inputs.log_decay, decay),
            beta: rows(inputs.beta, beta),
            before: rows(inputs.state, state),
        }
    }
}

/// The tokens of a chunk.
pub(super) fn tokens_of(chunk: usize, tokens: usize) -> std::ops::Range<usize> {
    chunk * CHUNK..tokens.min((chunk + 1) * CHUNK)
}

/// Some rows of a matrix.
pub(super) fn rows_of<T>(rows: Rows<'_, T>, some: std::ops::Range<usize>) -> Rows<'_, T> {
    let cols = rows.cols();
    rows.block(some, 0..cols)
}

impl Recurrence {
    /// Computes the results of all tokens and the state that they leave.
    ///
    /// # Errors
    /// The shapes do not fit, the rule has no form for the direction, or there is no memory for the scratch; then nothing is
    /// written.
    pub fn run<T: Element>(
        &self,
        inputs: &RecurrentInputs<'_, T>,
        outputs: RecurrentOutputs<'_, T>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let shape = Shape::of(inputs, self.direction)?;
        let mut frame = scratch.frame(Scratch::need(shape.sizes, shape.decays).times(pool.threads()))?;
        self.run_within(inputs, outputs, &mut frame, pool)
    }

    /// The same in scratch that is there: [`Scratch::need`] for each thread.
    pub(super) fn run_within<T: Element>(
        &self,
        inputs: &RecurrentInputs<'_, T>,
        outputs: RecurrentOutputs<'_, T>,
        frame: &mut Frame<'_>,
        pool: &Pool,
    ) -> Result<(), Error> {
        let shape = Shape::of(inputs, self.direction)?;
        let Sizes { dim_k, dim_v, .. } = shape.sizes;
        shape.check_outputs(outputs.out.shape(), outputs.state.shape())?;
        if shape.batch == 0 {
            return Ok(());
        }
        let need = Scratch::need(shape.sizes, shape.decays);
        let failure = Failure::default();
        let states = outputs.state.block_parts(1, dim_k);
        // Without tokens there are no results, and the states are those before.
        let outs = outputs.out.block_parts(shape.group(), shape.tokens.max(1));
        let work =
            |frame: &mut Frame<'_>, index: usize, out: Option<TensorMut<'_, T>>, mut state: TensorMut<'_, f32>| {
                let (batch, number) = (index / shape.states, index % shape.states);
                let mut frame = frame.scope();
                let mut scratch = Scratch::take(&mut frame, self, &shape);
                failure.catch(|| self.run_state(inputs, &shape, (batch, number), &mut scratch, out));
                copy(scratch.state.rows(dim_k, dim_v), state.rows_mut(0, 0));
            };
        let workers = frame.split(pool.threads(), need);
        if shape.tokens == 0 {
            pool.run_in(workers, states, |frame, index, state| work(frame, index, None, state));
        } else {
            pool.run_in(workers, (outs, states), |frame, index, (out, state)| work(frame, index, Some(out), state));
        }
        failure.into_result()
    }

    fn run_state<T: Element>(
        &self,
        inputs: &RecurrentInputs<'_, T>,
        shape: &Shape,
        (batch, state): (usize, usize),
        scratch: &mut Scratch<'_>,
        mut out: Option<TensorMut<'_, T>>,
    ) -> Result<(), Error> {
        let of = StateOf::new(inputs, shape, batch, state);
        self.begin(&of, shape, scratch)?;
        let both = self.direction == Direction::Both;
        if both {
            for chunk in 0..shape.chunks() {
                let tokens = tokens_of(chunk, shape.tokens);
                self.write(&of, shape, tokens.clone(), scratch)?;
                self.advance(shape, tokens.len(), scratch)?;
            }
        }
        for chunk in 0..shape.chunks() {
            let tokens = tokens_of(chunk, shape.tokens);
            let n = tokens.len();
            if !both {
                self.write(&of, shape, tokens.clone(), scratch)?;
            }
            for member in 0..shape.group() {
                let result = state * shape.group() + member;
                let q = rows_of(inputs.q.rows(batch, shape.query(result)), tokens.clone());
                self.kernels.scale_rows(
                    q,
                    Scaling::All(self.scale(shape.sizes.dim_k)),
                    scratch.q.rows_mut(n, shape.sizes.width_k),
                )?;
                self.read(shape, n, both, scratch)?;
                let Some(out) = &mut out else { continue };
                let to = out.rows_mut(0, member).block(tokens.clone(), 0..shape.sizes.dim_v);
                self.kernels.store_sum(&[scratch.o.column(n * shape.sizes.width_v)], shape.sizes.width_v, 1.0, to)?;
            }
            if !both {
                self.advance(shape, n, scratch)?;
            }
        }
        Ok(())
    }

    /// The state before the first token.
    pub(super) fn begin<T: Element>(
        &self,
        of: &StateOf<'_, T>,
        shape: &Shape,
        scratch: &mut Scratch<'_>,
    ) -> Result<(), Error> {
        let Sizes { dim_k, width_v, .. } = shape.sizes;
        let mut state = scratch.state.rows_mut(dim_k, width_v);
        match of.before {
            Some(before) => self.kernels.scale_rows(before, Scaling::All(1.0), state)?,
            None => (0..dim_k).for_each(|row| state.row_mut(row).fill(0.0)),
        }
        Ok(())
    }

    /// What the tokens of a chunk write into the state: their values, or by the delta rule what these lack.
    pub(super) fn write<T: Element>(
        &self,
        of: &StateOf<'_, T>,
        shape: &Shape,
        tokens: std::ops::Range<usize>,
        scratch: &mut Scratch<'_>,
    ) -> Result<(), Error> {
        let Sizes { dim_k, width_k, width_v, .. } = shape.sizes;
        let n = tokens.len();
        let Scratch { gate, k, u, kb, t, spare, state, .. } = scratch;
        gate.begin(n, of.log_decay.map(|log_decay| rows_of(log_decay, tokens.clone())));
        self.kernels.scale_rows(rows_of(of.k, tokens.clone()), Scaling::All(1.0), k.rows_mut(n, width_k))?;
        let v = rows_of(of.v, tokens.clone());
        let Some(beta) = of.beta else {
            return Ok(self.kernels.scale_rows(v, Scaling::All(1.0), u.rows_mut(n, width_v))?);
        };
        // (I − T)·U = β∘V − (β∘e^b∘K)·S.
        let mut betas = [0.0; CHUNK];
        betas.iter_mut().zip(tokens).for_each(|(to, token)| *to = beta.row(token)[0]);
        self.kernels.scale_rows(v, Scaling::Rows(&betas[..n]), u.rows_mut(n, width_v))?;
        betas.iter_mut().for_each(|beta| *beta = -*beta);
        self.kernels.scale_rows(k.rows(n, width_k), Scaling::Rows(&betas[..n]), kb.rows_mut(n, width_k))?;
        self.kernels.scale_rows(kb.rows(n, width_k), gate.since_start(), spare.rows_mut(n, width_k))?;
        let seen = Seen { own: kb.rows(n, width_k), since_start: spare.rows(n, width_k) };
        gate.weigh(seen, k.rows(n, width_k), t)?;
        let left = Left::Rows(spare.rows(n, dim_k));
        self.kernels.multiply(left, state.rows(dim_k, width_v), Band::Whole, Before::Kept, u.rows_mut(n, width_v))?;
        Ok(self.kernels.solve(t.rows(n, n), u.rows_mut(n, width_v))?)
    }

    /// What the queries of a chunk see: the state as each token finds it, and what the tokens up to it wrote. Of `both` directions
    /// the state is all.
    fn read(&self, shape: &Shape, n: usize, both: bool, scratch: &mut Scratch<'_>) -> Result<(), Error> {
        let Sizes { dim_k, width_k, width_v, .. } = shape.sizes;
        let Scratch { gate, k, u, q, p, o, spare, state, .. } = scratch;
        let seen = match shape.decays {
            Decays::Never => &*q,
            _ => {
                self.kernels.scale_rows(q.rows(n, width_k), gate.since_start(), spare.rows_mut(n, width_k))?;
                &*spare
            }
        };
        let left = Left::Rows(seen.rows(n, dim_k));
        self.kernels.multiply(
            left,
            state.rows(dim_k, width_v),
            Band::Whole,
            Before::Replaced,
            o.rows_mut(n, width_v),
        )?;
        if both {
            return Ok(());
        }
        let seen = Seen { own: q.rows(n, width_k), since_start: seen.rows(n, width_k) };
        gate.weigh(seen, k.rows(n, width_k), p)?;
        let left = Left::Rows(p.rows(n, n));
        Ok(self.kernels.multiply(left, u.rows(n, width_v), Band::StepsTo, Before::Kept, o.rows_mut(n, width_v))?)
    }

    /// The state after a chunk.
    pub(super) fn advance(&self, shape: &Shape, n: usize, scratch: &mut Scratch<'_>) -> Result<(), Error> {
        let Sizes { dim_k, width_k, width_v, .. } = shape.sizes;
        let Scratch { gate, k, u, spare, state, .. } = scratch;
        let (keys, before) = match shape.decays {
            Decays::Never => (&*k, Before::Kept),
            _ => {
                self.kernels.scale_rows(k.rows(n, width_k), gate.until_end(), spare.rows_mut(n, width_k))?;
                (&*spare, Before::Times(gate.whole()))
            }
        };
        let left = Left::Columns(keys.rows(n, dim_k));
        Ok(self.kernels.multiply(left, u.rows(n, width_v), Band::Whole, before, state.rows_mut(dim_k, width_v))?)
    }
}

/// Numbers to where they are wanted.
pub(super) fn copy(from: Rows<'_, f32>, mut to: RowsMut<'_, f32>) {
    for row in 0..from.rows() {
        to.row_mut(row).copy_from_slice(from.row(row));
    }
}
