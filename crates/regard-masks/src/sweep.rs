//! A mask's rows from the first query to the last, in strips.

use std::collections::TryReserveError;
use std::ops::Range;

use crate::edge::Run;
use crate::evaluate::Evaluation;
use crate::primitive::Row;
use crate::{Mask, position};

/// The runs of the queries that a tile asks for. They are evaluated once for each *strip*, queries in a row whose runs
/// have the same shape; the strip that reaches into the next tile is kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweep {
    evaluation: Evaluation,
    /// For each list of runs the queries that it holds for. The ends are those of the first query.
    strips: Vec<Range<usize>>,
    /// Pairs of all strips so far.
    pub(crate) pairs: u128,
}

impl Sweep {
    /// Makes room for tiles of `queries` queries and up to `n_k` keys.
    pub(crate) fn try_reserve(&mut self, mask: &Mask, queries: usize, n_k: usize) -> Result<(), TryReserveError> {
        self.strips.try_reserve(queries.saturating_sub(self.strips.len()))?;
        self.evaluation.try_reserve(mask, queries, n_k)
    }

    /// Forgets all strips.
    pub(crate) fn clear(&mut self) {
        self.evaluation.stack.clear();
        self.strips.clear();
        self.pairs = 0;
    }

    /// Evaluates what is missing of `queries`, which follow those before or begin with the last of them.
    pub(crate) fn advance(&mut self, mask: &Mask, queries: &Range<usize>, n_q: usize, n_k: usize, offset: i64) {
        let done = self.strips.partition_point(|strip| strip.end <= queries.start);
        if done > 0 {
            self.evaluation.stack.drop_lowest(done);
            self.strips.drain(..done);
        }
        let mut next = self.strips.last().map_or(queries.start, |strip| strip.end);
        while next < queries.end {
            let hold = self.evaluation.push_row(mask, Row { p: position(next, offset), n_k });
            let strip = next..n_q.min((next + 1).saturating_add(hold));
            self.pairs = self.pairs.saturating_add(pairs(self.evaluation.stack.top(), strip.len()));
            next = strip.end;
            self.strips.push(strip);
        }
    }

    /// The strips of the queries that were advanced over, each with where its runs stand among all.
    pub(crate) fn strips(&self) -> impl Iterator<Item = (&Range<usize>, Range<usize>)> {
        self.strips.iter().enumerate().map(|(list, strip)| (strip, self.evaluation.stack.list(list)))
    }

    /// The runs of all strips.
    pub(crate) fn runs(&self) -> &[Run] {
        self.evaluation.stack.runs()
    }
}

/// How many keys `rows` rows keep together, whose runs are `runs` and move on from row to row.
fn pairs(runs: &[Run], rows: usize) -> u128 {
    let sum = |values: &mut dyn Iterator<Item = usize>| values.map(|value| value as u128).sum::<u128>();
    let first = sum(&mut runs.iter().map(|run| run.end.key - run.start.key));
    let grow = sum(&mut runs.iter().map(|run| usize::from(run.end.moves)));
    let shrink = sum(&mut runs.iter().map(|run| usize::from(run.start.moves)));
    let rows = rows as u128;
    let steps = rows * (rows - 1) / 2;
    (rows * first + grow * steps) - shrink * steps
}
