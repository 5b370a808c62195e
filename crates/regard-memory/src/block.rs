//! A piece of the system's memory.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use crate::pages::{self, Pages};
use crate::{Error, LINE, Result};

/// The alignment asked of the allocator: one that every platform's `calloc` keeps by itself. For more, the allocator
/// would have to write the zeros by hand, which makes every page resident; the block aligns itself within one that is a
/// little longer instead.
const ALLOCATOR_ALIGN: usize = 8;

/// Zeros that come from the system untouched, and go back when this is dropped. It says where they are and leaves to its
/// owners who uses which.
pub(crate) struct Block {
    /// On a line, or on a huge page.
    start: NonNull<u8>,
    bytes: usize,
    pages: Pages,
    /// What the allocator gave, to be given back.
    whole: (NonNull<u8>, Layout),
}

// SAFETY: it only says where memory is.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// At least so many zeros, more than none. Huge pages are used where they are wanted, granted, and there is one to fill.
    pub(crate) fn zeroed(wanted: Pages, bytes: usize) -> Result<Block> {
        let overflow = Error::Overflow { what: "buffer" };
        let huge = wanted == Pages::Huge && bytes >= pages::HUGE;
        let align = if huge { pages::HUGE } else { LINE };
        let bytes = bytes.max(1).checked_next_multiple_of(align).ok_or(overflow.clone())?;
        let padded = bytes.checked_add(align - ALLOCATOR_ALIGN).ok_or(overflow.clone())?;
        let layout = Layout::from_size_align(padded, ALLOCATOR_ALIGN).map_err(|_| overflow)?;
        // SAFETY: the layout's size is not zero.
        let given = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(Error::OutOfMemory { bytes: padded })?;
        let skip = given.as_ptr().addr().next_multiple_of(align) - given.as_ptr().addr();
        // SAFETY: what was given is aligned to ALLOCATOR_ALIGN, so `skip` is at most the padding.
        let start = unsafe { given.add(skip) };
        let pages = if huge { pages::advise(start.as_ptr(), bytes) } else { Pages::Normal };
        Ok(Block { start, bytes, pages, whole: (given, layout) })
    }

    /// Where it starts.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// How many bytes there are from the start on.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The pages that it lies on.
    pub(crate) fn pages(&self) -> Pages {
        self.pages
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let (given, layout) = self.whole;
        // SAFETY: it was allocated with this layout, and nobody owns a part of it any more.
        unsafe { dealloc(given.as_ptr(), layout) };
    }
}
