//! A language model: tokens in, how likely each next one is out.

mod config;
mod learn;
mod predict;

use regard_kernels::Activation;
use regard_memory::{Need, Rows, RowsMut};

pub use self::config::{ContextUse, Head, LanguageConfig, MixerKind, Objective};
pub use self::learn::{Batch, Recomputation};
pub use self::predict::LanguageState;
use crate::{
    Before, Bias, ContextInlet, Embedding, Error, FeedForward, FeedForwardKind, Initial, Linear, Norm, NormKind,
    Parameters, Pass, SharedAttentionContext, Side, Size, TransformerBlock, cross_entropy_need,
};

/// Blocks at the most: gradients go through them one within the other, on a thread's stack.
const MOST_LAYERS: usize = 1000;

/// A language model of pre-norm blocks: token embedding, blocks (RMSNorm, a mixer, SwiGLU), a norm, and logits. With softmax
/// attention it is a Llama, and its parameters have the names that these have in `transformers`.
#[derive(Clone, Debug)]
pub struct LanguageModel {
    config: LanguageConfig,
    embedding: Embedding,
    blocks: Vec<TransformerBlock>,
    /// Where all blocks but the first take in the shared context.
    inlets: Vec<ContextInlet>,
    norm: Norm,
    /// The logits' own weights; without them they are the embedding's.
    head: Option<Linear>,
}

impl LanguageModel {
    /// Makes the model's parameters: normal with a deviation of 0.02, those that lead back to the residual with `0.02/√(2·layers)`
    /// (Radford et al., 2019).
    ///
    /// # Errors
    /// A setting is out of its range, or there is no memory for the parameters.
    pub fn new(parameters: &mut Parameters, config: LanguageConfig) -> Result<LanguageModel, Error> {
        let LanguageConfig { vocabulary, width, layers, hidden, eps, .. } = config;
        for (setting, has) in [("vocabulary", vocabulary), ("layers", layers), ("hidden", hidden)] {
            if has == 0 {
                return Err(Error::setting(setting, has, "at least 1"));
            }
        }
        if layers > MOST_LAYERS {
            return Err(Error::setting("layers", layers, format!("at most {MOST_LAYERS}")));
        }
        let normal = [Initial::Normal(0.02), Initial::Normal(0.02 / (2.0 * layers as f32).sqrt())];
        let mut root = parameters.root();
        let embedding = Embedding::new(&mut root.scope("model.embed_tokens"), vocabulary, width, normal[0])?;
        let (mut blocks, mut inlets) = (Vec::with_capacity(layers), Vec::new());
        for layer in 0..layers {
            let mut scope = root.scope(&format!("model.layers.{layer}"));
            if config.context == ContextUse::Shared && layer > 0 {
                inlets.push(ContextInlet::new(&mut scope.scope("context"))?);
            }
            let first = Norm::new(&mut scope.scope("input_layernorm"), NormKind::Rms, width, eps)?;
            let mixer = config.mixer(&mut scope.scope("self_attn"), normal)?;
            let second = Norm::new(&mut scope.scope("post_attention_layernorm"), NormKind::Rms, width, eps)?;
            let swiglu = FeedForwardKind::Gated(Activation::Silu);
            let feed_forward = FeedForward::with(&mut scope.scope("mlp"), swiglu, width, hidden, Bias::None, normal)?;
            blocks.push(TransformerBlock::new([first, second], mixer, feed_forward)?);
        }
        let norm = Norm::new(&mut root.scope("model.norm"), NormKind::Rms, width, eps)?;
        let head = match config.head {
            Head::Tied => None,
            Head::Own => Some(Linear::with(&mut root.scope("lm_head"), width, vocabulary, Bias::None, normal[0])?),
        };
        Ok(LanguageModel { config, embedding, blocks, inlets, norm, head })
    }

    /// What it is made of.
    pub fn config(&self) -> &LanguageConfig {
        &self.config
    }

    /// Numbers of all rows between blocks.
    fn rows_need(&self, size: Size) -> Need {
        Need::of::<f32>(size.rows().saturating_mul(self.config.width))
    }

    fn logits_need(&self, size: Size) -> Need {
        let logits = Need::of::<f32>(size.rows().saturating_mul(self.config.vocabulary));
        logits.and(cross_entropy_need(size.rows()))
    }

    fn logits(&self, pass: &mut Pass<'_>, normed: Rows<'_, f32>, logits: &mut [f32]) -> Result<(), Error> {
        let (vocabulary, width) = (self.config.vocabulary, self.config.width);
        let out = RowsMut::contiguous(logits, normed.rows(), vocabulary)?;
        match &self.head {
            Some(head) => head.apply(pass, normed, out),
            None => {
                let table = Rows::contiguous(pass.parameters.of(self.embedding.weight()), vocabulary, width)?;
                pass.multiply(Side::AsIs(normed), Side::Transposed(table), Before::Replaced, out)
            }
        }
    }

    fn check(&self, size: Size, tokens: &[u32]) -> Result<(), Error> {
        if tokens.len() != size.rows() {
            return Err(Error::shape("tokens", &[tokens.len()], format!("[{}, {}]", size.batch, size.tokens)));
        }
        Ok(())
    }

    fn check_context(&self, context: Option<&SharedAttentionContext>) -> Result<(), Error> {
        match (self.config.context, context) {
            (ContextUse::None, Some(_)) => {
                Err(Error::setting("shared context", "given", "none, as the model has none"))
            }
            (ContextUse::Shared, None) => {
                Err(Error::setting("shared context", "none", "given, as the model shares one"))
            }
            (_, Some(context)) if context.width() != self.config.width => {
                Err(Error::setting("width of the shared context", context.width(), self.config.width))
            }
            _ => Ok(()),
        }
    }
}
