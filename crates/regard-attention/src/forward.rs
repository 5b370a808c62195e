//! Attention over keys and values as they come: packed for the call, then folded.

use half::{bf16, f16};
use regard_kernels::{Bf16, F32, Number, Operand, PANEL};
use regard_memory::{Arena, Frame, Need, Tensor, TensorMut, chunks_of};
use regard_threads::Pool;

use crate::panels::{PanelSize, Panels, PanelsMut};
use crate::shape::expect;
use crate::task::{Failure, Fold};
use crate::{Error, Plan, Regime, Shape};

/// Packed keys and values of the heads in flight take at most this much (and one head at least): they are read again by
/// every block of queries, and so are meant for the third-level cache.
const IN_FLIGHT_BYTES: usize = 24 << 20;

/// Panels that one task packs.
const PACKED_AT_ONCE: usize = 8;

/// A number type that attention takes.
pub trait Element: Number {
    /// How the products hold it where the CPU has instructions for it.
    type Operand: Operand;
}

impl Element for f32 {
    type Operand = F32;
}

impl Element for bf16 {
    type Operand = Bf16;
}

/// Half precision is multiplied in single: no CPU here has a faster product of it.
impl Element for f16 {
    type Operand = F32;
}

impl Plan {
    /// Computes attention.
    ///
    /// `q [batch, heads, queries, dim_k]`, `k [batch, kv_heads, keys, dim_k]`, `v [batch, kv_heads, keys, dim_v]` give
    /// `out [batch, heads, queries, dim_v]`, and where asked `lse [batch, heads, queries, 1]`, the natural logarithm of the
    /// sum of exponentials of a query's scores. A query that sees no key has the result 0 and the log-sum-exp −∞.
    ///
    /// # Errors
    /// A tensor's shape is not the plan's, or there is no memory for the scratch.
    #[allow(clippy::too_many_arguments, reason = "three tensors in, two out, and what the call runs on")]
    pub fn run<T: Element>(
        &self,
        q: Tensor<'_, T>,
        k: Tensor<'_, T>,
        v: Tensor<'_, T>,
        out: TensorMut<'_, T>,
        lse: Option<TensorMut<'_, f32>>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = self.shape;
        expect("queries", q.shape(), [batch, heads, queries, dim_k])?;
        expect("keys", k.shape(), [batch, kv_heads, keys, dim_k])?;
        expect("values", v.shape(), [batch, kv_heads, keys, dim_v])?;
        expect("out", out.shape(), [batch, heads, queries, dim_v])?;
        if let Some(lse) = &lse {
            expect("lse", lse.shape(), [batch, heads, queries, 1])?;
        }
        if T::Operand::DEPTH > 1 && !self.kernels.isa().has_bf16_dots() {
            // Pairs would be taken apart at every use; widened once, they cost what f32 costs.
            return self.run_as::<T, F32>(q, k, v, out, lse, scratch, pool);
        }
        self.run_as::<T, T::Operand>(q, k, v, out, lse, scratch, pool)
    }

    #[allow(clippy::too_many_arguments, reason = "as `run`")]
    fn run_as<T: Element, E: Operand>(
        &self,
        q: Tensor<'_, T>,
        k: Tensor<'_, T>,
        v: Tensor<'_, T>,
        mut out: TensorMut<'_, T>,
        lse: Option<TensorMut<'_, f32>>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = self.shape;
        let all = batch * kv_heads;
        if all * heads * queries == 0 {
            return Ok(());
        }
        let fold = Fold::<E>::new(self, PanelSize::of::<E>(dim_k, dim_v));
        let room = Room::of(keys, fold.size);
        let per_core = self.regime() == Regime::Heads;
        let in_flight = match per_core {
            true => pool.threads(),
            false => (IN_FLIGHT_BYTES / room.need::<E>().bytes().max(1)).clamp(1, all),
        };
        let need = room.need::<E>().times(in_flight).and(fold.need(in_flight, pool.threads()));
        let mut frame = scratch.frame(need.and(Need::of::<f32>(batch * heads * queries)))?;
        let mut lse = match lse {
            Some(lse) => lse,
            None => TensorMut::contiguous(frame.take(batch * heads * queries), [batch, heads, queries, 1])?,
        };
        let query = |head: usize, i: usize, g: usize| q.rows(head / kv_heads, head % kv_heads * fold.group + g).row(i);
        let source = |head: usize| (k.rows(head / kv_heads, head % kv_heads), v.rows(head / kv_heads, head % kv_heads));

        if per_core {
            let failure = Failure::default();
            let workers = frame.split(pool.threads(), room.need::<E>().and(fold.worker_need()));
            let parts = (out.block_parts(fold.group, queries), lse.block_parts(fold.group, queries));
            pool.run_in(workers, parts, |frame, head, (mut out, mut lse)| {
                failure.catch(|| {
                    let mut frame = frame.scope();
                    let mut panels = room.take::<E>(&mut frame, 1);
                    let (k, v) = source(head);
                    panels.write(self.kernels, 0, k, v)?;
                    fold.head(&mut frame, panels.as_ref(), |i, g| query(head, i, g), &mut out, &mut lse)
                });
            });
            return failure.into_result();
        }

        for first in (0..all).step_by(in_flight) {
            let heads = first..all.min(first + in_flight);
            let mut frame = frame.scope();
            let packed = room.take::<E>(&mut frame, heads.len());
            let (size, chunks) = (fold.size, room.panels / room.chunk);
            let parts = (
                chunks_of(packed.keys, room.chunk * size.keys),
                chunks_of(packed.values, room.chunk * size.values.max(1)),
                chunks_of(packed.wild, room.chunk),
            );
            let failure = Failure::default();
            pool.run(parts, |chunk, (packed_keys, packed_values, wild)| {
                let (k, v) = source(first + chunk / chunks);
                let from = (chunk % chunks * room.chunk * PANEL).min(keys);
                let until = (from + room.chunk * PANEL).min(keys);
                let mut panels = PanelsMut::<E> { size, keys: packed_keys, values: packed_values, wild };
                let (k, v) = (k.block(from..until, 0..dim_k), v.block(from..until, 0..dim_v));
                failure.catch(|| Ok(panels.write(self.kernels, 0, k, v)?));
            });
            failure.into_result()?;
            let (packed_keys, packed_values, wild) = (&*packed.keys, &*packed.values, &*packed.wild);
            let panels = |head: usize| {
                let at = (head - first) * room.panels;
                Panels::<E> {
                    size,
                    keys: &packed_keys[at * size.keys..][..room.panels * size.keys],
                    values: &packed_values[at * size.values..][..room.panels * size.values],
                    wild: &wild[at..][..room.panels],
                }
            };
            fold.heads(heads, panels, query, out.reborrow(), lse.reborrow(), &mut frame, pool)?;
        }
        Ok(())
    }
}

/// The room that a head's panels take: a whole number of chunks, which are packed one by one.
#[derive(Clone, Copy)]
struct Room {
    size: PanelSize,
    panels: usize,
    chunk: usize,
}

impl Room {
    fn of(keys: usize, size: PanelSize) -> Room {
        let panels = keys.div_ceil(PANEL).max(1);
        let chunks = panels.div_ceil(PACKED_AT_ONCE);
        let chunk = panels.div_ceil(chunks);
        Room { size, panels: chunks * chunk, chunk }
    }

    fn need<E: Operand>(&self) -> Need {
        Need::of::<E::B>(self.panels * self.size.keys)
            .and(Need::of::<E::B>(self.panels * self.size.values.max(1)))
            .and(Need::of::<u8>(self.panels))
    }

    fn take<'a, E: Operand>(&self, frame: &mut Frame<'a>, heads: usize) -> PanelsMut<'a, E> {
        let panels = heads * self.panels;
        PanelsMut {
            size: self.size,
            keys: frame.take(panels * self.size.keys),
            values: frame.take(panels * self.size.values.max(1)),
            wild: frame.take(panels),
        }
    }
}
