//! Keys and values already seen, in the layout that the kernels read.

use regard_kernels::{Bf16, F16, F32, Kernels, Operand, PANEL};
use regard_memory::{AlignedBuffer, Arena, Need, Pod, Tensor, TensorMut, chunks_of};
use regard_threads::Pool;

use crate::panels::{PanelSize, Panels, PanelsMut};
use crate::shape::expect;
use crate::task::{Failure, Fold};
use crate::{Element, Error, Plan, Shape};

/// How a cache stores numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheDtype {
    /// Single precision.
    F32,
    /// Half precision: 11 significant bits; products in f32.
    F16,
    /// bfloat16: 8 significant bits; products of bf16 pairs, accumulated in f32.
    Bf16,
}

impl CacheDtype {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            CacheDtype::F32 => 4,
            CacheDtype::F16 | CacheDtype::Bf16 => 2,
        }
    }
}

/// The keys and values of one sequence and layer, up to a fixed number of tokens.
///
/// Memory is reserved for all tokens, but only what is written to becomes resident (of a fork all, where it is copied).
///
/// ```
/// use regard_attention::{Cache, CacheDtype, Options, Plan, Shape};
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
///         &cache,
///         TensorMut::contiguous(&mut out, [1, heads, 1, dim])?,
///         None,
///         &mut scratch,
///         pool,
///     )?;
/// }
/// assert_eq!(cache.len(), 3);
/// # Ok::<(), regard_attention::Error>(())
/// ```
#[derive(Debug)]
pub struct Cache {
    kv_heads: usize,
    dim_k: usize,
    dim_v: usize,
    capacity: usize,
    len: usize,
    store: Store,
}

#[derive(Debug)]
enum Store {
    F32(Heads<F32>),
    F16(Heads<F16>),
    Bf16(Heads<Bf16>),
}

/// Panels of all heads, one head after the other.
#[derive(Debug)]
struct Heads<E: Operand> {
    size: PanelSize,
    /// Panels of a head.
    panels: usize,
    keys: AlignedBuffer<E::B>,
    values: AlignedBuffer<E::B>,
    wild: AlignedBuffer<u8>,
}

impl<E: Operand> Heads<E> {
    fn new(kv_heads: usize, dim_k: usize, dim_v: usize, capacity: usize) -> Result<Self, Error> {
        let size = PanelSize::of::<E>(dim_k, dim_v);
        let panels = capacity.div_ceil(PANEL);
        let words = |each: usize| {
            let overflow = regard_memory::Error::Overflow { what: "cache" };
            kv_heads.checked_mul(panels).and_then(|n| n.checked_mul(each)).ok_or(overflow)
        };
        Ok(Heads {
            size,
            panels,
            keys: AlignedBuffer::zeroed(words(size.keys)?)?,
            values: AlignedBuffer::zeroed(words(size.values)?)?,
            wild: AlignedBuffer::zeroed(words(1)?)?,
        })
    }

    fn append<T: Element>(
        &mut self,
        kernels: Kernels,
        at: usize,
        keys: Tensor<'_, T>,
        values: Tensor<'_, T>,
        pool: &Pool,
    ) -> Result<(), Error> {
        let (size, panels) = (self.size, self.panels);
        let parts = (
            chunks_of(&mut self.keys, panels * size.keys),
            chunks_of(&mut self.values, panels * size.values),
            chunks_of(&mut self.wild, panels),
        );
        let failure = Failure::default();
        pool.run(parts, |head, (k, v, wild)| {
            let mut panels = PanelsMut::<E> { size, keys: k, values: v, wild };
            failure.catch(|| Ok(panels.write(kernels, at, keys.rows(0, head), values.rows(0, head))?));
        });
        failure.into_result()
    }

    fn head(&self, head: usize) -> Panels<'_, E> {
        let (size, from) = (self.size, head * self.panels);
        Panels {
            size,
            keys: &self.keys[from * size.keys..][..self.panels * size.keys],
            values: &self.values[from * size.values..][..self.panels * size.values],
            wild: &self.wild[from..][..self.panels],
        }
    }

    fn bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * size_of::<E::B>() + self.wild.len()
    }

    fn fork(&self) -> Result<Self, Error> {
        fn copy<W: Pod>(from: &AlignedBuffer<W>) -> Result<AlignedBuffer<W>, Error> {
            Ok(AlignedBuffer::from_slice(from)?)
        }
        let (keys, values, wild) = (copy(&self.keys)?, copy(&self.values)?, copy(&self.wild)?);
        Ok(Heads { size: self.size, panels: self.panels, keys, values, wild })
    }
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
        for (option, has) in [("kv_heads", kv_heads), ("dim_k", dim_k), ("dim_v", dim_v), ("capacity", capacity)] {
            if has == 0 {
                return Err(Error::Option { option, has: 0.0, expected: "at least 1" });
            }
        }
        let store = match dtype {
            CacheDtype::F32 => Store::F32(Heads::new(kv_heads, dim_k, dim_v, capacity)?),
            CacheDtype::F16 => Store::F16(Heads::new(kv_heads, dim_k, dim_v, capacity)?),
            CacheDtype::Bf16 => Store::Bf16(Heads::new(kv_heads, dim_k, dim_v, capacity)?),
        };
        Ok(Cache { kv_heads, dim_k, dim_v, capacity, len: 0, store })
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

    /// How it stores numbers.
    pub fn dtype(&self) -> CacheDtype {
        match self.store {
            Store::F32(_) => CacheDtype::F32,
            Store::F16(_) => CacheDtype::F16,
            Store::Bf16(_) => CacheDtype::Bf16,
        }
    }

    /// Bytes that a full cache takes.
    pub fn bytes(&self) -> usize {
        match &self.store {
            Store::F32(heads) => heads.bytes(),
            Store::F16(heads) => heads.bytes(),
            Store::Bf16(heads) => heads.bytes(),
        }
    }

    /// Appends tokens: `keys [1, kv_heads, n, dim_k]`, `values [1, kv_heads, n, dim_v]`. Allocates nothing.
    ///
    /// # Errors
    /// A shape is not the cache's, or the tokens do not fit; then nothing is written.
    pub fn append<T: Element>(
        &mut self,
        keys: Tensor<'_, T>,
        values: Tensor<'_, T>,
        isa: regard_simd::Isa,
        pool: &Pool,
    ) -> Result<(), Error> {
        let n = keys.shape()[2];
        expect("keys", keys.shape(), [1, self.kv_heads, n, self.dim_k])?;
        expect("values", values.shape(), [1, self.kv_heads, n, self.dim_v])?;
        if n > self.capacity - self.len {
            return Err(Error::CacheFull { len: self.len, capacity: self.capacity, more: n });
        }
        let (kernels, at) = (Kernels::new(isa), self.len);
        match &mut self.store {
            Store::F32(heads) => heads.append(kernels, at, keys, values, pool)?,
            Store::F16(heads) => heads.append(kernels, at, keys, values, pool)?,
            Store::Bf16(heads) => heads.append(kernels, at, keys, values, pool)?,
        }
        self.len += n;
        Ok(())
    }

    /// Forgets the tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// A copy that goes its own way.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn fork(&self) -> Result<Cache, Error> {
        let store = match &self.store {
            Store::F32(heads) => Store::F32(heads.fork()?),
            Store::F16(heads) => Store::F16(heads.fork()?),
            Store::Bf16(heads) => Store::Bf16(heads.fork()?),
        };
        Ok(Cache { store, ..*self })
    }
}

impl Plan {
    /// Computes attention over a cache, for a plan of one batch entry: `q [1, heads, queries, dim_k]` gives
    /// `out [1, heads, queries, dim_v]`, and where asked `lse [1, heads, queries, 1]`, the natural logarithm of the sum of
    /// exponentials. The plan's number of keys is the cache's length, see [`Plan::resize`].
    ///
    /// # Errors
    /// A shape is not the plan's, or there is no memory for the scratch.
    pub fn run_cached<T: Element>(
        &self,
        q: Tensor<'_, T>,
        cache: &Cache,
        out: TensorMut<'_, T>,
        lse: Option<TensorMut<'_, f32>>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = self.shape;
        expect("queries", q.shape(), [1, heads, queries, dim_k])?;
        expect("cache", [1, cache.kv_heads, cache.len, cache.dim_k], [batch, kv_heads, keys, dim_k])?;
        expect("cached values", [1, cache.kv_heads, cache.len, cache.dim_v], [1, kv_heads, keys, dim_v])?;
        expect("out", out.shape(), [1, heads, queries, dim_v])?;
        if let Some(lse) = &lse {
            expect("lse", lse.shape(), [1, heads, queries, 1])?;
        }
        if heads * queries == 0 {
            return Ok(());
        }
        match &cache.store {
            Store::F32(heads) => self.fold_cached(q, heads, out, lse, scratch, pool),
            Store::F16(heads) => self.fold_cached(q, heads, out, lse, scratch, pool),
            Store::Bf16(heads) => self.fold_cached(q, heads, out, lse, scratch, pool),
        }
    }

    /// The scratch that [`Plan::run_cached`] takes from its arena, on a pool of so many threads.
    pub fn need_cached(&self, cache: &Cache, threads: usize) -> Need {
        let Shape { heads, kv_heads, queries, .. } = self.shape;
        let fold = match &cache.store {
            Store::F32(heads) => Fold::<F32>::new(self, heads.size).need(kv_heads, threads),
            Store::F16(heads) => Fold::<F16>::new(self, heads.size).need(kv_heads, threads),
            Store::Bf16(heads) => Fold::<Bf16>::new(self, heads.size).need(kv_heads, threads),
        };
        fold.and(Need::of::<f32>(heads * queries))
    }

    fn fold_cached<T: Element, E: Operand>(
        &self,
        q: Tensor<'_, T>,
        cached: &Heads<E>,
        out: TensorMut<'_, T>,
        lse: Option<TensorMut<'_, f32>>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let Shape { heads, kv_heads, queries, .. } = self.shape;
        let fold = Fold::<E>::new(self, cached.size);
        let need = fold.need(kv_heads, pool.threads());
        let mut frame = scratch.frame(need.and(Need::of::<f32>(heads * queries)))?;
        let lse = match lse {
            Some(lse) => lse,
            None => TensorMut::contiguous(frame.take(heads * queries), [1, heads, queries, 1])?,
        };
        let query = |head: usize, i: usize, g: usize| q.rows(0, head * fold.group + g).row(i);
        fold.heads(0..kv_heads, |head| cached.head(head), query, out, lse, &mut frame, pool)
    }
}
