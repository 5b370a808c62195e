//! What can be wrong with a call.

use crate::CacheDtype;

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
    #[error("{option} is {}, it must be {expected}", short(*has))]
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
    /// The pool has too few pages left.
    #[error("the pool has {used} of {limit} pages in use, {more} more do not fit")]
    PoolFull {
        /// Pages in use.
        used: usize,
        /// Pages that there may be.
        limit: usize,
        /// Pages that are needed.
        more: usize,
    },
    /// Caches of one call store different numbers.
    #[error("caches of one call store {first:?} and {other:?}")]
    CacheDtypes {
        /// What the first one stores.
        first: CacheDtype,
        /// What another one does.
        other: CacheDtype,
    },
    /// A call over a shared prefix is told of what it cannot have.
    #[error("attention over a shared prefix takes no lengths, segments, offsets of each, dropout, bias or slopes")]
    Unshared,
    /// Packed sequences share keys, whose gradients would be written twice.
    #[error("packed sequences share keys: the backward pass needs them apart")]
    SharedKeys,
    /// A gradient is asked for of what is not there.
    #[error("a gradient of `{tensor}` is asked for, which the call does not have")]
    NoTerm {
        /// Which input.
        tensor: &'static str,
    },
    /// The plan is of packed sequences, which have no lengths to be changed.
    #[error("the plan is of packed sequences: make a new one for others")]
    Packed,
    /// A recurrence that forgets, or corrects what it wrote, has an order.
    #[error(
        "linear attention in both directions takes no log decays and no betas: only the plain rule has such a form"
    )]
    Causal,
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

/// A number without hundreds of digits.
fn short(number: f64) -> String {
    let plain = number == 0.0 || (1e-5..1e15).contains(&number.abs());
    if plain { number.to_string() } else { format!("{number:e}") }
}
