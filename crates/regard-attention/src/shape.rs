//! The sizes of a call.

use regard_memory::Tensor;

use crate::Error;

/// The sizes of one call of attention; batch entries are alike.
///
/// Queries are `[batch, heads, queries, dim_k]`, keys `[batch, kv_heads, keys, dim_k]`, values
/// `[batch, kv_heads, keys, dim_v]`, the result `[batch, heads, queries, dim_v]`. Query head `h` reads key/value head
/// `h / (heads / kv_heads)`. None of them is 0 but the numbers of queries and of keys: a cache begins empty, and a search may
/// find nothing. Queries that see no key have the result 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; they divide the query heads.
    pub kv_heads: usize,
    /// Queries of a sequence.
    pub queries: usize,
    /// Keys of a sequence.
    pub keys: usize,
    /// Elements of a query and of a key.
    pub dim_k: usize,
    /// Elements of a value and of a result.
    pub dim_v: usize,
}

impl Shape {
    /// Query heads that share a key/value head.
    pub fn group(&self) -> usize {
        self.heads.checked_div(self.kv_heads).unwrap_or(1).max(1)
    }

    /// Rows of queries under all heads; `usize::MAX` where they cannot be counted.
    pub(crate) fn rows(&self) -> usize {
        self.batch.saturating_mul(self.heads).saturating_mul(self.queries)
    }

    /// The shape of a call with these tensors.
    ///
    /// # Errors
    /// [`Error::Axis`] where the tensors do not fit each other.
    pub fn of<T>(q: &Tensor<'_, T>, k: &Tensor<'_, T>, v: &Tensor<'_, T>) -> Result<Shape, Error> {
        let ([batch, heads, queries, dim_k], [_, kv_heads, keys, _]) = (q.shape(), k.shape());
        let shape = Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v: v.shape()[3] };
        shape.check()?;
        expect("keys", k.shape(), [batch, kv_heads, keys, dim_k])?;
        expect("values", v.shape(), [batch, kv_heads, keys, shape.dim_v])?;
        Ok(shape)
    }

    /// # Errors
    /// [`Error::Axis`] where the heads do not form groups, or an axis has nothing on it.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (tensor, axis, has) in [
            ("queries", "heads", self.heads),
            ("keys", "heads", self.kv_heads),
            ("queries", "dim", self.dim_k),
            ("values", "dim", self.dim_v),
        ] {
            if has == 0 {
                return Err(Error::Axis { tensor, axis, has, expected: "at least 1".to_string() });
            }
        }
        if self.heads.is_multiple_of(self.kv_heads) {
            return Ok(());
        }
        let expected = format!("a multiple of the {} key/value heads", self.kv_heads);
        Err(Error::Axis { tensor: "queries", axis: "heads", has: self.heads, expected })
    }
}

/// Compares a tensor's shape with the one it should have, axis by axis.
pub(crate) fn expect(tensor: &'static str, has: [usize; 4], expected: [usize; 4]) -> Result<(), Error> {
    for ((axis, has), expected) in ["batch", "heads", "seq", "dim"].into_iter().zip(has).zip(expected) {
        if has != expected {
            return Err(Error::Axis { tensor, axis, has, expected: expected.to_string() });
        }
    }
    Ok(())
}
