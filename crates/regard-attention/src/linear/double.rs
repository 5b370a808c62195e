//! Recurrences in f64, token by token: for numbers that come in f64, written for clarity.

use std::ops::Range;

use regard_memory::{RowsMut, TensorMut};
use regard_threads::Pool;

use super::{Direction, Recurrence, RecurrentInputs, RecurrentOutputs, Shape};
use crate::Error;
use crate::double::add;

impl Recurrence {
    /// [`Recurrence::run`] in f64, for numbers that come in f64: slower by an order of magnitude, and without scratch.
    ///
    /// ```
    /// use regard_attention::{Recurrence, RecurrentInputs, RecurrentOutputs};
    /// use regard_memory::{Tensor, TensorMut};
    /// use regard_threads::Pool;
    ///
    /// // Two tokens of one number: the state is 1·10, and then 10 + 2·20.
    /// let (q, k, v) = ([1.0, 1.0], [1.0, 2.0], [10.0, 20.0]);
    /// let [q, k, v] = [&q, &k, &v].map(|x| Tensor::contiguous(x, [1, 1, 2, 1]));
    /// let (mut out, mut state) = ([0.0; 2], [0.0]);
    /// let outputs = RecurrentOutputs {
    ///     out: TensorMut::contiguous(&mut out, [1, 1, 2, 1])?,
    ///     state: TensorMut::contiguous(&mut state, [1, 1, 1, 1])?,
    /// };
    /// Recurrence::new(None)?.run_f64(&RecurrentInputs::new(q?, k?, v?), outputs, Pool::global())?;
    /// assert_eq!((out, state), ([10.0, 50.0], [50.0]));
    /// # Ok::<(), regard_attention::Error>(())
    /// ```
    ///
    /// # Errors
    /// The shapes do not fit, or the rule has no form for the direction; then nothing is written.
    pub fn run_f64(
        &self,
        inputs: &RecurrentInputs<'_, f64, f64>,
        outputs: RecurrentOutputs<'_, f64, f64>,
        pool: &Pool,
    ) -> Result<(), Error> {
        let shape = Shape::of(inputs, self.direction)?;
        let RecurrentOutputs { out, state } = outputs;
        shape.check_outputs(out.shape(), state.shape())?;
        if shape.batch == 0 {
            return Ok(());
        }
        let states = state.block_parts(1, shape.sizes.dim_k);
        if shape.tokens == 0 {
            pool.run(states, |index, mut state| begin(inputs, &shape, index, &mut state.rows_mut(0, 0)));
            return Ok(());
        }
        let parts = (out.block_parts(shape.group(), shape.tokens), states);
        pool.run(parts, |index, (mut out, mut state)| {
            let mut state = state.rows_mut(0, 0);
            begin(inputs, &shape, index, &mut state);
            // All tokens see what all have written, or each what was written up to it.
            let each = if self.direction == Direction::Both { shape.tokens } else { 1 };
            for first in (0..shape.tokens).step_by(each) {
                let tokens = first..first + each;
                tokens.clone().for_each(|token| write(inputs, &shape, index, token, &mut state));
                self.read_f64(inputs, &shape, index, tokens, &state, &mut out);
            }
        });
        Ok(())
    }

    /// What tokens see of a state, under all heads that share it.
    fn read_f64(
        &self,
        inputs: &RecurrentInputs<'_, f64, f64>,
        shape: &Shape,
        index: usize,
        tokens: Range<usize>,
        state: &RowsMut<'_, f64>,
        out: &mut TensorMut<'_, f64>,
    ) {
        let (batch, number) = (index / shape.states, index % shape.states);
        let scale = self.scale_f64(shape.sizes.dim_k);
        for member in 0..shape.group() {
            let q = inputs.q.rows(batch, shape.query(number * shape.group() + member));
            for token in tokens.clone() {
                let mut rows = out.rows_mut(0, member);
                let out = rows.row_mut(token);
                out.fill(0.0);
                for (&q, row) in q.row(token).iter().zip(state.as_rows().iter()) {
                    add(out, scale * q, row);
                }
            }
        }
    }
}

/// The state before the first token.
fn begin(inputs: &RecurrentInputs<'_, f64, f64>, shape: &Shape, index: usize, state: &mut RowsMut<'_, f64>) {
    let before = inputs.state.map(|before| before.rows(index / shape.states, index % shape.states));
    for i in 0..shape.sizes.dim_k {
        match before {
            Some(before) => state.row_mut(i).copy_from_slice(before.row(i)),
            None => state.row_mut(i).fill(0.0),
        }
    }
}

/// Lets a state forget, and writes a token to it.
fn write(
    inputs: &RecurrentInputs<'_, f64, f64>,
    shape: &Shape,
    index: usize,
    token: usize,
    state: &mut RowsMut<'_, f64>,
) {
    let (batch, number) = (index / shape.states, index % shape.states);
    let [k, v, decay, beta] = shape.heads(number);
    let (k, v) = (inputs.k.rows(batch, k), inputs.v.rows(batch, v));
    let (k, mut u) = (k.row(token), v.row(token).to_vec());
    if let Some(log_decay) = inputs.log_decay {
        let log_decay = log_decay.rows(batch, decay);
        let of_token = log_decay.row(token);
        for i in 0..k.len() {
            let left = of_token[i.min(of_token.len() - 1)].exp();
            // Of what is forgotten nothing is left, infinite or not.
            state.row_mut(i).iter_mut().for_each(|x| *x = if left == 0.0 { 0.0 } else { left * *x });
        }
    }
    if let Some(betas) = inputs.beta {
        let beta = betas.rows(batch, beta).row(token)[0];
        for (&k, row) in k.iter().zip(state.as_rows().iter()) {
            add(&mut u, -k, row);
        }
        u.iter_mut().for_each(|u| *u *= beta);
    }
    for (i, &k) in k.iter().enumerate() {
        add(state.row_mut(i), k, &u);
    }
}
