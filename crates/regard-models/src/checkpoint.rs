//! Where a model's sizes and tensors come from: one file in GGUF, or a folder as Hugging Face's libraries write it.
//!
//! Both are asked in GGUF's names, so that what reads a model does not know which of the two it reads.

use std::ops::Range;

use regard_kernels::{Activation, RotaryOrder, RotaryScaling, WeightFormat};

use crate::Result;
use crate::family::Family;

/// A tensor of a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// What messages call it: its name in the file that it stands in.
    pub(crate) name: String,
    /// Its shape, outputs before inputs.
    pub(crate) shape: Vec<u64>,
    /// How it is stored.
    pub(crate) kind: WeightFormat,
    /// Where the checkpoint finds it.
    pub(crate) place: usize,
}

/// What makes a decoder, or an encoder.
pub(crate) trait Checkpoint: Sync {
    /// What messages call it.
    fn file(&self) -> &str;

    /// What messages call the file that its numbers stand in.
    fn settings(&self) -> &str {
        self.file()
    }

    /// The family, by which the names and conventions are known.
    fn family(&self) -> Result<&'static Family>;

    /// A number of the family's, such as `embedding_length`.
    fn u32(&self, key: &str) -> Result<u32>;

    /// A number of the family's, such as `rope.freq_base`.
    fn f32(&self, key: &str) -> Result<f32>;

    /// What messages call such a number.
    fn key(&self, key: &str) -> String;

    /// The activation of the feed-forward layers.
    fn activation(&self, family: &Family) -> Result<Activation>;

    /// Whether queries, keys and values must have biases.
    fn biased(&self, family: &Family) -> Result<bool>;

    /// Whether logits are made with the embedding's weights.
    fn tied(&self, family: &Family) -> Result<bool>;

    /// Which dimensions of a head turn together.
    fn rotary_order(&self, family: &Family) -> RotaryOrder;

    /// How the frequencies of layers that see all keys are scaled, of so many dimensions.
    fn rotary_scaling(&self, dims: usize) -> Result<RotaryScaling>;

    /// For each of so many layers the keys that a query sees, where it does not see all.
    fn windows(&self, family: &Family, layers: usize) -> Result<Vec<Option<usize>>>;

    /// What is added to the weights of norms.
    fn norm_offset(&self, family: &Family) -> f32;

    /// The tensor that GGUF files call so.
    ///
    /// # Errors
    /// [`Missing`](crate::Error::Missing) if there is none, and an error if its type is not read here.
    fn tensor(&self, name: &str) -> Result<Stored>;

    /// Reads some of its rows.
    fn read(&self, tensor: &Stored, rows: Range<u64>, bytes: &mut Vec<u8>) -> Result<()>;

    /// Bytes of all weights.
    fn bytes(&self) -> u64;

    /// What messages call the tensors that hold weights, in any order.
    fn all(&self) -> Vec<&str>;
}
