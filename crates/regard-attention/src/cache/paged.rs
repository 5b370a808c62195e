//! A cache in pages.

use std::fmt;

use regard_kernels::Kernels;
use regard_memory::Tensor;
use regard_simd::Isa;
use regard_threads::Pool;

use crate::cache::run::{Place, Sealed, View};
use crate::cache::table::PageTable;
use crate::{CacheDtype, Cached, Element, Error, PAGE, PagePool};

/// The keys and values of one sequence and layer, in pages of [`PAGE`] tokens that it takes from a pool as it grows.
///
/// A fork shares all pages, so that sequences with a common beginning hold it once. Only a page that is not full can be
/// written to again, and one that is shared is copied first.
///
/// ```
/// use regard_attention::{CacheDtype, PAGE, PagePool, PagedCache};
/// use regard_memory::Tensor;
/// use regard_simd::Isa;
/// use regard_threads::Pool;
///
/// let (kv_heads, dim) = (2, 64);
/// let pool = PagePool::new(CacheDtype::Bf16, kv_heads, dim, dim, 8)?;
/// let numbers: Vec<f32> = (0..kv_heads * 1000 * dim).map(|i| (i as f32).sin()).collect();
/// let tokens = |n| Tensor::new(&numbers, [1, kv_heads, n, dim], [1000 * dim * kv_heads, 1000 * dim, dim]);
///
/// // A common beginning of 600 tokens: two full pages, and 88 tokens of a third.
/// let mut first = PagedCache::new(&pool);
/// first.append(tokens(600)?, tokens(600)?, Isa::best(), Pool::global())?;
/// let mut second = first.fork();
/// assert_eq!((first.pages(), second.pages(), pool.used()), (3, 3, 3));
///
/// // Where they part, the third page is copied.
/// second.append(tokens(1)?, tokens(1)?, Isa::best(), Pool::global())?;
/// assert_eq!((first.len(), second.len(), pool.used()), (600, 601, 4));
///
/// // Back to the full pages that both hold; then one of them goes.
/// second.truncate(2 * PAGE);
/// assert_eq!(pool.used(), 3);
/// drop(first);
/// assert_eq!(pool.used(), 2);
///
/// // The pool's limit: 2 pages are in use, 7 more are too many, and nothing has happened.
/// assert!(second.append(tokens(1000)?, tokens(1000)?, Isa::best(), Pool::global()).is_ok());
/// assert!(second.append(tokens(1000)?, tokens(1000)?, Isa::best(), Pool::global()).is_err());
/// assert_eq!((second.len(), pool.used()), (1512, 6));
/// # Ok::<(), regard_attention::Error>(())
/// ```
///
/// While attention reads a cache nobody writes to its pages: it borrows the cache, and a page that other caches share with it
/// is not written to at all. Caches of one pool may be used from several threads.
pub struct PagedCache {
    table: PageTable,
}

impl PagedCache {
    /// An empty cache, which holds no page yet.
    pub fn new(pool: &PagePool) -> PagedCache {
        PagedCache { table: PageTable::new(pool.clone()) }
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// Pages that it holds, alone or with others.
    pub fn pages(&self) -> usize {
        self.table.pages().len()
    }

    /// Where its pages come from.
    pub fn pool(&self) -> &PagePool {
        &self.table.pool
    }

    /// How it stores numbers.
    pub fn dtype(&self) -> CacheDtype {
        self.pool().dtype()
    }

    /// Appends tokens: `keys [1, kv_heads, n, dim_k]`, `values [1, kv_heads, n, dim_v]`. Allocates nothing while the last
    /// page is this cache's alone and has room.
    ///
    /// # Errors
    /// A shape is not the pool's, or the pool has too few pages left; then nothing is written.
    pub fn append<T: Element>(
        &mut self,
        keys: Tensor<'_, T>,
        values: Tensor<'_, T>,
        isa: Isa,
        pool: &Pool,
    ) -> Result<(), Error> {
        let format = *self.pool().format();
        format.check_tokens(&keys, &values)?;
        let (len, n) = (self.len(), keys.shape()[2]);
        self.table.grow(n)?;
        let mut done = 0;
        while done < n {
            let (page, within) = ((len + done) / PAGE, (len + done) % PAGE);
            let until = n.min(done + PAGE - within);
            let bytes = self.table.page_mut(page);
            if let Err(error) = format.write(bytes, within, (keys, values), done..until, Kernels::new(isa), pool) {
                self.table.truncate(len);
                return Err(error);
            }
            done = until;
        }
        Ok(())
    }

    /// Forgets the tokens from `len` on. Pages that nobody else holds are free again.
    pub fn truncate(&mut self, len: usize) {
        self.table.truncate(len);
    }

    /// A cache that begins as this one does, and goes its own way. It shares all pages; for a shorter common beginning
    /// [truncate](PagedCache::truncate) it.
    pub fn fork(&self) -> PagedCache {
        PagedCache { table: self.table.clone() }
    }
}

/// Without the numbers.
impl fmt::Debug for PagedCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagedCache").field("len", &self.len()).field("pool", self.pool()).finish()
    }
}

impl Cached for PagedCache {}

impl Sealed for PagedCache {
    fn view(&self) -> View<'_> {
        View { format: self.pool().format(), len: self.len(), place: Place::Paged(self.table.pages()) }
    }
}
