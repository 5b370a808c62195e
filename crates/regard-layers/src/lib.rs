//! Layers of transformers with exact gradients, and what trains them.
#![forbid(unsafe_code)]

mod error;

pub use error::Error;
