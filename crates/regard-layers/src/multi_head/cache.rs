//! Keys and values of multi-head attention that were projected before.

use regard_attention::Terms;
use regard_memory::{Frame, Need, Rows};

use super::weights::Part;
use super::{KeyHeads, MultiHeadAttention, MultiHeadConfig};
use crate::key_cache::KeyCache;
use crate::layer::check_rows;
use crate::{Error, Pass, Size};

/// The keys and values of a batch that a [`MultiHeadAttention`] has projected, up to a fixed number of tokens each, of all heads
/// or of the first alone. It is written first, then read; both at once is what [`MultiHeadAttention::stream`] does.
///
/// There is no backward pass through it.
#[derive(Debug)]
pub struct MultiHeadCache {
    cache: KeyCache,
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
        let cache = KeyCache::new(layer.kv_heads(heads), [dim_k, dim_v], batch, capacity)?;
        Ok(MultiHeadCache { cache, heads, holds: None })
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.cache.batch()
    }

    /// Tokens of each sequence that it holds.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.cache.clear();
        self.holds = None;
    }

    fn check(&self, size: Size, layer: &MultiHeadAttention, wanted: Holds) -> Result<(), Error> {
        let &MultiHeadConfig { dim_k, dim_v, .. } = layer.config();
        self.cache.check(size, layer.kv_heads(self.heads), [dim_k, dim_v])?;
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
        cache.cache.check_room(size.tokens)?;
        let heads = cache.heads;
        let (columns, [_, k_width, _]) = (self.columns(Part::Keys, heads), self.widths(heads));
        let mut frame = frame.scope();
        let projected = frame.take(size.rows() * columns);
        self.project(pass, Rows::contiguous(tokens, size.rows(), inputs)?, Part::Keys, heads, projected)?;
        let (keys, values) = Rows::contiguous(&*projected, size.rows(), columns)?.split_columns_at(k_width);
        cache.cache.append(pass, size, keys, values)?;
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
        let options = self.options(pass);
        cache.cache.attend(pass, size, heads, (mask, &options), Terms::default(), q, attended)?;
        self.finish(pass, rows, attended, out)?;
        Ok(out)
    }
}
