//! The weights of an encoder.

use super::describe::{EncoderDescription, RelativeBias};
use super::{Encoder, Layer, Norm, Precision};
use crate::checkpoint::Checkpoint;
use crate::family::{ENCODERS, EncoderFamily};
use crate::load::{Loader, Member};
use crate::model::LoadOptions;
use crate::projection::Rounding;
use crate::tokenizer::Tokenizer;
use crate::{Folder, Optional, Result};

impl Encoder {
    /// The same as [`Encoder::load`] from a folder that is open.
    ///
    /// # Errors
    /// As [`Encoder::load`].
    pub fn from_folder(folder: &Folder, precision: Precision, options: &LoadOptions) -> Result<Encoder> {
        let (kernels, pool) = options.machine()?;
        let description = EncoderDescription::from_folder(folder)?;
        let tokenizer = Tokenizer::from_folder(folder)?;
        let family = folder.config().encoder(&ENCODERS)?;
        let &EncoderDescription { vocabulary, width, context, first_position, .. } = &description;
        tokenizer.check_within(folder, vocabulary, None)?;

        // Models with a head for a task keep the encoder under its name.
        let prefix = match folder.tensors().any(|(name, ..)| name.starts_with(family.prefix)) {
            true => family.prefix,
            false => "",
        };
        let name = |tensor: &str| format!("{prefix}{tensor}");
        let words = name("embeddings.word_embeddings");
        let stored = folder.tensor(&format!("{words}.weight"))?.kind.block_bytes();
        let mut loader = Loader::new(folder, &pool, description.weight_bytes(precision, stored))?;
        let words = loader.projection(&[Member::new(words, vocabulary)], width)?;
        let table = folder.config().size("max_position_embeddings")? as usize;
        let all = loader.matrix(&name("embeddings.position_embeddings.weight"), table, width)?;
        let mut positions = all[first_position * width..][..context * width].to_vec();
        let types = folder.config().size("type_vocab_size").optional()?.unwrap_or(0) as usize;
        if family.token_types && types > 0 {
            // Of all texts the tokens are of the first kind.
            let kinds = loader.matrix(&name("embeddings.token_type_embeddings.weight"), types, width)?;
            for row in positions.chunks_exact_mut(width) {
                row.iter_mut().zip(&kinds[..width]).for_each(|(x, more)| *x += more);
            }
        }
        let norm = read_norm(&mut loader, &name("embeddings.LayerNorm"), width)?;
        // Rounded once, here.
        loader.rounding = match precision {
            Precision::F32 => Rounding::None,
            Precision::Bf16 => Rounding::Bf16,
            Precision::Int8 => Rounding::Int8,
        };
        let mut layers = Vec::<Layer>::new();
        for index in 0..description.layers {
            let before = layers.last().map_or(&norm, |layer| &layer.norm);
            let name = name(&format!("encoder.layer.{index}"));
            layers.push(layer(&mut loader, family, &name, &description, before)?);
        }
        let relative = match description.relative {
            None => Vec::new(),
            Some(relative) => {
                let tensor = name("encoder.relative_attention_bias.weight");
                let table = loader.matrix(&tensor, relative.buckets, description.heads)?;
                by_distance(relative, &table, description.heads, context)
            }
        };
        let of_encoder = [name("encoder."), name("embeddings.")];
        loader.check_all_placed(&description.architecture, |tensor| {
            of_encoder.iter().any(|prefix| tensor.starts_with(prefix))
        })?;
        Ok(Encoder { description, tokenizer, kernels, pool, precision, words, positions, norm, layers, relative })
    }
}

fn read_norm(loader: &mut Loader<'_, Folder>, name: &str, width: usize) -> Result<Norm> {
    let weight = loader.norm(&format!("{name}.weight"), width)?;
    Ok(Norm { weight, bias: loader.vector(&format!("{name}.bias"), width)? })
}

fn layer(
    loader: &mut Loader<'_, Folder>,
    family: &EncoderFamily,
    layer: &str,
    description: &EncoderDescription,
    before: &Norm,
) -> Result<Layer> {
    let &EncoderDescription { width, hidden, .. } = description;
    let member = |name: &str, outputs| Member::new(format!("{layer}.{name}"), outputs).biased(true);
    let [query, key, value] = family.qkv;
    let qkv = [query, key, value].map(|name| member(name, width));
    let qkv = loader.projection_of(&qkv, width, &before.expected())?;
    let out = loader.projection(&[member(family.out, width)], width)?;
    let mixer_norm = read_norm(loader, &format!("{layer}.{}", family.mixer_norm), width)?;
    Ok(Layer {
        qkv,
        out,
        up: loader.projection_of(&[member("intermediate.dense", hidden)], width, &mixer_norm.expected())?,
        mixer_norm,
        down: loader.projection(&[member("output.dense", width)], hidden)?,
        norm: read_norm(loader, &format!("{layer}.output.LayerNorm"), width)?,
    })
}

impl Norm {
    /// How large what it gives is expected to be: its mean, and two standard deviations.
    fn expected(&self) -> Vec<f32> {
        self.weight.iter().zip(&self.bias).map(|(weight, bias)| bias.abs() + 2.0 * weight.abs()).collect()
    }
}

/// `[heads][2·context − 1]`, from `table [buckets][heads]`: the biases of keys `context − 1` ahead of their query to as many
/// behind.
fn by_distance(relative: RelativeBias, table: &[f32], heads: usize, context: usize) -> Vec<f32> {
    let behind = 1 - context as i64..context as i64;
    let bucket = |behind| relative.bucket(behind);
    (0..heads).flat_map(|head| behind.clone().map(move |behind| table[bucket(behind) * heads + head])).collect()
}

impl RelativeBias {
    /// The bucket of a key that stands so far behind its query: those before it and those after it have half of them each, of
    /// which the first half are one distance each, and the others grow with its logarithm.
    pub(super) fn bucket(self, behind: i64) -> usize {
        let half = self.buckets / 2;
        let side = if behind < 0 { half } else { 0 };
        let (distance, exact) = (behind.unsigned_abs() as usize, half / 2);
        if distance < exact {
            return side + distance;
        }
        // In single precision, as the models' own code has it: the edges of buckets depend on it.
        let far = (distance as f32 / exact as f32).ln() / (self.furthest as f64 / exact as f64).ln() as f32;
        side + (exact + (far * (half - exact) as f32) as usize).min(half - 1)
    }
}
