//! Borrowed tensors `[batch, heads, seq, dim]` to be written, and how they fall apart.

use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::tensor::{check_len, check_reach, contiguous_strides, expect_shape, heads_of_rows, skip_to};
use crate::{Error, Parts, Result, RowsMut, Tensor};

/// A borrowed tensor `[batch, heads, seq, dim]` to be written: contiguous in `dim`, and no two of its elements are one
/// place in memory.
///
/// ```
/// use regard_memory::TensorMut;
///
/// let mut data = [0; 6];
/// let mut tensor = TensorMut::new(&mut data, [1, 3, 2, 1], [6, 1, 3])?;
/// tensor.rows_mut(0, 2).row_mut(1)[0] = 12;
/// assert_eq!(data, [0, 0, 0, 0, 0, 12]);
/// # Ok::<(), regard_memory::Error>(())
/// ```
#[derive(Debug)]
pub struct TensorMut<'a, T> {
    /// What lies in the view (and not what lies between its rows) is this view's alone, for `'a`.
    start: NonNull<T>,
    shape: [usize; 4],
    strides: [usize; 3],
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: this is `&mut [T]`, which is `Send` when `T` is.
unsafe impl<T: Send> Send for TensorMut<'_, T> {}
// SAFETY: sharing only reads, as sharing `&mut [T]` does.
unsafe impl<T: Sync> Sync for TensorMut<'_, T> {}

impl<'a, T> TensorMut<'a, T> {
    /// The tensor of this shape at the start of `data`, with these strides of batch, heads and seq.
    ///
    /// # Errors
    ///
    /// [`Error::Overlap`] unless some order of the axes is such that each one's stride is at least all that the axes within
    /// it reach over, as is so for any permuted, padded or sliced array; [`Error::TooShort`] if it ends beyond `data`;
    /// [`Error::Overflow`] if it ends beyond the address space.
    pub fn new(data: &'a mut [T], shape: [usize; 4], strides: [usize; 3]) -> Result<Self> {
        check_reach(shape, strides, data.len())?;
        check_disjoint(shape, strides)?;
        // SAFETY: the reach is within `data`, and no two elements are in one place.
        Ok(unsafe { Self::from_raw(NonNull::from(data).cast(), shape, strides) })
    }

    /// All of `data` as a tensor of this shape without gaps.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if `data` does not have as many elements as the shape.
    pub fn contiguous(data: &'a mut [T], shape: [usize; 4]) -> Result<Self> {
        check_len(shape, data.len())?;
        Self::new(data, shape, contiguous_strides(shape)?)
    }

    /// Rows `[batch · seq, heads · dim]` as heads that lie side by side in them.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if the rows are no whole number for each batch entry, or do not hold whole heads.
    pub fn of_rows(mut rows: RowsMut<'a, T>, batch: usize, heads: usize) -> Result<Self> {
        let (shape, strides) = heads_of_rows((rows.rows(), rows.cols(), rows.stride()), batch, heads)?;
        let start = NonNull::new(rows.as_mut_ptr()).expect("a view points somewhere");
        // SAFETY: these are the elements of `rows`, each in one place; they were its alone, and it is gone.
        Ok(unsafe { Self::from_raw(start, shape, strides) })
    }

    /// # Safety
    ///
    /// `start` is valid over the reach of the shape and strides for `'a`; no two elements are in one place; and what lies in
    /// the view is used through it alone.
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

    /// The same tensor, to be read.
    #[inline]
    #[must_use]
    pub const fn as_tensor(&self) -> Tensor<'_, T> {
        // SAFETY: the view is valid, and nobody writes to it while it is borrowed here.
        unsafe { Tensor::from_raw(self.start, self.shape, self.strides) }
    }

    /// The same tensor for a shorter time, so that this view can be used again afterwards.
    #[inline]
    #[must_use]
    pub const fn reborrow(&mut self) -> TensorMut<'_, T> {
        // SAFETY: the view is valid, and this one is borrowed for as long.
        unsafe { TensorMut::from_raw(self.start, self.shape, self.strides) }
    }

    /// The matrix `[seq, dim]` of a batch entry and head.
    ///
    /// # Panics
    ///
    /// If there is no such entry or head.
    #[inline]
    #[must_use]
    pub fn rows_mut(&mut self, batch: usize, head: usize) -> RowsMut<'_, T> {
        let [_, _, seq, dim] = self.shape;
        let skip = skip_to(self.shape, self.strides, batch, head);
        // SAFETY: a matrix that is not empty is within the reach; it is this view's alone, which is borrowed alone.
        unsafe { RowsMut::from_raw(self.start.add(skip), seq, dim, self.strides[2]) }
    }

    /// Some heads and rows of one batch entry, `[1, heads, rows, dim]`.
    ///
    /// # Safety
    ///
    /// They exist, and what lies in them is used through no other view meanwhile.
    pub(crate) unsafe fn piece(
        &self,
        batch: usize,
        head: usize,
        heads: usize,
        rows: std::ops::Range<usize>,
    ) -> TensorMut<'a, T> {
        let ([_, _, _, dim], [b, h, s]) = (self.shape, self.strides);
        let shape = [1, heads, rows.len(), dim];
        let skip = if dim == 0 || heads == 0 || rows.is_empty() { 0 } else { batch * b + head * h + rows.start * s };
        // SAFETY: the caller's: within the tensor, and its alone.
        unsafe { TensorMut::from_raw(self.start.add(skip), shape, self.strides) }
    }

    /// Parts of one batch entry, `heads` heads and `seq` rows each, the last of either perhaps fewer; as a rule, the query
    /// heads that share a key/value head, and a block of queries.
    ///
    /// Part `(b · head_groups + g) · blocks + q` has the shape `[1, ≤ heads, ≤ seq, dim]` and holds the heads from
    /// `g · heads` and the rows from `q · seq` of batch entry `b`.
    ///
    /// # Panics
    ///
    /// If `heads` or `seq` is zero, or there are more parts than can be counted.
    #[must_use]
    pub fn block_parts(self, heads: usize, seq: usize) -> BlockParts<'a, T> {
        assert!(heads > 0 && seq > 0, "a part has at least one head and one row");
        let [batch, has_heads, has_seq, _] = self.shape;
        let groups = has_heads.div_ceil(heads);
        let blocks = has_seq.div_ceil(seq);
        let count =
            batch.checked_mul(groups).and_then(|n| n.checked_mul(blocks)).expect("more parts than a usize counts");
        BlockParts { whole: self, heads, seq, groups, blocks, count }
    }
}

/// Refuses strides that could bring two elements to one place: every axis has to step over all that lies within it.
pub(crate) fn check_disjoint(shape: [usize; 4], strides: [usize; 3]) -> Result<()> {
    let [batch, heads, seq, dim] = shape;
    if shape.contains(&0) {
        return Ok(());
    }
    let mut axes = [(strides[0], batch), (strides[1], heads), (strides[2], seq)];
    axes.sort_unstable();
    let mut within = dim;
    for (stride, extent) in axes {
        if extent > 1 {
            if stride < within {
                return Err(Error::Overlap { tensor: "tensor", shape: shape.to_vec(), strides: strides.to_vec() });
            }
            // No overflow: the reach, which is larger, was computed before.
            within += (extent - 1) * stride;
        }
    }
    Ok(())
}

/// A tensor by batch entry, group of heads and block of rows; see [`TensorMut::block_parts`].
#[derive(Debug)]
pub struct BlockParts<'a, T> {
    whole: TensorMut<'a, T>,
    heads: usize,
    seq: usize,
    groups: usize,
    blocks: usize,
    count: usize,
}

// SAFETY: sharing gives nothing but `part`, which moves `TensorMut` to another thread.
unsafe impl<T: Send> Sync for BlockParts<'_, T> {}

// SAFETY: index to (entry, group, block) is one to one, and these are disjoint in a tensor without overlaps.
unsafe impl<'a, T: Send> Parts for BlockParts<'a, T> {
    type Part = TensorMut<'a, T>;

    fn count(&self) -> usize {
        self.count
    }

    unsafe fn part(&self, index: usize) -> TensorMut<'a, T> {
        debug_assert!(index < self.count);
        let [_, heads, seq, _] = self.whole.shape;
        let (batch, group, block) =
            (index / (self.groups * self.blocks), index / self.blocks % self.groups, index % self.blocks);
        let (head, row) = (group * self.heads, block * self.seq);
        let rows = row..row + self.seq.min(seq - row);
        // SAFETY: the part is within the tensor; the caller takes each index once, and the parts are disjoint.
        unsafe { self.whole.piece(batch, head, self.heads.min(heads - head), rows) }
    }
}
