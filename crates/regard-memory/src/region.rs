//! Memory that many buffers lie in together.

use std::sync::Arc;

use crate::block::Block;
use crate::{AlignedBuffer, Error, LINE, Pages, Pod, Result};

/// Bytes that are taken at once. What no buffer touches costs no resident memory. (Miri, which would write every byte, sees
/// small ones.)
const BLOCK: usize = if cfg!(miri) { 4 << 10 } else { 32 << 20 };

/// Buffers that live together, one behind the other, so that many small ones fill huge pages as a long one does: a model's
/// weights, of which one matrix may be shorter than a page.
///
/// The memory goes back to the system when the last buffer of a block is dropped, and of the last block the region too; so they
/// should go together. A region takes no memory before its first buffer, and may be dropped before them.
///
/// ```
/// use regard_memory::{Pages, Region};
///
/// let mut region = Region::on(Pages::Huge);
/// let mut first = region.zeroed::<f32>(100)?;
/// let second = region.zeroed::<u8>(7)?;
/// first[99] = 1.0;
/// assert!(second.as_ptr().addr() == first.as_ptr().addr() + 448, "the next line");
/// assert_eq!(&second[..], [0; 7]);
/// # Ok::<(), regard_memory::Error>(())
/// ```
#[derive(Default)]
pub struct Region {
    wanted: Pages,
    /// The last block, and where its untouched bytes begin: on a line.
    last: Option<(Arc<Block>, usize)>,
}

impl Region {
    /// An empty region that will ask for pages of this size.
    #[must_use]
    pub const fn on(pages: Pages) -> Self {
        Region { wanted: pages, last: None }
    }

    /// `len` zeros that start on a line. A buffer that is made longer moves out of the region.
    ///
    /// # Errors
    ///
    /// As [`AlignedBuffer::zeroed`].
    pub fn zeroed<T: Pod>(&mut self, len: usize) -> Result<AlignedBuffer<T>> {
        let lines = len.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_next_multiple_of(LINE));
        let bytes = lines.ok_or(Error::Overflow { what: "buffer" })?;
        if bytes == 0 {
            return AlignedBuffer::zeroed_on(self.wanted, len);
        }
        let (block, offset) = match self.last.take() {
            Some((block, used)) if bytes <= block.bytes() - used => (block, used),
            last => {
                // What a long buffer needs may be refused where the region still has room for short ones.
                let block = Block::zeroed(self.wanted, bytes.max(BLOCK)).inspect_err(|_| self.last = last)?;
                (Arc::new(block), 0)
            }
        };
        self.last = Some((block.clone(), offset + bytes));
        // SAFETY: the bytes are inside, `offset` is a sum of lines, and the next buffer starts behind them.
        Ok(unsafe { AlignedBuffer::within(block, offset, len, self.wanted) })
    }
}
