//! What can be wrong with a call.

/// A call of attention that cannot be done.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor's shape does not fit the others.
    #[error("`{tensor}` has {axis} {has}, expected {expected}")]
    Axis {
        /// Which tensor.
        tensor: &'static str,
        /// Which of its axes.
        axis: &'static str,
        /// The extent it has.
        has: usize,
        /// The extent it should have, in words.
        expected: String,
    },
    /// A number among the options is not usable.
    #[error("{option} is {has}, it must be {expected}")]
    Option {
        /// Which option.
        option: &'static str,
        /// Its value.
        has: f64,
        /// What is allowed, in words.
        expected: &'static str,
    },
    /// The cache has no room for the tokens.
    #[error("the cache holds {len} of {capacity} tokens, {more} more do not fit")]
    CacheFull {
        /// Tokens in the cache.
        len: usize,
        /// Tokens that it can hold.
        capacity: usize,
        /// Tokens to be appended.
        more: usize,
    },
    /// `REGARD_ISA` names an instruction set that this CPU does not have.
    #[error("REGARD_ISA: {0}")]
    Isa(#[from] regard_simd::IsaError),
    /// A view or buffer could not be made.
    #[error(transparent)]
    Memory(#[from] regard_memory::Error),
    /// A mask could not be compiled.
    #[error(transparent)]
    Mask(#[from] regard_masks::Error),
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] regard_kernels::Error),
}
