//! Shapes decided once: how a product is cut into tasks and blocks. None of it changes a bit of the result.

use regard_kernels::{COLUMNS, PANEL, ROWS};
use regard_memory::Need;

use super::word::Word;

/// Steps of a block at most: a panel of the right side then streams through the tiles from the second-level cache, and six
/// rows of the left side are 9 KiB of the first.
const STEPS: usize = 384;

/// Panels of a task at most: with all steps they take 576 KiB of a second-level cache of 1 MiB, which leaves room for the
/// rows that go by.
const PANELS: usize = 6;

/// Rows that go by together: whole tiles, and whole squares of the transposition.
pub(super) const CHUNK: usize = 96;

/// Rows of a task from which packing the right side anew for it costs less than one percent.
const MANY_ROWS: usize = 256;

/// Multiply-adds that are worth a task: some 3 µs.
const TASK: usize = 1 << 17;

/// Tasks for each thread, so that one that is late is not waited for long.
const TASKS: usize = 4;

/// Numbers of the columns behind the last whole vector of the result, for a chunk of rows.
pub(super) const EDGE: usize = CHUNK * COLUMNS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Rows of the result in a task.
    pub(super) rows: usize,
    /// Columns of the result in a task: whole panels.
    pub(super) columns: usize,
    /// Steps of a block, in words.
    pub(super) steps: usize,
    /// Threads that have scratch.
    threads: usize,
    /// Whether the left side is written anew, a chunk at a time.
    turned: bool,
}

impl Plan {
    /// The plan of `[m, k]·[k, n]` in these words: one of two bf16 takes the time and the room of one in f32. `transposed` is the
    /// left side.
    pub(super) fn of<W: Word>([m, n, k]: [usize; 3], transposed: bool, threads: usize) -> Plan {
        Plan::new(m, n, k.div_ceil(W::DEPTH), transposed || W::DEPTH > 1, threads)
    }

    fn new(m: usize, n: usize, k: usize, turned: bool, threads: usize) -> Plan {
        let work = m.saturating_mul(n).saturating_mul(k);
        let wanted = if threads == 1 { 1 } else { (threads * TASKS).min(1 + work / TASK) };
        let panels = n.div_ceil(PANEL).max(1);
        // Cuts between rows pack the right side again, cuts between columns the left one if it is turned.
        let mut across = panels.div_ceil(PANELS);
        let mut down = wanted.div_ceil(across).min(m / MANY_ROWS).max(1);
        across = wanted.div_ceil(down).clamp(across, panels);
        down = wanted.div_ceil(across).min(m.div_ceil(CHUNK)).max(down);
        let blocks = k.div_ceil(STEPS).max(1);
        Plan {
            rows: m.div_ceil(down).div_ceil(ROWS).max(1).saturating_mul(ROWS),
            columns: panels.div_ceil(across) * PANEL,
            steps: k.div_ceil(blocks).max(1).next_multiple_of(COLUMNS),
            threads,
            turned,
        }
    }

    /// The scratch of all workers.
    pub(super) fn need(self) -> Need {
        self.worker().times(self.threads)
    }

    /// The scratch of a worker.
    pub(super) fn worker(self) -> Need {
        Need::of::<u32>(self.right()).and(Need::of::<u32>(self.left())).and(Need::of::<f32>(EDGE))
    }

    /// Words of a packed block of the right side.
    pub(super) fn right(self) -> usize {
        self.steps * self.columns
    }

    /// Words of a chunk of the left side, if it is written anew.
    pub(super) fn left(self) -> usize {
        if self.turned { self.steps * CHUNK } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tasks, and steps of a block, for two threads.
    fn cut(m: usize, n: usize, k: usize) -> (usize, usize) {
        let plan = Plan::new(m, n, k, true, 2);
        (m.div_ceil(plan.rows) * n.div_ceil(plan.columns), plan.steps)
    }

    #[test]
    fn threads_have_equal_shares() {
        assert_eq!(cut(2048, 1536, 384), (8, 384));
        assert_eq!(cut(2048, 384, 1536), (8, 384));
        assert_eq!(cut(1152, 384, 2048), (8, 352));
        assert_eq!(cut(8, 256, 768), (4, 384));
        assert_eq!(cut(8, 8, 8), (1, 16));
    }

    #[test]
    fn any_size_has_a_plan() {
        for (m, n, k) in [(0, 0, 0), (usize::MAX, 0, 5), (0, usize::MAX, 5), (3, 3, usize::MAX), (usize::MAX, 1, 1)] {
            let plan = Plan::new(m, n, k, true, 4096);
            assert!(plan.rows > 0 && (1..=PANELS * PANEL).contains(&plan.columns));
            assert!((1..=STEPS).contains(&plan.steps) && plan.steps.is_multiple_of(COLUMNS));
        }
    }
}
