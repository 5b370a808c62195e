//! Memory and decisions that last from one step to the next.

use regard_attention::{Options, Plan, Shape};
use regard_kernels::Kernels;
use regard_masks::Mask;
use regard_memory::{Arena, Frame, Need, Rows, RowsMut, Tensor, TensorMut};
use regard_simd::Isa;
use regard_threads::Pool;

use crate::rotary::Turns;
use crate::{Error, Parameters, Precision};

/// Plans that are kept; more shapes than these in turns are planned again.
const PLANS: usize = 64;

/// What layers work in: the tape, which holds what the forward pass keeps for the backward pass; scratch; and plans of
/// attention. After the first step at a shape nothing is allocated.
#[derive(Debug)]
pub struct Workspace {
    kernels: Kernels,
    pool: &'static Pool,
    precision: Precision,
    tape: Arena,
    scratch: Arena,
    plans: Plans,
    turns: Turns,
}

impl Workspace {
    /// Without any memory yet; on the best instruction set (`REGARD_ISA` forces another) and the threads of the process.
    ///
    /// # Errors
    /// `REGARD_ISA` names what this CPU does not have.
    pub fn new() -> Result<Workspace, Error> {
        let isa = Isa::from_environment().map_err(regard_attention::Error::from)?;
        Ok(Workspace::on(isa, Pool::global()))
    }

    /// Without any memory yet, on an instruction set and a pool.
    pub fn on(isa: Isa, pool: &'static Pool) -> Workspace {
        Workspace {
            kernels: Kernels::new(isa),
            pool,
            precision: Precision::F32,
            tape: Arena::new(),
            scratch: Arena::new(),
            plans: Plans::default(),
            turns: Turns::default(),
        }
    }

    /// The same, with the products of linear layers and of logits, forward and backward, in another precision than f32. Parameters,
    /// gradients and all else stay in f32, and so does what products are made of and add up to; bf16 has the range of f32, so
    /// that losses need no scale.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Workspace {
        Workspace { precision, ..self }
    }

    /// A pass over these parameters: the tape, in which `need` can be taken, and all else that layers work with.
    ///
    /// # Errors
    /// There is no memory for `need`.
    pub fn pass<'w>(
        &'w mut self,
        parameters: &'w Parameters,
        mode: Mode,
        need: Need,
    ) -> Result<(Frame<'w>, Pass<'w>), Error> {
        let Workspace { kernels, pool, precision, tape, scratch, plans, turns } = self;
        let tape = tape.frame(need)?;
        Ok((tape, Pass { parameters, kernels: *kernels, pool, precision: *precision, mode, scratch, plans, turns }))
    }

    /// The instruction set's kernels, and the threads.
    pub(crate) fn tools(&self) -> (Kernels, &'static Pool) {
        (self.kernels, self.pool)
    }

    /// Bytes that are held: of the tape, and of scratch.
    pub fn bytes(&self) -> [usize; 2] {
        [self.tape.capacity(), self.scratch.capacity()]
    }
}

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Results: nothing falls out, nothing is learned.
    Evaluation,
    /// Gradients, with dropout.
    Training {
        /// The number that the first sequence of the batch is known by, the others one after the other: what falls out depends
        /// on it, and not on which batch a sequence is in.
        first_sequence: u64,
    },
}

/// One pass through layers, forward or backward: what all of them share.
#[derive(Debug)]
pub struct Pass<'w> {
    /// What was learned.
    pub(crate) parameters: &'w Parameters,
    pub(crate) kernels: Kernels,
    pub(crate) pool: &'w Pool,
    /// Of products.
    pub(crate) precision: Precision,
    pub(crate) mode: Mode,
    pub(crate) scratch: &'w mut Arena,
    pub(crate) plans: &'w mut Plans,
    pub(crate) turns: &'w mut Turns,
}

impl Pass<'_> {
    /// The numbers that the sequences of a batch are known by.
    pub(crate) fn numbers<'a>(&self, size: Size, tape: &mut Frame<'a>) -> &'a [u64] {
        let first = match self.mode {
            Mode::Evaluation => 0,
            Mode::Training { first_sequence } => first_sequence,
        };
        let numbers = tape.take(size.batch);
        numbers.iter_mut().zip(first..).for_each(|(number, sequence)| *number = sequence);
        numbers
    }
}

/// Plans of attention by what they were made for.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    all: Vec<(Mask, Options, Plan)>,
}

impl Plans {
    /// The plan of a call, made when it is first asked for.
    pub(crate) fn get(&mut self, shape: Shape, mask: &Mask, options: &Options) -> Result<&Plan, Error> {
        let fits = |(m, o, plan): &(Mask, Options, Plan)| plan.shape() == shape && m == mask && o == options;
        let at = match self.all.iter().position(fits) {
            Some(at) => at,
            None => {
                let plan = Plan::new(shape, mask, options)?;
                if self.all.len() == PLANS {
                    self.all.remove(0);
                }
                self.all.push((mask.clone(), options.clone(), plan));
                self.all.len() - 1
            }
        };
        Ok(&self.all[at].2)
    }
}

/// How many rows, and which of them belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub tokens: usize,
}

impl Size {
    /// Rows: tokens of all sequences; `usize::MAX` where they cannot be counted.
    pub fn rows(self) -> usize {
        self.batch.saturating_mul(self.tokens)
    }
}

/// Rows without gaps as heads `[batch, heads, tokens, dim]`.
pub(crate) fn heads_of(rows: &[f32], size: Size, heads: usize, dim: usize) -> Result<Tensor<'_, f32>, Error> {
    Ok(Tensor::of_rows(Rows::contiguous(rows, size.rows(), heads * dim)?, size.batch, heads)?)
}

/// The same, to be written.
pub(crate) fn heads_of_mut(
    rows: &mut [f32],
    size: Size,
    heads: usize,
    dim: usize,
) -> Result<TensorMut<'_, f32>, Error> {
    Ok(TensorMut::of_rows(RowsMut::contiguous(rows, size.rows(), heads * dim)?, size.batch, heads)?)
}
