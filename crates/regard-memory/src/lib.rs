//! Memory of the engine: where bytes come from and how they are looked at.
//!
//! | noun | one sentence |
//! | --- | --- |
//! | [`AlignedBuffer`] | owned numbers, aligned to 64 bytes, zeroed lazily, optionally on huge pages |
//! | [`Region`] | buffers that live together, one behind the other, and fill huge pages together |
//! | [`Arena`] | the only place that scratch comes from; its [`Need`] is stated before it is used |
//! | [`Rows`], [`RowsMut`] | a borrowed strided matrix, checked once |
//! | [`Tensor`], [`TensorMut`] | a borrowed `[batch, heads, seq, dim]`, checked once |
//! | [`Parts`] | something mutable that falls apart into disjoint parts, one per task |
//! | [`CountingAllocator`] | the system's allocator, counting what is taken from it |
//!
//! The views hold pointers, so that several of them can look at interleaved pieces of one allocation. Every safe way to
//! make one checks it against the slice that it borrows, and a mutable view only ever splits into disjoint ones. That is
//! what lets the crates above write to shared outputs from several threads without a line of `unsafe`.

mod ahead;
mod arena;
mod available;
mod block;
mod buffer;
mod counting;
mod cuts;
mod error;
mod grid;
#[cfg(feature = "ndarray")]
mod ndarray;
mod need;
mod pages;
mod parts;
mod prefetch;
mod region;
mod rows;
mod rows_mut;
mod tensor;
mod tensor_mut;

pub use ahead::Ahead;
pub use arena::{Arena, Frame, Frames};
pub use available::available;
pub use buffer::AlignedBuffer;
/// Plain numbers: any bits are a value and no byte is padding. Implemented for the primitive numbers, their arrays,
/// `half::f16` and `half::bf16`.
pub use bytemuck::Pod;
pub use bytemuck::{Zeroable, cast_slice, cast_slice_mut, try_cast_slice, try_cast_slice_mut};
pub use counting::{CountingAllocator, Taken};
pub use cuts::{CutParts, Cuts};
pub use error::{Error, Result};
pub use grid::GridParts;
pub use need::Need;
pub use pages::{Pages, advise_huge};
pub use parts::{Backwards, Chunks, Each, Indices, Parts, Pieces, backwards, chunks_of, each_of, pieces_of};
pub use prefetch::{prefetch_read, prefetch_row, prefetch_stream, prefetch_write};
pub use region::Region;
pub use rows::Rows;
pub use rows_mut::{ColumnParts, RowParts, RowsMut};
pub use tensor::Tensor;
pub use tensor_mut::{BlockParts, TensorMut};

/// Bytes in a line: the alignment of every buffer and of every piece of an arena. It is a cache line of x86 and of most
/// ARM cores, and the widest vector (512 bits).
pub const LINE: usize = 64;
