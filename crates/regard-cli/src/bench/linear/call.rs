//! Our side of a case of linear attention.

use regard_attention::{Recurrence, RecurrentGradients, RecurrentInputs, RecurrentOutputs};
use regard_memory::{Arena, Tensor, TensorMut};
use regard_oracle::numbers;
use regard_simd::Isa;
use regard_threads::Pool;

use super::{Case, DIM, HEADS};
use crate::bench::memory::{Memory, Meter};
use crate::error::Error;

/// What a call takes and gives, by their names in the order in which they are handed on.
pub(super) const INPUTS: [&str; 5] = ["q", "k", "v", "log_decay", "beta"];
pub(super) const RESULTS: [&str; 6] = ["out", "dq", "dk", "dv", "dlog_decay", "dbeta"];

/// What a case computes on: normal numbers, keys of about length 1, mild decays, and betas between 0 and 1.
pub(super) struct Inputs {
    /// As [`INPUTS`]: each `[1, heads, tokens, width]`, without numbers where the rule has none.
    pub(super) each: [Vec<f32>; 5],
    /// The gradient of the results; empty where none is asked for.
    pub(super) grad: Vec<f32>,
    tokens: usize,
}

impl Inputs {
    fn new(case: &Case) -> Self {
        let draw = |stream: u64, width: usize| numbers(stream, HEADS * case.tokens * width);
        let mut each = [draw(1, DIM), draw(2, DIM), draw(3, DIM), draw(5, case.decays), draw(6, case.delta.into())];
        each[1].iter_mut().for_each(|x| *x /= (DIM as f32).sqrt());
        each[3].iter_mut().for_each(|x| *x = -0.05 * x.abs());
        each[4].iter_mut().for_each(|x| *x = 1.0 / (1.0 + x.exp()));
        let grad = if case.backward { draw(4, DIM) } else { Vec::new() };
        Inputs { each, grad, tokens: case.tokens }
    }

    /// The shape of numbers of so many tokens.
    pub(super) fn shape(&self, numbers: &[f32]) -> [usize; 4] {
        [1, HEADS, self.tokens, numbers.len() / (HEADS * self.tokens)]
    }

    fn tensor<'a>(&self, numbers: &'a [f32]) -> Result<Tensor<'a, f32>, regard_attention::Error> {
        Ok(Tensor::contiguous(numbers, self.shape(numbers))?)
    }

    /// Of no numbers a tensor of none: what a rule has not, has no gradient.
    fn tensor_mut<'a>(&self, numbers: &'a mut [f32]) -> Result<TensorMut<'a, f32>, regard_attention::Error> {
        let shape = if numbers.is_empty() { [0; 4] } else { self.shape(numbers) };
        Ok(TensorMut::contiguous(numbers, shape)?)
    }
}

/// A case, ready to be called.
pub(super) struct Call<'a> {
    inputs: Inputs,
    recurrence: Recurrence,
    /// As [`RESULTS`].
    answer: [Vec<f32>; 6],
    state: Vec<f32>,
    scratch: Arena,
    meter: Meter,
    pool: &'a Pool,
}

impl<'a> Call<'a> {
    pub(super) fn new(case: &Case, isa: Isa, pool: &'a Pool) -> Result<Self, Error> {
        let inputs = Inputs::new(case);
        let [q, k, v, log_decay, beta] = inputs.each.each_ref().map(Vec::len);
        let of = |len: usize| if case.backward { len } else { 0 };
        let answer = [v, of(q), of(k), of(v), of(log_decay), of(beta)].map(|len| vec![0.0; len]);
        Ok(Call {
            recurrence: Recurrence::new(Some(isa))?,
            inputs,
            answer,
            state: vec![0.0; HEADS * DIM * DIM],
            scratch: Arena::new(),
            meter: Meter::default(),
            pool,
        })
    }

    pub(super) fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    pub(super) fn answer(&self) -> &[Vec<f32>; 6] {
        &self.answer
    }

    pub(super) fn memory(&self) -> Memory {
        self.meter.memory()
    }

    /// One call; what it gives then stands in the answer.
    pub(super) fn run(&mut self) -> Result<(), Error> {
        let Call { inputs, recurrence, answer, state, scratch, meter, pool } = self;
        let work = || -> Result<(), regard_attention::Error> {
            let [q, k, v, log_decay, beta] = inputs.each.each_ref().map(|numbers| inputs.tensor(numbers));
            let there = |of: usize| !inputs.each[of].is_empty();
            let of = RecurrentInputs {
                log_decay: there(3).then_some(log_decay).transpose()?,
                beta: there(4).then_some(beta).transpose()?,
                ..RecurrentInputs::new(q?, k?, v?)
            };
            let states = [1, HEADS, DIM, DIM];
            let into = |numbers| inputs.tensor_mut(numbers);
            let [out, dq, dk, dv, dlog_decay, dbeta] = answer;
            let outputs = RecurrentOutputs { out: into(out)?, state: TensorMut::contiguous(state, states)? };
            recurrence.run(&of, outputs, scratch, pool)?;
            if inputs.grad.is_empty() {
                return Ok(());
            }
            let gradients = RecurrentGradients {
                q: into(dq)?,
                k: into(dk)?,
                v: into(dv)?,
                log_decay: into(dlog_decay)?,
                beta: into(dbeta)?,
                state: TensorMut::contiguous(state, states)?,
            };
            recurrence.backward(&of, inputs.tensor(&inputs.grad)?, None, gradients, scratch, pool)
        };
        meter.count(work)?;
        meter.end_call();
        Ok(())
    }
}
