//! Tensors from the views of `ndarray`, without a copy.

use std::ptr::NonNull;

use ndarray::{ArrayView4, ArrayViewMut4};

use crate::tensor_mut::check_disjoint;
use crate::{Error, Result, Tensor, TensorMut};

/// The strides of batch, heads and seq, if none runs backwards and `dim` is contiguous.
///
/// The stride of an axis with no more than one element is never used, so it may be anything; so may all of a view without
/// elements, which come as 0.
fn strides(shape: [usize; 4], strides: &[isize]) -> Result<[usize; 3]> {
    let refused = || Error::Strides { tensor: "tensor", strides: strides.to_vec() };
    if shape.contains(&0) {
        return Ok([0; 3]);
    }
    if shape[3] > 1 && strides[3] != 1 {
        return Err(refused());
    }
    let mut checked = [0; 3];
    for axis in 0..3 {
        if shape[axis] > 1 {
            checked[axis] = usize::try_from(strides[axis]).map_err(|_| refused())?;
        }
    }
    Ok(checked)
}

impl<'a, T> TryFrom<ArrayView4<'a, T>> for Tensor<'a, T> {
    type Error = Error;

    /// The view `[batch, heads, seq, dim]` as it is, without a copy.
    ///
    /// # Errors
    ///
    /// [`Error::Strides`] if an axis runs backwards, or the last one is not contiguous.
    fn try_from(view: ArrayView4<'a, T>) -> Result<Self> {
        let shape = view.dim().into();
        let strides = strides(shape, view.strides())?;
        let start = NonNull::new(view.as_ptr().cast_mut()).expect("a view points somewhere");
        // SAFETY: these are the shape and strides of the view, which borrows its elements for `'a`.
        Ok(unsafe { Self::from_raw(start, shape, strides) })
    }
}

impl<'a, T> TryFrom<ArrayViewMut4<'a, T>> for TensorMut<'a, T> {
    type Error = Error;

    /// The view `[batch, heads, seq, dim]` as it is, without a copy.
    ///
    /// # Errors
    ///
    /// [`Error::Strides`] if an axis runs backwards, or the last one is not contiguous.
    fn try_from(mut view: ArrayViewMut4<'a, T>) -> Result<Self> {
        let shape = view.dim().into();
        let strides = strides(shape, view.strides())?;
        check_disjoint(shape, strides)?;
        let start = NonNull::new(view.as_mut_ptr()).expect("a view points somewhere");
        // SAFETY: these are the shape and strides of the view, which has its elements alone for `'a`.
        Ok(unsafe { Self::from_raw(start, shape, strides) })
    }
}
