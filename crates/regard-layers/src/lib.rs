//! Layers of transformers with exact gradients, and what trains them.
#![forbid(unsafe_code)]

mod block;
mod convolution;
mod embedding;
mod error;
mod feed_forward;
mod flash;
mod key_cache;
mod language;
mod layer;
mod linear;
mod linear_attention;
mod local_global;
mod loss;
mod mixer;
mod multi_head;
mod norm;
mod optimiser;
mod parameters;
mod product;
mod projections;
mod rotary;
mod shared_context;
mod state;
mod state_space;
mod store;
mod trainer;
mod workspace;

pub use block::{BlockKept, TransformerBlock};
pub use embedding::Embedding;
pub use error::Error;
pub use feed_forward::{FeedForward, FeedForwardKept, FeedForwardKind};
pub use flash::{FlashAttention, FlashConfig, FlashKept, FlashState, Sinks};
pub use language::{
    Batch, ContextUse, Head, LanguageConfig, LanguageModel, LanguageState, MixerKind, Objective, Recomputation,
};
pub use layer::{Layer, gradients, run};
pub use linear::{Bias, Linear};
pub use linear_attention::{LinearAttention, LinearAttentionKept, LinearAttentionState, LinearConfig, LinearRule};
pub use local_global::{LocalGlobalAttention, LocalGlobalConfig, LocalGlobalForm, LocalGlobalKept, Sight};
pub use loss::{cross_entropy, cross_entropy_need};
pub use mixer::{Mixer, MixerKept, MixerState};
pub use multi_head::{
    KeyGradients, KeyHeads, Keys, MultiHeadAttention, MultiHeadCache, MultiHeadCall, MultiHeadConfig, MultiHeadKept,
};
pub use norm::{Norm, NormKind};
pub use optimiser::{Optimiser, OptimiserConfig, Schedule, gradient_norm};
pub use parameters::{Gradients, Initial, Parameter, Parameters, Scope};
pub use product::{Before, Multiplier, Precision, Side};
pub use projections::HeadSizes;
pub use shared_context::{ContextInlet, SharedAttentionContext};
pub use state_space::{StateSpace, StateSpaceConfig, StateSpaceKept, StateSpaceState};
pub use store::{StoredTensors, write_tensors};
pub use trainer::{NotFinite, StepReport, Trainer, TrainingConfig, load_model};
pub use workspace::{Mode, Pass, Size, Workspace};
