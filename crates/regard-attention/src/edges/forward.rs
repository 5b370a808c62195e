//! The forward pass, query by query.

use std::ops::Range;

use regard_kernels::{F32, KeyPlaces, Number, ROWS, RowState, ScoreTile};
use regard_memory::{Frame, Need, Rows, TensorMut, prefetch_row};
use regard_threads::Pool;

use super::MOST;
use super::row::{Listed, TILE, width};
use crate::plan::{Phase, Unit};
use crate::scoring::{Keys, Scoring};
use crate::task::Failure;
use crate::{Element, Error, Plan, Shape, Terms};

/// Queries that are asked for ahead of the one that is computed.
const AHEAD: usize = 2;

/// Keys of the next query, and values of this one, that are asked for while it is computed: as many as caches take in without
/// waiting. With 16 keys a query among 4096, −25% of the time.
const NEAR: usize = 32;

/// The sequences of a plan that go by their edges.
pub(crate) struct ByEdges<'p, 'a> {
    pub plan: &'p Plan,
    pub phase: &'p Phase,
    pub terms: Terms<'a>,
}

impl ByEdges<'_, '_> {
    pub(crate) fn need(&self, threads: usize) -> Need {
        if self.phase.sequences.is_empty() {
            return Need::NONE;
        }
        let Shape { dim_k, dim_v, .. } = self.plan.shape;
        let sums = Need::of::<f32>(width(dim_v).saturating_mul(ROWS));
        let worker = Need::of::<f32>(dim_k).and(sums).and(Need::of::<f32>(TILE)).and(Listed::need());
        worker.times(threads)
    }

    /// All of them, block by block of queries. `source` gives the keys and values of a unit.
    pub(crate) fn run<'d, 'k, T, O>(
        &self,
        query: impl Fn(Unit, usize, usize) -> &'d [T] + Sync,
        source: impl Fn(Unit) -> (Rows<'k, T>, Rows<'k, T>) + Sync,
        out: TensorMut<'_, O>,
        lse: TensorMut<'_, f32>,
        frame: &mut Frame<'_>,
        pool: &Pool,
    ) -> Result<(), Error>
    where
        T: Element + 'd + 'k,
        O: Number,
    {
        if self.phase.sequences.is_empty() {
            return Ok(());
        }
        // Listed here, so that no task waits for another's.
        for &sequence in &self.phase.sequences {
            (0..self.plan.shape.kv_heads).try_for_each(|head| self.plan.lists(Unit { sequence, head }).map(|_| ()))?;
        }
        let (failure, cuts, group) = (Failure::default(), &self.phase.cuts, self.plan.shape.group());
        let workers = frame.split(pool.threads(), self.need(1));
        let parts = (out.cut(group, cuts)?, lse.cut(group, cuts)?);
        pool.run_in(workers, parts, |frame, index, (mut out, mut lse)| {
            let (stretch, head, block) = cuts.place(index);
            let unit = Unit { sequence: self.phase.sequences[stretch], head };
            let sequence = &self.plan.sequences[unit.sequence];
            let queries = block * sequence.block..((block + 1) * sequence.block).min(sequence.queries.len());
            let query = |i, g| query(unit, i, g);
            failure.catch(|| self.block(unit, queries, query, source(unit), &mut frame.scope(), &mut out, &mut lse));
        });
        failure.into_result()
    }

    /// One block of queries of a unit.
    #[allow(clippy::too_many_arguments, reason = "what is read, the scratch, and where the results go")]
    fn block<'d, T: Element, O: Number>(
        &self,
        unit: Unit,
        queries: Range<usize>,
        query: impl Fn(usize, usize) -> &'d [T],
        (keys, values): (Rows<'_, T>, Rows<'_, T>),
        frame: &mut Frame<'_>,
        out: &mut TensorMut<'_, O>,
        lse: &mut TensorMut<'_, f32>,
    ) -> Result<(), Error> {
        let Plan { kernels, shape: Shape { dim_k, dim_v, .. }, .. } = *self.plan;
        let (group, width, lists) = (self.plan.shape.group(), width(dim_v), self.plan.lists(unit)?);
        let mut scoring = Scoring::new(self.plan, self.terms, unit, 1.0);
        let (in_query, in_softmax) = self.plan.factors(size_of::<T>() < size_of::<f32>(), scoring.adjustment.is_some());
        scoring.factor = in_softmax;
        let packed = frame.take::<f32>(dim_k);
        let sums = frame.take::<f32>(width.saturating_mul(ROWS));
        let mut scores = ScoreTile::new(frame.take(TILE), MOST)?;
        let mut listed = Listed::take(frame);
        for i in queries.clone() {
            for g in 0..group {
                let r = i * group + g;
                if i + AHEAD < queries.end {
                    prefetch_row(query(i + AHEAD, g));
                }
                lists.of(i, g).iter().take(NEAR).for_each(|&key| prefetch_row(values.row(key as usize)));
                if i + 1 < queries.end {
                    lists.of(i + 1, g).iter().take(NEAR).for_each(|&key| prefetch_row(keys.row(key as usize)));
                }
                kernels.pack_query::<F32, T>(query(i, g), in_query, packed)?;
                let mut state = RowState::default();
                sums[..width].fill(0.0);
                for list in lists.of(i, g).chunks(MOST) {
                    let mut seen = listed.seen(&scoring, r, list);
                    if seen.keys.is_empty() {
                        continue;
                    }
                    let all = (0, seen.keys.len());
                    kernels.score_listed(packed, keys, seen.keys, &mut scores)?;
                    if let Some(adjustment) = scoring.adjustment {
                        scores.forget_maxima();
                        let (row, places) = seen.adjustment(&scoring, r);
                        kernels.adjust(adjustment, &[row], KeyPlaces::Gathered(places), None, all, &mut scores)?;
                    }
                    kernels.softmax::<F32>(1, scoring.factor, &mut scores, &mut state)?;
                    let numbers = Keys::Gathered(seen.keys);
                    scoring.drop_weights::<F32>(kernels, r..r + 1, numbers, all, &mut scores)?;
                    kernels.accumulate_listed(&mut scores, values, seen.keys, &mut state, sums)?;
                }
                let at = i - queries.start;
                let out = &mut out.rows_mut(0, g);
                let sum = kernels.finish(&state, 0, sums, width, scoring.ending(r, true), out.row_mut(at))?;
                lse.rows_mut(0, g).row_mut(at)[0] = sum;
            }
        }
        Ok(())
    }
}
