//! From the tensors of a checkpoint to weights in the kernels' layouts.
//!
//! A weight is read and repacked piece by piece, by all cores, so that the file is never in memory beside it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use regard_kernels::{Kernels, Weight, WeightFormat};
use regard_memory::{Pages, Region};
use regard_threads::Pool;

use crate::checkpoint::{Checkpoint, Stored};
use crate::decoder::{BlockWeights, Decoder};
use crate::description::{Attention, Block, Description, Mixer};
use crate::failure::Failure;
use crate::gguf::{dequantize, is_finite, quantize};
use crate::projection::{Projection, Rounding};
use crate::{Error, Optional, Result};

/// Panels that a task reads at once: some 100 KiB of a small model.
const PANELS_AT_ONCE: usize = 4;

impl Decoder {
    /// Reads the weights that the description asks for.
    ///
    /// # Errors
    /// A tensor is missing, has another shape or type than expected, cannot be read, or is one more than the decoder has a
    /// place for: a bias left out would be a wrong answer.
    pub(crate) fn load(
        file: &impl Checkpoint,
        description: Description,
        kernels: Kernels,
        pool: Arc<Pool>,
    ) -> Result<Decoder> {
        let mut loader = Loader::new(file, &pool, file.bytes())?;
        loader.norm_offset = file.norm_offset(file.family()?);
        let (width, vocabulary) = (description.width, description.vocabulary);
        let embedding = loader.projection(&[Member::new("token_embd", vocabulary)], width)?;
        let blocks = description
            .blocks
            .iter()
            .enumerate()
            .map(|(index, block)| loader.block(index, block, width))
            .collect::<Result<Vec<_>>>()?;
        let norm = loader.norm("output_norm.weight", width)?;
        let output = match description.tied {
            true => None,
            false => Some(loader.projection(&[Member::new("output", vocabulary)], width)?),
        };
        loader.check_all_placed(&description.architecture, |_| true)?;
        Ok(Decoder { description, kernels, embedding, blocks, norm, output, pool })
    }
}

/// Rows of a tensor that are a weight.
pub(crate) struct Member {
    /// The tensor, without what tells weight from bias.
    tensor: String,
    /// Rows of the tensor before them.
    first: usize,
    outputs: usize,
    /// Rows of the whole tensor.
    of: usize,
    /// Whether there must be a bias.
    bias: bool,
}

impl Member {
    /// All rows of a tensor.
    pub(crate) fn new(tensor: impl Into<String>, outputs: usize) -> Member {
        Member { tensor: tensor.into(), first: 0, outputs, of: outputs, bias: false }
    }

    /// The same, where a bias may be a must.
    pub(crate) fn biased(self, bias: bool) -> Member {
        Member { bias, ..self }
    }

    /// What one tensor holds one below the other.
    fn fused<const N: usize>(tensor: &str, outputs: [usize; N]) -> [Member; N] {
        let of = outputs.iter().sum();
        let mut next = 0;
        outputs.map(|outputs| {
            let first = next;
            next += outputs;
            Member { tensor: tensor.to_owned(), first, outputs, of, bias: false }
        })
    }

    fn rows(&self) -> Range<usize> {
        self.first..self.first + self.outputs
    }
}

/// Reads weights, all cores together.
pub(crate) struct Loader<'a, C> {
    file: &'a C,
    /// What is added to the weights of norms.
    norm_offset: f32,
    /// What weights that are plain numbers, and what they are applied to, are rounded to.
    pub(crate) rounding: Rounding,
    pool: &'a Pool,
    /// Where the weights lie, in the order in which they are read.
    region: Region,
    /// One for each thread.
    buffers: Vec<Vec<u8>>,
    /// Names of tensors that have a place.
    placed: BTreeSet<String>,
}

impl<'a, C: Checkpoint> Loader<'a, C> {
    /// For weights that take `needed` bytes.
    pub(crate) fn new(file: &'a C, pool: &'a Pool, needed: u64) -> Result<Self> {
        check_room(file, needed)?;
        let buffers = vec![Vec::new(); pool.threads()];
        let (region, placed) = (Region::on(Pages::Huge), BTreeSet::new());
        Ok(Loader { file, norm_offset: 0.0, rounding: Rounding::None, pool, region, buffers, placed })
    }

    fn block(&mut self, index: usize, block: &Block, width: usize) -> Result<BlockWeights> {
        let name = |tensor: &str| format!("blk.{index}.{tensor}");
        let weight = |tensor: &str| format!("blk.{index}.{tensor}.weight");
        let Mixer::Attention(attention) = &block.mixer;
        let &Attention { heads, kv_heads, dim_k, dim_v, bias, .. } = attention;
        let hidden = block.feed_forward.hidden;
        let outputs = [heads * dim_k, kv_heads * dim_k, kv_heads * dim_v];
        let qkv = match self.file.tensor(&weight("attn_qkv")).optional()? {
            Some(_) => Member::fused(&name("attn_qkv"), outputs),
            None => {
                let [q, k, v] = outputs;
                [("attn_q", q), ("attn_k", k), ("attn_v", v)].map(|(tensor, rows)| Member::new(name(tensor), rows))
            }
        };
        let gate_up = match self.file.tensor(&weight("ffn_gate")).optional()? {
            Some(_) => ["ffn_gate", "ffn_up"].map(|tensor| Member::new(name(tensor), hidden)),
            None => Member::fused(&name("ffn_up"), [hidden, hidden]),
        };
        let mut if_normed =
            |normed: bool, tensor: &str, len: usize| normed.then(|| self.norm(&weight(tensor), len)).transpose();
        let (heads_normed, post) = (attention.query_key_norm.is_some(), block.post_norm.is_some());
        let query_norm = if_normed(heads_normed, "attn_q_norm", dim_k)?;
        let key_norm = if_normed(heads_normed, "attn_k_norm", dim_k)?;
        let mixer_post_norm = if_normed(post, "post_attention_norm", width)?;
        let feed_forward_post_norm = if_normed(post, "post_ffw_norm", width)?;
        Ok(BlockWeights {
            mixer_norm: self.norm(&weight("attn_norm"), width)?,
            qkv: self.projection(&qkv.map(|member| member.biased(bias)), width)?,
            query_norm,
            key_norm,
            out: self.projection(&[Member::new(name("attn_output"), width)], heads * dim_v)?,
            mixer_post_norm,
            feed_forward_norm: self.norm(&weight("ffn_norm"), width)?,
            gate_up: self.projection(&gate_up, width)?,
            down: self.projection(&[Member::new(name("ffn_down"), width)], hidden)?,
            feed_forward_post_norm,
        })
    }

    /// Weights `[outputs, inputs]` that are applied together, and their biases where there are some.
    pub(crate) fn projection(&mut self, members: &[Member], inputs: usize) -> Result<Projection> {
        self.scaled_projection(members, inputs, Vec::new())
    }

    /// The same for inputs that are expected to be as large as said, if that is known. Where they are rounded to bytes, large
    /// inputs are divided and their weights multiplied, by the root of how much they are larger than these, so that neither
    /// drowns its neighbours in a block (Xiao et al., 2022, SmoothQuant, equation 4 with α = ½).
    pub(crate) fn projection_of(&mut self, members: &[Member], inputs: usize, expected: &[f32]) -> Result<Projection> {
        if self.rounding != Rounding::Int8 {
            return self.projection(members, inputs);
        }
        let mut largest = vec![0.0_f32; inputs];
        for member in members {
            let weights = self.matrix(&format!("{}.weight", member.tensor), member.of, inputs)?;
            for row in weights.chunks_exact(inputs.max(1)) {
                largest.iter_mut().zip(row).for_each(|(most, weight)| *most = most.max(weight.abs()));
            }
        }
        let factor = |(&weight, &expected): (&f32, &f32)| match (weight / expected).sqrt() {
            factor if factor.is_normal() => factor,
            // One of them is 0, or as good as that.
            _ => 1.0,
        };
        let factors = largest.iter().zip(expected).map(factor).collect();
        self.scaled_projection(members, inputs, factors)
    }

    fn scaled_projection(&mut self, members: &[Member], inputs: usize, factors: Vec<f32>) -> Result<Projection> {
        let parts = members.iter().map(|member| Ok((self.weight(member, inputs, &factors)?, self.bias(member)?)));
        let projection = Projection::new(parts.collect::<Result<_>>()?);
        Ok(projection.rounding(self.rounding).scaling(factors))
    }

    fn weight(&mut self, member: &Member, inputs: usize, factors: &[f32]) -> Result<Weight> {
        let file = self.file;
        let tensor = self.find(&format!("{}.weight", member.tensor), &[member.of as u64, inputs as u64])?;
        let format = match self.rounding {
            // Weights in blocks stay as they are.
            _ if tensor.kind.is_quantized() => tensor.kind,
            Rounding::None => tensor.kind,
            Rounding::Bf16 => WeightFormat::Bf16,
            Rounding::Int8 => WeightFormat::Q8_0,
        };
        // What a row does not have of its last block is 0.
        let stored = inputs.next_multiple_of(format.block_inputs());
        let mut weight = Weight::zeroed_in(&mut self.region, format, member.outputs, stored)?;
        let failure = Failure::default();
        self.pool.run_with(&mut self.buffers, weight.parts(PANELS_AT_ONCE), |bytes, _, mut part| {
            let rows = part.rows();
            let of_tensor = (member.first + rows.start) as u64..(member.first + rows.end) as u64;
            let read = file.read(&tensor, of_tensor, bytes);
            let sound = read.and_then(|()| finite(file.file(), &tensor, tensor.kind, bytes));
            let rounded = sound.and_then(|()| {
                if format == tensor.kind {
                    return Ok(());
                }
                *bytes = rounded(tensor.kind, bytes, format, inputs, factors);
                finite(file.file(), &tensor, format, bytes)
            });
            failure.note(rounded.and_then(|()| Ok(part.pack(rows.start, bytes)?)));
        });
        failure.into_result()?;
        Ok(weight)
    }

    fn bias(&mut self, member: &Member) -> Result<Option<Vec<f32>>> {
        let name = format!("{}.bias", member.tensor);
        let bias = self.vector(&name, member.of);
        let bias = if member.bias { Some(bias?) } else { bias.optional()? };
        Ok(bias.map(|bias| bias[member.rows()].to_vec()))
    }

    /// The weights of a norm.
    pub(crate) fn norm(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let mut weights = self.vector(name, len)?;
        weights.iter_mut().for_each(|weight| *weight += self.norm_offset);
        Ok(weights)
    }

    /// A vector, in f32.
    pub(crate) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.numbers(name, &[len as u64], 1)
    }

    /// A matrix `[rows, columns]`, in f32.
    pub(crate) fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Vec<f32>> {
        self.numbers(name, &[rows as u64, columns as u64], rows as u64)
    }

    /// A tensor of so many rows, in f32.
    fn numbers(&mut self, name: &str, shape: &[u64], rows: u64) -> Result<Vec<f32>> {
        let tensor = self.find(name, shape)?;
        let bytes = &mut self.buffers[0];
        self.file.read(&tensor, 0..rows, bytes)?;
        finite(self.file.file(), &tensor, tensor.kind, bytes)?;
        let mut numbers = vec![0.0; shape.iter().product::<u64>() as usize];
        dequantize(tensor.kind, bytes, &mut numbers);
        Ok(numbers)
    }

    /// A tensor of this shape, which now has a place.
    fn find(&mut self, name: &str, shape: &[u64]) -> Result<Stored> {
        let tensor = self.file.tensor(name)?;
        if tensor.shape != shape {
            let problem = format!("it has shape {:?}, expected {shape:?}", tensor.shape);
            return Err(Error::Malformed { file: self.file.file().to_owned(), field: tensor.name, problem });
        }
        self.placed.insert(tensor.name.clone());
        Ok(tensor)
    }

    /// Whether every tensor that `counts` has a place.
    pub(crate) fn check_all_placed(&self, architecture: &str, counts: impl Fn(&str) -> bool) -> Result<()> {
        match self.file.all().into_iter().find(|&name| counts(name) && !self.placed.contains(name)) {
            None => Ok(()),
            Some(name) => Err(unplaced(self.file.file(), name, architecture)),
        }
    }
}

/// What a tensor is refused with that has no place.
pub(crate) fn unplaced(file: &str, name: &str, architecture: &str) -> Error {
    Error::Unsupported {
        file: file.to_owned(),
        field: name.to_owned(),
        found: "this tensor".to_owned(),
        supported: format!("the weights of a plain {architecture}, and nothing beside them"),
    }
}

/// A weight that is no number makes every text of the model one: that is said, not computed. `bytes` are some of the tensor's,
/// as they are or in another format.
pub(crate) fn finite(file: &str, tensor: &Stored, format: WeightFormat, bytes: &[u8]) -> Result<()> {
    if is_finite(format, bytes) {
        return Ok(());
    }
    let problem = match format == tensor.kind {
        true => "it holds NaN or infinite numbers, which no sound model does".to_owned(),
        false => format!("it holds numbers that are too large for {format}"),
    };
    Err(Error::Malformed { file: file.to_owned(), field: tensor.name.clone(), problem })
}

/// Whether the weights fit into memory, as far as the system tells: before the minutes that reading them may take.
fn check_room(file: &impl Checkpoint, needed: u64) -> Result<()> {
    match regard_memory::available() {
        Some(free) if needed > free => Err(Error::TooLarge { file: file.file().to_owned(), needed, free }),
        _ => Ok(()),
    }
}

/// Rows of `inputs` numbers of a type in another one, divided by factors if there are some. What a row does not have of its
/// last block is 0.
fn rounded(kind: WeightFormat, bytes: &[u8], format: WeightFormat, inputs: usize, factors: &[f32]) -> Vec<u8> {
    let mut numbers = vec![0.0; bytes.len() / kind.block_bytes()];
    dequantize(kind, bytes, &mut numbers);
    let (mut whole, mut rounded) = (vec![0.0; inputs.next_multiple_of(format.block_inputs())], Vec::new());
    for row in numbers.chunks_exact_mut(inputs.max(1)) {
        row.iter_mut().zip(factors).for_each(|(weight, factor)| *weight /= factor);
        whole[..inputs].copy_from_slice(row);
        quantize(format, &whole, &mut rounded);
    }
    rounded
}
