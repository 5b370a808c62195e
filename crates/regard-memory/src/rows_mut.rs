//! Borrowed strided matrices to be written, and how they fall apart.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use crate::rows::{reach, skip_to};
use crate::{Error, Parts, Result, Rows};

/// A borrowed matrix `[rows, cols]` to be written: rows are contiguous, start `stride` elements apart, and do not overlap.
///
/// It splits by rows and by columns into disjoint matrices that may be written at the same time, also where their elements
/// interleave in memory.
///
/// ```
/// use regard_memory::RowsMut;
///
/// let mut data = [0; 6];
/// let (mut left, mut right) = RowsMut::contiguous(&mut data, 2, 3)?.split_columns_at(1);
/// left.row_mut(1)[0] = 7;
/// right.row_mut(0).fill(8);
/// assert_eq!(data, [0, 8, 8, 7, 0, 0]);
/// # Ok::<(), regard_memory::Error>(())
/// ```
#[derive(Debug)]
pub struct RowsMut<'a, T> {
    /// What lies in the view (and not what lies between its rows) is this view's alone, for `'a`.
    start: NonNull<T>,
    rows: usize,
    cols: usize,
    stride: usize,
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: this is `&mut [T]`, which is `Send` when `T` is.
unsafe impl<T: Send> Send for RowsMut<'_, T> {}
// SAFETY: sharing only reads, as sharing `&mut [T]` does.
unsafe impl<T: Sync> Sync for RowsMut<'_, T> {}

impl<'a, T> RowsMut<'a, T> {
    /// `rows` rows of `cols` elements at the start of `data`, `stride` elements from one to the next.
    ///
    /// # Errors
    ///
    /// [`Error::Overlap`] if the stride is less than a row, [`Error::TooShort`] if the last row ends beyond `data`,
    /// [`Error::Overflow`] if it ends beyond the address space.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize, stride: usize) -> Result<Self> {
        if rows > 1 && stride < cols {
            return Err(Error::Overlap { tensor: "rows", shape: vec![rows, cols], strides: vec![stride] });
        }
        let expected = reach([(rows, stride)], cols)?;
        if expected > data.len() {
            return Err(Error::TooShort { tensor: "rows", has: data.len(), expected });
        }
        // SAFETY: the reach is within `data`, and the rows do not overlap.
        Ok(unsafe { Self::from_raw(NonNull::from(data).cast(), rows, cols, stride) })
    }

    /// All of `data` as `rows` rows without gaps.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if `data` does not have `rows · cols` elements.
    pub fn contiguous(data: &'a mut [T], rows: usize, cols: usize) -> Result<Self> {
        if rows.checked_mul(cols) != Some(data.len()) {
            return Err(Error::ShapeMismatch { tensor: "rows", has: vec![data.len()], expected: vec![rows, cols] });
        }
        Self::new(data, rows, cols, cols)
    }

    /// # Safety
    ///
    /// `start` is valid over the reach of `rows` rows of `cols` elements at this stride for `'a`; the rows do not overlap;
    /// and what lies in the view is used through it alone.
    pub(crate) const unsafe fn from_raw(start: NonNull<T>, rows: usize, cols: usize, stride: usize) -> Self {
        // Rows without elements reach over nothing, so walking over them must not move.
        Self { start, rows, cols, stride: if cols == 0 { 0 } else { stride }, data: PhantomData }
    }

    /// How many rows.
    #[inline]
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// How many elements in a row.
    #[inline]
    #[must_use]
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from the start of a row to the start of the next.
    #[inline]
    #[must_use]
    pub const fn stride(&self) -> usize {
        self.stride
    }

    /// The first element's address; valid to write in the rows that the shape and stride say, and not between them.
    #[inline]
    #[must_use]
    pub const fn as_mut_ptr(&mut self) -> *mut T {
        self.start.as_ptr()
    }

    /// Row `i`, to be read.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[inline]
    #[must_use]
    pub fn row(&self, i: usize) -> &[T] {
        self.as_rows().row(i)
    }

    /// Row `i`.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[inline]
    #[must_use]
    pub fn row_mut(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: row `i` exists, so it is within the reach, and it is this view's alone, which is borrowed alone.
        unsafe { NonNull::slice_from_raw_parts(self.start.add(i * self.stride), self.cols).as_mut() }
    }

    /// The rows in order.
    pub fn into_rows(self) -> impl ExactSizeIterator<Item = &'a mut [T]> + use<'a, T> {
        // SAFETY: the rows do not overlap, and each index comes once.
        (0..self.rows)
            .map(move |i| unsafe { NonNull::slice_from_raw_parts(self.start.add(i * self.stride), self.cols).as_mut() })
    }

    /// The same matrix, to be read.
    #[inline]
    #[must_use]
    pub const fn as_rows(&self) -> Rows<'_, T> {
        // SAFETY: the view is valid, and nobody writes to it while it is borrowed here.
        unsafe { Rows::from_raw(self.start, self.rows, self.cols, self.stride) }
    }

    /// The same matrix for a shorter time, so that this view can be used again afterwards.
    #[inline]
    #[must_use]
    pub const fn reborrow(&mut self) -> RowsMut<'_, T> {
        // SAFETY: the view is valid, and this one is borrowed for as long.
        unsafe { RowsMut::from_raw(self.start, self.rows, self.cols, self.stride) }
    }

    /// The rows before `i`, and those from `i` on.
    ///
    /// # Panics
    ///
    /// If there are less than `i`.
    #[must_use]
    pub fn split_rows_at(self, i: usize) -> (Self, Self) {
        // SAFETY: no row is in both, and `self` is consumed.
        unsafe { (self.part(0..i, 0..self.cols), self.part(i..self.rows, 0..self.cols)) }
    }

    /// The columns before `j`, and those from `j` on.
    ///
    /// # Panics
    ///
    /// If there are less than `j`.
    #[must_use]
    pub fn split_columns_at(self, j: usize) -> (Self, Self) {
        // SAFETY: no column is in both, and `self` is consumed.
        unsafe { (self.part(0..self.rows, 0..j), self.part(0..self.rows, j..self.cols)) }
    }

    /// The part of the view in these rows and columns.
    ///
    /// # Panics
    ///
    /// If that is not within the view.
    #[must_use]
    pub fn block(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        // SAFETY: `self` is consumed.
        unsafe { self.part(rows, cols) }
    }

    /// # Safety
    ///
    /// No element of the block is used through `self` or another block for `'a`.
    pub(crate) unsafe fn part(&self, rows: Range<usize>, cols: Range<usize>) -> Self {
        let skip = skip_to(self.rows, self.cols, self.stride, &rows, &cols);
        // SAFETY: a block that is not empty starts, and ends, within the reach of this view; the caller keeps it alone.
        unsafe { Self::from_raw(self.start.add(skip), rows.len(), cols.len(), self.stride) }
    }

    /// Parts of `each` rows; the last may have fewer.
    ///
    /// # Panics
    ///
    /// If `each` is zero.
    #[must_use]
    pub fn row_parts(self, each: usize) -> RowParts<'a, T> {
        assert!(each > 0, "a part has at least one row");
        RowParts { whole: self, each }
    }

    /// Parts of `each` columns; the last may have fewer.
    ///
    /// # Panics
    ///
    /// If `each` is zero.
    #[must_use]
    pub fn column_parts(self, each: usize) -> ColumnParts<'a, T> {
        assert!(each > 0, "a part has at least one column");
        ColumnParts { whole: self, each }
    }
}

/// A matrix by blocks of rows; see [`RowsMut::row_parts`].
#[derive(Debug)]
pub struct RowParts<'a, T> {
    whole: RowsMut<'a, T>,
    each: usize,
}

// SAFETY: sharing gives nothing but `part`, which moves `RowsMut` to another thread.
unsafe impl<T: Send> Sync for RowParts<'_, T> {}

// SAFETY: part `i` has the rows from `i · each` to `(i + 1) · each`, which no other part has.
unsafe impl<'a, T: Send> Parts for RowParts<'a, T> {
    type Part = RowsMut<'a, T>;

    fn count(&self) -> usize {
        self.whole.rows.div_ceil(self.each)
    }

    unsafe fn part(&self, index: usize) -> RowsMut<'a, T> {
        let first = index * self.each;
        let end = first + self.each.min(self.whole.rows - first);
        // SAFETY: the caller takes each index once, and the parts are disjoint.
        unsafe { self.whole.part(first..end, 0..self.whole.cols) }
    }
}

/// A matrix by blocks of columns; see [`RowsMut::column_parts`].
#[derive(Debug)]
pub struct ColumnParts<'a, T> {
    whole: RowsMut<'a, T>,
    each: usize,
}

// SAFETY: sharing gives nothing but `part`, which moves `RowsMut` to another thread.
unsafe impl<T: Send> Sync for ColumnParts<'_, T> {}

// SAFETY: part `i` has the columns from `i · each` to `(i + 1) · each`, which no other part has.
unsafe impl<'a, T: Send> Parts for ColumnParts<'a, T> {
    type Part = RowsMut<'a, T>;

    fn count(&self) -> usize {
        self.whole.cols.div_ceil(self.each)
    }

    unsafe fn part(&self, index: usize) -> RowsMut<'a, T> {
        let first = index * self.each;
        let end = first + self.each.min(self.whole.cols - first);
        // SAFETY: the caller takes each index once, and the parts are disjoint.
        unsafe { self.whole.part(0..self.whole.rows, first..end) }
    }
}
