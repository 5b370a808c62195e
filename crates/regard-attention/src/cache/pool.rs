//! Pages, of which there is a fixed number.

use std::fmt;
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use regard_memory::AlignedBuffer;

use crate::cache::block::BlockFormat;
use crate::{CacheDtype, Error, PAGE};

/// Pages for the keys and values of many sequences, and a limit that they never exceed together.
///
/// A page holds [`PAGE`] tokens, all heads of one layer. [`PagedCache`](crate::PagedCache)s take pages from the pool as
/// they grow, and share those that they have in common; a page is free again when the last cache that holds it is cut
/// or dropped. Nothing else can free a page, so none is ever freed twice.
///
/// A pool is a handle: clones of it are the same pool, and may be used from several threads.
#[derive(Clone)]
pub struct PagePool {
    shared: Arc<Shared>,
}

struct Shared {
    format: BlockFormat,
    limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Pages that caches hold.
    used: usize,
    /// Memory of pages that were free again.
    free: Vec<AlignedBuffer<u8>>,
}

impl PagePool {
    /// A pool of at most `pages` pages for tokens of `kv_heads` heads. Memory is taken page by page, when it is needed first.
    ///
    /// # Errors
    /// A size is 0, or a page is too large for the memory.
    pub fn new(
        dtype: CacheDtype,
        kv_heads: usize,
        dim_k: usize,
        dim_v: usize,
        pages: usize,
    ) -> Result<PagePool, Error> {
        if pages == 0 {
            return Err(Error::Option { option: "pages", has: 0.0, expected: "at least 1" });
        }
        let format = BlockFormat::new(dtype, kv_heads, (dim_k, dim_v), PAGE)?;
        Ok(PagePool { shared: Arc::new(Shared { format, limit: pages, state: Mutex::default() }) })
    }

    /// Pages that there may be.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// Pages that caches hold; one that several share counts once.
    pub fn used(&self) -> usize {
        self.shared.state().used
    }

    /// How it stores numbers.
    pub fn dtype(&self) -> CacheDtype {
        self.shared.format.dtype
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.shared.format.bytes()
    }

    pub(crate) fn format(&self) -> &BlockFormat {
        &self.shared.format
    }

    /// Takes `count` pages, or none. What stands in them is anything.
    ///
    /// # Errors
    /// They would be more than the limit, or there is no memory for them.
    pub(crate) fn take(&self, count: usize) -> Result<Vec<Page>, Error> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let (limit, mut state) = (self.shared.limit, self.shared.state());
        if count > limit - state.used {
            return Err(Error::PoolFull { used: state.used, limit, more: count });
        }
        for _ in state.free.len()..count {
            state.free.push(AlignedBuffer::zeroed(self.shared.format.bytes())?);
        }
        state.used += count;
        let left = state.free.len() - count;
        Ok(state.free.drain(left..).map(|bytes| Page { bytes, pool: self.shared.clone() }).collect())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PagePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { format, limit, .. } = &*self.shared;
        f.debug_struct("PagePool").field("format", format).field("limit", limit).field("used", &self.used()).finish()
    }
}

/// A page of a pool, given back when it is dropped.
pub(crate) struct Page {
    pub bytes: AlignedBuffer<u8>,
    pool: Arc<Shared>,
}

impl Drop for Page {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.used -= 1;
        state.free.push(take(&mut self.bytes));
    }
}
