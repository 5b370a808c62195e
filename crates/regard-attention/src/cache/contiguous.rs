//! A cache in one piece.

use std::fmt;

use regard_kernels::Kernels;
use regard_memory::{AlignedBuffer, Tensor};
use regard_simd::Isa;
use regard_threads::Pool;

use crate::cache::block::BlockFormat;
use crate::cache::run::{Place, Sealed, View};
use crate::{CacheDtype, Cached, Element, Error};

/// The keys and values of one sequence and layer, up to a fixed number of tokens.
///
/// Memory is reserved for all tokens, but only what is written to becomes resident (of a fork all, where it is copied).
///
/// ```
/// use regard_attention::{Cache, CacheDtype, Options, Outputs, Plan, Shape, Terms};
/// use regard_masks::Mask;
/// use regard_memory::{Arena, Tensor, TensorMut};
/// use regard_simd::Isa;
/// use regard_threads::Pool;
///
/// let (heads, kv_heads, dim) = (4, 2, 64);
/// let mut cache = Cache::new(CacheDtype::Bf16, kv_heads, dim, dim, 1024)?;
/// let shape = Shape { batch: 1, heads, kv_heads, queries: 1, keys: 1, dim_k: dim, dim_v: dim };
/// let mut plan = Plan::new(shape, &Mask::causal(), &Options::default())?;
/// let (mut scratch, pool) = (Arena::new(), Pool::global());
///
/// for token in 0..3 {
///     let row = |n: usize| -> Vec<f32> { (0..n * dim).map(|c| ((token * 31 + c) as f32).sin()).collect() };
///     let (q, k, v) = (row(heads), row(kv_heads), row(kv_heads));
///     cache.append(
///         Tensor::contiguous(&k, [1, kv_heads, 1, dim])?,
///         Tensor::contiguous(&v, [1, kv_heads, 1, dim])?,
///         Isa::best(),
///         pool,
///     )?;
///     plan.resize(1, cache.len())?;
///     let mut out = vec![0.0f32; heads * dim];
///     plan.run_cached(
///         Tensor::contiguous(&q, [1, heads, 1, dim])?,
///         &[&cache],
///         Terms::default(),
///         Outputs::new(TensorMut::contiguous(&mut out, [1, heads, 1, dim])?),
///         &mut scratch,
///         pool,
///     )?;
/// }
/// assert_eq!(cache.len(), 3);
/// # Ok::<(), regard_attention::Error>(())
/// ```
pub struct Cache {
    format: BlockFormat,
    capacity: usize,
    len: usize,
    block: AlignedBuffer<u8>,
}

impl Cache {
    /// A cache for `capacity` tokens of `kv_heads` heads.
    ///
    /// # Errors
    /// A size is 0 or too large for the memory.
    pub fn new(
        dtype: CacheDtype,
        kv_heads: usize,
        dim_k: usize,
        dim_v: usize,
        capacity: usize,
    ) -> Result<Cache, Error> {
        let format = BlockFormat::new(dtype, kv_heads, (dim_k, dim_v), capacity)?;
        Ok(Cache { format, capacity, len: 0, block: AlignedBuffer::zeroed(format.bytes())? })
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Key/value heads.
    pub fn kv_heads(&self) -> usize {
        self.format.kv_heads
    }

    /// Numbers of a key and of a value.
    pub fn dims(&self) -> [usize; 2] {
        [self.format.dim_k, self.format.dim_v]
    }

    /// How it stores numbers.
    pub fn dtype(&self) -> CacheDtype {
        self.format.dtype
    }

    /// Bytes that a full cache takes.
    pub fn bytes(&self) -> usize {
        self.format.bytes()
    }

    /// Appends tokens: `keys [1, kv_heads, n, dim_k]`, `values [1, kv_heads, n, dim_v]`. Allocates nothing.
    ///
    /// # Errors
    /// A shape is not the cache's, or the tokens do not fit; then nothing is written.
    pub fn append<T: Element>(
        &mut self,
        keys: Tensor<'_, T>,
        values: Tensor<'_, T>,
        isa: Isa,
        pool: &Pool,
    ) -> Result<(), Error> {
        self.format.check_tokens(&keys, &values)?;
        let n = keys.shape()[2];
        if n > self.capacity - self.len {
            return Err(Error::CacheFull { len: self.len, capacity: self.capacity, more: n });
        }
        self.format.write(&mut self.block, self.len, (keys, values), 0..n, Kernels::new(isa), pool)?;
        self.len += n;
        Ok(())
    }

    /// Forgets the tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// A copy that goes its own way. (Sequences that share their beginning instead: [`PagedCache`](crate::PagedCache).)
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn fork(&self) -> Result<Cache, Error> {
        Ok(Cache { block: AlignedBuffer::from_slice(&self.block)?, ..*self })
    }
}

/// Without the numbers.
impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cache { format, capacity, len, .. } = self;
        f.debug_struct("Cache").field("format", format).field("capacity", capacity).field("len", len).finish()
    }
}

impl Cached for Cache {}

impl Sealed for Cache {
    fn view(&self) -> View<'_> {
        View { format: &self.format, len: self.len, place: Place::Whole(&self.block) }
    }
}
