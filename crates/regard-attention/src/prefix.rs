//! Many sequences that begin alike: the shared beginning is attended to once for all of them.

use regard_kernels::Number;
use regard_masks::Mask;
use regard_memory::{Arena, Need, Tensor, TensorMut};
use regard_threads::Pool;

use crate::shape::expect;
use crate::state::merge_row;
use crate::task::with_sink;
use crate::{Element, Error, Inputs, Offset, Options, Outputs, Plan, Sequences, Shape, Terms};

/// Attention of a batch whose sequences share their first keys. The queries of all sequences are the rows of one call over
/// the prefix, so that its keys and values are read once and not once a sequence; each sequence's own keys follow, and the
/// two states are merged.
///
/// Every query sees the whole prefix; the mask is over the sequence's own keys, counted from the first behind the prefix.
/// The results are those of whole sequences within rounding, not to the bit.
///
/// ```
/// use regard_attention::{Inputs, Options, Outputs, Shape, SharedPrefix};
/// use regard_masks::Mask;
/// use regard_memory::{Arena, Tensor, TensorMut};
/// use regard_threads::Pool;
///
/// // Eight sequences of one new query each, that share 100 keys and have 5 of their own.
/// let shape = Shape { batch: 8, heads: 2, kv_heads: 1, queries: 1, keys: 5, dim_k: 4, dim_v: 4 };
/// let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| (i as f32 * 0.7).sin()).collect() };
/// let (q, k, v) = (numbers(8 * 2 * 4), numbers(8 * 5 * 4), numbers(8 * 5 * 4));
/// let (prefix_k, prefix_v) = (numbers(100 * 4), numbers(100 * 4));
/// let mut attention = SharedPrefix::new(shape, 100, &Mask::causal(), &Options::default())?;
/// let mut out = vec![0f32; 8 * 2 * 4];
/// attention.run(
///     &Inputs::new(
///         Tensor::contiguous(&q, [8, 2, 1, 4])?,
///         Tensor::contiguous(&k, [8, 1, 5, 4])?,
///         Tensor::contiguous(&v, [8, 1, 5, 4])?,
///     ),
///     Tensor::contiguous(&prefix_k, [1, 1, 100, 4])?,
///     Tensor::contiguous(&prefix_v, [1, 1, 100, 4])?,
///     Outputs::new(TensorMut::contiguous(&mut out, [8, 2, 1, 4])?),
///     &mut Arena::new(),
///     Pool::global(),
/// )?;
/// # Ok::<(), regard_attention::Error>(())
/// ```
#[derive(Debug)]
pub struct SharedPrefix {
    prefix: Plan,
    own: Plan,
    states: Arena,
}

impl SharedPrefix {
    /// Plans attention over `prefix_keys` shared keys and, of each sequence, the keys of `shape`.
    ///
    /// # Errors
    /// As [`Plan::new`]; and for lengths, segments and dropout, which have no meaning over a shared beginning.
    pub fn new(shape: Shape, prefix_keys: usize, mask: &Mask, options: &Options) -> Result<SharedPrefix, Error> {
        let whole = options.sequences == Sequences::Whole && options.dropout.is_none();
        if !whole || matches!(options.offset, Offset::Each(_)) {
            return Err(Error::Unshared);
        }
        let rows = shape.batch.checked_mul(shape.queries).ok_or(regard_memory::Error::Overflow { what: "queries" })?;
        let all = Shape { batch: shape.batch.min(1), queries: rows, keys: prefix_keys, ..shape };
        Ok(SharedPrefix {
            prefix: Plan::new(all, &Mask::full(), options)?,
            own: Plan::new(shape, mask, options)?,
            states: Arena::new(),
        })
    }

    /// The plan over the shared keys, whose queries are those of all sequences.
    pub fn prefix(&self) -> &Plan {
        &self.prefix
    }

    /// The plan over the sequences' own keys.
    pub fn own(&self) -> &Plan {
        &self.own
    }

    /// Computes attention: `inputs` hold the queries and the sequences' own keys and values,
    /// `prefix_k [1, kv_heads, prefix, dim_k]` and `prefix_v [1, kv_heads, prefix, dim_v]` what they share.
    ///
    /// # Errors
    /// A tensor's shape is not the plan's, there are a bias or slopes, or there is no memory for the scratch; then nothing
    /// is written.
    #[allow(clippy::too_many_arguments, reason = "two sets of keys, and what the call runs on")]
    pub fn run<T: Element, O: Number>(
        &mut self,
        inputs: &Inputs<'_, T>,
        prefix_k: Tensor<'_, T>,
        prefix_v: Tensor<'_, T>,
        outputs: Outputs<'_, O>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let Shape { batch, heads, kv_heads, queries, dim_k, dim_v, .. } = self.own.shape;
        inputs.check(self.own.shape, batch)?;
        outputs.check(self.own.shape)?;
        let keys = self.prefix.shape.keys;
        expect("prefix keys", prefix_k.shape(), [1, kv_heads, keys, dim_k])?;
        expect("prefix values", prefix_v.shape(), [1, kv_heads, keys, dim_v])?;
        let Terms { bias, slopes, sinks, .. } = inputs.terms;
        if bias.is_some() || slopes.is_some() {
            return Err(Error::Unshared);
        }
        let all = self.own.shape.rows();
        if all == 0 {
            return Ok(());
        }
        let state = Need::of::<f32>(all.saturating_mul(dim_v)).and(Need::of::<f32>(all));
        let mut frame = self.states.frame(state.times(2))?;
        let (prefix_out, prefix_lse) = (frame.take::<f32>(all * dim_v), frame.take::<f32>(all));
        let (own_out, own_lse) = (frame.take::<f32>(all * dim_v), frame.take::<f32>(all));

        let rows = batch * queries;
        let shared = Outputs::state(
            TensorMut::contiguous(&mut *prefix_out, [1, heads, rows, dim_v])?,
            TensorMut::contiguous(&mut *prefix_lse, [1, heads, rows, 1])?,
        );
        // A row of the call over the prefix is a query of some sequence.
        let query = |head: usize, row: usize| inputs.q.rows(row / queries, head).row(row % queries);
        self.prefix.run_queries(query, prefix_k, prefix_v, shared, scratch, pool)?;
        let own = Outputs::state(
            TensorMut::contiguous(&mut *own_out, [batch, heads, queries, dim_v])?,
            TensorMut::contiguous(&mut *own_lse, [batch, heads, queries, 1])?,
        );
        self.own.run(&Inputs { terms: Terms::default(), ..*inputs }, own, scratch, pool)?;

        let Outputs { mut out, mut lse } = outputs;
        for b in 0..batch {
            for h in 0..heads {
                for i in 0..queries {
                    let (own_row, row) = ((b * heads + h) * queries + i, h * rows + b * queries + i);
                    let sum = &mut own_out[own_row * dim_v..][..dim_v];
                    let whole = merge_row(sum, own_lse[own_row], &prefix_out[row * dim_v..][..dim_v], prefix_lse[row]);
                    let (weight, whole) = with_sink(whole, sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[h]));
                    let to = out.rows_mut(b, h).block(i..i + 1, 0..dim_v);
                    self.own.kernels.store_sum(&[&*sum], dim_v, weight, to)?;
                    if let Some(lse) = &mut lse {
                        lse.rows_mut(b, h).row_mut(i)[0] = whole;
                    }
                }
            }
        }
        Ok(())
    }
}
