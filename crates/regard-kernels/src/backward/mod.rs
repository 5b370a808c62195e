//! The backward pass of attention, block by block of pairs, as in FlashAttention-2 (Dao, 2023, algorithm 2).
//!
//! With the weights `P = exp(ŝ − LSE)` computed anew from the log-sum-exp, and `Δ = rowsum(dO∘O)`:
//!
//! ```text
//! dP = dO·Vᵀ    dŝ = P∘(dP − Δ + dLSE)    dQ = scale·ds·K    dK = scale·dsᵀ·Q    dV = Pᵀ·dO
//! ```
//!
//! [`Kernels::recompute`](crate::Kernels::recompute) makes `P` and `ds` of one tile; a [`Pairs`] keeps those of a block of
//! tiles, over which each of the three products runs at once. The factor `scale` is the caller's, at the end.

mod dot;
mod kept;
mod pairs;
mod products;
mod recompute;
mod weigh;
mod weighing;

pub use pairs::{Pairs, Region, Transposable};
pub(crate) use products::{OverKeys, OverRows};
pub(crate) use recompute::Recompute;
pub use recompute::{GradientRows, KeyPanels};
pub(crate) use weigh::Weigh;
pub use weighing::{Dropout, Weighing};
