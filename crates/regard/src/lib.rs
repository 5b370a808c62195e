//! Regard: exact attention for CPUs, and the transformers that run on it.
//!
//! ```
//! use ndarray::Array4;
//! use regard::{Mask, attention};
//!
//! // [batch, heads, seq, dim]; two query heads share each key/value head.
//! let q = Array4::from_shape_fn((1, 4, 100, 64), |(_, h, i, c)| ((h + i * 3 + c) as f32).sin());
//! let k = Array4::from_shape_fn((1, 2, 100, 64), |(_, h, i, c)| ((h * 2 + i + c) as f32).cos());
//! let v = Array4::from_shape_fn((1, 2, 100, 64), |(_, h, i, c)| ((h + i + c * 5) as f32).sin());
//! let out = attention(q.view(), k.view(), v.view(), &(Mask::causal() & Mask::window(Some(31), None)))?;
//! assert_eq!(out.dim(), (1, 4, 100, 64));
//! # Ok::<(), regard::AttentionError>(())
//! ```
//!
//! - [`attention`] and [`Plan`]: softmax attention over arrays; [`Cache`] and [`PagedCache`]: over keys
//!   and values already seen.
//! - [`LinearAttention`] and [`FavorAttention`]: recurrences with a state instead of keys and values.
//! - [`Mask`]: which pairs live, with `|`, `&` and `!`.
//! - [`draw`]: masks and their layouts as SVG and PNG.
//! - `graph` (a feature, on unless turned off): graph masks and retrieval over an HNSW index of the keys.
//! - [`layers`]: layers with exact gradients, language models that learn, AdamW.
//! - [`select`]: masks chosen by content, by summaries of blocks or by what a selector has learned.
//! - [`models`]: language models from GGUF files.
//! - [`kernels`], [`memory`], [`threads`], [`simd`]: the floors below, usable alone.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide.md")]
struct Guide;

#[cfg(all(doctest, feature = "graph"))]
#[doc = include_str!("../../../docs/graph.md")]
struct Graph;

#[cfg(all(doctest, feature = "graph"))]
#[doc = include_str!("../../../docs/layers.md")]
struct Layers;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/linear.md")]
struct Linear;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/masks.md")]
struct Masks;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/select.md")]
struct Select;

pub use regard_attention::{
    Attention, Cache, CacheDtype, Cached, Chosen, Crossovers, Differentiable, Direction, Dropout, Element,
    Error as AttentionError, Favor, FavorAttention, FavorFeatures, FavorGradientArrays, FavorGradients, FavorInputs,
    FavorOutputs, GradientArrays, Gradients, Inputs, LinearAttention, LinearGradientArrays, Offset, Options, Outputs,
    PAGE, PagePool, PagedCache, Plan, Real, Recurrence, RecurrentGradients, RecurrentInputs, RecurrentOutputs, Regime,
    Segment, Sequence, Sequences, Shape, SharedPrefix, Stage, State, Terms, Upstream, attention, attention_with, merge,
};
pub use regard_draw as draw;
#[cfg(feature = "graph")]
pub use regard_graph as graph;
pub use regard_kernels as kernels;
pub use regard_layers as layers;
pub use regard_masks::{self as masks, Mask};
pub use regard_memory as memory;
pub use regard_models as models;
pub use regard_select as select;
pub use regard_simd as simd;
pub use regard_threads as threads;
