//! Tasks: a block of queries of one head, or a split of its keys; and how a pool runs all of them.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Mutex;

use regard_kernels::{Number, Operand, ROWS};
use regard_memory::{Ahead, Frame, Need, TensorMut, backwards, chunks_of};
use regard_threads::Pool;

use crate::fold::{Job, QueryBlock, TILES};
use crate::panels::{PanelSize, Panels};
use crate::plan::{Phase, Unit};
use crate::scoring::Scoring;
use crate::state::merge_row;
use crate::{Error, Plan, Regime, Terms};

/// The first error of any task.
#[derive(Default)]
pub(crate) struct Failure(Mutex<Option<Error>>);

impl Failure {
    pub(crate) fn catch(&self, task: impl FnOnce() -> Result<(), Error>) {
        if let Err(error) = task() {
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
        }
    }

    pub(crate) fn into_result(self) -> Result<(), Error> {
        self.0.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).map_or(Ok(()), Err)
    }
}

/// The tasks of one phase of a plan, with operands of one kind.
pub(crate) struct Fold<'p, 'a, E> {
    pub plan: &'p Plan,
    pub phase: &'p Phase,
    pub size: PanelSize,
    pub group: usize,
    pub terms: Terms<'a>,
    operand: PhantomData<E>,
}

impl<'p, 'a, E: Operand> Fold<'p, 'a, E> {
    pub(crate) fn new(plan: &'p Plan, phase: &'p Phase, size: PanelSize, terms: Terms<'a>) -> Self {
        Fold { plan, phase, size, group: plan.shape.group(), terms, operand: PhantomData }
    }

    /// Whether nothing but a factor comes between scores and weights, and nothing joins the denominators.
    pub(crate) fn is_plain(&self) -> bool {
        let Terms { bias, slopes, sinks, .. } = self.terms;
        let dropout = self.plan.options.dropout.is_some_and(|dropout| dropout.probability > 0.0);
        let terms = bias.is_some() || slopes.is_some() || sinks.is_some();
        !terms && !dropout && self.plan.options.softcap.is_none()
    }

    /// Key/value heads of all sequences of the phase.
    pub(crate) fn units(&self) -> usize {
        self.phase.sequences.len().saturating_mul(self.plan.shape.kv_heads)
    }

    pub(crate) fn unit(&self, index: usize) -> Unit {
        self.phase.unit(index, self.plan.shape.kv_heads)
    }

    /// The most of something that a sequence of the phase has.
    fn most(&self, of: impl Fn(&crate::Sequence) -> usize) -> usize {
        self.phase.sequences.iter().map(|&number| of(&self.plan.sequences[number])).max().unwrap_or(0)
    }

    /// The most panels that a strip holds at once.
    pub(crate) fn held(&self) -> usize {
        self.most(|sequence| sequence.held)
    }

    /// The most panels of a unit.
    pub(crate) fn panels(&self) -> usize {
        self.most(|sequence| sequence.panels())
    }

    /// Scratch of one worker: a block of queries.
    pub(crate) fn worker_need(&self) -> Need {
        let block = self.most(|sequence| sequence.block);
        QueryBlock::<E>::need(TILES.min((block * self.group).div_ceil(ROWS)), self.size)
    }

    /// Rows of the state of a split, and the splits of a range of units.
    fn states(&self, units: Range<usize>) -> (usize, usize) {
        if self.phase.regime != Regime::Splits {
            return (0, 0);
        }
        let splits = units.map(|unit| self.plan.sequences[self.unit(unit).sequence].splits).sum();
        (self.group * self.most(|sequence| sequence.queries.len()), splits)
    }

    /// Scratch that [`Fold::run`] takes for so many units at once: the workers', the states of the splits, and a row each
    /// to merge them in.
    pub(crate) fn need(&self, in_flight: usize, threads: usize) -> Need {
        self.states_need(in_flight).and(self.worker_need().and(Need::of::<f32>(self.plan.shape.dim_v)).times(threads))
    }

    /// Scratch for the states of the splits of so many units.
    pub(crate) fn states_need(&self, units: usize) -> Need {
        let rows = self.group * self.most(|sequence| sequence.queries.len());
        let splits = if self.phase.regime == Regime::Splits { self.most(|sequence| sequence.splits) } else { 0 };
        let states = units.saturating_mul(splits).saturating_mul(rows);
        Need::of::<f32>(states.saturating_mul(self.plan.shape.dim_v.max(1))).and(Need::of::<f32>(states))
    }

    /// Folds a range of the phase's units, all cores together. `query` gives the row of query `i` (of the sequence) and
    /// head `g` (of the group). `out` and `lse` are the whole tensors.
    #[allow(clippy::too_many_arguments, reason = "the inputs, the outputs, and what the call runs on")]
    pub(crate) fn run<'k, 'd, T: Number, O: Number>(
        &self,
        units: Range<usize>,
        panels: impl Fn(usize) -> Panels<'k, E> + Sync,
        query: impl Fn(Unit, usize, usize) -> &'d [T] + Sync,
        out: TensorMut<'_, O>,
        lse: TensorMut<'_, f32>,
        frame: &mut Frame<'_>,
        pool: &Pool,
    ) -> Result<(), Error> {
        if units.is_empty() {
            return Ok(());
        }
        if self.phase.regime == Regime::Splits {
            let task = |frame: &mut Frame<'_>, at: (usize, usize), out: TensorMut<'_, f32>, lse: TensorMut<'_, f32>| {
                self.split(frame, panels(at.0), at, &query, out, lse)
            };
            return self.run_splits(units, self.worker_need(), task, out, lse, frame, pool);
        }
        let (failure, cuts, kv_heads) = (Failure::default(), &self.phase.cuts, self.plan.shape.kv_heads);
        let results = backwards((out.cut(self.group, cuts)?, lse.cut(self.group, cuts)?), self.blocks(units));
        let workers = frame.split(pool.threads(), self.worker_need());
        pool.run_in(workers, results, |frame, _, (index, (mut out, mut lse))| {
            let (stretch, head, block) = cuts.place(index);
            let unit = Unit { sequence: self.phase.sequences[stretch], head };
            let sequence = &self.plan.sequences[unit.sequence];
            let queries = block * sequence.block..((block + 1) * sequence.block).min(sequence.queries.len());
            let head = panels(stretch * kv_heads + head);
            let query = |i, g| query(unit, i, g);
            let (frame, first) = (&mut frame.scope(), queries.start);
            failure.catch(|| {
                self.block(frame, head, unit, None, queries, query, first, &mut out, &mut lse, &mut Ahead::default())
            });
        });
        failure.into_result()
    }

    /// The blocks of queries of a range of the phase's units.
    fn blocks(&self, units: Range<usize>) -> Range<usize> {
        let kv_heads = self.plan.shape.kv_heads;
        let blocks_of = |unit: usize| self.phase.cuts.blocks(unit / kv_heads, unit % kv_heads);
        blocks_of(units.start).start..blocks_of(units.end - 1).end
    }

    /// Computes the splits of a range of units by `task`, which is told the unit and the split and has this much scratch, and
    /// merges their states. It writes the state of all queries of the unit over the keys of the split.
    #[allow(clippy::too_many_arguments, reason = "the outputs, and what the call runs on")]
    pub(crate) fn run_splits<O: Number>(
        &self,
        units: Range<usize>,
        need: Need,
        task: impl Fn(&mut Frame<'_>, (usize, usize), TensorMut<'_, f32>, TensorMut<'_, f32>) -> Result<(), Error> + Sync,
        out: TensorMut<'_, O>,
        lse: TensorMut<'_, f32>,
        frame: &mut Frame<'_>,
        pool: &Pool,
    ) -> Result<(), Error> {
        let (failure, cuts, kv_heads) = (Failure::default(), &self.phase.cuts, self.plan.shape.kv_heads);
        let results = backwards((out.cut(self.group, cuts)?, lse.cut(self.group, cuts)?), self.blocks(units.clone()));
        let dim = self.plan.shape.dim_v;
        let (rows, count) = self.states(units.clone());
        // A row without elements still has a place, so that there are as many parts of `outs` as of `lses`.
        let stride = rows * dim.max(1);
        let (outs, lses) = (frame.take::<f32>(count * stride), frame.take::<f32>(count * rows));
        let workers = frame.split(pool.threads(), need);
        let parts = (chunks_of(outs, stride), chunks_of(lses, rows));
        pool.run_in(workers, parts, |frame, index, (out, lse)| {
            let (index, split) = self.split_of(units.start, index);
            let queries = self.plan.sequences[self.unit(index).sequence].queries.len();
            let rows = self.group * queries;
            failure.catch(|| {
                let out = TensorMut::contiguous(&mut out[..rows * dim], [1, self.group, queries, dim])?;
                let lse = TensorMut::contiguous(&mut lse[..rows], [1, self.group, queries, 1])?;
                task(&mut frame.scope(), (index, split), out, lse)
            });
        });
        failure.into_result()?;

        let (outs, lses) = (&*outs, &*lses);
        let workers = frame.split(pool.threads(), Need::of::<f32>(dim));
        pool.run_in(workers, results, |frame, _, (index, (mut out, mut lse))| {
            let (stretch, head, _) = cuts.place(index);
            let unit = Unit { sequence: self.phase.sequences[stretch], head };
            let sequence = &self.plan.sequences[unit.sequence];
            let scoring = Scoring::new(self.plan, self.terms, unit, 1.0);
            let (_, first) = self.states(units.start..stretch * kv_heads + head);
            let mut frame = frame.scope();
            let row = frame.take::<f32>(dim);
            let queries = sequence.queries.len();
            for r in 0..self.group * queries {
                let (g, i) = (r / queries, r % queries);
                let state = |split: usize| {
                    let at = first + split;
                    (&outs[at * stride + r * dim..][..dim], lses[at * rows + r])
                };
                let (of_first, mut sum) = state(0);
                row.copy_from_slice(of_first);
                for split in 1..sequence.splits {
                    let (other, other_sum) = state(split);
                    sum = merge_row(row, sum, other, other_sum);
                }
                let (weight, sum) = with_sink(sum, scoring.sink(i * self.group + g));
                for (to, &from) in out.rows_mut(0, g).row_mut(i).iter_mut().zip(row.iter()) {
                    *to = O::from_f32(weight * from);
                }
                lse.rows_mut(0, g).row_mut(i)[0] = sum;
            }
        });
        Ok(())
    }

    /// The state of all queries of a unit over the keys of a split.
    pub(crate) fn split<'d, T: Number>(
        &self,
        frame: &mut Frame<'_>,
        head: Panels<'_, E>,
        (index, split): (usize, usize),
        query: impl Fn(Unit, usize, usize) -> &'d [T],
        mut out: TensorMut<'_, f32>,
        mut lse: TensorMut<'_, f32>,
    ) -> Result<(), Error> {
        let unit = self.unit(index);
        let queries = 0..self.plan.sequences[unit.sequence].queries.len();
        let query = |i, g| query(unit, i, g);
        self.block(frame, head, unit, Some(split), queries, query, 0, &mut out, &mut lse, &mut Ahead::default())
    }

    /// The unit and the split of a task, of which task 0 is the first split of unit `first`.
    fn split_of(&self, first: usize, task: usize) -> (usize, usize) {
        let kv_heads = self.plan.shape.kv_heads;
        let (mut unit, mut task) = (first, task);
        loop {
            let splits = self.plan.sequences[self.unit(unit).sequence].splits;
            // All heads that are left of this sequence, at once.
            let heads = kv_heads - unit % kv_heads;
            if task < heads * splits {
                return (unit + task / splits, task % splits);
            }
            (unit, task) = (unit + heads, task - heads * splits);
        }
    }

    /// One block of queries over all keys or one split of them. The first rows of `out` and `lse` are those of query
    /// `first_in_out`.
    #[allow(clippy::too_many_arguments, reason = "what is folded, and where it goes")]
    pub(crate) fn block<'d, T: Number, O: Number>(
        &self,
        frame: &mut Frame<'_>,
        head: Panels<'_, E>,
        unit: Unit,
        split: Option<usize>,
        queries: Range<usize>,
        query: impl Fn(usize, usize) -> &'d [T],
        first_in_out: usize,
        out: &mut TensorMut<'_, O>,
        lse: &mut TensorMut<'_, f32>,
        ahead: &mut Ahead,
    ) -> Result<(), Error> {
        let (plan, group) = (self.plan, self.group);
        let sequence = &plan.sequences[unit.sequence];
        let all_rows = queries.end * group;
        let all_tiles = queries.start * group / ROWS..all_rows.div_ceil(ROWS);
        let mut scoring = Scoring::new(plan, self.terms, unit, 1.0);
        let narrow = E::DEPTH > 1 || size_of::<T>() < size_of::<f32>();
        let (in_query, in_softmax) = plan.factors(narrow, scoring.adjustment.is_some());
        scoring.factor = in_softmax;

        // More than once where a few queries of a large group are more tiles than are folded together.
        for first_tile in all_tiles.clone().step_by(TILES) {
            let tiles = first_tile..all_tiles.end.min(first_tile + TILES);
            let rows = tiles.start * ROWS..all_rows.min(tiles.end * ROWS);
            let mut work = QueryBlock::<E>::take(&mut frame.scope(), tiles.len(), self.size);
            for (at, row) in rows.clone().enumerate() {
                let packed = &mut work.queries[at * self.size.steps..][..self.size.steps];
                plan.kernels.pack_query::<E, T>(query(row / group, row % group), in_query, packed)?;
            }
            let panels = split.map_or(0..sequence.panels(), |split| sequence.split(split));
            let layout = plan.layout(unit.sequence, unit.head);
            let job = Job { kernels: plan.kernels, head, layout, tiles, panels, scoring };
            job.fold(&mut work, ahead)?;
            for (at, row) in rows.enumerate() {
                let (i, g) = (row / group - first_in_out, row % group);
                let ending = scoring.ending(row, split.is_none());
                let sum = work.finish(plan.kernels, at, ending, out.rows_mut(0, g).row_mut(i))?;
                lse.rows_mut(0, g).row_mut(i)[0] = sum;
            }
        }
        Ok(())
    }
}

/// What a finished row is multiplied by as the sink joins its denominator, and its log-sum-exp then: the merge with the
/// state `(0, sink)`.
pub(crate) fn with_sink(lse: f32, sink: f32) -> (f32, f32) {
    let mut weight = [1.0];
    let sum = merge_row(&mut weight, lse, &[0.0], sink);
    (if lse == f32::NEG_INFINITY { 0.0 } else { weight[0] }, sum)
}
