//! FAVOR+: softmax attention by positive orthogonal random features (Choromanski et al., 2021, "Rethinking Attention with
//! Performers", lemma 1 and section 3.2).
//!
//! `e^(scale·q·k)` is the mean of `φ(q)·φ(k)` over random `ω`, so attention is linear attention of features, over the same of
//! ones: a column of ones beside the values. The features of keys are taken relative to the largest exponent of any key so
//! far; where a new one is larger, what stands in the state is made smaller, which is a gate. So nothing overflows, and no
//! later key reaches an earlier result.
//!
//! The backward pass is that of the recurrence, between those of the division and of the features: see [`Favor::backward`].

mod array;
mod backward;
mod double;
mod features;
mod lift;

use regard_kernels::{COLUMNS, Kernels};
use regard_memory::{Arena, Need, RowsMut, Tensor, TensorMut, chunks_of};
use regard_simd::Isa;
use regard_threads::Pool;

use super::forward::Scratch;
use super::gate::Decays;
use super::{Direction, Recurrence};
use crate::task::Failure;
use crate::{Element, Error};

pub use array::{FavorAttention, FavorGradientArrays};
pub use backward::FavorGradients;
pub use features::FavorFeatures;

/// What goes into attention by FAVOR+. Query head `h` reads key/value head `h / (heads / kv_heads)`.
#[derive(Clone, Copy, Debug)]
pub struct FavorInputs<'a, T, W = f32> {
    /// `[batch, heads, tokens, dim_k]`.
    pub q: Tensor<'a, T>,
    /// `[batch, kv_heads, tokens, dim_k]`.
    pub k: Tensor<'a, T>,
    /// `[batch, kv_heads, tokens, dim_v]`.
    pub v: Tensor<'a, T>,
    /// The state before the first token: what an earlier call left.
    pub state: Option<(Tensor<'a, W>, Tensor<'a, W>)>,
}

impl<T> FavorInputs<'_, T> {
    /// What the sums of the state before are relative to; −∞ where no key was seen.
    fn exponent(&self, batch: usize, head: usize) -> f32 {
        self.state.map_or(f32::NEG_INFINITY, |(_, largest)| largest.rows(batch, head).row(0)[0])
    }
}

/// What comes out of attention by FAVOR+.
#[derive(Debug)]
pub struct FavorOutputs<'a, T, W = f32> {
    /// `[batch, heads, tokens, dim_v]`.
    pub out: TensorMut<'a, T>,
    /// The state after the last token: sums of features times values and ones, `[batch, kv_heads, features, dim_v + 1]`, and the
    /// exponent that the features are relative to, `[batch, kv_heads, 1, 1]`.
    pub state: (TensorMut<'a, W>, TensorMut<'a, W>),
}

/// Attention by FAVOR+: an estimate of `softmax(scale·Q·Kᵀ)·V` in time that grows with the tokens.
#[derive(Clone, Debug)]
pub struct Favor<'f> {
    features: &'f FavorFeatures,
    kernels: Kernels,
    recurrence: Recurrence,
    scale: Option<f64>,
    direction: Direction,
}

/// The sizes of a call.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    tokens: usize,
    dim_k: usize,
    dim_v: usize,
    /// Features, and in whole vectors.
    count: usize,
    width: usize,
    /// Numbers of a query and of a key in whole vectors.
    width_k: usize,
}

impl Sizes {
    /// Scratch of a head's rows: queries or keys in single precision, and for each a number, and one in double precision.
    fn rows_need(&self) -> Need {
        let wide = Need::of::<f32>(self.tokens.saturating_mul(self.width_k));
        wide.and(Need::of::<f32>(self.tokens)).and(Need::of::<f64>(self.tokens))
    }

    /// Compares the shapes of results and of states after with what they should be.
    fn check_outputs<T, W>(&self, outputs: &FavorOutputs<'_, T, W>) -> Result<(), Error> {
        let Sizes { batch, heads, kv_heads, tokens, dim_v, count, .. } = *self;
        let (sums, largest) = &outputs.state;
        crate::shape::expect("results", outputs.out.shape(), [batch, heads, tokens, dim_v])?;
        crate::shape::expect("state after", sums.shape(), [batch, kv_heads, count, dim_v + 1])?;
        crate::shape::expect("state's exponents after", largest.shape(), [batch, kv_heads, 1, 1])
    }

    /// Those of the recurrence, whose keys are features.
    fn recurrent(&self) -> super::Sizes {
        super::Sizes::new(self.width, self.dim_v.saturating_add(1))
    }
}

impl<'f> Favor<'f> {
    /// Causal attention by these features, with the scale `1/√dim_k`, on an instruction set, or the best one.
    ///
    /// # Errors
    /// `REGARD_ISA` names what this CPU does not have.
    pub fn new(features: &'f FavorFeatures, isa: Option<Isa>) -> Result<Favor<'f>, Error> {
        let recurrence = Recurrence::new(isa)?.with_scale(1.0)?;
        let kernels = recurrence.kernels;
        Ok(Favor { features, kernels, recurrence, scale: None, direction: Direction::Causal })
    }

    /// What scores are multiplied by.
    ///
    /// # Errors
    /// It is negative, or not finite in f32: features are of its root.
    pub fn with_scale(self, scale: f64) -> Result<Self, Error> {
        if !(scale >= 0.0 && (scale as f32).is_finite()) {
            return Err(Error::Option { option: "scale", has: scale, expected: "at least 0, and finite in f32" });
        }
        Ok(Favor { scale: Some(scale), ..self })
    }

    /// Which tokens a token sees.
    #[must_use]
    pub fn with_direction(self, direction: Direction) -> Self {
        Favor { direction, ..self }
    }

    fn sizes<T, W>(&self, inputs: &FavorInputs<'_, T, W>) -> Result<Sizes, Error> {
        let shape = crate::Shape::of(&inputs.q, &inputs.k, &inputs.v)?;
        let crate::Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = shape;
        let count = self.features.count;
        crate::shape::expect("keys", inputs.k.shape(), [batch, kv_heads, queries, self.features.dim])?;
        if let Some((sums, largest)) = &inputs.state {
            crate::shape::expect("state", sums.shape(), [batch, kv_heads, count, dim_v + 1])?;
            crate::shape::expect("state's exponents", largest.shape(), [batch, kv_heads, 1, 1])?;
        }
        // What no memory holds saturates, and is refused where memory is asked for.
        let whole = |numbers: usize| numbers.checked_next_multiple_of(COLUMNS).unwrap_or(usize::MAX);
        let (width, width_k) = (whole(count), whole(dim_k));
        Ok(Sizes { batch, heads, kv_heads, tokens: keys, dim_k, dim_v, count, width, width_k })
    }

    /// What the recurrence forgets: of causal attention what a larger exponent asks for.
    fn decays(&self) -> Decays {
        if self.direction == Direction::Causal { Decays::Head } else { Decays::Never }
    }

    /// The recurrence of this direction.
    fn recurrent(&self) -> Recurrence {
        self.recurrence.with_direction(self.direction)
    }

    /// The square root of the scale, by which queries and keys are multiplied.
    fn root(&self, dim_k: usize) -> f32 {
        self.root_f64(dim_k) as f32
    }

    fn root_f64(&self, dim_k: usize) -> f64 {
        self.scale.unwrap_or(1.0 / (dim_k.max(1) as f64).sqrt()).sqrt()
    }

    /// Computes the results of all tokens and the state that they leave.
    ///
    /// A result whose weights are all too small for single precision (their sum, relative to the largest exponent of any key so far and of
    /// the query, below 2⁻¹⁰⁰) is 0.
    ///
    /// # Errors
    /// The shapes do not fit, or there is no memory for the scratch: the features of all tokens are in it.
    pub fn run<T: Element>(
        &self,
        inputs: &FavorInputs<'_, T>,
        outputs: FavorOutputs<'_, T>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let sizes = self.sizes(inputs)?;
        let Sizes { kv_heads, tokens, dim_v, count, width, .. } = sizes;
        sizes.check_outputs(&outputs)?;
        let FavorOutputs { out, state: (mut after, mut largest) } = outputs;
        let recurrence = Scratch::need(sizes.recurrent(), self.decays());
        let mut frame = scratch.frame(Favor::forward_need(&sizes, recurrence, pool.threads()))?;
        let (_, sums) = self.forward(inputs, &sizes, &mut frame, pool)?;
        for (index, of_head) in sums.after.chunks_exact(width * (dim_v + 1)).enumerate() {
            let (batch, head) = (index / kv_heads, index % kv_heads);
            let mut to = after.rows_mut(batch, head);
            for (feature, row) in of_head.chunks_exact(dim_v + 1).take(count).enumerate() {
                to.row_mut(feature).copy_from_slice(row);
            }
            largest.rows_mut(batch, head).row_mut(0)[0] = sums.largest[index];
        }
        if tokens == 0 {
            return Ok(());
        }
        let failure = Failure::default();
        let heads_of = (chunks_of(sums.out, tokens * (dim_v + 1)), out.block_parts(1, tokens));
        pool.run(heads_of, |_, (of_head, mut to)| {
            let mut to = to.rows_mut(0, 0);
            for (token, row) in of_head.chunks_exact(dim_v + 1).enumerate() {
                failure.catch(|| {
                    let to = RowsMut::contiguous(to.row_mut(token), 1, dim_v)?;
                    Ok(self.kernels.store_sum(&[&row[..dim_v]], dim_v, over(row[dim_v]).unwrap_or(0.0), to)?)
                });
            }
        });
        failure.into_result()
    }
}

/// The least that weighs: 2⁻¹⁰⁰. Of sums below it, what is lost below the least normal number, 2⁻¹²⁶, would begin to show in single
/// precision, and their inverses leave gradients no room.
const LEAST: f32 = f32::from_bits((127 - 100) << 23);

/// What a result is divided by, as a factor; none where nothing was seen, or too little.
fn over(sum: f32) -> Option<f32> {
    if sum.abs() < LEAST { None } else { Some(1.0 / sum) }
}
