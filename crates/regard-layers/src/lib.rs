//! Layers of transformers with exact gradients, and what trains them.
#![forbid(unsafe_code)]

mod error;
mod product;

pub use error::Error;
pub use product::{Before, Side, multiply, product_need};
