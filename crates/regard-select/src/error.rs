//! What can be refused.

/// What nothing can be chosen from, or learned from.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An array, or what is made of one, whose shape does not fit.
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
    /// An array that holds NaN or an infinity.
    #[error("`{tensor}` holds {has} at {at:?}, expected finite numbers")]
    NotFinite {
        /// Which array.
        tensor: &'static str,
        /// The first such number.
        has: f32,
        /// Where it stands, `[batch, head, token, dim]`.
        at: [usize; 4],
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
    /// Two things that are of different blocks.
    #[error("`{tensor}` is of {has}, expected {expected}")]
    Blocks {
        /// Which of the two.
        tensor: &'static str,
        /// Its blocks, in words.
        has: String,
        /// Those of the other.
        expected: String,
    },
    /// A selector whose weights are no numbers any more.
    #[error("head {head} has no finite loss after {steps} steps at a rate of {rate}: a smaller one is needed")]
    Diverged {
        /// Which head.
        head: usize,
        /// The steps that were taken.
        steps: usize,
        /// How long they were.
        rate: f64,
    },
    /// A mask refused its parts.
    #[error(transparent)]
    Mask(#[from] regard_masks::Error),
}
