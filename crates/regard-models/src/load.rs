//! From the tensors of a file to weights in the kernels' layouts.
//!
//! A weight is read and repacked piece by piece, by all cores, so that the file is never in memory beside it.

use std::collections::BTreeSet;

use regard_kernels::{Kernels, Weight, WeightFormat};
use regard_threads::Pool;

use crate::decoder::{BlockWeights, Decoder};
use crate::description::{Attention, Block, Description, Mixer, ROTARY_FACTORS};
use crate::failure::Failure;
use crate::gguf::{GgmlType, Gguf, dequantize};
use crate::projection::Projection;
use crate::{Error, Result};

/// Panels that a task reads at once: some 100 KiB of a small model.
const PANELS_AT_ONCE: usize = 4;

impl Decoder {
    /// Reads the weights that the description asks for.
    ///
    /// # Errors
    /// A tensor is missing, has another shape or type than expected, cannot be read, or is one more than the decoder has a
    /// place for: a bias left out would be a wrong answer.
    pub(crate) fn load(file: &Gguf, description: Description, kernels: Kernels, pool: Pool) -> Result<Decoder> {
        let mut loader =
            Loader { file, buffers: vec![Vec::new(); pool.threads()], pool: &pool, placed: BTreeSet::new() };
        // Read with the description.
        loader.placed.insert(ROTARY_FACTORS.to_owned());
        let (width, vocabulary) = (description.width, description.vocabulary);
        let embedding = loader.projection(&[("token_embd.weight", vocabulary)], width)?;
        let blocks = description
            .blocks
            .iter()
            .enumerate()
            .map(|(index, block)| loader.block(index, block, width))
            .collect::<Result<Vec<_>>>()?;
        let norm = loader.vector("output_norm.weight", width)?;
        let output = match description.tied {
            true => None,
            false => Some(loader.projection(&[("output.weight", vocabulary)], width)?),
        };
        loader.check_all_placed(&description.architecture)?;
        Ok(Decoder { description, kernels, embedding, blocks, norm, output, pool })
    }
}

struct Loader<'a> {
    file: &'a Gguf,
    pool: &'a Pool,
    /// One for each thread.
    buffers: Vec<Vec<u8>>,
    /// Names of tensors that have a place.
    placed: BTreeSet<String>,
}

impl Loader<'_> {
    fn block(&mut self, index: usize, block: &Block, width: usize) -> Result<BlockWeights> {
        let name = |tensor: &str| format!("blk.{index}.{tensor}.weight");
        let Mixer::Attention(attention) = &block.mixer;
        let &Attention { heads, kv_heads, dim_k, dim_v, .. } = attention;
        let hidden = block.feed_forward.hidden;
        let qkv =
            [(name("attn_q"), heads * dim_k), (name("attn_k"), kv_heads * dim_k), (name("attn_v"), kv_heads * dim_v)];
        let gate_up = [(name("ffn_gate"), hidden), (name("ffn_up"), hidden)];
        Ok(BlockWeights {
            mixer_norm: self.vector(&name("attn_norm"), width)?,
            qkv: self.projection(&qkv, width)?,
            out: self.projection(&[(name("attn_output"), width)], heads * dim_v)?,
            feed_forward_norm: self.vector(&name("ffn_norm"), width)?,
            gate_up: self.projection(&gate_up, width)?,
            down: self.projection(&[(name("ffn_down"), width)], hidden)?,
        })
    }

    /// Weights `[outputs, inputs]` that are applied together: their names and outputs.
    fn projection(&mut self, members: &[(impl AsRef<str>, usize)], inputs: usize) -> Result<Projection> {
        let weights = members.iter().map(|(name, outputs)| self.weight(name.as_ref(), *outputs, inputs));
        Ok(Projection::new(weights.collect::<Result<_>>()?))
    }

    fn weight(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Weight> {
        let file = self.file;
        let tensor = file.tensor(name)?;
        self.placed.insert(name.to_owned());
        let format = match file.kind(tensor)? {
            GgmlType::F32 => WeightFormat::F32,
            GgmlType::F16 => WeightFormat::F16,
            GgmlType::BF16 => WeightFormat::Bf16,
            GgmlType::Q8_0 => WeightFormat::Q8_0,
            GgmlType::Q4_0 => WeightFormat::Q4_0,
            GgmlType::Q4_1 => WeightFormat::Q4_1,
            GgmlType::Q5_0 => WeightFormat::Q5_0,
            GgmlType::Q5_1 => WeightFormat::Q5_1,
            GgmlType::Q4K => WeightFormat::Q4K,
            GgmlType::Q5K => WeightFormat::Q5K,
            GgmlType::Q6K => WeightFormat::Q6K,
        };
        self.expect(name, &tensor.dims, &[inputs as u64, outputs as u64])?;
        let mut weight = Weight::zeroed(format, outputs, inputs)?;
        let failure = Failure::default();
        self.pool.run_with(&mut self.buffers, weight.parts(PANELS_AT_ONCE), |bytes, _, mut part| {
            let rows = part.rows();
            let read = file.read_rows(tensor, rows.start as u64..rows.end as u64, bytes);
            failure.note(read.and_then(|()| Ok(part.pack(rows.start, bytes)?)));
        });
        failure.into_result()?;
        Ok(weight)
    }

    /// A vector, in f32.
    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.file.tensor(name)?;
        self.placed.insert(name.to_owned());
        let kind = self.file.kind(tensor)?;
        self.expect(name, &tensor.dims, &[len as u64])?;
        let bytes = &mut self.buffers[0];
        self.file.read_tensor(tensor, bytes)?;
        let mut numbers = vec![0.0; len];
        dequantize(kind, bytes, &mut numbers);
        Ok(numbers)
    }

    fn check_all_placed(&self, architecture: &str) -> Result<()> {
        match self.file.tensors().iter().find(|tensor| !self.placed.contains(&tensor.name)) {
            None => Ok(()),
            Some(tensor) => Err(Error::Unsupported {
                file: self.file.file().to_owned(),
                field: tensor.name.clone(),
                found: "this tensor".to_owned(),
                supported: format!("the weights of plain {architecture} blocks, without biases and experts"),
            }),
        }
    }

    fn expect(&self, name: &str, has: &[u64], expected: &[u64]) -> Result<()> {
        if has == expected {
            return Ok(());
        }
        let problem = format!("it has shape {has:?}, expected {expected:?}");
        Err(Error::Malformed { file: self.file.file().to_string(), field: name.to_string(), problem })
    }
}
