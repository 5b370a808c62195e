//! Borrowed tensors `[batch, heads, seq, dim]`.

use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::rows::reach;
use crate::{Error, Result, Rows};

/// The strides of a `[batch, heads, seq, dim]` without gaps.
///
/// # Errors
///
/// [`Error::Overflow`] if it has more elements than can be counted.
pub(crate) fn contiguous_strides([_, heads, seq, dim]: [usize; 4]) -> Result<[usize; 3]> {
    let overflow = Error::Overflow { what: "tensor" };
    let head = seq.checked_mul(dim).ok_or(overflow.clone())?;
    let batch = heads.checked_mul(head).ok_or(overflow)?;
    Ok([batch, head, dim])
}

/// Refuses a shape and strides that reach beyond a slice of `len` elements.
pub(crate) fn check_reach([batch, heads, seq, dim]: [usize; 4], [b, h, s]: [usize; 3], len: usize) -> Result<()> {
    let expected = reach([(batch, b), (heads, h), (seq, s)], dim)?;
    if expected > len { Err(Error::TooShort { tensor: "tensor", has: len, expected }) } else { Ok(()) }
}

/// Refuses a slice that does not have exactly the elements of a shape.
pub(crate) fn check_len(shape: [usize; 4], len: usize) -> Result<()> {
    match shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent)) {
        Some(expected) if expected == len => Ok(()),
        _ => Err(Error::ShapeMismatch { tensor: "tensor", has: vec![len], expected: shape.to_vec() }),
    }
}

/// A borrowed tensor `[batch, heads, seq, dim]`, contiguous in `dim`, with any strides in the others.
///
/// It is checked once, when it is made. Strides are counted in elements and may be zero, so that one sequence can stand for
/// a whole batch.
///
/// ```
/// use regard_memory::Tensor;
///
/// // [batch 1, seq 2, heads 3, dim 1] in memory, seen as [1, heads 3, seq 2, dim 1].
/// let data = [0, 1, 2, 10, 11, 12];
/// let tensor = Tensor::new(&data, [1, 3, 2, 1], [6, 1, 3])?;
/// let head = tensor.rows(0, 2);
/// assert_eq!((head.row(0), head.row(1)), (&[2][..], &[12][..]));
/// # Ok::<(), regard_memory::Error>(())
/// ```
#[derive(Debug)]
pub struct Tensor<'a, T> {
    /// Valid to read over the reach of the shape and strides, for `'a`.
    start: NonNull<T>,
    shape: [usize; 4],
    strides: [usize; 3],
    data: PhantomData<&'a [T]>,
}

impl<T> Clone for Tensor<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Tensor<'_, T> {}

// SAFETY: this is `&[T]`, which may go to and be used from any thread when `T` may be shared.
unsafe impl<T: Sync> Send for Tensor<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Tensor<'_, T> {}

impl<'a, T> Tensor<'a, T> {
    /// The tensor of this shape at the start of `data`, with these strides of batch, heads and seq.
    ///
    /// # Errors
    ///
    /// [`Error::TooShort`] if it ends beyond `data`, [`Error::Overflow`] if it ends beyond the address space.
    pub fn new(data: &'a [T], shape: [usize; 4], strides: [usize; 3]) -> Result<Self> {
        check_reach(shape, strides, data.len())?;
        // SAFETY: the reach is within `data`.
        Ok(unsafe { Self::from_raw(NonNull::from(data).cast(), shape, strides) })
    }

    /// All of `data` as a tensor of this shape without gaps.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if `data` does not have as many elements as the shape.
    pub fn contiguous(data: &'a [T], shape: [usize; 4]) -> Result<Self> {
        check_len(shape, data.len())?;
        Self::new(data, shape, contiguous_strides(shape)?)
    }

    /// Rows `[batch · seq, heads · dim]` as heads that lie side by side in them.
    ///
    /// ```
    /// use regard_memory::{Rows, Tensor};
    ///
    /// // Two tokens, each with two heads of two numbers.
    /// let data = [1, 2, 3, 4, 5, 6, 7, 8];
    /// let heads = Tensor::of_rows(Rows::contiguous(&data, 2, 4)?, 1, 2)?;
    /// assert_eq!(heads.shape(), [1, 2, 2, 2]);
    /// assert_eq!(heads.rows(0, 1).row(1), [7, 8]);
    /// # Ok::<(), regard_memory::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if the rows are no whole number for each batch entry, or do not hold whole heads.
    pub fn of_rows(rows: Rows<'a, T>, batch: usize, heads: usize) -> Result<Self> {
        let (shape, strides) = heads_of_rows((rows.rows(), rows.cols(), rows.stride()), batch, heads)?;
        // SAFETY: these are the elements of `rows`, each in one place.
        Ok(unsafe { Self::from_raw(rows.start(), shape, strides) })
    }

    /// # Safety
    ///
    /// `start` is valid to read over the reach of the shape and strides for `'a`, and what lies in the view is not written
    /// to meanwhile.
    pub(crate) const unsafe fn from_raw(start: NonNull<T>, shape: [usize; 4], strides: [usize; 3]) -> Self {
        Self { start, shape, strides, data: PhantomData }
    }

    /// `[batch, heads, seq, dim]`.
    #[inline]
    #[must_use]
    pub const fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Elements from one batch entry, head and row to the next.
    #[inline]
    #[must_use]
    pub const fn strides(&self) -> [usize; 3] {
        self.strides
    }

    /// Refuses any shape but this.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`], about the tensor of this name.
    pub fn expect_shape(&self, name: &'static str, expected: [usize; 4]) -> Result<()> {
        expect_shape(name, self.shape, expected)
    }

    /// The matrix `[seq, dim]` of a batch entry and head.
    ///
    /// # Panics
    ///
    /// If there is no such entry or head.
    #[inline]
    #[must_use]
    pub fn rows(&self, batch: usize, head: usize) -> Rows<'a, T> {
        let [_, _, seq, dim] = self.shape;
        let skip = skip_to(self.shape, self.strides, batch, head);
        // SAFETY: a matrix that is not empty is within the reach that was checked, and not written to for `'a`.
        unsafe { Rows::from_raw(self.start.add(skip), seq, dim, self.strides[2]) }
    }
}

/// Elements from the start of a tensor to the start of one matrix of it; none for an empty tensor.
#[inline]
pub(crate) fn skip_to(shape: [usize; 4], strides: [usize; 3], batch: usize, head: usize) -> usize {
    assert!(batch < shape[0] && head < shape[1], "batch entry {batch} and head {head} of {shape:?}");
    if shape[2] == 0 || shape[3] == 0 { 0 } else { batch * strides[0] + head * strides[1] }
}

/// The shape and strides of rows (how many, of how many elements, how far apart) as heads that lie side by side in them.
pub(crate) fn heads_of_rows(
    (rows, cols, stride): (usize, usize, usize),
    batch: usize,
    heads: usize,
) -> Result<([usize; 4], [usize; 3])> {
    let seq = rows.checked_div(batch).unwrap_or(0);
    let dim = cols.checked_div(heads).unwrap_or(0);
    if batch.checked_mul(seq) != Some(rows) || heads.checked_mul(dim) != Some(cols) {
        return Err(Error::ShapeMismatch {
            tensor: "heads in rows",
            has: vec![rows, cols],
            expected: vec![batch, heads],
        });
    }
    // Beyond the reach of the rows only where there is no second batch entry.
    Ok(([batch, heads, seq, dim], [seq.saturating_mul(stride), dim, stride]))
}

/// Refuses any shape but the expected one.
pub(crate) fn expect_shape(tensor: &'static str, has: [usize; 4], expected: [usize; 4]) -> Result<()> {
    if has == expected {
        return Ok(());
    }
    Err(Error::ShapeMismatch { tensor, has: has.to_vec(), expected: expected.to_vec() })
}
