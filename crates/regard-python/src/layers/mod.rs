//! Layers with exact gradients: the compiled half of `regard.layers`.
//!
//! All of them are one mechanism. A [`module`] has parameters, gradients and memory to work in. A [`layer`] is a module with a
//! function: it binds what it is called with to a [`call::Call`], which can be computed, and on the way back computed again. The
//! other files say what functions there are.

mod arrays;
mod attention;
mod block;
mod call;
mod context;
mod error;
mod language;
mod layer;
mod module;
mod multi_head;
mod optimiser;
mod rows;
mod settings;
mod stream;
mod trainer;

use pyo3::prelude::*;

/// Layers with exact gradients.
#[pymodule]
pub(crate) mod _layers {
    #[pymodule_export]
    use super::attention::{PyFlashAttention, PyLinearAttention, PyLocalGlobalAttention, PyStateSpace};
    #[pymodule_export]
    use super::block::PyTransformerBlock;
    #[pymodule_export]
    use super::context::PySharedAttentionContext;
    #[pymodule_export]
    use super::language::{PyLanguageModel, PyLanguageState};
    #[pymodule_export]
    use super::layer::PyLayer;
    #[pymodule_export]
    use super::module::PyModule;
    #[pymodule_export]
    use super::multi_head::{PyMultiHeadAttention, PyMultiHeadCache};
    #[pymodule_export]
    use super::optimiser::PyAdamW;
    #[pymodule_export]
    use super::rows::{PyEmbedding, PyFeedForward, PyLinear, PyNorm};
    #[pymodule_export]
    use super::stream::{PyState, PyStreaming};
    #[pymodule_export]
    use super::trainer::PyTrainer;
}
