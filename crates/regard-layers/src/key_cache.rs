//! Keys and values of a batch of sequences.

use regard_attention::{Cache, CacheDtype, Options, Outputs, Shape, Terms};
use regard_masks::Mask;
use regard_memory::{Rows, RowsMut, Tensor, TensorMut};

use crate::{Error, Pass, Size};

/// The keys and values of a batch of sequences of one length, in f32.
#[derive(Debug)]
pub(crate) struct KeyCache {
    caches: Vec<Cache>,
}

impl KeyCache {
    /// Of `batch` sequences of up to `capacity` tokens.
    pub(crate) fn new(kv_heads: usize, dims: [usize; 2], batch: usize, capacity: usize) -> Result<KeyCache, Error> {
        let cache = |_| Cache::new(CacheDtype::F32, kv_heads, dims[0], dims[1], capacity);
        Ok(KeyCache { caches: (0..batch).map(cache).collect::<Result<_, _>>()? })
    }

    /// Sequences.
    pub(crate) fn batch(&self) -> usize {
        self.caches.len()
    }

    /// Tokens of each.
    pub(crate) fn len(&self) -> usize {
        self.caches.first().map_or(0, Cache::len)
    }

    /// Forgets all tokens.
    pub(crate) fn clear(&mut self) {
        self.caches.iter_mut().for_each(|cache| cache.truncate(0));
    }

    /// Refuses a batch of another size, one of other heads, and tokens that there is no room for.
    pub(crate) fn check(&self, size: Size, kv_heads: usize, dims: [usize; 2]) -> Result<(), Error> {
        if size.batch != self.batch() {
            return Err(Error::setting("batch", size.batch, format!("{}, as of the cache", self.batch())));
        }
        if let Some(other) = self.caches.iter().find(|c| (c.kv_heads(), c.dims()) != (kv_heads, dims)) {
            let of = |heads, [k, v]: [usize; 2]| format!("of {heads} heads with keys of {k} and values of {v}");
            let (has, expected) = (of(other.kv_heads(), other.dims()), of(kv_heads, dims));
            return Err(Error::setting("cache", has, expected + ", as the layer's"));
        }
        Ok(())
    }

    /// Refuses more tokens than there is room for.
    pub(crate) fn check_room(&self, more: usize) -> Result<(), Error> {
        match self.caches.first() {
            Some(first) if more > first.capacity() - first.len() => {
                let (len, capacity) = (first.len(), first.capacity());
                Err(regard_attention::Error::CacheFull { len, capacity, more }.into())
            }
            _ => Ok(()),
        }
    }

    /// Appends rows of keys and of values, `[batch·tokens, kv_heads·dim]`.
    pub(crate) fn append(
        &mut self,
        pass: &Pass<'_>,
        size: Size,
        keys: Rows<'_, f32>,
        values: Rows<'_, f32>,
    ) -> Result<(), Error> {
        for (entry, cache) in self.caches.iter_mut().enumerate() {
            let heads = cache.kv_heads();
            let [keys, values] = [keys, values].map(|rows| {
                let columns = rows.cols();
                Tensor::of_rows(rows.block(entry * size.tokens..(entry + 1) * size.tokens, 0..columns), 1, heads)
            });
            cache.append(keys?, values?, pass.kernels.isa(), pass.pool)?;
        }
        Ok(())
    }

    /// Attention of queries `[batch, tokens, heads, dim_k]`, the last of which stand at the last keys, over all that is held.
    #[allow(clippy::too_many_arguments, reason = "a call of attention: its options, its terms and its tensors")]
    pub(crate) fn attend(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        heads: usize,
        (mask, options): (&Mask, &Options),
        terms: Terms<'_>,
        q: &[f32],
        attended: &mut [f32],
    ) -> Result<(), Error> {
        let Some(first) = self.caches.first() else { return Ok(()) };
        let (kv_heads, [dim_k, dim_v]) = (first.kv_heads(), first.dims());
        let (tokens, keys) = (size.tokens, self.len());
        let shape = Shape { batch: 1, heads, kv_heads, queries: tokens, keys, dim_k, dim_v };
        let (q_each, attended_each) = (tokens * heads * dim_k, tokens * heads * dim_v);
        for (entry, cache) in self.caches.iter().enumerate() {
            let q = Rows::contiguous(&q[entry * q_each..][..q_each], tokens, heads * dim_k)?;
            let attended = &mut attended[entry * attended_each..][..attended_each];
            let to = RowsMut::contiguous(attended, tokens, heads * dim_v)?;
            let outputs = Outputs::new(TensorMut::of_rows(to, 1, heads)?);
            let plan = pass.plans.get(shape, mask, options)?;
            plan.run_cached(Tensor::of_rows(q, 1, heads)?, &[cache], terms, outputs, pass.scratch, pass.pool)?;
        }
        Ok(())
    }
}
