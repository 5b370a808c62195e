//! Attention over caches.

use std::ops::Range;
use std::sync::Arc;

use regard_kernels::{Bf16, F16, F32, Int8, Number, Operand};
use regard_memory::{AlignedBuffer, Arena, Need, Tensor, TensorMut};
use regard_threads::Pool;

use crate::cache::block::BlockFormat;
use crate::cache::pool::Page;
use crate::cache::table::HeadPages;
use crate::panels::{PanelSize, Panels};
use crate::plan::Unit;
use crate::shape::expect;
use crate::task::Fold;
use crate::{CacheDtype, Element, Error, Outputs, Plan, Shape, Terms};

/// Keys and values that attention reads where they lie: a [`Cache`](crate::Cache) or a [`PagedCache`](crate::PagedCache).
pub trait Cached: Sealed + Sync {}

/// What attention asks of a cache.
pub trait Sealed {
    /// What it holds at this time.
    fn view(&self) -> View<'_>;
}

/// The tokens of a cache, and where they lie.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(crate) format: &'a BlockFormat,
    pub(crate) len: usize,
    pub(crate) place: Place<'a>,
}

#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Whole(&'a AlignedBuffer<u8>),
    Paged(&'a [Arc<Page>]),
}

impl<'a> View<'a> {
    /// The panels of a head. `E` is the operand of the format's numbers.
    fn head<E: Operand>(&self, head: usize) -> Panels<'a, E> {
        let View { format, place, .. } = *self;
        match place {
            Place::Whole(block) => Panels::Whole(format.head(block, head)),
            Place::Paged(pages) => Panels::Paged(HeadPages { format, pages, head }),
        }
    }
}

impl Plan {
    /// Computes attention over caches, one for each batch entry: `q [batch, heads, queries, dim_k]`. A batch entry's number
    /// of keys is its cache's length, see [`Plan::resize`] and, for caches of different lengths, [`Plan::resize_keys`].
    /// A paged cache gives the same bits as one in one piece.
    ///
    /// # Errors
    /// A shape is not the plan's, the caches store different numbers, or there is no memory for the scratch; then nothing
    /// is written.
    pub fn run_cached<T: Element, O: Number, C: Cached + ?Sized>(
        &self,
        q: Tensor<'_, T>,
        caches: &[&C],
        terms: Terms<'_>,
        outputs: Outputs<'_, O>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let Shape { batch, heads, kv_heads, queries, dim_k, dim_v, .. } = self.shape;
        expect("queries", q.shape(), [batch, heads, queries, dim_k])?;
        terms.check(self.shape, self.sequences.len())?;
        outputs.check(self.shape)?;
        if self.sequences.len() != batch {
            return Err(Error::Packed);
        }
        if caches.len() != batch {
            let expected = format!("{batch}, one for each batch entry");
            return Err(Error::Axis { tensor: "caches", axis: "batch", has: caches.len(), expected });
        }
        for sequence in &self.sequences {
            let View { format, len, .. } = caches[sequence.batch].view();
            let BlockFormat { dtype, kv_heads: has_heads, dim_k: has_k, dim_v: has_v, .. } = *format;
            let Range { start, end } = sequence.keys;
            expect("cache", [1, has_heads, len, has_k], [1, kv_heads, end, dim_k])?;
            expect("cached values", [1, has_heads, len, has_v], [1, kv_heads, end, dim_v])?;
            if start > 0 {
                let expected = "all keys of its cache, from 0 on".to_string();
                return Err(Error::Axis { tensor: "segment of keys", axis: "seq", has: start, expected });
            }
            let first = caches[0].view().format.dtype;
            if dtype != first {
                return Err(Error::CacheDtypes { first, other: dtype });
            }
        }
        if self.shape.rows() == 0 {
            return Ok(());
        }
        let view = |batch: usize| caches[batch].view();
        match view(0).format.dtype {
            CacheDtype::F32 => self.fold_cached::<T, F32, O>(q, &view, terms, outputs, scratch, pool),
            CacheDtype::F16 => self.fold_cached::<T, F16, O>(q, &view, terms, outputs, scratch, pool),
            CacheDtype::Bf16 => self.fold_cached::<T, Bf16, O>(q, &view, terms, outputs, scratch, pool),
            CacheDtype::Int8 => self.fold_cached::<T, Int8, O>(q, &view, terms, outputs, scratch, pool),
        }
    }

    /// The scratch that [`Plan::run_cached`] takes from its arena over caches of this kind, on a pool of so many threads.
    pub fn need_cached(&self, dtype: CacheDtype, threads: usize) -> Need {
        match dtype {
            CacheDtype::F32 => self.need_folded::<F32>(threads),
            CacheDtype::F16 => self.need_folded::<F16>(threads),
            CacheDtype::Bf16 => self.need_folded::<Bf16>(threads),
            CacheDtype::Int8 => self.need_folded::<Int8>(threads),
        }
    }

    fn need_folded<E: Operand>(&self, threads: usize) -> Need {
        let Shape { dim_k, dim_v, .. } = self.shape;
        let size = PanelSize::of::<E>(dim_k, dim_v);
        let phase = |phase| {
            let fold = Fold::<E>::new(self, phase, size, Terms::default());
            if fold.units() == 0 { Need::NONE } else { fold.need(fold.units(), threads) }
        };
        let most = self.phases.iter().map(phase).fold(Need::NONE, Need::or);
        most.and(Need::of::<f32>(self.shape.rows()))
    }

    fn fold_cached<'c, T: Element, E: Operand, O: Number>(
        &self,
        q: Tensor<'_, T>,
        view: &(dyn Fn(usize) -> View<'c> + Sync),
        terms: Terms<'_>,
        outputs: Outputs<'_, O>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let Shape { batch, heads, queries, dim_k, dim_v, .. } = self.shape;
        let mut frame = scratch.frame(self.need_folded::<E>(pool.threads()))?;
        let Outputs { mut out, lse } = outputs;
        let mut lse = match lse {
            Some(lse) => lse,
            None => TensorMut::contiguous(frame.take(self.shape.rows()), [batch, heads, queries, 1])?,
        };
        self.clear_dead(&mut out, &mut lse);
        for phase in &self.phases {
            let fold = Fold::<E>::new(self, phase, PanelSize::of::<E>(dim_k, dim_v), terms);
            let panels = |index: usize| {
                let unit = fold.unit(index);
                view(self.sequences[unit.sequence].batch).head::<E>(unit.head)
            };
            let query = |unit: Unit, i: usize, g: usize| {
                let sequence = &self.sequences[unit.sequence];
                q.rows(sequence.batch, unit.head * fold.group + g).row(sequence.queries.start + i)
            };
            let (out, lse) = (out.reborrow(), lse.reborrow());
            fold.run(0..fold.units(), panels, query, out, lse, &mut frame.scope(), pool)?;
        }
        Ok(())
    }
}
