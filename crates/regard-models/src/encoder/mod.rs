//! Encoders: texts to vectors that are near one another where the texts mean the same.

mod describe;
mod load;
mod run;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use regard_kernels::Kernels;
use regard_threads::Pool;

use crate::model::LoadOptions;
use crate::projection::Projection;
use crate::tokenizer::{Special, Tokenizer};
use crate::{Error, Folder, Result};

pub use describe::{EncoderDescription, Pooling, RelativeBias};

/// What products are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Weights and what they are applied to are rounded to bf16, and sums are f32: some 1.8 times as fast where the CPU has
    /// instructions for it. The cosine with the vectors of [`Precision::F32`] is over 0.9995, of MPNet for nearly all texts.
    Bf16,
    /// Weights, and what they are applied to, are rounded to bytes, 32 of which share a scale; sums of a block are integers,
    /// and those of blocks f32. Where a norm makes some inputs larger than others, they are evened out. The cosine with the
    /// vectors of [`Precision::F32`] is over 0.999, of MPNet over 0.998, for lines of some words; of single words it is less.
    Int8,
    /// Single precision.
    F32,
}

/// An encoder of the BERT family: sentence embeddings.
///
/// ```no_run
/// use regard_models::{Encoder, LoadOptions, Precision};
///
/// let encoder = Encoder::load("all-MiniLM-L6-v2".as_ref(), Precision::Bf16, &LoadOptions::default())?;
/// let vectors = encoder.encode(&["A cat sleeps.", "Stocks fell."])?;
/// let cosine: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
/// println!("{cosine}");
/// # Ok::<(), regard_models::Error>(())
/// ```
pub struct Encoder {
    description: EncoderDescription,
    tokenizer: Tokenizer,
    kernels: Kernels,
    pool: Arc<Pool>,
    precision: Precision,
    /// `[vocabulary, width]`.
    words: Projection,
    /// `[positions][width]`: of each position, and of a first segment where there are several.
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    /// `[heads][2·positions − 1]`: what is added to the score of a key so far behind its query, the furthest ahead first.
    relative: Vec<f32>,
}

/// The weights of a LayerNorm, `[width]` each.
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// The weights of a layer: `x ← norm(x + out(attention(qkv(x))))`, then `x ← norm(x + down(activation(up(x))))`.
struct Layer {
    /// Queries, keys and values, `[width, width]` each.
    qkv: Projection,
    /// `[width, width]`.
    out: Projection,
    mixer_norm: Norm,
    /// `[hidden, width]`.
    up: Projection,
    /// `[width, hidden]`.
    down: Projection,
    norm: Norm,
}

/// The most tokens that go through the layers together: enough that a weight's panel serves many rows, and few enough that
/// what one layer hands to the next stays in the caches.
const TOKENS_AT_ONCE: usize = 2048;

impl Encoder {
    /// Loads a folder as sentence-transformers or transformers saves it.
    ///
    /// # Errors
    /// The folder is no sound encoder of a family that runs here. The message names the file and the field.
    pub fn load(path: &Path, precision: Precision, options: &LoadOptions) -> Result<Encoder> {
        Encoder::from_folder(&Folder::open(path)?, precision, options)
    }

    /// What the encoder is made of.
    pub fn description(&self) -> &EncoderDescription {
        &self.description
    }

    /// Its tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What products are computed in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The vectors of some texts, `[width]` each, in order. Texts longer than the model's limit count up to it, and one without a
    /// token has the vector 0.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn encode(&self, texts: &[impl AsRef<str>]) -> Result<Vec<Vec<f32>>> {
        self.encode_with(texts, &mut |_| ())
    }

    /// The same, telling after each batch how many texts are done.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn encode_with(&self, texts: &[impl AsRef<str>], done: &mut dyn FnMut(usize)) -> Result<Vec<Vec<f32>>> {
        let tokens = texts.iter().map(|text| self.tokens(text.as_ref())).collect::<Result<Vec<_>>>()?;
        // Neighbours are of one length, or nearly: these attend together.
        let mut order: Vec<usize> = (0..tokens.len()).filter(|&index| !tokens[index].is_empty()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(tokens[index].len()));
        let mut vectors = vec![vec![0.0; self.description.width]; tokens.len()];
        let mut scratch = run::Scratch::default();
        let mut rest = order.as_slice();
        let mut finished = tokens.len() - order.len();
        while !rest.is_empty() {
            let mut sum = 0;
            let count = rest.iter().take_while(|&&index| {
                sum += tokens[index].len();
                sum <= TOKENS_AT_ONCE
            });
            let (batch, others) = rest.split_at(count.count().max(1));
            rest = others;
            let of_batch: Vec<&[u32]> = batch.iter().map(|&index| tokens[index].as_slice()).collect();
            let rows = self.run(&of_batch, &mut scratch)?;
            for (&index, vector) in batch.iter().zip(rows) {
                if !vector.iter().all(|x| x.is_finite()) {
                    return Err(Error::Vector { index });
                }
                vectors[index] = vector;
            }
            finished += batch.len();
            done(finished);
        }
        Ok(vectors)
    }

    /// The tokens of a text: with those that begin and end one, and cut where the model sees no further.
    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let EncoderDescription { prompt, lower_case, context, .. } = &self.description;
        let mut text = Cow::Borrowed(text);
        if !prompt.is_empty() {
            text = Cow::Owned(format!("{prompt}{text}"));
        }
        if *lower_case {
            text = Cow::Owned(text.to_lowercase());
        }
        let tokens = self.tokenizer.encode_up_to(&text, Special::AsText, *context)?;
        let vocabulary = self.description.vocabulary;
        match tokens.iter().find(|&&token| token as usize >= vocabulary) {
            Some(&token) => {
                let text = self.tokenizer.token_text(token).map(str::to_owned);
                Err(Error::UnknownToken { token, text, vocabulary })
            }
            None => Ok(tokens),
        }
    }
}
