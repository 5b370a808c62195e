//! What a decoder is made of: the one thing that tells models apart.
//!
//! Real models and blocks that are trained are described alike; the decoder's code never asks for a family's name. What a
//! family's files do not say themselves stands in a table of families.

use regard_attention::CacheDtype;
use regard_kernels::{Activation, RotaryOrder, RotaryScaling};
use regard_masks::Mask;

use crate::checkpoint::Checkpoint;
use crate::folder::Folder;
use crate::gguf::Gguf;
use crate::{Error, Optional, Result};

/// A decoder: token embedding, blocks, a norm, and the logits of a vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The family's name, as files have it.
    pub architecture: String,
    /// Tokens that have an embedding and a logit.
    pub vocabulary: usize,
    /// Numbers of a token between blocks.
    pub width: usize,
    /// Tokens that the model was trained to see at once.
    pub context: usize,
    /// What embeddings are multiplied by.
    pub embedding_scale: f32,
    /// The blocks, in order.
    pub blocks: Vec<Block>,
    /// The norm after the last block.
    pub norm: Norm,
    /// Whether logits are made with the embedding's weights.
    pub tied: bool,
}

/// One block: `x ← x + mixer(norm(x))`, then `x ← x + feed_forward(norm(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// The norm before each of the two halves.
    pub norm: Norm,
    /// The norm of what each of the two halves gives, if there is one.
    pub post_norm: Option<Norm>,
    /// What lets tokens see each other.
    pub mixer: Mixer,
    /// What works on each token alone.
    pub feed_forward: FeedForward,
}

/// A normalisation with a learned weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// `x / √(mean(x²) + eps) · weight`.
    Rms {
        /// What keeps the root from 0.
        eps: f32,
    },
}

/// What lets tokens see each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixer {
    /// Softmax attention.
    Attention(Attention),
}

/// Causal softmax attention with grouped heads and rotary positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; they divide the query heads.
    pub kv_heads: usize,
    /// Numbers of a query and of a key.
    pub dim_k: usize,
    /// Numbers of a value.
    pub dim_v: usize,
    /// Keys that a query sees, itself included; all earlier ones unless given.
    pub window: Option<usize>,
    /// What scores are multiplied by; `1/√dim_k` unless given.
    pub scale: Option<f64>,
    /// The norm of each head of queries and keys before they turn, if there is one.
    pub query_key_norm: Option<Norm>,
    /// The rotation of queries and keys.
    pub rotary: Rotary,
    /// Whether queries, keys and values must have biases; those that a file has without need are taken too.
    pub bias: bool,
}

impl Attention {
    /// The mask of the heads.
    pub fn mask(&self) -> Mask {
        match self.window {
            Some(window) => Mask::window(Some(window.saturating_sub(1)), Some(0)),
            None => Mask::causal(),
        }
    }
}

/// Rotary positions (Su et al., 2021).
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Leading dimensions that are rotated.
    pub dims: usize,
    /// The base of the frequencies.
    pub theta: f32,
    /// Which two dimensions make a pair.
    pub order: RotaryOrder,
    /// What is done to the frequencies for longer contexts.
    pub scaling: RotaryScaling,
}

/// `down(activation(gate(x)) · up(x))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeedForward {
    /// Numbers between the two layers.
    pub hidden: usize,
    /// What opens the gate.
    pub activation: Activation,
}

/// No dimension of a model is larger: what sizes are multiplied from stays far from overflow.
const MAX_SIZE: usize = 1 << 24;

impl Description {
    /// What a GGUF file describes. The sizes are held against its tensors when these are loaded.
    ///
    /// # Errors
    /// The family is unknown, a key is missing, or a size makes no sense.
    pub fn from_gguf(file: &Gguf) -> Result<Description> {
        let experts = Checkpoint::key(file, "expert_count");
        for (name, most, what) in [(experts, 0, "experts"), ("split.count".to_owned(), 1, "parts in other files")] {
            let count = file.u32(&name).optional()?.unwrap_or(0);
            if count > most {
                let (found, supported) = (format!("{count} {what}"), "models of one file, without experts".to_owned());
                return Err(Error::Unsupported { file: file.file().to_owned(), field: name, found, supported });
            }
        }
        // What would be computed wrongly if it were left out, and the number that stands for nothing of it.
        for (key, nothing) in [
            ("attn_logit_softcapping", 0.0),
            ("final_logit_softcapping", 0.0),
            ("logit_scale", 1.0),
            ("embedding_scale", 1.0),
            ("residual_scale", 1.0),
            ("attention.clamp_kqv", 0.0),
            ("attention.max_alibi_bias", 0.0),
            ("rope.scale_linear", 1.0),
        ] {
            let name = Checkpoint::key(file, key);
            if let Some(value) = file.f32(&name).optional()?.filter(|value| *value != nothing && *value != 0.0) {
                let (found, supported) = (value.to_string(), format!("{nothing}, or none"));
                return Err(Error::Unsupported { file: file.file().to_owned(), field: name, found, supported });
            }
        }
        let causal = Checkpoint::key(file, "attention.causal");
        if file.bool(&causal).optional()? == Some(false) {
            let (found, supported) = ("attention that sees both ways".to_owned(), "causal attention".to_owned());
            return Err(Error::Unsupported { file: file.file().to_owned(), field: causal, found, supported });
        }
        Description::of(file)
    }

    /// What a folder describes.
    ///
    /// # Errors
    /// A setting is missing, unknown or makes no sense.
    pub fn from_folder(folder: &Folder) -> Result<Description> {
        let description = Description::of(folder)?;
        // A GGUF file's own number of tokens is that of its list.
        match folder.u32("vocab_size").optional()? {
            Some(tokens) if tokens as usize != description.vocabulary => {
                let problem = format!("it is {tokens}, but the embedding has {} rows", description.vocabulary);
                Err(folder.config().malformed("vocab_size", problem))
            }
            _ => Ok(description),
        }
    }

    /// What a checkpoint describes.
    fn of(file: &impl Checkpoint) -> Result<Description> {
        let family = file.family()?;
        let malformed = |key: &str, problem: String| {
            let (file, field) = (file.settings().to_owned(), file.key(key));
            Error::Malformed { file, field, problem }
        };
        let size = |key: &str| match file.u32(key)? as usize {
            size @ 1..=MAX_SIZE => Ok(size),
            size => Err(malformed(key, format!("it is {size}, expected 1 to {MAX_SIZE}"))),
        };
        let positive = |key: &str| match file.f32(key)? {
            value if value.is_finite() && value > 0.0 => Ok(value),
            value => Err(malformed(key, format!("it is {value}, expected a positive number"))),
        };
        let (width, heads) = (size("embedding_length")?, size("attention.head_count")?);
        let kv_heads = size("attention.head_count_kv").optional()?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            let problem = format!("{heads} query heads are no multiple of {kv_heads} key/value heads");
            return Err(malformed("attention.head_count_kv", problem));
        }
        let dim_k = size("attention.key_length").optional()?.unwrap_or(width / heads);
        let dim_v = size("attention.value_length").optional()?.unwrap_or(dim_k);
        let dims = size("rope.dimension_count").optional()?.unwrap_or(dim_k);
        if dim_k == 0 || dims > dim_k || dims % 2 != 0 {
            let problem = format!("{dims} rotated dimensions of a head of {dim_k}, expected an even number within it");
            return Err(malformed("rope.dimension_count", problem));
        }
        let norm = Norm::Rms { eps: positive("attention.layer_norm_rms_epsilon")? };
        let rotary = Rotary {
            dims,
            theta: positive("rope.freq_base").optional()?.unwrap_or(10_000.0),
            order: file.rotary_order(family),
            scaling: file.rotary_scaling(dims)?,
        };
        // Where layers with a window turn at a base of their own, nothing is scaled: a window is no longer than in training.
        let window_theta = match family.window_theta {
            Some(usual) => Some(positive("rope.freq_base_swa").optional()?.unwrap_or(usual)),
            None => None,
        };
        let scale = positive("attention.scale").optional()?.map(f64::from);
        let feed_forward = FeedForward { hidden: size("feed_forward_length")?, activation: file.activation(family)? };
        let bias = file.biased(family)?;
        let layers = size("block_count")?;
        let tensors = file.all().len();
        if layers > tensors {
            return Err(malformed("block_count", format!("{layers} blocks in a file of {tensors} tensors")));
        }
        let block = |window: Option<usize>| {
            let rotary = match window_theta.filter(|_| window.is_some()) {
                Some(theta) => Rotary { theta, scaling: RotaryScaling::None, ..rotary.clone() },
                None => rotary.clone(),
            };
            let query_key_norm = family.query_key_norm.then_some(norm);
            let attention = Attention { heads, kv_heads, dim_k, dim_v, window, scale, query_key_norm, rotary, bias };
            let post_norm = family.post_norm.then_some(norm);
            Block { norm, post_norm, mixer: Mixer::Attention(attention), feed_forward }
        };
        let embedding = file.tensor("token_embd.weight")?;
        let vocabulary = embedding.shape.first().map_or(0, |&rows| usize::try_from(rows).unwrap_or(usize::MAX));
        if !(1..=MAX_SIZE).contains(&vocabulary) {
            let (file, field) = (file.file().to_owned(), embedding.name);
            let problem = format!("it has {vocabulary} rows, expected 1 to {MAX_SIZE}");
            return Err(Error::Malformed { file, field, problem });
        }
        Ok(Description {
            architecture: family.architecture.to_owned(),
            vocabulary,
            width,
            context: size("context_length")?,
            embedding_scale: if family.scales_embedding { (width as f32).sqrt() } else { 1.0 },
            blocks: file.windows(family, layers)?.into_iter().map(block).collect(),
            norm,
            tied: file.tied(family)?,
        })
    }

    /// Bytes that keys and values of one token take in all caches of a type, scales included.
    pub fn cache_bytes_per_token(&self, cache: CacheDtype) -> usize {
        let scales = if cache == CacheDtype::Int8 { 2 * size_of::<f32>() } else { 0 };
        let bytes = |block: &Block| match &block.mixer {
            Mixer::Attention(attention) => {
                attention.kv_heads * ((attention.dim_k + attention.dim_v) * cache.bytes() + scales)
            }
        };
        self.blocks.iter().map(bytes).sum()
    }
}
