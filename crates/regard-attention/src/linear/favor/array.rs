//! Attention by FAVOR+ over `ndarray` views: a call, told of step by step.

use ndarray::{Array4, ArrayView4};
use regard_memory::{Arena, TensorMut};
use regard_threads::Pool;

use super::{Favor, FavorFeatures, FavorGradients, FavorInputs, FavorOutputs, Sizes};
use crate::linear::Direction;
use crate::linear::array::{tensor, zeros};
use crate::{Element, Error};

/// Attention by FAVOR+ over arrays, forward and backward.
///
/// ```
/// use ndarray::Array4;
/// use regard_attention::{FavorAttention, FavorFeatures};
///
/// let element = |(b, h, i, c)| ((b * 7 + h * 5 + i * 3 + c) as f32).sin();
/// let q = Array4::from_shape_fn((1, 4, 100, 16), element);
/// let k = Array4::from_shape_fn((1, 2, 100, 16), element);
/// let v = Array4::from_shape_fn((1, 2, 100, 24), element);
/// let features = FavorFeatures::new(16, 64, 7)?;
/// let call = FavorAttention::new(q.view(), k.view(), v.view(), &features);
/// let (out, (sums, exponents)) = call.run()?;
/// assert_eq!((out.dim(), sums.dim(), exponents.dim()), ((1, 4, 100, 24), (1, 2, 64, 25), (1, 2, 1, 1)));
/// // The first token sees itself alone.
/// assert!((out[[0, 3, 0, 5]] - v[[0, 1, 0, 5]]).abs() < 1e-5);
///
/// let gradients = call.backward(out.view(), None)?;
/// assert_eq!((gradients.q.dim(), gradients.v.dim()), ((1, 4, 100, 16), (1, 2, 100, 24)));
/// # Ok::<(), regard_attention::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FavorAttention<'a, T: Element> {
    q: ArrayView4<'a, T>,
    k: ArrayView4<'a, T>,
    v: ArrayView4<'a, T>,
    features: &'a FavorFeatures,
    state: Option<(ArrayView4<'a, f32>, ArrayView4<'a, f32>)>,
    scale: Option<f64>,
    direction: Direction,
}

/// The gradients of a call, in f32 and in the shapes of what they are of.
#[derive(Clone, Debug, PartialEq)]
pub struct FavorGradientArrays {
    /// `[batch, heads, tokens, dim_k]`.
    pub q: Array4<f32>,
    /// `[batch, kv_heads, tokens, dim_k]`.
    pub k: Array4<f32>,
    /// `[batch, kv_heads, tokens, dim_v]`.
    pub v: Array4<f32>,
    /// Of the sums of the state before the first token, `[batch, kv_heads, features, dim_v + 1]`; 0 where there was none.
    pub state: Array4<f32>,
}

impl<'a, T: Element> FavorAttention<'a, T> {
    /// Causal attention of `q [batch, heads, tokens, dim_k]`, `k [batch, kv_heads, tokens, dim_k]` and
    /// `v [batch, kv_heads, tokens, dim_v]` by these features of `dim_k` numbers. Query head `h` reads key/value head
    /// `h / (heads / kv_heads)`.
    pub fn new(q: ArrayView4<'a, T>, k: ArrayView4<'a, T>, v: ArrayView4<'a, T>, features: &'a FavorFeatures) -> Self {
        FavorAttention { q, k, v, features, state: None, scale: None, direction: Direction::Causal }
    }

    /// The state before the first token, as an earlier call left it: sums `[batch, kv_heads, features, dim_v + 1]`, and the
    /// exponents that they are relative to, `[batch, kv_heads, 1, 1]`.
    #[must_use]
    pub fn state(mut self, sums: ArrayView4<'a, f32>, exponents: ArrayView4<'a, f32>) -> Self {
        self.state = Some((sums, exponents));
        self
    }

    /// Scores are multiplied by this, at least 0; by `1/√dim_k` unless given.
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

    /// The results `[batch, heads, tokens, dim_v]`, and the state after the last token: sums, and the exponents that they are
    /// relative to.
    ///
    /// # Errors
    /// The shapes do not fit, a view runs backwards or is not contiguous in its last axis, or an option is out of its range.
    #[allow(clippy::type_complexity, reason = "results and the two halves of a state are all arrays")]
    pub fn run(&self) -> Result<(Array4<T>, (Array4<f32>, Array4<f32>)), Error> {
        let (favor, inputs, Sizes { batch, heads, kv_heads, tokens, dim_v, count, .. }) = self.prepare()?;
        let mut out = zeros("results", [batch, heads, tokens, dim_v])?;
        let mut sums = zeros("state", [batch, kv_heads, count, dim_v + 1])?;
        let mut exponents = zeros("state's exponents", [batch, kv_heads, 1, 1])?;
        let outputs = FavorOutputs {
            out: TensorMut::try_from(out.view_mut())?,
            state: (TensorMut::try_from(sums.view_mut())?, TensorMut::try_from(exponents.view_mut())?),
        };
        favor.run(&inputs, outputs, &mut Arena::new(), Pool::global())?;
        Ok((out, (sums, exponents)))
    }

    /// The gradients of everything that went in, from those of the results and of the sums of the state after the last token.
    ///
    /// # Errors
    /// As [`FavorAttention::run`].
    pub fn backward(
        &self,
        dout: ArrayView4<'_, T>,
        dstate: Option<ArrayView4<'_, f32>>,
    ) -> Result<FavorGradientArrays, Error> {
        let (favor, inputs, Sizes { batch, kv_heads, dim_v, count, .. }) = self.prepare()?;
        let (q, k, v) = (inputs.q.shape(), inputs.k.shape(), inputs.v.shape());
        let [mut q, mut k, mut v] = [zeros("gradient", q)?, zeros("gradient", k)?, zeros("gradient", v)?];
        let mut state = zeros("gradient", [batch, kv_heads, count, dim_v + 1])?;
        let gradients = FavorGradients {
            q: TensorMut::try_from(q.view_mut())?,
            k: TensorMut::try_from(k.view_mut())?,
            v: TensorMut::try_from(v.view_mut())?,
            state: TensorMut::try_from(state.view_mut())?,
        };
        let dstate = dstate.map(|dstate| tensor("gradient of the state after", dstate)).transpose()?;
        let dout = tensor("gradient of results", dout)?;
        favor.backward(&inputs, dout, dstate, gradients, &mut Arena::new(), Pool::global())?;
        Ok(FavorGradientArrays { q, k, v, state })
    }

    fn prepare(&self) -> Result<(Favor<'a>, FavorInputs<'_, T>, Sizes), Error> {
        let inputs = FavorInputs {
            q: tensor("queries", self.q)?,
            k: tensor("keys", self.k)?,
            v: tensor("values", self.v)?,
            state: match self.state {
                Some((sums, exponents)) => Some((tensor("state", sums)?, tensor("state's exponents", exponents)?)),
                None => None,
            },
        };
        let mut favor = Favor::new(self.features, None)?.with_direction(self.direction);
        if let Some(scale) = self.scale {
            favor = favor.with_scale(scale)?;
        }
        let sizes = favor.sizes(&inputs)?;
        Ok((favor, inputs, sizes))
    }
}
