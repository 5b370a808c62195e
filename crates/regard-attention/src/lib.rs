//! Exact softmax attention for CPUs: plan, forward, decode, cache.
//!
//! `out = softmax(scale·Q·Kᵀ restricted to a mask)·V`, computed in tiles that never leave the caches, so that no score
//! matrix exists. A [`Mask`](regard_masks::Mask) is compiled to the panels of keys that live; empty ones cost nothing.
//!
//! ```
//! use ndarray::Array4;
//! use regard_attention::attention;
//! use regard_masks::Mask;
//!
//! // [batch, heads, seq, dim]; two query heads share each key/value head.
//! let element = |(b, h, i, c)| ((b * 7 + h * 5 + i * 3 + c) as f32).sin();
//! let q = Array4::from_shape_fn((1, 4, 10, 64), element);
//! let k = Array4::from_shape_fn((1, 2, 10, 64), element);
//! let v = Array4::from_shape_fn((1, 2, 10, 64), element);
//! let out = attention(q.view(), k.view(), v.view(), &Mask::causal())?;
//! assert_eq!(out.dim(), (1, 4, 10, 64));
//! // The first query sees only the first key.
//! assert!((out[[0, 0, 0, 5]] - v[[0, 0, 0, 5]]).abs() < 1e-6);
//! # Ok::<(), regard_attention::Error>(())
//! ```
//!
//! For repeated calls make a [`Plan`] once; for text generation keep keys and values in a [`Cache`],
//! or for many sequences in [`PagedCache`]s, which share what they have in common.
#![forbid(unsafe_code)]

mod array;
mod backward;
mod cache;
mod call;
mod display;
mod double;
mod edges;
mod error;
mod fold;
mod forward;
mod linear;
mod options;
mod panels;
mod plan;
mod prefix;
mod real;
mod scores;
mod scoring;
mod sequence;
mod shape;
mod small;
mod state;
mod strip;
mod task;
mod terms;

pub use array::{attention, attention_with};
pub use backward::{Differentiable, Gradients, Upstream};
pub use cache::{Cache, CacheDtype, Cached, PAGE, PagePool, PagedCache};
pub use call::{Attention, GradientArrays, StateArrays};
pub use error::Error;
pub use forward::Element;
pub use linear::{
    Direction, Favor, FavorAttention, FavorFeatures, FavorGradientArrays, FavorGradients, FavorInputs, FavorOutputs,
    LinearAttention, LinearGradientArrays, Recurrence, RecurrentGradients, RecurrentInputs, RecurrentOutputs,
};
pub use options::{Dropout, Offset, Options, Segment, Sequences};
pub use plan::Plan;
pub use prefix::SharedPrefix;
pub use real::Real;
pub use scores::{Chosen, Stage};
pub use sequence::{Crossovers, Regime, Sequence};
pub use shape::Shape;
pub use state::{State, merge};
pub use terms::{Inputs, Outputs, Terms};
