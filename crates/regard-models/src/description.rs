//! What a decoder is made of: the one thing that tells models apart.
//!
//! Real models and blocks that are trained are described alike; the decoder's code never asks for a family's name. A
//! family is an entry of a table here: the names of its metadata and what they cannot say.

use regard_kernels::{RotaryOrder, RotaryScaling};
use regard_masks::Mask;

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
    /// The rotation of queries and keys.
    pub rotary: Rotary,
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

/// `down(silu(gate(x)) · up(x))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeedForward {
    /// Numbers between the two layers.
    pub hidden: usize,
}

/// What a family's files do not say themselves.
struct Family {
    architecture: &'static str,
    rotary: RotaryOrder,
}

/// Every family that runs.
const FAMILIES: &[Family] = &[Family { architecture: "llama", rotary: RotaryOrder::Interleaved }];

/// The tensor of factors that the rotary frequencies are divided by.
pub(crate) const ROTARY_FACTORS: &str = "rope_freqs.weight";

/// No dimension of a model is larger: what sizes are multiplied from stays far from overflow.
const MAX_SIZE: usize = 1 << 24;

impl Description {
    /// What a GGUF file describes. The sizes are held against its tensors when these are loaded.
    ///
    /// # Errors
    /// The family is unknown, a key is missing, or a size makes no sense.
    pub fn from_gguf(file: &Gguf) -> Result<Description> {
        let architecture = file.string("general.architecture")?;
        let family = FAMILIES.iter().find(|family| family.architecture == architecture).ok_or_else(|| {
            let supported = FAMILIES.iter().map(|family| family.architecture).collect::<Vec<_>>().join(", ");
            let (field, found) = ("general.architecture".to_string(), format!("architecture {architecture:?}"));
            Error::Unsupported { file: file.file().to_string(), field, found, supported }
        })?;
        let key = |name: &str| format!("{architecture}.{name}");
        let malformed = |field: String, problem: String| Error::Malformed { file: file.file().into(), field, problem };
        let size = |name: &str| {
            let value = file.u32(&key(name))? as usize;
            match value {
                1..=MAX_SIZE => Ok(value),
                _ => Err(malformed(key(name), format!("it is {value}, expected 1 to {MAX_SIZE}"))),
            }
        };
        let positive = |name: &str, value: f32| match value.is_finite() && value > 0.0 {
            true => Ok(value),
            false => Err(malformed(key(name), format!("it is {value}, expected a positive number"))),
        };

        for (name, most, what) in
            [(key("expert_count"), 0, "experts"), ("split.count".to_owned(), 1, "parts in other files")]
        {
            let count = file.u32(&name).optional()?.unwrap_or(0);
            if count > most {
                let (found, supported) = (format!("{count} {what}"), "models of one file, without experts".to_owned());
                return Err(Error::Unsupported { file: file.file().to_owned(), field: name, found, supported });
            }
        }
        let (width, heads) = (size("embedding_length")?, size("attention.head_count")?);
        let kv_heads = size("attention.head_count_kv").optional()?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            let problem = format!("{heads} query heads are no multiple of {kv_heads} key/value heads");
            return Err(malformed(key("attention.head_count_kv"), problem));
        }
        let dim_k = size("attention.key_length").optional()?.unwrap_or(width / heads);
        let dim_v = size("attention.value_length").optional()?.unwrap_or(dim_k);
        let dims = size("rope.dimension_count").optional()?.unwrap_or(dim_k);
        if dim_k == 0 || dims > dim_k || dims % 2 != 0 {
            let problem = format!("{dims} rotated dimensions of a head of {dim_k}, expected an even number within it");
            return Err(malformed(key("rope.dimension_count"), problem));
        }
        let theta = positive("rope.freq_base", file.f32(&key("rope.freq_base")).optional()?.unwrap_or(10_000.0))?;
        let eps = positive("attention.layer_norm_rms_epsilon", file.f32(&key("attention.layer_norm_rms_epsilon"))?)?;
        let window = size("attention.sliding_window").optional()?;
        let rotary = Rotary { dims, theta, order: family.rotary, scaling: rotary_scaling(file, &key, dims)? };
        let norm = Norm::Rms { eps };
        let block = Block {
            norm,
            mixer: Mixer::Attention(Attention { heads, kv_heads, dim_k, dim_v, window, rotary }),
            feed_forward: FeedForward { hidden: size("feed_forward_length")? },
        };
        let blocks = size("block_count")?;
        if blocks > file.tensors().len() {
            let problem = format!("{blocks} blocks in a file of {} tensors", file.tensors().len());
            return Err(malformed(key("block_count"), problem));
        }
        let embedding = file.tensor("token_embd.weight")?;
        Ok(Description {
            architecture: architecture.to_string(),
            vocabulary: usize::try_from(embedding.rows()).unwrap_or(usize::MAX),
            width,
            context: size("context_length")?,
            blocks: vec![block; blocks],
            norm,
            tied: file.tensor("output.weight").optional()?.is_none(),
        })
    }

    /// Bytes that keys and values of one token take in all caches, at `bytes` for each number.
    pub fn cache_bytes_per_token(&self, bytes: usize) -> usize {
        let numbers = |block: &Block| match &block.mixer {
            Mixer::Attention(attention) => attention.kv_heads * (attention.dim_k + attention.dim_v),
        };
        self.blocks.iter().map(numbers).sum::<usize>() * bytes
    }
}

/// The scaling of frequencies: factors as a tensor, or a rule by name.
fn rotary_scaling(file: &Gguf, key: &dyn Fn(&str) -> String, dims: usize) -> Result<RotaryScaling> {
    if let Some(tensor) = file.tensor(ROTARY_FACTORS).optional()? {
        let kind = file.kind(tensor)?;
        if tensor.dims != [dims as u64 / 2] {
            let problem = format!("it has shape {:?}, expected [{}]", tensor.dims, dims / 2);
            return Err(Error::Malformed { file: file.file().into(), field: tensor.name.clone(), problem });
        }
        let mut bytes = Vec::new();
        file.read_tensor(tensor, &mut bytes)?;
        let mut factors = vec![0.0; dims / 2];
        crate::gguf::dequantize(kind, &bytes, &mut factors);
        if let Some(factor) = factors.iter().find(|&&factor| !is_divisor(factor)) {
            let problem = format!("a factor is {factor}, expected numbers over 0");
            return Err(Error::Malformed { file: file.file().into(), field: tensor.name.clone(), problem });
        }
        return Ok(RotaryScaling::Factors(factors));
    }
    let rule = file.string(&key("rope.scaling.type")).optional()?.unwrap_or("none");
    match rule {
        "none" => Ok(RotaryScaling::None),
        "linear" => match file.f32(&key("rope.scaling.factor"))? {
            factor if is_divisor(factor) => Ok(RotaryScaling::Linear(factor)),
            factor => {
                let (file, field) = (file.file().into(), key("rope.scaling.factor"));
                Err(Error::Malformed { file, field, problem: format!("it is {factor}, expected a number over 0") })
            }
        },
        _ => Err(Error::Unsupported {
            file: file.file().to_string(),
            field: key("rope.scaling.type"),
            found: format!("rotary scaling {rule:?}"),
            supported: "none, linear, factors in rope_freqs.weight".to_string(),
        }),
    }
}

/// Whether angles can be divided by it.
fn is_divisor(factor: f32) -> bool {
    factor.is_normal() && factor > 0.0
}
