//! Attention over a real HNSW index: graph masks, retrieval, and reports of what they keep.
//!
//! An [`Index`] is a Hierarchical Navigable Small World graph over the keys of a head, built by the `hnsw_rs` crate and
//! searched by inner product. Its levels and links are [`Mask`](regard_masks::Mask)s: [`layers`](Index::layers),
//! [`hierarchy`](Index::hierarchy), [`edges`](Index::edges), [`adaptive`](Index::adaptive). [`Retrieval`] attends to what it
//! finds for each query, beside a window and the first keys, and merges both by their states. What they keep of exact attention
//! a [`Measure`] tells; nobody should have to trust it.
//!
//! ```
//! use ndarray::{Array4, s};
//! use regard_graph::{Index, Measure, Parameters};
//! use regard_masks::Mask;
//!
//! // [batch, heads, seq, dim].
//! let x = Array4::from_shape_fn((1, 1, 300, 16), |(_, _, i, c)| ((i * 7 + c * i % 11) as f32).sin());
//! let index = Index::new(x.slice(s![0, 0, .., ..]), &Parameters::default())?;
//! let mask = Mask::causal() & index.adaptive(None)?;
//! let report = Measure::new(x.view(), x.view()).of(Mask::causal()).top(8).mask(&mask)?;
//! println!("{report}");
//! assert!(report.density < 1.0 && report.mass.mean > report.density);
//! # Ok::<(), regard_graph::Error>(())
//! ```
//!
//! # In time
//!
//! A graph over all keys is a product of all keys: under a causal mask no query attends to a later key, but which earlier ones
//! it sees depends on later ones. This is so of every mask of an [`Index`], and of [`Sight::Filtered`]. Where nothing of a
//! result may depend on what follows, there are [`GrowingIndex`] and [`Sight::Grown`], which search a graph of the keys so far.
//!
//! # What is deterministic
//!
//! The same keys, parameters and queries give the same graph, masks and results, with any number of threads: an index is built
//! by one thread, several heads side by side. The crate's levels come from a generator with a seed of its own;
//! [`Parameters::seed`] draws the order of insertion instead, which makes another graph.
#![forbid(unsafe_code)]

mod check;
mod error;
mod graph;
mod growing;
mod index;
mod lift;
mod masks;
mod parameters;
mod report;
mod retrieval;
mod retrieved;
mod rows;
mod search;

pub use error::Error;
pub use growing::GrowingIndex;
pub use index::Index;
pub use parameters::Parameters;
pub use report::{Measure, Report, Share};
pub use retrieval::{Retrieval, Sight};
pub use retrieved::Retrieved;
pub use search::Nearest;
