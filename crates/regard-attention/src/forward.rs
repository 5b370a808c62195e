//! Attention over keys and values as they come: packed for the call, then folded.

use std::ops::Range;

use half::{bf16, f16};
use regard_kernels::{Bf16, F32, Number, Operand, PANEL, ROWS, Transposable};
use regard_memory::{Ahead, Arena, Frame, Need, Rows, Tensor, TensorMut, chunks_of};
use regard_threads::Pool;

use crate::edges::ByEdges;
use crate::panels::{PanelSize, Panels, Run, RunMut};
use crate::plan::{Phase, Unit};
use crate::strip::Strip;
use crate::task::{Failure, Fold};
use crate::{Error, Inputs, Outputs, Plan, Regime, Shape, Terms};

/// Packed keys and values of the heads in flight take at most this much (and one head at least): they are read again by
/// every block of queries, and so are meant for the third-level cache.
const IN_FLIGHT_BYTES: usize = 24 << 20;

/// Strips that a thread takes at once: a small head's neighbour is brought near while it is computed, which is of no use to
/// a thread that does not get it.
const TOGETHER: usize = 64;

/// Each thread takes strips at least so many times, so that the last ones do not keep the others waiting.
const TURNS: usize = 32;

/// Panels that one task packs.
const PACKED_AT_ONCE: usize = 8;

/// A number type that attention takes.
pub trait Element: Number {
    /// How the products hold it where the CPU has instructions for it.
    type Operand: Transposable;
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
    /// A query that sees no key has the result 0 and, without a sink, the log-sum-exp −∞.
    ///
    /// ```
    /// use regard_attention::{Inputs, Options, Outputs, Plan, Shape};
    /// use regard_masks::Mask;
    /// use regard_memory::{Ahead, Arena, Tensor, TensorMut};
    /// use regard_threads::Pool;
    ///
    /// let shape = Shape { batch: 1, heads: 2, kv_heads: 1, queries: 3, keys: 3, dim_k: 4, dim_v: 4 };
    /// let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| (i as f32 * 0.7).sin()).collect() };
    /// let (q, k, v) = (numbers(2 * 3 * 4), numbers(3 * 4), numbers(3 * 4));
    /// let mut inputs = Inputs::new(
    ///     Tensor::contiguous(&q, [1, 2, 3, 4])?,
    ///     Tensor::contiguous(&k, [1, 1, 3, 4])?,
    ///     Tensor::contiguous(&v, [1, 1, 3, 4])?,
    /// );
    /// inputs.terms.sinks = Some(&[0.5, -1.0]);
    /// let (mut out, mut lse) = (vec![0f32; 2 * 3 * 4], vec![0f32; 2 * 3]);
    /// let outputs = Outputs::state(
    ///     TensorMut::contiguous(&mut out, [1, 2, 3, 4])?,
    ///     TensorMut::contiguous(&mut lse, [1, 2, 3, 1])?,
    /// );
    /// let plan = Plan::new(shape, &Mask::causal(), &Options::default())?;
    /// plan.run(&inputs, outputs, &mut Arena::new(), Pool::global())?;
    /// # Ok::<(), regard_attention::Error>(())
    /// ```
    ///
    /// # Errors
    /// A tensor's shape is not the plan's, or there is no memory for the scratch; then nothing is written.
    pub fn run<T: Element, O: Number>(
        &self,
        inputs: &Inputs<'_, T>,
        outputs: Outputs<'_, O>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        inputs.check(self.shape, self.sequences.len())?;
        outputs.check(self.shape)?;
        if self.shape.rows() == 0 {
            return Ok(());
        }
        let query = |unit: Unit, i: usize, g: usize| {
            let sequence = &self.sequences[unit.sequence];
            inputs.q.rows(sequence.batch, unit.head * self.shape.group() + g).row(sequence.queries.start + i)
        };
        let (keys, values) = (inputs.k, inputs.v);
        if pairs_are_slow::<T>(self) {
            return self.run_as::<T, F32, O>(query, Some(inputs.q), keys, values, inputs.terms, outputs, scratch, pool);
        }
        self.run_as::<T, T::Operand, O>(query, Some(inputs.q), keys, values, inputs.terms, outputs, scratch, pool)
    }

    /// [`Plan::run`] of one sequence, whose queries are given by head and row.
    pub(crate) fn run_queries<'d, T: Element, O: Number>(
        &self,
        query: impl Fn(usize, usize) -> &'d [T] + Sync,
        keys: Tensor<'_, T>,
        values: Tensor<'_, T>,
        outputs: Outputs<'_, O>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let query = |unit: Unit, i: usize, g: usize| query(unit.head * self.shape.group() + g, i);
        if pairs_are_slow::<T>(self) {
            return self.run_as::<T, F32, O>(query, None, keys, values, Terms::default(), outputs, scratch, pool);
        }
        self.run_as::<T, T::Operand, O>(query, None, keys, values, Terms::default(), outputs, scratch, pool)
    }

    #[allow(clippy::too_many_arguments, reason = "the inputs one by one: queries may come from anywhere")]
    fn run_as<'d, T: Element, E: Transposable, O: Number>(
        &self,
        query: impl Fn(Unit, usize, usize) -> &'d [T] + Sync,
        queries: Option<Tensor<'_, T>>,
        keys: Tensor<'_, T>,
        values: Tensor<'_, T>,
        terms: Terms<'_>,
        outputs: Outputs<'_, O>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let Shape { batch, heads, queries: most_queries, dim_k, dim_v, .. } = self.shape;
        let size = PanelSize::of::<E>(dim_k, dim_v);
        let packed = |phase| {
            let fold = Fold::<E>::new(self, phase, size, terms);
            Packed { room: Room::of(fold.panels(), size), fold, queries, keys, values }
        };
        let phases = self.phases_of_tensors();
        let most = phases.iter().map(|phase| packed(phase).need(pool.threads())).fold(Need::NONE, Need::or);
        let mut frame = scratch.frame(most.and(Need::of::<f32>(self.shape.rows())))?;
        let Outputs { mut out, lse } = outputs;
        let mut lse = match lse {
            Some(lse) => lse,
            None => {
                let shape = [batch, heads, most_queries, 1];
                TensorMut::contiguous(frame.take(self.shape.rows()), shape)?
            }
        };
        self.clear_dead(&mut out, &mut lse);
        for phase in phases {
            packed(phase).run(&query, out.reborrow(), lse.reborrow(), &mut frame.scope(), pool)?;
        }
        Ok(())
    }

    /// Queries of no sequence: no result.
    pub(crate) fn clear_dead<O: Number>(&self, out: &mut TensorMut<'_, O>, lse: &mut TensorMut<'_, f32>) {
        for (batch, rows) in &self.dead {
            for head in 0..self.shape.heads {
                for row in rows.clone() {
                    out.rows_mut(*batch, head).row_mut(row).fill(O::default());
                    lse.rows_mut(*batch, head).row_mut(row)[0] = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// Whether pairs would be taken apart at every use; widened once, they cost what f32 costs.
fn pairs_are_slow<T: Element>(plan: &Plan) -> bool {
    T::Operand::DEPTH > 1 && !plan.kernels.isa().has_bf16_dots()
}

/// A phase whose keys and values are packed for the call.
pub(crate) struct Packed<'p, 'a, T, E: Transposable> {
    pub fold: Fold<'p, 'a, E>,
    room: Room,
    /// The queries, where they lie in a tensor as the plan says.
    queries: Option<Tensor<'a, T>>,
    keys: Tensor<'a, T>,
    values: Tensor<'a, T>,
}

impl<'a, T: Element, E: Transposable> Packed<'_, 'a, T, E> {
    fn phase(&self) -> &Phase {
        self.fold.phase
    }

    /// The same, query by query.
    fn by_edges(&self) -> ByEdges<'_, 'a> {
        ByEdges { plan: self.fold.plan, phase: self.phase(), terms: self.fold.terms }
    }

    /// Units whose panels are there at once: what the cache holds.
    fn in_flight(&self) -> usize {
        (IN_FLIGHT_BYTES / self.room.need::<E>().bytes().max(1)).clamp(1, self.fold.units().max(1))
    }

    fn need(&self, threads: usize) -> Need {
        if self.fold.units() == 0 {
            return Need::NONE;
        }
        match self.phase().regime {
            Regime::Strips => return self.strip_need().times(threads),
            Regime::Edges => return self.by_edges().need(threads),
            Regime::Splits if self.packs_by_itself() => {
                let worker = self.split_need().and(self.fold.worker_need());
                let row = Need::of::<f32>(self.fold.plan.shape.dim_v);
                return self.fold.states_need(self.splits_in_flight()).and(worker.and(row).times(threads));
            }
            Regime::Blocks | Regime::Splits => {}
        }
        let in_flight = self.in_flight();
        self.room.need::<E>().times(in_flight).and(self.fold.need(in_flight, threads))
    }

    /// Scratch of a strip.
    fn strip_need(&self) -> Need {
        let panels = Strip::<T, E>::need(self.fold.held(), self.fold.panels(), self.room.size);
        panels.and(self.fold.worker_need()).or(self.small_need())
    }

    /// A unit's keys and values.
    pub(crate) fn source(&self, unit: Unit) -> (Rows<'a, T>, Rows<'a, T>) {
        let sequence = &self.fold.plan.sequences[unit.sequence];
        let rows = |tensor: &Tensor<'a, T>| {
            let rows = tensor.rows(sequence.batch, unit.head);
            rows.block(sequence.keys.clone(), 0..rows.cols())
        };
        (rows(&self.keys), rows(&self.values))
    }

    fn run<'d, O: Number>(
        &self,
        query: impl Fn(Unit, usize, usize) -> &'d [T] + Sync,
        out: TensorMut<'_, O>,
        lse: TensorMut<'_, f32>,
        frame: &mut Frame<'_>,
        pool: &Pool,
    ) -> Result<(), Error>
    where
        T: 'd,
    {
        if self.fold.units() == 0 {
            return Ok(());
        }
        match self.phase().regime {
            Regime::Strips => return self.run_strips(query, out, lse, frame, pool),
            Regime::Edges => return self.by_edges().run(query, |unit| self.source(unit), out, lse, frame, pool),
            Regime::Splits if self.packs_by_itself() => return self.run_splits(query, out, lse, frame, pool),
            Regime::Blocks | Regime::Splits => {}
        }
        let in_flight = self.in_flight();
        let (mut out, mut lse) = (out, lse);
        for first in (0..self.fold.units()).step_by(in_flight) {
            let units = first..self.fold.units().min(first + in_flight);
            let mut frame = frame.scope();
            let packed = self.room.take::<E>(&mut frame, units.len());
            let packed = self.pack(units.clone(), packed, pool)?;
            let panels = |unit: usize| {
                let at = (unit - first) * self.room.panels;
                Panels::Whole(packed.part(at..at + self.room.panels))
            };
            self.fold.run(units, panels, &query, out.reborrow(), lse.reborrow(), &mut frame, pool)?;
        }
        Ok(())
    }

    /// Whether a split packs the keys that it folds, as no other does. Gathered keys may stand in any of them.
    fn packs_by_itself(&self) -> bool {
        let plan = self.fold.plan;
        let gathers = |index| {
            let unit = self.fold.unit(index);
            plan.layout(unit.sequence, unit.head).lists() > 0
        };
        !(0..self.fold.units()).any(gathers)
    }

    /// Panels of a split, at most.
    fn panels_of_a_split(&self) -> usize {
        self.phase().sequences.iter().map(|&number| self.fold.plan.sequences[number].split_panels).max().unwrap_or(0)
    }

    /// Scratch of a split's panels.
    fn split_need(&self) -> Need {
        let (panels, size) = (self.panels_of_a_split(), self.room.size);
        Room { size, panels, chunk: panels }.need::<E>().and(Need::of::<u8>(panels))
    }

    /// Units whose states are there at once.
    fn splits_in_flight(&self) -> usize {
        (IN_FLIGHT_BYTES / self.fold.states_need(1).bytes().max(1)).clamp(1, self.fold.units().max(1))
    }

    /// Each split packs what it reads for itself: read once from memory, and folded while a cache has it.
    fn run_splits<'d, O: Number>(
        &self,
        query: impl Fn(Unit, usize, usize) -> &'d [T] + Sync,
        mut out: TensorMut<'_, O>,
        mut lse: TensorMut<'_, f32>,
        frame: &mut Frame<'_>,
        pool: &Pool,
    ) -> Result<(), Error>
    where
        T: 'd,
    {
        let need = self.split_need().and(self.fold.worker_need());
        let task = |frame: &mut Frame<'_>,
                    (index, split): (usize, usize),
                    out: TensorMut<'_, f32>,
                    lse: TensorMut<'_, f32>| {
            let (panels, size) = (self.panels_of_a_split(), self.room.size);
            let mut packed = Room { size, panels, chunk: panels }.take::<E>(frame, 1);
            let kept = frame.take_zeroed::<u8>(panels);
            let first = self.pack_split((index, split), kept, &mut packed)?;
            self.fold.split(frame, Panels::Split(packed.into_run(), first), (index, split), &query, out, lse)
        };
        let in_flight = self.splits_in_flight();
        for first in (0..self.fold.units()).step_by(in_flight) {
            let units = first..self.fold.units().min(first + in_flight);
            let (out, lse) = (out.reborrow(), lse.reborrow());
            self.fold.run_splits(units, need, task, out, lse, &mut frame.scope(), pool)?;
        }
        Ok(())
    }

    /// Packs the panels of a split that its queries keep any keys of, and says which the first of all is. `kept` begins as zeros.
    fn pack_split(
        &self,
        (index, split): (usize, usize),
        kept: &mut [u8],
        packed: &mut RunMut<'_, E>,
    ) -> Result<usize, Error> {
        let (plan, unit) = (self.fold.plan, self.fold.unit(index));
        let (layout, panels) = (plan.layout(unit.sequence, unit.head), plan.sequences[unit.sequence].split(split));
        for span in layout.tiles().flat_map(|tile| layout.tile(tile)).map(|span| span.panels()) {
            let here = span.start.max(panels.start)..span.end.min(panels.end);
            here.for_each(|panel| kept[panel - panels.start] = 1);
        }
        let (keys, values) = self.source(unit);
        for panel in panels.clone().filter(|panel| kept[panel - panels.start] == 1) {
            let rows = panel * PANEL..keys.rows().min(panel * PANEL + PANEL);
            let (keys, values) = (keys.block(rows.clone(), 0..keys.cols()), values.block(rows, 0..values.cols()));
            packed.part_mut(panel - panels.start).write(plan.kernels, 0, keys, values)?;
        }
        Ok(panels.start)
    }

    /// Each task packs what it reads for itself.
    fn run_strips<'d, O: Number>(
        &self,
        query: impl Fn(Unit, usize, usize) -> &'d [T] + Sync,
        out: TensorMut<'_, O>,
        lse: TensorMut<'_, f32>,
        frame: &mut Frame<'_>,
        pool: &Pool,
    ) -> Result<(), Error>
    where
        T: 'd,
    {
        let (failure, cuts) = (Failure::default(), &self.phase().strips);
        let kv_heads = self.fold.plan.shape.kv_heads;
        let workers = frame.split(pool.threads(), self.strip_need());
        let parts = (out.cut(self.fold.group, cuts)?, lse.cut(self.fold.group, cuts)?);
        let together = (cuts.count() / (TURNS * pool.threads())).clamp(1, TOGETHER);
        pool.run_together(workers, parts, together, |frame, index, (mut out, mut lse)| {
            let (stretch, head, strip) = cuts.place(index);
            let index = stretch * kv_heads + head;
            let unit = self.fold.unit(index);
            failure.catch(|| match self.queries.filter(|_| self.is_small(unit)) {
                Some(queries) => self.small(unit, index, queries, &mut frame.scope(), &mut out, &mut lse),
                None => self.strip(unit, strip, &query, &mut frame.scope(), &mut out, &mut lse),
            });
        });
        failure.into_result()
    }

    /// One strip, block by block.
    fn strip<'d, O: Number>(
        &self,
        unit: Unit,
        strip: usize,
        query: impl Fn(Unit, usize, usize) -> &'d [T],
        frame: &mut Frame<'_>,
        out: &mut TensorMut<'_, O>,
        lse: &mut TensorMut<'_, f32>,
    ) -> Result<(), Error>
    where
        T: 'd,
    {
        let (plan, group) = (self.fold.plan, self.fold.group);
        let sequence = &plan.sequences[unit.sequence];
        let layout = plan.layout(unit.sequence, unit.head);
        let mut panels = Strip::<T, E>::take(frame, plan.kernels, sequence.held, self.room.size, self.source(unit));
        let all = strip * sequence.strip..((strip + 1) * sequence.strip).min(sequence.queries.len());
        let tiles_of = |queries: Range<usize>| queries.start * group / ROWS..(queries.end * group).div_ceil(ROWS);
        for first in all.clone().step_by(sequence.block) {
            let queries = first..all.end.min(first + sequence.block);
            panels.ask(layout, tiles_of(queries.clone()))?;
            let mut ahead = Ahead::default();
            for g in 0..group {
                let place = queries.start - all.start..queries.end - all.start;
                let rows = out.rows_mut(0, g);
                let columns = 0..rows.cols();
                ahead.write(&mut rows.block(place, columns));
            }
            let next = queries.end..all.end.min(queries.end + sequence.block);
            if !next.is_empty() {
                panels.bring_near(layout, tiles_of(next.clone()), &mut ahead);
                if let Some(queries) = &self.queries {
                    for g in 0..group {
                        let rows = queries.rows(sequence.batch, unit.head * group + g);
                        let first = sequence.queries.start;
                        ahead.read(rows.block(first + next.start..first + next.end, 0..rows.cols()));
                    }
                }
            }
            let (head, query) = (panels.panels(), |i, g| query(unit, i, g));
            self.fold.block(&mut frame.scope(), head, unit, None, queries, query, all.start, out, lse, &mut ahead)?;
        }
        Ok(())
    }

    /// Packs units, all cores together, chunk by chunk.
    fn pack<'f>(&self, units: std::ops::Range<usize>, packed: RunMut<'f, E>, pool: &Pool) -> Result<Run<'f, E>, Error> {
        let Room { size, panels, chunk } = self.room;
        let chunks = panels / chunk;
        let parts = (
            chunks_of(&mut *packed.keys, chunk * size.keys),
            chunks_of(&mut *packed.values, chunk * size.values.max(1)),
            chunks_of(&mut *packed.wild, chunk),
        );
        let failure = Failure::default();
        pool.run(parts, |index, (packed_keys, packed_values, wild)| {
            let (keys, values) = self.source(self.fold.unit(units.start + index / chunks));
            let from = (index % chunks * chunk * PANEL).min(keys.rows());
            let until = (from + chunk * PANEL).min(keys.rows());
            let mut panels =
                RunMut::<E> { size, keys: packed_keys, values: packed_values, scales: Default::default(), wild };
            let (keys, values) = (keys.block(from..until, 0..keys.cols()), values.block(from..until, 0..values.cols()));
            failure.catch(|| Ok(panels.write(self.fold.plan.kernels, 0, keys, values)?));
        });
        failure.into_result()?;
        Ok(packed.into_run())
    }
}

/// The room that a unit's panels take: a whole number of chunks, which are packed one by one.
#[derive(Clone, Copy)]
struct Room {
    size: PanelSize,
    panels: usize,
    chunk: usize,
}

impl Room {
    fn of(panels: usize, size: PanelSize) -> Room {
        let panels = panels.max(1);
        let chunks = panels.div_ceil(PACKED_AT_ONCE);
        let chunk = panels.div_ceil(chunks);
        Room { size, panels: chunks * chunk, chunk }
    }

    fn need<E: Operand>(&self) -> Need {
        Need::of::<E::B>(self.panels * self.size.keys)
            .and(Need::of::<E::B>(self.panels * self.size.values.max(1)))
            .and(Need::of::<u8>(self.panels))
    }

    fn take<'a, E: Operand>(&self, frame: &mut Frame<'a>, units: usize) -> RunMut<'a, E> {
        let panels = units * self.panels;
        RunMut {
            size: self.size,
            keys: frame.take(panels * self.size.keys),
            values: frame.take(panels * self.size.values.max(1)),
            scales: Default::default(),
            wild: frame.take(panels),
        }
    }
}
