//! What a caller may say beside the tensors and the mask.

use std::ops::Range;

use regard_simd::Isa;

use crate::Crossovers;

/// How scores are made and cut, beside the mask. The default is plain attention over whole batch entries.
///
/// ```
/// use regard_attention::{Options, Sequences};
///
/// // Scores bent into (−50, 50), and a batch of two whose second entry is padded.
/// let options = Options {
///     softcap: Some(50.0),
///     sequences: Sequences::Lengths { queries: None, keys: Some(vec![128, 77]) },
///     ..Options::default()
/// };
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// What scores are multiplied by; `1/√dim_k` unless given.
    pub scale: Option<f64>,
    /// `c = cap·tanh(scale·q·k / cap)`: scores are bent into `(−cap, cap)`.
    pub softcap: Option<f64>,
    /// Softmax weights that fall, in training.
    pub dropout: Option<Dropout>,
    /// Which queries and keys are real.
    pub sequences: Sequences,
    /// Where queries stand among the keys.
    pub offset: Offset,
    /// The instruction set; the best of this CPU unless given.
    pub isa: Option<Isa>,
    /// Where the regimes cross.
    pub crossovers: Crossovers,
}

/// Softmax weights fall to 0 with a probability, and the others are divided by one minus it. Which ones fall depends on
/// the seed, the sequence's number ([`Terms::sequence_ids`](crate::Terms)), the head, the query and the key alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// At least 0 and below 1.
    pub probability: f32,
    /// Another seed, other weights.
    pub seed: u64,
}

/// Where queries stand: query `i` of a sequence at the key position `i + offset`, both counted from the sequence's first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Offset {
    /// The last query at the last key: `keys − queries` of each sequence (the bottom-right rule).
    #[default]
    AtEnd,
    /// One number for all; 0 is the top-left rule.
    Same(i64),
    /// One for each sequence.
    Each(Vec<i64>),
}

/// Which rows of the tensors are real, and belong together. Other queries get the result 0 and the log-sum-exp −∞; other
/// keys are seen by nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sequences {
    /// Each batch entry is a sequence.
    #[default]
    Whole,
    /// Each batch entry begins with a sequence of so many queries and keys; all of them unless given.
    Lengths {
        /// `[batch]`.
        queries: Option<Vec<usize>>,
        /// `[batch]`.
        keys: Option<Vec<usize>>,
    },
    /// Several sequences packed into a batch entry. No two may share queries (of keys they may).
    Packed(Vec<Segment>),
}

/// One sequence among the rows of a batch entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The batch entry.
    pub batch: usize,
    /// Its rows of queries, and of the result.
    pub queries: Range<usize>,
    /// Its rows of keys and values.
    pub keys: Range<usize>,
}
