//! Scratch memory: taken in order, given back all at once.

use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::{AlignedBuffer, LINE, Need, Pages, Parts, Pod, Result, Zeroable, cast_slice_mut};

/// What the arena counts in, so that every piece starts aligned.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; LINE]);

// SAFETY: zeros are bytes.
unsafe impl Zeroable for Line {}
// SAFETY: any bits are bytes, and the size is the alignment, so there is no padding.
unsafe impl Pod for Line {}

/// The only place that scratch bytes come from.
///
/// A use of the arena is a [`Frame`] of a stated size; the pieces taken from it live as long as the frame's borrow, and
/// when that ends all of them are free again, at no cost. Between uses the arena grows by doubling, and it keeps its
/// capacity: after the first use at a shape, and after any smaller one, a frame allocates nothing.
///
/// ```
/// use regard_memory::{Arena, Need};
///
/// let mut arena = Arena::new();
/// let need = Need::of::<f32>(100).and(Need::of::<u64>(3));
/// for _ in 0..2 {
///     let mut frame = arena.frame(need)?;
///     let scores = frame.take::<f32>(100);
///     let bits = frame.take::<u64>(3);
///     scores.fill(1.0);
///     bits.fill(u64::MAX);
/// }
/// # Ok::<(), regard_memory::Error>(())
/// ```
#[derive(Default)]
pub struct Arena {
    lines: AlignedBuffer<Line>,
}

impl Arena {
    /// An arena that owns no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self::on(Pages::Normal)
    }

    /// An arena that will ask for pages of this size when it allocates.
    #[must_use]
    pub const fn on(pages: Pages) -> Self {
        Self { lines: AlignedBuffer::on(pages) }
    }

    /// Starts a use of the arena, in which `need` can be taken.
    ///
    /// # Errors
    ///
    /// [`Error::Overflow`](crate::Error::Overflow) or [`Error::OutOfMemory`](crate::Error::OutOfMemory) if the arena has
    /// to grow and cannot.
    pub fn frame(&mut self, need: Need) -> Result<Frame<'_>> {
        let lines = need.lines()?;
        if lines > self.lines.capacity() {
            // Nothing of the last use is worth copying.
            self.lines.resize(0)?;
        }
        self.lines.grow(lines)?;
        Ok(Frame { rest: &mut self.lines[..lines] })
    }

    /// Bytes that a frame can have without another allocation.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.lines.capacity() * LINE
    }

    /// The pages that the arena lies on.
    #[must_use]
    pub fn pages(&self) -> Pages {
        self.lines.pages()
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arena").field("capacity", &self.capacity()).field("pages", &self.pages()).finish()
    }
}

/// One use of an [`Arena`]: what is left of the bytes that were asked for.
pub struct Frame<'a> {
    rest: &'a mut [Line],
}

impl<'a> Frame<'a> {
    /// The next `len` numbers, aligned to 64 bytes. They hold whatever was there before: some numbers, never poison.
    ///
    /// # Panics
    ///
    /// If less is left: the need that was stated is not what is taken, which is an error in the program.
    #[must_use]
    pub fn take<T: Pod>(&mut self, len: usize) -> &'a mut [T] {
        let lines = self.take_lines(Need::of::<T>(len));
        &mut cast_slice_mut(&mut cast_slice_mut::<Line, u8>(lines)[..len * size_of::<T>()])[..]
    }

    /// The next `len` numbers, zeroed.
    ///
    /// # Panics
    ///
    /// As [`take`](Self::take).
    #[must_use]
    pub fn take_zeroed<T: Pod>(&mut self, len: usize) -> &'a mut [T] {
        let piece = self.take(len);
        piece.fill(T::zeroed());
        piece
    }

    /// What is left, for a while: when the returned frame's borrow ends, all that was taken from it is free again.
    #[must_use]
    pub fn scope(&mut self) -> Frame<'_> {
        Frame { rest: self.rest }
    }

    /// The next `count` frames of `each`, one per worker: as [`Parts`] for a pool, or in order by iteration.
    ///
    /// # Panics
    ///
    /// As [`take`](Self::take).
    #[must_use]
    pub fn split(&mut self, count: usize, each: Need) -> Frames<'a> {
        let lines = self.take_lines(each.times(count));
        Frames { start: NonNull::from(lines).cast(), each: each.lines, count, lines: PhantomData }
    }

    /// Bytes that are left.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.rest.len() * LINE
    }

    fn take_lines(&mut self, need: Need) -> &'a mut [Line] {
        let rest = std::mem::take(&mut self.rest);
        assert!(
            need.lines <= rest.len(),
            "{} bytes are taken from an arena's frame that has {} left of the need stated",
            need.bytes(),
            rest.len() * LINE
        );
        let (piece, rest) = rest.split_at_mut(need.lines);
        self.rest = rest;
        piece
    }
}

impl std::fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame").field("left", &self.left()).finish()
    }
}

/// Frames of equal size, one per worker; see [`Frame::split`].
pub struct Frames<'a> {
    /// Valid for `count · each` lines, borrowed alone.
    start: NonNull<Line>,
    each: usize,
    count: usize,
    lines: PhantomData<&'a mut [Line]>,
}

// SAFETY: this is `&mut [Line]` cut up, and bytes may be written to from any thread.
unsafe impl Send for Frames<'_> {}
// SAFETY: as above; sharing gives nothing but `part`, whose contract keeps the parts apart.
unsafe impl Sync for Frames<'_> {}

// SAFETY: frame `i` covers the lines from `i · each` to `(i + 1) · each`, which no other frame does.
unsafe impl<'a> Parts for Frames<'a> {
    type Part = Frame<'a>;

    fn count(&self) -> usize {
        self.count
    }

    unsafe fn part(&self, index: usize) -> Frame<'a> {
        debug_assert!(index < self.count);
        // SAFETY: `index < count`, so these lines are within the borrowed ones, and nobody else has been given them.
        Frame { rest: unsafe { NonNull::slice_from_raw_parts(self.start.add(index * self.each), self.each).as_mut() } }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        self.count = self.count.checked_sub(1)?;
        // SAFETY: at least one frame is left, and the next line moves the start beyond it.
        let first = Frame { rest: unsafe { NonNull::slice_from_raw_parts(self.start, self.each).as_mut() } };
        // SAFETY: the first frame is within the borrowed lines, so its end is at most theirs.
        self.start = unsafe { self.start.add(self.each) };
        Some(first)
    }
}

impl ExactSizeIterator for Frames<'_> {
    fn len(&self) -> usize {
        self.count
    }
}
