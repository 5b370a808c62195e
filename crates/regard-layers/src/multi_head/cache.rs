//! Keys and values of multi-head attention that were projected before.

use regard_attention::{Cache, CacheDtype, Outputs, Terms};
use regard_memory::{Frame, Need, Rows, RowsMut, Tensor, TensorMut};

use super::weights::Part;
use super::{KeyHeads, MultiHeadAttention, MultiHeadConfig};
use crate::layer::check_rows;
use crate::{Error, Pass, Size};

/// The keys and values of a batch that a [`MultiHeadAttention`] has projected, up to a fixed number of tokens each, of all heads
/// or of the first alone. It is written first, then read; both at once is what [`MultiHeadAttention::stream`] does.
///
/// There is no backward pass through it.
#[derive(Debug)]
pub struct MultiHeadCache {
    caches: Vec<Cache>,
    pub(super) heads: KeyHeads,
    holds: Option<Holds>,
}

/// Whose keys are in a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Memory,
    OwnTokens,
}

impl Holds {
    fn name(self) -> &'static str {
        match self {
            Holds::Memory => "a memory's tokens",
            Holds::OwnTokens => "a sequence's own tokens",
        }
    }
}

impl MultiHeadCache {
    /// An empty cache of f32 for `batch` sequences of up to `capacity` tokens.
    ///
    /// # Errors
    /// A size is 0 or too large for the memory.
    pub fn new(
        layer: &MultiHeadAttention,
        heads: KeyHeads,
        batch: usize,
        capacity: usize,
    ) -> Result<MultiHeadCache, Error> {
        let &MultiHeadConfig { dim_k, dim_v, .. } = layer.config();
        let cache = |_| Cache::new(CacheDtype::F32, layer.kv_heads(heads), dim_k, dim_v, capacity);
        let caches = (0..batch).map(cache).collect::<Result<_, _>>()?;
        Ok(MultiHeadCache { caches, heads, holds: None })
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.caches.len()
    }

    /// Tokens of each sequence that it holds.
    pub fn len(&self) -> usize {
        self.caches.first().map_or(0, Cache::len)
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.caches.iter_mut().for_each(|cache| cache.truncate(0));
        self.holds = None;
    }

    fn check(&self, size: Size, layer: &MultiHeadAttention, wanted: Holds) -> Result<(), Error> {
        if size.batch != self.batch() {
            return Err(Error::setting("batch", size.batch, format!("{}, as of the cache", self.batch())));
        }
        let (kv_heads, &MultiHeadConfig { dim_k, dim_v, .. }) = (layer.kv_heads(self.heads), layer.config());
        if let Some(other) = self.caches.iter().find(|c| (c.kv_heads(), c.dims()) != (kv_heads, [dim_k, dim_v])) {
            let of = |heads, [k, v]: [usize; 2]| format!("of {heads} heads with keys of {k} and values of {v}");
            let (has, expected) = (of(other.kv_heads(), other.dims()), of(kv_heads, [dim_k, dim_v]));
            return Err(Error::setting("cache", has, expected + ", as the layer's"));
        }
        match self.holds {
            Some(holds) if holds != wanted => {
                let expected = format!("one of {}", wanted.name());
                Err(Error::setting("cache", format!("one of {}", holds.name()), expected))
            }
            _ => Ok(()),
        }
    }
}

impl MultiHeadAttention {
    /// What [`MultiHeadAttention::write`] takes from its frame.
    pub fn write_need(&self, size: Size, heads: KeyHeads) -> Need {
        Need::of::<f32>(size.rows().saturating_mul(self.columns(Part::Keys, heads)))
    }

    /// Projects the tokens of a memory `[batch, tokens, inputs]` and appends their keys and values to a cache.
    ///
    /// # Errors
    /// The memory has another size, the cache is another layer's or holds something else, or there is no room in it; then
    /// nothing is written.
    pub fn write(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        memory: &[f32],
        cache: &mut MultiHeadCache,
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        self.append(pass, size, memory, cache, Holds::Memory, frame)
    }

    fn append(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        tokens: &[f32],
        cache: &mut MultiHeadCache,
        holds: Holds,
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        let &MultiHeadConfig { inputs, .. } = self.config();
        check_rows("tokens", tokens, size, inputs)?;
        cache.check(size, self, holds)?;
        if let Some(first) = cache.caches.first().filter(|first| size.tokens > first.capacity() - first.len()) {
            let (len, capacity, more) = (first.len(), first.capacity(), size.tokens);
            return Err(regard_attention::Error::CacheFull { len, capacity, more }.into());
        }
        let (heads, kv_heads) = (cache.heads, self.kv_heads(cache.heads));
        let (columns, [_, k_width, _]) = (self.columns(Part::Keys, heads), self.widths(heads));
        let mut frame = frame.scope();
        let projected = frame.take(size.rows() * columns);
        self.project(pass, Rows::contiguous(tokens, size.rows(), inputs)?, Part::Keys, heads, projected)?;
        for (entry, cache) in cache.caches.iter_mut().enumerate() {
            let rows = Rows::contiguous(projected, size.rows(), columns)?;
            let rows = rows.block(entry * size.tokens..(entry + 1) * size.tokens, 0..columns);
            let (keys, values) = rows.split_columns_at(k_width);
            let (keys, values) = (Tensor::of_rows(keys, 1, kv_heads)?, Tensor::of_rows(values, 1, kv_heads)?);
            cache.append(keys, values, pass.kernels.isa(), pass.pool)?;
        }
        cache.holds = Some(holds);
        Ok(())
    }

    /// What [`MultiHeadAttention::read`] takes from the tape.
    pub fn read_need(&self, size: Size) -> Need {
        let &MultiHeadConfig { heads, outputs, dim_k, dim_v, .. } = self.config();
        let of = |width: usize| Need::of::<f32>(size.rows().saturating_mul(width));
        of(outputs).and(of(heads * dim_k)).and(of(heads * dim_v))
    }

    /// Attention of the tokens of `x [batch, tokens, inputs]` over a memory that was written to a cache.
    ///
    /// # Errors
    /// `x` has another size, the cache is another layer's or holds something else, or nothing was written to it.
    pub fn read<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &[f32],
        cache: &MultiHeadCache,
        tape: &mut Frame<'a>,
    ) -> Result<&'a mut [f32], Error> {
        self.over(pass, size, x, cache, Holds::Memory, tape)
    }

    /// What [`MultiHeadAttention::stream`] takes from the tape.
    pub fn stream_need(&self, size: Size, heads: KeyHeads) -> Need {
        self.write_need(size, heads).and(self.read_need(size))
    }

    /// The next tokens of sequences, `x [batch, tokens, inputs]`: their keys and values go into the cache, and they attend to all
    /// that is there, the last of them standing at the last key. Of a causal layer all tokens in chunks equal all in one pass,
    /// within rounding.
    ///
    /// # Errors
    /// As [`MultiHeadAttention::write`].
    pub fn stream<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &[f32],
        cache: &mut MultiHeadCache,
        tape: &mut Frame<'a>,
    ) -> Result<&'a mut [f32], Error> {
        self.append(pass, size, x, cache, Holds::OwnTokens, tape)?;
        self.over(pass, size, x, cache, Holds::OwnTokens, tape)
    }

    fn over<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &[f32],
        cache: &MultiHeadCache,
        wanted: Holds,
        tape: &mut Frame<'a>,
    ) -> Result<&'a mut [f32], Error> {
        let MultiHeadConfig { inputs, outputs, heads, dim_k, dim_v, ref mask, .. } = *self.config();
        check_rows("input", x, size, inputs)?;
        cache.check(size, self, wanted)?;
        if cache.holds.is_none() {
            return Err(Error::setting("cache", "empty", "written before it is read"));
        }
        let rows = size.rows();
        let out = tape.take(rows * outputs);
        let mut scope = tape.scope();
        let (q, attended) = (scope.take(rows * heads * dim_k), scope.take(rows * heads * dim_v));
        self.project(pass, Rows::contiguous(x, rows, inputs)?, Part::Queries, cache.heads, q)?;
        let shape = self.shape(Size { batch: 1, ..size }, cache.len(), cache.heads);
        let options = self.options(pass);
        let (q_each, attended_each) = (size.tokens * heads * dim_k, size.tokens * heads * dim_v);
        for (entry, cache) in cache.caches.iter().enumerate() {
            let q = Rows::contiguous(&q[entry * q_each..][..q_each], size.tokens, heads * dim_k)?;
            let attended = &mut attended[entry * attended_each..][..attended_each];
            let to = RowsMut::contiguous(attended, size.tokens, heads * dim_v)?;
            let outputs = Outputs::new(TensorMut::of_rows(to, 1, heads)?);
            let plan = pass.plans.get(shape, mask, &options)?;
            let q = Tensor::of_rows(q, 1, heads)?;
            plan.run_cached(q, &[cache], Terms::default(), outputs, pass.scratch, pass.pool)?;
        }
        self.finish(pass, rows, attended, out)?;
        Ok(out)
    }
}
