//! A folder as a checkpoint.

use std::ops::Range;

use regard_kernels::{Activation, RotaryOrder, RotaryScaling};

use super::config::Config;
use super::{Folder, safetensors};
use crate::checkpoint::{Checkpoint, Stored};
use crate::family::{DECODERS, Family};
use crate::{Error, Optional, Result};

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
        Ok(self.config.bool("attention_bias").optional()?.unwrap_or(family.bias))
    }

    fn tied(&self, family: &Family) -> Result<bool> {
        Ok(self.config.bool("tie_word_embeddings").optional()?.unwrap_or(family.tied))
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
