//! Things that fall apart into disjoint parts, one per task.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

/// Something, mostly mutable, that falls apart into disjoint parts, so that each can be given to a task of its own.
///
/// A pool takes parts by value, asks for each index once, and so needs no locks and no `unsafe` in the code that uses it.
/// Two or three of equal count make parts together, as a tuple.
///
/// # Safety
///
/// Whoever implements this promises that parts of different index may be used at the same time from different threads, on
/// whichever thread they were made, as long as each index below [`count`](Self::count) is taken at most once while the
/// value lives, and that `count` always answers the same.
pub unsafe trait Parts: Sync {
    /// One part.
    type Part;

    /// How many parts there are.
    ///
    /// # Panics
    ///
    /// For a tuple, if its members have different counts.
    fn count(&self) -> usize;

    /// Part number `index`.
    ///
    /// # Safety
    ///
    /// `index` is below [`count`](Self::count), and is taken at most once while this value lives.
    unsafe fn part(&self, index: usize) -> Self::Part;
}

/// Tasks without data of their own: part `i` is `()`; the task knows its index.
#[derive(Clone, Copy, Debug)]
pub struct Indices(
    /// How many.
    pub usize,
);

// SAFETY: the parts are nothing.
unsafe impl Parts for Indices {
    type Part = ();

    fn count(&self) -> usize {
        self.0
    }

    unsafe fn part(&self, _index: usize) {}
}

/// A slice as chunks of equal length, the last perhaps shorter; see [`chunks_of`].
pub struct Chunks<'a, T> {
    start: NonNull<T>,
    len: usize,
    each: usize,
    slice: PhantomData<&'a mut [T]>,
}

/// Cuts a slice into chunks of `each` elements; the last may be shorter.
///
/// # Panics
///
/// If `each` is zero.
#[must_use]
pub fn chunks_of<T: Send>(slice: &mut [T], each: usize) -> Chunks<'_, T> {
    assert!(each > 0, "a chunk has at least one element");
    Chunks { len: slice.len(), start: NonNull::from(slice).cast(), each, slice: PhantomData }
}

// SAFETY: this is `&mut [T]`, which is `Send` when `T` is.
unsafe impl<T: Send> Send for Chunks<'_, T> {}
// SAFETY: sharing gives nothing but `part`, which moves `&mut [T]` to another thread.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

// SAFETY: chunk `i` covers the elements from `i · each` to `(i + 1) · each`, which no other chunk does.
unsafe impl<'a, T: Send> Parts for Chunks<'a, T> {
    type Part = &'a mut [T];

    fn count(&self) -> usize {
        self.len.div_ceil(self.each)
    }

    unsafe fn part(&self, index: usize) -> &'a mut [T] {
        debug_assert!(index < self.count());
        let first = index * self.each;
        let len = self.each.min(self.len - first);
        // SAFETY: `index < count`, so `first < len`: within the borrowed slice, and nobody else has been given this.
        unsafe { NonNull::slice_from_raw_parts(self.start.add(first), len).as_mut() }
    }
}

/// A slice as pieces of any length, one after the other; see [`pieces_of`].
pub struct Pieces<'a, 'e, T> {
    start: NonNull<T>,
    ends: &'e [usize],
    slice: PhantomData<&'a mut [T]>,
}

/// Cuts a slice where each piece ends; what is behind the last is in none.
///
/// ```
/// use regard_memory::{Parts, pieces_of};
///
/// let mut numbers = [1, 2, 3, 4, 5];
/// assert_eq!(pieces_of(&mut numbers, &[2, 2, 4]).count(), 3);
/// ```
///
/// # Panics
///
/// If an end is before the one before it, or behind the slice's.
#[must_use]
pub fn pieces_of<'a, 'e, T: Send>(slice: &'a mut [T], ends: &'e [usize]) -> Pieces<'a, 'e, T> {
    assert!(ends.is_sorted() && ends.last().is_none_or(|&end| end <= slice.len()), "pieces follow each other");
    Pieces { start: NonNull::from(slice).cast(), ends, slice: PhantomData }
}

// SAFETY: this is `&mut [T]`, which is `Send` when `T` is.
unsafe impl<T: Send> Send for Pieces<'_, '_, T> {}
// SAFETY: sharing gives nothing but `part`, which moves `&mut [T]` to another thread.
unsafe impl<T: Send> Sync for Pieces<'_, '_, T> {}

// SAFETY: piece `i` covers the elements between two ends, which no other piece does.
unsafe impl<'a, T: Send> Parts for Pieces<'a, '_, T> {
    type Part = &'a mut [T];

    fn count(&self) -> usize {
        self.ends.len()
    }

    unsafe fn part(&self, index: usize) -> &'a mut [T] {
        let first = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        let len = self.ends[index] - first;
        // SAFETY: ends ascend within the borrowed slice, and nobody else has been given this.
        unsafe { NonNull::slice_from_raw_parts(self.start.add(first), len).as_mut() }
    }
}

/// A slice as its elements; see [`each_of`].
pub struct Each<'a, T>(Chunks<'a, T>);

/// Takes a slice apart into its elements.
#[must_use]
pub fn each_of<T: Send>(slice: &mut [T]) -> Each<'_, T> {
    Each(chunks_of(slice, 1))
}

// SAFETY: chunks of one element.
unsafe impl<'a, T: Send> Parts for Each<'a, T> {
    type Part = &'a mut T;

    fn count(&self) -> usize {
        self.0.count()
    }

    unsafe fn part(&self, index: usize) -> &'a mut T {
        // SAFETY: the caller's promise is the one that is needed.
        let chunk = unsafe { self.0.part(index) };
        &mut chunk[0]
    }
}

/// The count that all members of a tuple have.
fn common<const N: usize>(counts: [usize; N]) -> usize {
    assert!(counts.iter().all(|&count| count == counts[0]), "parts of different counts {counts:?} are taken together");
    counts[0]
}

// SAFETY: each member keeps its parts apart, and equal counts keep every index within each of them.
unsafe impl<A: Parts, B: Parts> Parts for (A, B) {
    type Part = (A::Part, B::Part);

    fn count(&self) -> usize {
        common([self.0.count(), self.1.count()])
    }

    unsafe fn part(&self, index: usize) -> Self::Part {
        // SAFETY: the caller's promise is the one that is needed.
        unsafe { (self.0.part(index), self.1.part(index)) }
    }
}

// SAFETY: as for two.
unsafe impl<A: Parts, B: Parts, C: Parts> Parts for (A, B, C) {
    type Part = (A::Part, B::Part, C::Part);

    fn count(&self) -> usize {
        common([self.0.count(), self.1.count(), self.2.count()])
    }

    unsafe fn part(&self, index: usize) -> Self::Part {
        // SAFETY: the caller's promise is the one that is needed.
        unsafe { (self.0.part(index), self.1.part(index), self.2.part(index)) }
    }
}

/// The parts of a range, from the last to the first, each with its index; see [`backwards`].
#[derive(Debug)]
pub struct Backwards<P> {
    parts: P,
    range: Range<usize>,
}

/// Hands out the parts of `range` from its end to its start: where later parts are the larger ones, the small ones come
/// last and level out the work.
///
/// # Panics
///
/// If the range ends past the parts.
#[must_use]
pub fn backwards<P: Parts>(parts: P, range: Range<usize>) -> Backwards<P> {
    assert!(range.start <= range.end && range.end <= parts.count(), "parts {range:?} of {}", parts.count());
    Backwards { parts, range }
}

// SAFETY: index to part is one to one, and the parts are disjoint.
unsafe impl<P: Parts> Parts for Backwards<P> {
    type Part = (usize, P::Part);

    fn count(&self) -> usize {
        self.range.len()
    }

    unsafe fn part(&self, index: usize) -> Self::Part {
        let index = self.range.end - 1 - index;
        // SAFETY: within the range, thus within the parts; taken once because the caller takes each index once.
        (index, unsafe { self.parts.part(index) })
    }
}
