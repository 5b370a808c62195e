//! Language models on Regard: checkpoint files, one decoder, tokens, templates and sampling.
#![forbid(unsafe_code)]

pub mod chat;
mod checkpoint;
mod convert;
mod decoder;
pub mod description;
pub mod encoder;
mod error;
mod failure;
mod family;
mod folder;
pub mod generate;
pub mod gguf;
mod load;
mod model;
mod observed;
mod perplexity;
mod projection;
pub mod sampling;
mod session;
pub mod tokenizer;

pub use convert::Conversion;
pub use description::Description;
pub use encoder::{Encoder, Precision};
pub use error::{Error, Optional, Result};
pub use folder::Folder;
pub use model::{LoadOptions, Model};
pub use observed::Observed;
pub use perplexity::Perplexity;
pub use regard_attention::CacheDtype;
pub use session::Session;

/// The examples of the guide to models.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/models.md")]
struct Guide;
