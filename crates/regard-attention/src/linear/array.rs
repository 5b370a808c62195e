//! Linear attention over `ndarray` views: a call, told of step by step.

use ndarray::{Array4, ArrayView4};
use regard_memory::{Arena, Tensor, TensorMut};
use regard_threads::Pool;

use super::{Direction, Recurrence, RecurrentGradients, RecurrentInputs, RecurrentOutputs, Shape};
use crate::array::vec_of;
use crate::{Element, Error};

/// Linear attention over arrays, forward and backward.
///
/// ```
/// use ndarray::Array4;
/// use regard_attention::LinearAttention;
///
/// let element = |(b, h, i, c)| ((b * 7 + h * 5 + i * 3 + c) as f32).sin();
/// let q = Array4::from_shape_fn((1, 4, 100, 16), element);
/// let k = Array4::from_shape_fn((1, 2, 100, 16), element);
/// let v = Array4::from_shape_fn((1, 2, 100, 24), element);
/// // A tenth of the state is forgotten at each token.
/// let log_decay = Array4::from_elem((1, 2, 100, 1), 0.9_f32.ln());
/// let call = LinearAttention::new(q.view(), k.view(), v.view()).log_decay(log_decay.view());
/// let (out, state) = call.run()?;
/// assert_eq!((out.dim(), state.dim()), ((1, 4, 100, 24), (1, 2, 16, 24)));
///
/// let gradients = call.backward(out.view(), None)?;
/// assert_eq!(gradients.log_decay.map(|gradient| gradient.dim()), Some((1, 2, 100, 1)));
/// # Ok::<(), regard_attention::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LinearAttention<'a, T: Element> {
    q: ArrayView4<'a, T>,
    k: ArrayView4<'a, T>,
    v: ArrayView4<'a, T>,
    log_decay: Option<ArrayView4<'a, f32>>,
    beta: Option<ArrayView4<'a, f32>>,
    state: Option<ArrayView4<'a, f32>>,
    scale: Option<f64>,
    direction: Direction,
}

/// The gradients of a call, in f32 and in the shapes of what they are of.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearGradientArrays {
    /// `[batch, query heads, tokens, dim_k]`.
    pub q: Array4<f32>,
    /// `[batch, key heads, tokens, dim_k]`.
    pub k: Array4<f32>,
    /// `[batch, value heads, tokens, dim_v]`.
    pub v: Array4<f32>,
    /// In the shape of the log decays, where there are some.
    pub log_decay: Option<Array4<f32>>,
    /// In the shape of the betas, where there are some.
    pub beta: Option<Array4<f32>>,
    /// Of the state before the first token, `[batch, states, dim_k, dim_v]`.
    pub state: Array4<f32>,
}

impl<'a, T: Element> LinearAttention<'a, T> {
    /// The plain rule, causal, of `q [batch, query heads, tokens, dim_k]`, `k [batch, key heads, tokens, dim_k]` and
    /// `v [batch, value heads, tokens, dim_v]`: see [`RecurrentInputs`] for who reads which head.
    pub fn new(q: ArrayView4<'a, T>, k: ArrayView4<'a, T>, v: ArrayView4<'a, T>) -> Self {
        let direction = Direction::Causal;
        LinearAttention { q, k, v, log_decay: None, beta: None, state: None, scale: None, direction }
    }

    /// Gates: the logarithm of what each token leaves of the state, `[batch, heads, tokens, 1]`, or of each of its rows,
    /// `[batch, heads, tokens, dim_k]`.
    #[must_use]
    pub fn log_decay(mut self, log_decay: ArrayView4<'a, f32>) -> Self {
        self.log_decay = Some(log_decay);
        self
    }

    /// The delta rule: how much of what the state lacks of a value is written, `[batch, heads, tokens, 1]`.
    #[must_use]
    pub fn beta(mut self, beta: ArrayView4<'a, f32>) -> Self {
        self.beta = Some(beta);
        self
    }

    /// The state before the first token, `[batch, states, dim_k, dim_v]`.
    #[must_use]
    pub fn state(mut self, state: ArrayView4<'a, f32>) -> Self {
        self.state = Some(state);
        self
    }

    /// Results are multiplied by this; by `1/√dim_k` unless given.
    #[must_use]
    pub fn scale(mut self, scale: f64) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Which tokens a token sees; those up to itself unless given.
    #[must_use]
    pub fn direction(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self
    }

    /// The results `[batch, results, tokens, dim_v]`, and the state after the last token, `[batch, states, dim_k, dim_v]`.
    ///
    /// # Errors
    /// The shapes do not fit, a view runs backwards or is not contiguous in its last axis, or an option is out of its range.
    pub fn run(&self) -> Result<(Array4<T>, Array4<f32>), Error> {
        let (recurrence, inputs, shape) = self.prepare()?;
        let mut out = zeros("results", [shape.batch, shape.results, shape.tokens, shape.sizes.dim_v])?;
        let mut state = zeros("state", [shape.batch, shape.states, shape.sizes.dim_k, shape.sizes.dim_v])?;
        let outputs = RecurrentOutputs {
            out: TensorMut::try_from(out.view_mut())?,
            state: TensorMut::try_from(state.view_mut())?,
        };
        recurrence.run(&inputs, outputs, &mut Arena::new(), Pool::global())?;
        Ok((out, state))
    }

    /// The gradients of everything that went in, from those of the results and of the state after the last token.
    ///
    /// # Errors
    /// As [`LinearAttention::run`].
    pub fn backward(
        &self,
        dout: ArrayView4<'_, T>,
        dstate: Option<ArrayView4<'_, f32>>,
    ) -> Result<LinearGradientArrays, Error> {
        let (recurrence, inputs, shape) = self.prepare()?;
        let (q, k, v) = (inputs.q.shape(), inputs.k.shape(), inputs.v.shape());
        let [mut q, mut k, mut v] = [zeros("gradient", q)?, zeros("gradient", k)?, zeros("gradient", v)?];
        let there = |tensor: Option<Tensor<'_, f32>>| tensor.map_or([0; 4], |tensor| tensor.shape());
        let mut log_decay = zeros("gradient", there(inputs.log_decay))?;
        let mut beta = zeros("gradient", there(inputs.beta))?;
        let mut state = zeros("gradient", [shape.batch, shape.states, shape.sizes.dim_k, shape.sizes.dim_v])?;
        let gradients = RecurrentGradients {
            q: TensorMut::try_from(q.view_mut())?,
            k: TensorMut::try_from(k.view_mut())?,
            v: TensorMut::try_from(v.view_mut())?,
            log_decay: TensorMut::try_from(log_decay.view_mut())?,
            beta: TensorMut::try_from(beta.view_mut())?,
            state: TensorMut::try_from(state.view_mut())?,
        };
        let dstate = dstate.map(|dstate| tensor("gradient of the state after", dstate)).transpose()?;
        let dout = tensor("gradient of results", dout)?;
        recurrence.backward(&inputs, dout, dstate, gradients, &mut Arena::new(), Pool::global())?;
        let (log_decay, beta) = (inputs.log_decay.map(|_| log_decay), inputs.beta.map(|_| beta));
        Ok(LinearGradientArrays { q, k, v, log_decay, beta, state })
    }

    fn prepare(&self) -> Result<(Recurrence, RecurrentInputs<'_, T>, Shape), Error> {
        let optional = |name, array: &Option<ArrayView4<'a, f32>>| match array {
            Some(array) => tensor(name, *array).map(Some),
            None => Ok(None),
        };
        let inputs = RecurrentInputs {
            q: tensor("queries", self.q)?,
            k: tensor("keys", self.k)?,
            v: tensor("values", self.v)?,
            log_decay: optional("log decays", &self.log_decay)?,
            beta: optional("betas", &self.beta)?,
            state: optional("state", &self.state)?,
        };
        let mut recurrence = Recurrence::new(None)?.with_direction(self.direction);
        if let Some(scale) = self.scale {
            recurrence = recurrence.with_scale(scale)?;
        }
        let shape = Shape::of(&inputs, self.direction)?;
        Ok((recurrence, inputs, shape))
    }
}

pub(super) fn tensor<'a, T>(name: &'static str, array: ArrayView4<'a, T>) -> Result<Tensor<'a, T>, Error> {
    Ok(Tensor::try_from(array).map_err(|error: regard_memory::Error| error.named(name))?)
}

pub(super) fn zeros<T: Clone + Default>(what: &'static str, shape: [usize; 4]) -> Result<Array4<T>, Error> {
    let [a, b, c, d] = shape;
    let numbers = vec_of(what, shape, T::default())?;
    Ok(Array4::from_shape_vec((a, b, c, d), numbers).expect("the vector was made for the shape"))
}
