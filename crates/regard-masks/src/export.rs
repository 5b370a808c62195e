//! Masks as arrays.

use crate::{Error, Mask, Runs, position};

impl Mask {
    /// The mask as an array `[n_q, n_k]`, row-major: element `i·n_k + j` tells whether the query at position
    /// `i + offset` sees key `j`. Of a mask that varies, one is [selected](Self::select) before.
    ///
    /// # Errors
    ///
    /// [`Error::ArrayTooLarge`] where memory cannot hold the array.
    ///
    /// ```
    /// use regard_masks::Mask;
    ///
    /// let bits = Mask::causal().to_bool(2, 3, 1)?;
    /// assert_eq!(bits, [true, true, false, true, true, true]);
    /// # Ok::<(), regard_masks::Error>(())
    /// ```
    pub fn to_bool(&self, n_q: usize, n_k: usize, offset: i64) -> Result<Vec<bool>, Error> {
        self.to_array(n_q, n_k, offset, true, false)
    }

    /// The mask as an array `[n_q, n_k]` that is added to scores: 0 where the query sees the key, −∞ elsewhere. Otherwise
    /// like [`to_bool`](Self::to_bool).
    ///
    /// # Errors
    ///
    /// [`Error::ArrayTooLarge`] where memory cannot hold the array.
    ///
    /// ```
    /// use regard_masks::Mask;
    ///
    /// const NO: f32 = f32::NEG_INFINITY;
    /// let bias = Mask::causal().to_additive(2, 3, 1)?;
    /// assert_eq!(bias, [0.0, 0.0, NO, 0.0, 0.0, 0.0]);
    /// # Ok::<(), regard_masks::Error>(())
    /// ```
    pub fn to_additive(&self, n_q: usize, n_k: usize, offset: i64) -> Result<Vec<f32>, Error> {
        self.to_array(n_q, n_k, offset, 0.0, f32::NEG_INFINITY)
    }

    fn to_array<T: Copy>(&self, n_q: usize, n_k: usize, offset: i64, kept: T, gone: T) -> Result<Vec<T>, Error> {
        let too_large = || Error::ArrayTooLarge { n_q, n_k };
        let len = n_q.checked_mul(n_k).ok_or_else(too_large)?;
        let mut array = Vec::new();
        array.try_reserve_exact(len).map_err(|_| too_large())?;
        array.resize(len, gone);
        if len == 0 {
            return Ok(array);
        }
        let mut runs = Runs::new();
        for (i, row) in array.chunks_exact_mut(n_k).enumerate() {
            self.runs(position(i, offset), n_k, &mut runs);
            for run in runs.as_slice() {
                row[run.clone()].fill(kept);
            }
        }
        Ok(array)
    }
}
