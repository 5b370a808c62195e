//! A folder as a checkpoint.

use std::ops::Range;

use regard_kernels::{Activation, RotaryOrder, RotaryScaling};

use super::config::Config;
use super::{Folder, Tensor, safetensors};
use crate::checkpoint::{Checkpoint, Stored};
use crate::family::{DECODERS, Family};
use crate::{Error, Optional, Result};

impl Folder {
    /// Whether there is an output matrix that is not the embedding once more, as some files have it that are said to be tied.
    fn has_own_head(&self) -> bool {
        *self.own_head.get_or_init(|| {
            let tensor = |name: &str| self.by_name.get(name).map(|&place| &self.tensors[place]);
            let (Some(head), Some(embedding)) = (tensor("lm_head.weight"), tensor("model.embed_tokens.weight")) else {
                return false;
            };
            // One that cannot be read is an error when it is loaded.
            head.shape != embedding.shape || head.dtype != embedding.dtype || !self.are_same(head, embedding)
        })
    }

    fn are_same(&self, a: &Tensor, b: &Tensor) -> bool {
        const PIECE: u64 = 1 << 20;
        let read = |tensor: &Tensor, at: u64| {
            let mut bytes = vec![0; PIECE.min(tensor.bytes - at) as usize];
            let source = &self.shards[tensor.shard].source;
            source.read_exact_at(&mut bytes, tensor.offset + at).is_ok().then_some(bytes)
        };
        let mut pieces = (0..a.bytes).step_by(PIECE as usize);
        pieces.all(|at| read(a, at).is_some_and(|piece| Some(piece) == read(b, at)))
    }
}

impl Checkpoint for Folder {
    fn file(&self) -> &str {
        &self.file
    }

    fn settings(&self) -> &str {
        &self.config.file
    }

    fn family(&self) -> Result<&'static Family> {
        self.config.refuse_unknown()?;
        self.config.decoder(&DECODERS)
    }

    fn u32(&self, key: &str) -> Result<u32> {
        if key == "rope.dimension_count" {
            let share = self.config.rotated_share()?;
            let dim = match self.u32("attention.key_length").optional()? {
                Some(dim) => dim,
                None => self.u32("embedding_length")? / self.u32("attention.head_count")?.max(1),
            };
            return Ok((share * dim as f32) as u32);
        }
        self.config.size(Config::key(key))
    }

    fn f32(&self, key: &str) -> Result<f32> {
        match key {
            "rope.freq_base" => self.config.theta(),
            "rope.freq_base_swa" => self.config.window_theta(),
            "attention.scale" => match self.config.number("query_pre_attn_scalar")? {
                width if width > 0.0 => Ok(1.0 / width.sqrt()),
                other => {
                    let problem = format!("it is {other}, expected a positive number");
                    Err(self.config.malformed("query_pre_attn_scalar", problem))
                }
            },
            _ => self.config.number(Config::key(key)),
        }
    }

    fn key(&self, key: &str) -> String {
        Config::key(key).to_owned()
    }

    fn activation(&self, family: &Family) -> Result<Activation> {
        self.config.activation(family.activation)
    }

    fn biased(&self, family: &Family) -> Result<bool> {
        const KEY: &str = "attention_bias";
        let said = self.config.bool(KEY).optional()?;
        if said == Some(false)
            && let Some(bias) = self.tensor("blk.0.attn_q.bias").optional()?
        {
            return Err(self.config.malformed(KEY, format!("it is false, and the weights hold {}", bias.name)));
        }
        Ok(said.unwrap_or(family.bias))
    }

    fn tied(&self, family: &Family) -> Result<bool> {
        Ok(self.config.bool("tie_word_embeddings").optional()?.unwrap_or(family.tied) && !self.has_own_head())
    }

    fn rotary_order(&self, _family: &Family) -> RotaryOrder {
        RotaryOrder::HalfSplit
    }

    fn rotary_scaling(&self, dims: usize) -> Result<RotaryScaling> {
        self.config.scaling(dims)
    }

    fn windows(&self, family: &Family, layers: usize) -> Result<Vec<Option<usize>>> {
        self.config.windows(family, layers)
    }

    fn norm_offset(&self, family: &Family) -> f32 {
        if family.norms_from_one { 1.0 } else { 0.0 }
    }

    fn tensor(&self, name: &str) -> Result<Stored> {
        // A name that folders have nothing for is missing under its own.
        let name = self.family.and_then(|family| family.folder_name(name)).unwrap_or_else(|| name.to_owned());
        let Some(&place) = self.by_name.get(&name) else {
            return Err(Error::Missing { file: self.file.clone(), field: name });
        };
        let tensor = &self.tensors[place];
        let kind = tensor.kind.ok_or_else(|| Error::Unsupported {
            file: self.shards[tensor.shard].name.clone(),
            field: name.clone(),
            found: format!("tensor type {}", tensor.dtype),
            supported: safetensors::supported(),
        })?;
        Ok(Stored { name, shape: tensor.shape.clone(), kind, place })
    }

    fn read(&self, stored: &Stored, rows: Range<u64>, bytes: &mut Vec<u8>) -> Result<()> {
        let tensor = &self.tensors[stored.place];
        let shard = &self.shards[tensor.shard];
        // Of a vector the numbers are one row, as in a GGUF file.
        let count = if tensor.shape.len() > 1 { tensor.shape[0] } else { 1 };
        if rows.start > rows.end || rows.end > count {
            let problem = format!("it has {count} rows, not {}..{}", rows.start, rows.end);
            return Err(Error::Malformed { file: shard.name.clone(), field: tensor.name.clone(), problem });
        }
        let row = tensor.bytes / count.max(1);
        bytes.resize(((rows.end - rows.start) * row) as usize, 0);
        shard.source.read_exact_at(bytes, tensor.offset + rows.start * row).map_err(|source| Error::Io {
            file: shard.name.clone(),
            field: tensor.name.clone(),
            source,
        })
    }

    fn bytes(&self) -> u64 {
        self.size()
    }

    fn all(&self) -> Vec<&str> {
        let tied = self.family.is_some_and(|family| self.tied(family).unwrap_or(false));
        let weights = |name: &&str| {
            // What old versions saved beside the weights, and can be computed.
            let computed = name.ends_with("rotary_emb.inv_freq") || name.ends_with("position_ids");
            let unused = tied && *name == "lm_head.weight";
            !(computed || unused)
        };
        self.tensors.iter().map(|tensor| tensor.name.as_str()).filter(weights).collect()
    }
}
