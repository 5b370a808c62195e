//! Owned numbers, aligned for vectors.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::block::Block;
use crate::{Error, LINE, Pages, Pod, Result};

/// A growable run of plain numbers that starts on a 64-byte line, or on a huge page.
///
/// Fresh memory is zero and comes from the system untouched, so what is never used costs no resident memory: a cache may
/// be sized for its longest sequence. Sizes are checked, and a refusal is an error, never an abort.
///
/// ```
/// use regard_memory::AlignedBuffer;
///
/// let mut buffer = AlignedBuffer::<f32>::zeroed(3)?;
/// buffer[1] = 7.0;
/// buffer.resize(5)?;
/// assert_eq!(&buffer[..], [0.0, 7.0, 0.0, 0.0, 0.0]);
/// assert!(buffer.as_ptr().addr().is_multiple_of(64));
/// assert!(AlignedBuffer::<f32>::zeroed(usize::MAX).is_err());
/// # Ok::<(), regard_memory::Error>(())
/// ```
pub struct AlignedBuffer<T: Pod> {
    /// Aligned, and valid for `capacity` elements, all of them initialised.
    start: NonNull<T>,
    len: usize,
    capacity: usize,
    /// No element from here on has been handed out since the block was allocated: these are zero.
    touched: usize,
    /// The block that `start` lies in, alone or with the buffers of a [`Region`](crate::Region); none when nothing is
    /// allocated.
    block: Option<Arc<Block>>,
    /// Wished for; the block says what was granted.
    wanted: Pages,
}

// SAFETY: the buffer owns its part of the block alone, as `Box<[T]>` does.
unsafe impl<T: Pod + Send> Send for AlignedBuffer<T> {}
// SAFETY: as above; shared access only reads.
unsafe impl<T: Pod + Sync> Sync for AlignedBuffer<T> {}

impl<T: Pod> AlignedBuffer<T> {
    /// An empty buffer that owns no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self::on(Pages::Normal)
    }

    /// An empty buffer that will ask for pages of this size when it allocates.
    #[must_use]
    pub const fn on(pages: Pages) -> Self {
        const { assert!(align_of::<T>() <= LINE) };
        // Never read through: it only has to be aligned, also as an empty slice.
        let start = NonNull::new(ptr::without_provenance_mut(LINE)).expect("a line is not address zero");
        Self { start, len: 0, capacity: 0, touched: 0, block: None, wanted: pages }
    }

    /// `len` zeros.
    ///
    /// # Errors
    ///
    /// [`Error::Overflow`] if the size is beyond the address space, [`Error::OutOfMemory`] if it is refused.
    pub fn zeroed(len: usize) -> Result<Self> {
        Self::zeroed_on(Pages::Normal, len)
    }

    /// `len` zeros on pages of this size.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed). Huge pages that are not granted are no error; [`pages`](Self::pages) says so.
    pub fn zeroed_on(pages: Pages, len: usize) -> Result<Self> {
        let mut buffer = Self::on(pages);
        buffer.reserve(len)?;
        buffer.len = len;
        buffer.touched = len;
        Ok(buffer)
    }

    /// A copy of `values`.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn from_slice(values: &[T]) -> Result<Self> {
        let mut buffer = Self::zeroed(values.len())?;
        buffer.copy_from_slice(values);
        Ok(buffer)
    }

    /// Makes the length `len`. What was there stays, and what is added is zero. When the capacity does not suffice it at
    /// least doubles; it never shrinks.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed), and then the buffer is as it was.
    pub fn resize(&mut self, len: usize) -> Result<()> {
        if len > self.capacity {
            self.reserve(len.max(self.capacity.saturating_mul(2))).or_else(|_| self.reserve(len))?;
        }
        let old = std::mem::replace(&mut self.len, len);
        // Elements that an earlier, longer buffer wrote to are stale; those beyond are zero still.
        let stale = len.min(self.touched);
        if old < stale {
            self[old..stale].fill(T::zeroed());
        }
        self.touched = self.touched.max(len);
        Ok(())
    }

    /// Makes the length at least `len`, as [`resize`](Self::resize) does; a longer buffer is left alone.
    ///
    /// # Errors
    ///
    /// As [`resize`](Self::resize).
    pub fn grow(&mut self, len: usize) -> Result<()> {
        self.resize(len.max(self.len))
    }

    /// Makes room for `capacity` elements in all, exactly, so that the buffer does not move until it is longer.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed), and then the buffer is as it was.
    pub fn reserve(&mut self, capacity: usize) -> Result<()> {
        if capacity <= self.capacity || size_of::<T>() == 0 {
            self.capacity = self.capacity.max(capacity);
            return Ok(());
        }
        let bytes = capacity.checked_mul(size_of::<T>()).ok_or(Error::Overflow { what: "buffer" })?;
        let block = Block::zeroed(self.wanted, bytes)?;
        let start = block.start().cast::<T>();
        // SAFETY: the old place is valid for `len` elements, the new one for more, and they are two blocks.
        unsafe { ptr::copy_nonoverlapping(self.start.as_ptr(), start.as_ptr(), self.len) };
        *self = Self {
            start,
            len: self.len,
            capacity: block.bytes() / size_of::<T>(),
            touched: self.len,
            block: Some(Arc::new(block)),
            wanted: self.wanted,
        };
        Ok(())
    }

    /// Elements that fit without another allocation.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// The pages that the buffer lies on: [`Pages::Huge`] only if they were asked for, the buffer is no shorter than one
    /// or lies in a [`Region`](crate::Region) with others, and the system agreed to use them.
    #[must_use]
    pub fn pages(&self) -> Pages {
        self.block.as_ref().map_or(Pages::Normal, |block| block.pages())
    }

    /// `len` zeros from `offset` on in a block that others lie in, too.
    ///
    /// # Safety
    /// The bytes lie in the block, start on a line, were never handed out, and never will be again.
    pub(crate) unsafe fn within(block: Arc<Block>, offset: usize, len: usize, wanted: Pages) -> Self {
        // SAFETY: as the caller says.
        let start = unsafe { block.start().add(offset) }.cast();
        Self { start, len, capacity: len, touched: len, block: Some(block), wanted }
    }
}

impl<T: Pod> Default for AlignedBuffer<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Pod> Deref for AlignedBuffer<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is aligned and valid for `capacity >= len` initialised elements that `self` owns.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Pod> DerefMut for AlignedBuffer<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for AlignedBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self[..].fmt(f)
    }
}
