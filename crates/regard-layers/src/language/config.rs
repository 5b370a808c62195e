//! What a language model is made of.

use regard_attention::Direction;
use regard_masks::Mask;

use crate::{
    Error, FlashAttention, FlashConfig, HeadSizes, Initial, LinearAttention, LinearConfig, LinearRule, Mixer, Scope,
    StateSpace, StateSpaceConfig,
};

/// What a language model is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LanguageConfig {
    /// Tokens that have an embedding and a logit.
    pub vocabulary: usize,
    /// Numbers of a token between blocks.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// Numbers within a feed-forward layer.
    pub hidden: usize,
    /// What lets tokens see each other.
    pub mixer: MixerKind,
    /// What it is trained for.
    pub objective: Objective,
    /// What keeps the norms' roots from 0.
    pub eps: f32,
    /// The base of the rotary positions of softmax attention, and of linear attention that denoises.
    pub rope_theta: f32,
    /// Whether logits are made with the embedding's weights.
    pub head: Head,
    /// Whether blocks share a context.
    pub context: ContextUse,
    /// The probability that an attention weight falls, in training.
    pub dropout: f32,
}

/// What lets tokens see each other, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MixerKind {
    /// Softmax attention.
    Softmax,
    /// Linear attention by a rule.
    Linear(LinearRule),
    /// Mamba-2, of twice the width, in heads of `head_dim`, with keys and queries of 64.
    StateSpace,
}

/// What a model is trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Objective {
    /// Each token from those before it.
    Causal,
    /// Tokens that were masked, from all others (masked diffusion: Nie et al., 2025; Sahoo et al., 2024).
    Denoising,
}

/// Which weights make logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Head {
    /// The embedding's.
    Tied,
    /// Its own.
    Own,
}

/// Whether blocks share a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContextUse {
    /// They do not.
    None,
    /// They do: see [`SharedAttentionContext`](crate::SharedAttentionContext).
    Shared,
}

impl LanguageConfig {
    /// A block's mixer.
    pub(super) fn mixer(&self, scope: &mut Scope<'_>, initial: [Initial; 2]) -> Result<Mixer, Error> {
        let LanguageConfig { width, heads, kv_heads, head_dim, .. } = *self;
        let sizes = HeadSizes { width, heads, kv_heads, dim_k: head_dim, dim_v: head_dim };
        Ok(match self.mixer {
            MixerKind::Softmax => {
                let mask = match self.objective {
                    Objective::Causal => Mask::causal(),
                    Objective::Denoising => Mask::full(),
                };
                let config = FlashConfig::new(sizes, mask).with_rotary(self.rope_theta);
                let config = FlashConfig { dropout: self.dropout, initial: Some(initial), ..config };
                Mixer::Softmax(FlashAttention::new(scope, config)?)
            }
            MixerKind::Linear(rule) => {
                let direction = match self.objective {
                    Objective::Causal => Direction::Causal,
                    Objective::Denoising => Direction::Both,
                };
                let config = LinearConfig { direction, initial: Some(initial), ..LinearConfig::new(sizes, rule) };
                // What sees both ways has no other way to tell where a token stands.
                let config = match direction {
                    Direction::Causal => config,
                    Direction::Both => config.with_rotary(self.rope_theta),
                };
                Mixer::Linear(LinearAttention::new(scope, config)?)
            }
            MixerKind::StateSpace => {
                if self.objective == Objective::Denoising {
                    return Err(regard_attention::Error::Causal.into());
                }
                if !(2 * width).is_multiple_of(head_dim.max(1)) {
                    return Err(Error::setting(
                        "head_dim",
                        head_dim,
                        format!("a divisor of {}, twice the width", 2 * width),
                    ));
                }
                let sizes = StateSpaceConfig::new(width, 2 * width / head_dim.max(1));
                let config = StateSpaceConfig { head_dim, eps: self.eps, ..sizes };
                Mixer::StateSpace(StateSpace::with(scope, config, Some(initial))?)
            }
        })
    }
}
