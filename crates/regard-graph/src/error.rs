//! What can be refused.

/// What no index, mask, retrieval or report can be made of.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An array whose shape does not fit.
    #[error("`{tensor}` has {axis} {has}, expected {expected}")]
    Axis {
        /// Which array.
        tensor: &'static str,
        /// Which of its axes.
        axis: &'static str,
        /// The extent it has.
        has: usize,
        /// The extent it should have, in words.
        expected: String,
    },
    /// An array that holds NaN or an infinity: such a number is near to nothing.
    #[error("`{tensor}` holds {has} at {at:?}, expected finite numbers")]
    NotFinite {
        /// Which array.
        tensor: &'static str,
        /// The first such number.
        has: f32,
        /// Where it stands.
        at: Vec<usize>,
    },
    /// A parameter out of its range.
    #[error("{parameter} is {has}, it must be {expected}")]
    Parameter {
        /// Which one.
        parameter: &'static str,
        /// What it is.
        has: String,
        /// What it may be.
        expected: String,
    },
    /// A level that the index does not have.
    #[error("level {has} of an index whose levels are 0 to {highest}")]
    Level {
        /// The level that was asked for.
        has: usize,
        /// The highest that there is.
        highest: usize,
    },
    /// A node that the index does not have.
    #[error("node {has} of an index of {nodes} nodes")]
    Node {
        /// The node that was asked for.
        has: usize,
        /// How many there are.
        nodes: usize,
    },
    /// A mask refused its parts.
    #[error(transparent)]
    Mask(#[from] regard_masks::Error),
    /// Attention refused its inputs.
    #[error(transparent)]
    Attention(#[from] regard_attention::Error),
}
