//! Which pages hold the tokens of a sequence: all that there is to paging but the numbers.

use std::sync::Arc;

use regard_kernels::Operand;

use crate::cache::block::BlockFormat;
use crate::cache::pool::Page;
use crate::panels::Run;
use crate::{Error, PAGE, PagePool};

/// The pages of one sequence, in order. A clone shares them.
///
/// A page that several tables hold is never written to; who holds it alone may write, which is what [`Arc::get_mut`] allows.
#[derive(Clone)]
pub(crate) struct PageTable {
    pub pool: PagePool,
    pages: Vec<Arc<Page>>,
    len: usize,
}

impl PageTable {
    pub(crate) fn new(pool: PagePool) -> PageTable {
        PageTable { pool, pages: Vec::new(), len: 0 }
    }

    /// Tokens.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn pages(&self) -> &[Arc<Page>] {
        &self.pages
    }

    /// Makes the sequence longer by `n` tokens, all of whose places are then this table's alone, or leaves it as it is.
    ///
    /// # Errors
    /// The pool has no room, or there is no memory.
    pub(crate) fn grow(&mut self, n: usize) -> Result<(), Error> {
        let overflow = regard_memory::Error::Overflow { what: "sequence" };
        let len = self.len.checked_add(n).ok_or(overflow)?;
        let more = len.div_ceil(PAGE) - self.pages.len();
        // The last page is written to where it is not full yet.
        let partial = n > 0 && !self.len.is_multiple_of(PAGE);
        let shared = self.pages.last_mut().filter(|page| partial && Arc::strong_count(page) > 1);
        let mut taken = self.pool.take(more + usize::from(shared.is_some()))?;
        if let Some(shared) = shared {
            let mut copy = taken.pop().expect("a page for it was taken");
            copy.bytes.copy_from_slice(&shared.bytes);
            *shared = Arc::new(copy);
        }
        self.pages.extend(taken.into_iter().map(Arc::new));
        self.len = len;
        Ok(())
    }

    /// Forgets the tokens from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.pages.truncate(self.len.div_ceil(PAGE));
    }

    /// A page that [`PageTable::grow`] has made room in.
    pub(crate) fn page_mut(&mut self, page: usize) -> &mut [u8] {
        &mut Arc::get_mut(&mut self.pages[page]).expect("the table holds it alone").bytes
    }
}

/// The panels of one head in the pages of a sequence.
#[derive(Clone, Copy)]
pub(crate) struct HeadPages<'a> {
    pub format: &'a BlockFormat,
    pub pages: &'a [Arc<Page>],
    pub head: usize,
}

impl<'a> HeadPages<'a> {
    /// The panels in one page. `E` is the operand of the format's numbers.
    pub(crate) fn page<E: Operand>(&self, page: usize) -> Run<'a, E> {
        self.format.head(&self.pages[page].bytes, self.head)
    }
}

#[cfg(test)]
mod tests;
