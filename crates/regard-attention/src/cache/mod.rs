//! Keys and values already seen, in the layout that the kernels read: in one piece, or in pages that sequences share.

mod block;
mod contiguous;
mod paged;
mod pool;
mod run;
mod table;

pub use contiguous::Cache;
pub use paged::PagedCache;
pub use pool::PagePool;
pub use run::Cached;
pub(crate) use table::HeadPages;

use regard_kernels::PANEL;

/// Panels of a page. A block of keys, over which one softmax goes, is a whole number of pages: no page cuts one in two.
pub(crate) const PAGE_PANELS: usize = 4;

/// Tokens of a page: 256. On average a sequence leaves half of its last page unused, and a fork that goes on copies one, so
/// a page should be small; but each is a run of memory of its own to be found and streamed, and at 8 heads of 128
/// in bf16 a page is 1 MiB, a head's keys in it 64 KiB. (Decoding over 8192 keys costs the same as in one piece.)
pub const PAGE: usize = PAGE_PANELS * PANEL;

/// How a cache stores numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheDtype {
    /// Single precision.
    F32,
    /// Half precision: 11 significant bits; products in f32.
    F16,
    /// bfloat16: 8 significant bits; products of bf16 pairs, accumulated in f32.
    Bf16,
    /// Bytes: of each key and each value whole numbers of −127 to 127 and a scale in f32, the largest magnitude over 127.
    /// One that holds a number which is not finite is NaN to whoever sees it.
    Int8,
}

impl CacheDtype {
    /// Bytes of a number, without scales.
    pub fn bytes(self) -> usize {
        match self {
            CacheDtype::F32 => 4,
            CacheDtype::F16 | CacheDtype::Bf16 => 2,
            CacheDtype::Int8 => 1,
        }
    }
}
