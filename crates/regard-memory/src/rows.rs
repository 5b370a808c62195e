//! Borrowed strided matrices.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use crate::{Error, Result};

/// Elements from the first to one past the last of a view; none when the view has no elements.
///
/// `axes` are (extent, stride) pairs, in elements; the last axis has a stride of one and is given as `unit`.
pub(crate) fn reach<const N: usize>(axes: [(usize, usize); N], unit: usize) -> Result<usize> {
    if unit == 0 || axes.iter().any(|&(extent, _)| extent == 0) {
        return Ok(0);
    }
    axes.iter()
        .try_fold(unit, |reach, &(extent, stride)| reach.checked_add((extent - 1).checked_mul(stride)?))
        .ok_or(Error::Overflow { what: "view" })
}

/// Elements from the start of a view of this shape to the start of a block of it; none for an empty block, whose start
/// might be beyond the reach.
pub(crate) fn skip_to(
    has_rows: usize,
    has_cols: usize,
    stride: usize,
    rows: &Range<usize>,
    cols: &Range<usize>,
) -> usize {
    assert!(rows.start <= rows.end && rows.end <= has_rows, "rows {rows:?} of {has_rows}");
    assert!(cols.start <= cols.end && cols.end <= has_cols, "columns {cols:?} of {has_cols}");
    if rows.is_empty() || cols.is_empty() { 0 } else { rows.start * stride + cols.start }
}

/// A borrowed matrix `[rows, cols]` whose rows are contiguous and start `stride` elements apart.
///
/// It is checked once, when it is made. The stride may be anything: rows may overlap, or all be the same one.
///
/// ```
/// use regard_memory::Rows;
///
/// let data = [1, 2, 3, 4, 5, 6];
/// let left = Rows::new(&data, 2, 2, 3)?;
/// assert_eq!(left.row(1), [4, 5]);
/// # Ok::<(), regard_memory::Error>(())
/// ```
#[derive(Debug)]
pub struct Rows<'a, T> {
    /// Valid to read over the reach of the shape and stride, for `'a`.
    start: NonNull<T>,
    rows: usize,
    cols: usize,
    stride: usize,
    data: PhantomData<&'a [T]>,
}

impl<T> Clone for Rows<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Rows<'_, T> {}

// SAFETY: this is `&[T]`, which may go to and be used from any thread when `T` may be shared.
unsafe impl<T: Sync> Send for Rows<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Rows<'_, T> {}

impl<'a, T> Rows<'a, T> {
    /// `rows` rows of `cols` elements at the start of `data`, `stride` elements from one to the next.
    ///
    /// # Errors
    ///
    /// [`Error::TooShort`] if the last row ends beyond `data`, [`Error::Overflow`] if it ends beyond the address space.
    pub fn new(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Result<Self> {
        let expected = reach([(rows, stride)], cols)?;
        if expected > data.len() {
            return Err(Error::TooShort { tensor: "rows", has: data.len(), expected });
        }
        // SAFETY: the reach is within `data`.
        Ok(unsafe { Self::from_raw(NonNull::from(data).cast(), rows, cols, stride) })
    }

    /// All of `data` as `rows` rows without gaps.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if `data` does not have `rows · cols` elements.
    pub fn contiguous(data: &'a [T], rows: usize, cols: usize) -> Result<Self> {
        if rows.checked_mul(cols) != Some(data.len()) {
            return Err(Error::ShapeMismatch { tensor: "rows", has: vec![data.len()], expected: vec![rows, cols] });
        }
        Self::new(data, rows, cols, cols)
    }

    /// # Safety
    ///
    /// `start` is valid to read over the reach of `rows` rows of `cols` elements at this stride for `'a`, and what lies in
    /// the view is not written to meanwhile.
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

    /// The first element's address; valid to read over the rows that the shape and stride say.
    #[inline]
    #[must_use]
    pub const fn as_ptr(&self) -> *const T {
        self.start.as_ptr()
    }

    /// The first element.
    pub(crate) const fn start(&self) -> NonNull<T> {
        self.start
    }

    /// Row `i`.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[inline]
    #[must_use]
    pub fn row(&self, i: usize) -> &'a [T] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: row `i` exists, so it is within the reach that was checked, and is not written to for `'a`.
        unsafe { NonNull::slice_from_raw_parts(self.start.add(i * self.stride), self.cols).as_ref() }
    }

    /// The rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [T]> + use<'a, T> {
        let rows = *self;
        (0..rows.rows).map(move |i| rows.row(i))
    }

    /// The rows before `i`, and those from `i` on.
    ///
    /// # Panics
    ///
    /// If there are less than `i`.
    #[must_use]
    pub fn split_rows_at(self, i: usize) -> (Self, Self) {
        (self.block(0..i, 0..self.cols), self.block(i..self.rows, 0..self.cols))
    }

    /// The columns before `j`, and those from `j` on.
    ///
    /// # Panics
    ///
    /// If there are less than `j`.
    #[must_use]
    pub fn split_columns_at(self, j: usize) -> (Self, Self) {
        (self.block(0..self.rows, 0..j), self.block(0..self.rows, j..self.cols))
    }

    /// The part of the view in these rows and columns.
    ///
    /// ```
    /// use regard_memory::Rows;
    ///
    /// let data = [1, 2, 3, 4, 5, 6];
    /// let corner = Rows::contiguous(&data, 2, 3)?.block(1..2, 1..3);
    /// assert_eq!(corner.row(0), [5, 6]);
    /// # Ok::<(), regard_memory::Error>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If that is not within the view.
    #[must_use]
    pub fn block(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        let skip = skip_to(self.rows, self.cols, self.stride, &rows, &cols);
        // SAFETY: a block that is not empty starts, and ends, within the reach of this view.
        unsafe { Self::from_raw(self.start.add(skip), rows.len(), cols.len(), self.stride) }
    }
}
