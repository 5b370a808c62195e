//! Tasks: a block of queries of one head, or a split of its keys; and how a pool runs all of them.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Mutex;

use regard_kernels::{Number, Operand, ROWS};
use regard_memory::{Frame, Need, TensorMut, backwards, chunks_of};
use regard_threads::Pool;

use crate::fold::{Job, QueryBlock, TILES};
use crate::panels::{PanelSize, Panels};
use crate::{Error, Plan, Regime, merge};

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

/// A plan's tasks with operands of one kind. A *head* is a key/value head of a batch entry: `batch · kv_heads + head`.
pub(crate) struct Fold<'p, E> {
    plan: &'p Plan,
    pub size: PanelSize,
    pub group: usize,
    /// Queries of a block, and blocks of a head.
    block: usize,
    blocks: usize,
    splits: usize,
    operand: PhantomData<E>,
}

impl<'p, E: Operand> Fold<'p, E> {
    pub(crate) fn new(plan: &'p Plan, size: PanelSize) -> Self {
        let block = plan.block_queries();
        let blocks = plan.shape.queries.div_ceil(block);
        Fold { plan, size, group: plan.shape.group(), block, blocks, splits: plan.splits(), operand: PhantomData }
    }

    /// Scratch of one worker: a block of queries.
    pub(crate) fn worker_need(&self) -> Need {
        QueryBlock::<E>::need(TILES.min((self.block * self.group).div_ceil(ROWS)), self.size)
    }

    /// Scratch that [`Fold::heads`] takes beside the workers': the states of the splits.
    pub(crate) fn need(&self, heads: usize, threads: usize) -> Need {
        let rows = if self.splits > 1 { self.group * self.plan.shape.queries } else { 0 };
        let states = heads * self.splits * rows;
        Need::of::<f32>(states * self.plan.shape.dim_v.max(1))
            .and(Need::of::<f32>(states))
            .and(self.worker_need().times(threads))
    }

    /// Folds the heads of a range, all cores together. `panels` and `query` know a head by its number; `query` gives the
    /// row of query `i` and head `g` of the group. The range is that of `out` and `lse`, whole tensors.
    #[allow(clippy::too_many_arguments, reason = "the inputs, the outputs, and what the call runs on")]
    pub(crate) fn heads<'k, 'd, T: Number>(
        &self,
        heads: Range<usize>,
        panels: impl Fn(usize) -> Panels<'k, E> + Sync,
        query: impl Fn(usize, usize, usize) -> &'d [T] + Sync,
        out: TensorMut<'_, T>,
        lse: TensorMut<'_, f32>,
        frame: &mut Frame<'_>,
        pool: &Pool,
    ) -> Result<(), Error> {
        let failure = Failure::default();
        let workers = frame.split(pool.threads(), self.worker_need());
        if self.plan.regime() != Regime::Splits {
            let blocks = heads.start * self.blocks..heads.end * self.blocks;
            let parts = (out.block_parts(self.group, self.block), lse.block_parts(self.group, self.block));
            pool.run_in(workers, backwards(parts, blocks), |frame, _, (index, (mut out, mut lse))| {
                let (head, block) = (index / self.blocks, index % self.blocks);
                let query = |i, g| query(head, i, g);
                failure.catch(|| self.block(&mut frame.scope(), panels(head), 0, block, query, &mut out, &mut lse));
            });
            return failure.into_result();
        }

        let (queries, dim) = (self.plan.shape.queries, self.plan.shape.dim_v);
        let rows = self.group * queries;
        let states = heads.len() * self.splits * rows;
        // A row without elements still has a place, so that there are as many parts of `outs` as of `lses`.
        let stride = rows * dim.max(1);
        let (outs, lses) = (frame.take::<f32>(states * dim.max(1)), frame.take::<f32>(states));
        let parts = (chunks_of(outs, stride), chunks_of(lses, rows));
        pool.run_in(workers, parts, |frame, index, (out, lse)| {
            let (head, split) = (heads.start + index / self.splits, index % self.splits);
            let query = |i, g| query(head, i, g);
            failure.catch(|| {
                let mut out = TensorMut::contiguous(&mut out[..rows * dim], [1, self.group, queries, dim])?;
                let mut lse = TensorMut::contiguous(lse, [1, self.group, queries, 1])?;
                self.block(&mut frame.scope(), panels(head), split, 0, query, &mut out, &mut lse)
            });
        });

        let states = (chunks_of(outs, self.splits * stride), chunks_of(lses, self.splits * rows));
        let states = backwards(states, 0..heads.len());
        let results = (out.block_parts(self.group, queries), lse.block_parts(self.group, queries));
        let results = backwards(results, heads.clone());
        pool.run((results, states), |_, ((_, (mut out, mut lse)), (_, (outs, lses)))| {
            for r in 0..rows {
                let (first, others) = outs.split_at_mut(stride);
                let row = &mut first[r * dim..][..dim];
                let mut sum = lses[r];
                for split in 1..self.splits {
                    let other = &others[(split - 1) * stride + r * dim..][..dim];
                    sum = merge(row, sum, other, lses[split * rows + r]);
                }
                let (g, i) = (r / queries, r % queries);
                for (to, &from) in out.rows_mut(0, g).row_mut(i).iter_mut().zip(row.iter()) {
                    *to = T::from_f32(from);
                }
                lse.rows_mut(0, g).row_mut(i)[0] = sum;
            }
        });
        failure.into_result()
    }

    /// All blocks of one head, on one core, into that head's parts of the result.
    pub(crate) fn head<'d, T: Number>(
        &self,
        frame: &mut Frame<'_>,
        panels: Panels<'_, E>,
        query: impl Fn(usize, usize) -> &'d [T],
        out: &mut TensorMut<'_, T>,
        lse: &mut TensorMut<'_, f32>,
    ) -> Result<(), Error> {
        for block in 0..self.blocks {
            self.block(&mut frame.scope(), panels, 0, block, &query, out, lse)?;
        }
        Ok(())
    }

    /// One block of queries over one split of the keys. `out` and `lse` may hold the block alone or the whole head.
    #[allow(clippy::too_many_arguments, reason = "what is folded, and where it goes")]
    fn block<'d, T: Number, O: Number>(
        &self,
        frame: &mut Frame<'_>,
        head: Panels<'_, E>,
        split: usize,
        block: usize,
        query: impl Fn(usize, usize) -> &'d [T],
        out: &mut TensorMut<'_, O>,
        lse: &mut TensorMut<'_, f32>,
    ) -> Result<(), Error> {
        let (plan, group) = (self.plan, self.group);
        let queries = block * self.block..((block + 1) * self.block).min(plan.shape.queries);
        let first_in_out = if out.shape()[2] == queries.len() { queries.start } else { 0 };
        let all_rows = queries.end * group;
        let all_tiles = queries.start * group / ROWS..all_rows.div_ceil(ROWS);
        let (in_query, in_softmax) = plan.factors(E::DEPTH > 1 || size_of::<T>() < size_of::<f32>());

        // More than once where a few queries of a large group are more tiles than are folded together.
        for first_tile in all_tiles.clone().step_by(TILES) {
            let tiles = first_tile..all_tiles.end.min(first_tile + TILES);
            let rows = tiles.start * ROWS..all_rows.min(tiles.end * ROWS);
            let mut work = QueryBlock::<E>::take(&mut frame.scope(), tiles.len(), self.size);
            for (at, row) in rows.clone().enumerate() {
                let packed = &mut work.queries[at * self.size.steps..][..self.size.steps];
                plan.kernels.pack_query::<E, T>(query(row / group, row % group), in_query, packed)?;
            }
            let panels = plan.split(split);
            let job = Job { kernels: plan.kernels, head, layout: &plan.layout, tiles, panels, factor: in_softmax };
            job.fold(&mut work)?;
            for (at, row) in rows.enumerate() {
                let (i, g) = (row / group - first_in_out, row % group);
                lse.rows_mut(0, g).row_mut(i)[0] = work.finish(plan.kernels, at, out.rows_mut(0, g).row_mut(i))?;
            }
        }
        Ok(())
    }
}
