//! Linear attention: a state that is read by each token, and written by it, in chunks of tokens.
//!
//! `S̃ = diag(a_t)·S_{t−1}`, `S_t = S̃ + k_t ⊗ u_t`, `o_t = scale·S_tᵀq_t`, where `u_t` is `v_t`, or by the delta rule
//! `β_t·(v_t − S̃ᵀk_t)`. In chunks after Yang et al., 2023 (gated linear attention) and 2024 (the delta rule, DeltaNet and Gated
//! DeltaNet), Dao and Gu, 2024 (state-space duality).

mod array;
mod backward;
mod double;
mod favor;
mod forward;
mod gate;
mod sheet;

use regard_kernels::{COLUMNS, Kernels, PANEL};
use regard_memory::{Tensor, TensorMut};
use regard_simd::Isa;

use crate::Error;

pub use array::{LinearAttention, LinearGradientArrays};
pub use favor::{Favor, FavorAttention, FavorFeatures, FavorGradientArrays, FavorGradients, FavorInputs, FavorOutputs};
use gate::Decays;

/// Tokens of a chunk: within it tokens see each other as in attention, and between chunks only the state is handed on.
const CHUNK: usize = PANEL;

/// A recurrence of linear attention, and how it is computed.
///
/// [`LinearAttention`] is the same over arrays, step by step.
#[derive(Clone, Copy, Debug)]
pub struct Recurrence {
    kernels: Kernels,
    scale: Option<f64>,
    direction: Direction,
}

/// Which tokens a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Itself and those before it.
    Causal,
    /// All of them: of the plain rule, which alone has such a form.
    Both,
}

impl Recurrence {
    /// A causal recurrence with the scale `1/√dim_k`, on an instruction set, or the best one (`REGARD_ISA` forces another).
    ///
    /// # Errors
    /// `REGARD_ISA` names what this CPU does not have.
    pub fn new(isa: Option<Isa>) -> Result<Recurrence, Error> {
        let isa = match isa {
            Some(isa) => isa,
            None => Isa::from_environment()?,
        };
        Ok(Recurrence { kernels: Kernels::new(isa), scale: None, direction: Direction::Causal })
    }

    /// What results are multiplied by.
    ///
    /// # Errors
    /// It is not finite in f32.
    pub fn with_scale(self, scale: f64) -> Result<Recurrence, Error> {
        if !(scale as f32).is_finite() {
            return Err(Error::Option { option: "scale", has: scale, expected: "a number that is finite in f32" });
        }
        Ok(Recurrence { scale: Some(scale), ..self })
    }

    /// Which tokens a token sees.
    #[must_use]
    pub fn with_direction(self, direction: Direction) -> Recurrence {
        Recurrence { direction, ..self }
    }

    fn scale(&self, dim_k: usize) -> f32 {
        self.scale_f64(dim_k) as f32
    }

    fn scale_f64(&self, dim_k: usize) -> f64 {
        self.scale.unwrap_or(1.0 / (dim_k.max(1) as f64).sqrt())
    }
}

/// What goes into a recurrence.
///
/// There are as many *states* as the most heads of keys, values, log decays and betas, and as many results as the more of
/// states and query heads. The heads of each tensor divide these: result `h` reads head `h / (results / heads)` of each, so
/// that queries may share a state, and states a query and a key (as in Mamba-2).
#[derive(Clone, Copy, Debug)]
pub struct RecurrentInputs<'a, T, W = f32> {
    /// `[batch, query heads, tokens, dim_k]`.
    pub q: Tensor<'a, T>,
    /// `[batch, key heads, tokens, dim_k]`.
    pub k: Tensor<'a, T>,
    /// `[batch, value heads, tokens, dim_v]`.
    pub v: Tensor<'a, T>,
    /// `ln a`: `[batch, heads, tokens, 1]` for the whole state, or `[batch, heads, tokens, dim_k]` for each of its rows. 0 keeps
    /// everything, −∞ nothing. Without them nothing is forgotten.
    pub log_decay: Option<Tensor<'a, W>>,
    /// `β`: `[batch, heads, tokens, 1]`. With them the delta rule holds.
    pub beta: Option<Tensor<'a, W>>,
    /// The state before the first token, `[batch, states, dim_k, dim_v]`; 0 unless given.
    pub state: Option<Tensor<'a, W>>,
}

impl<'a, T, W> RecurrentInputs<'a, T, W> {
    /// Queries, keys and values of the plain rule.
    pub fn new(q: Tensor<'a, T>, k: Tensor<'a, T>, v: Tensor<'a, T>) -> Self {
        RecurrentInputs { q, k, v, log_decay: None, beta: None, state: None }
    }
}

/// What comes out of a recurrence.
#[derive(Debug)]
pub struct RecurrentOutputs<'a, T, W = f32> {
    /// `[batch, results, tokens, dim_v]`.
    pub out: TensorMut<'a, T>,
    /// The state after the last token, `[batch, states, dim_k, dim_v]`.
    pub state: TensorMut<'a, W>,
}

/// The gradients of all inputs, in f32 and in their shapes; what stands there is written over.
#[derive(Debug)]
pub struct RecurrentGradients<'a> {
    /// Of the queries.
    pub q: TensorMut<'a, f32>,
    /// Of the keys.
    pub k: TensorMut<'a, f32>,
    /// Of the values.
    pub v: TensorMut<'a, f32>,
    /// Of the log decays: of a tensor without numbers where there are none.
    pub log_decay: TensorMut<'a, f32>,
    /// Of the betas, likewise.
    pub beta: TensorMut<'a, f32>,
    /// Of the state before the first token, given or not.
    pub state: TensorMut<'a, f32>,
}

/// Numbers of a token, and in scratch: whole vectors.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    dim_k: usize,
    dim_v: usize,
    width_k: usize,
    width_v: usize,
}

impl Sizes {
    fn new(dim_k: usize, dim_v: usize) -> Sizes {
        // What no memory holds saturates, and is refused where memory is asked for.
        let width = |dim: usize| dim.checked_next_multiple_of(COLUMNS).unwrap_or(usize::MAX);
        Sizes { dim_k, dim_v, width_k: width(dim_k), width_v: width(dim_v) }
    }
}

/// The sizes of a call, and who reads what.
#[derive(Clone, Copy, Debug)]
struct Shape {
    batch: usize,
    tokens: usize,
    sizes: Sizes,
    /// Heads of each.
    q: usize,
    k: usize,
    v: usize,
    decay: usize,
    beta: usize,
    states: usize,
    results: usize,
    decays: Decays,
}

impl Shape {
    fn of<T, W>(inputs: &RecurrentInputs<'_, T, W>, direction: Direction) -> Result<Shape, Error> {
        let RecurrentInputs { q, k, v, log_decay, beta, state } = inputs;
        let ([batch, q_heads, tokens, dim_k], [_, k_heads, ..], [_, v_heads, _, dim_v]) =
            (q.shape(), k.shape(), v.shape());
        for (tensor, axis, has) in
            [("queries", "heads", q_heads), ("keys", "heads", k_heads), ("values", "heads", v_heads)]
        {
            if has == 0 {
                return Err(Error::Axis { tensor, axis, has, expected: "at least 1".to_owned() });
            }
        }
        for (tensor, axis, has) in [("queries", "dim", dim_k), ("values", "dim", dim_v)] {
            if has == 0 {
                return Err(Error::Axis { tensor, axis, has, expected: "at least 1".to_owned() });
            }
        }
        let heads = |tensor: &Option<Tensor<'_, W>>| tensor.as_ref().map_or(1, |tensor| tensor.shape()[1].max(1));
        let (decay, betas) = (heads(log_decay), heads(beta));
        let states = k_heads.max(v_heads).max(decay).max(betas);
        let results = states.max(q_heads);
        // What is not there is any head's own.
        let (decay, betas) = (log_decay.map_or(states, |_| decay), beta.map_or(states, |_| betas));
        let expect = crate::shape::expect;
        expect("keys", k.shape(), [batch, k_heads, tokens, dim_k])?;
        expect("values", v.shape(), [batch, v_heads, tokens, dim_v])?;
        let decays = match log_decay.map(|log_decay| log_decay.shape()[3]) {
            None => Decays::Never,
            Some(1) => Decays::Head,
            Some(_) => Decays::Channel,
        };
        if let Some(log_decay) = log_decay {
            let width = if decays == Decays::Head { 1 } else { dim_k };
            expect("log decays", log_decay.shape(), [batch, decay, tokens, width])?;
        }
        if let Some(beta) = beta {
            expect("betas", beta.shape(), [batch, betas, tokens, 1])?;
        }
        if let Some(state) = state {
            expect("state", state.shape(), [batch, states, dim_k, dim_v])?;
        }
        if !results.is_multiple_of(states) || !results.is_multiple_of(q_heads) {
            let expected = format!("a number that divides the results' heads, which the {states} states divide");
            return Err(Error::Axis { tensor: "queries", axis: "heads", has: q_heads, expected });
        }
        for (tensor, has) in [("keys", k_heads), ("values", v_heads), ("log decays", decay), ("betas", betas)] {
            if !states.is_multiple_of(has) {
                let expected = format!("a number that divides the {states} states");
                return Err(Error::Axis { tensor, axis: "heads", has, expected });
            }
        }
        if direction == Direction::Both && (log_decay.is_some() || beta.is_some()) {
            return Err(Error::Causal);
        }
        let sizes = Sizes::new(dim_k, dim_v);
        let (q, k, v) = (q_heads, k_heads, v_heads);

        Ok(Shape { batch, tokens, sizes, q, k, v, decay, beta: betas, states, results, decays })
    }

    /// Compares the shapes of results and of states after with what they should be.
    fn check_outputs(&self, out: [usize; 4], state: [usize; 4]) -> Result<(), Error> {
        let Sizes { dim_k, dim_v, .. } = self.sizes;
        crate::shape::expect("results", out, [self.batch, self.results, self.tokens, dim_v])?;
        crate::shape::expect("state after", state, [self.batch, self.states, dim_k, dim_v])
    }

    fn chunks(&self) -> usize {
        count_chunks(self.tokens)
    }

    /// Results that share a state.
    fn group(&self) -> usize {
        self.results / self.states
    }

    /// The query head of a result.
    fn query(&self, result: usize) -> usize {
        result / (self.results / self.q)
    }

    /// The heads of keys, values, log decays and betas that a state has.
    fn heads(&self, state: usize) -> [usize; 4] {
        [self.k, self.v, self.decay, self.beta].map(|heads| state / (self.states / heads))
    }
}

/// How many chunks so many tokens are.
fn count_chunks(tokens: usize) -> usize {
    tokens.div_ceil(CHUNK)
}
