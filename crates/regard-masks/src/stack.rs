//! Sets of keys as sorted intervals, and the set operations as merges of them.

use std::collections::TryReserveError;

use crate::edge::{Edge, Hold, Run};

/// A stack of sets of keys, each as sorted, disjoint and maximal runs: an expression pushes the sets of its primitives,
/// and each operation replaces the topmost sets by its result.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    /// The runs of all lists, one list after the other.
    runs: Vec<Run>,
    /// Where each list starts.
    starts: Vec<usize>,
    /// For how many rows all that was pushed stays true.
    pub(crate) hold: Hold,
}

impl Stack {
    pub(crate) const fn new() -> Self {
        Self { runs: Vec::new(), starts: Vec::new(), hold: Hold::FOREVER }
    }

    /// Removes every list; keeps the capacity.
    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.starts.clear();
    }

    /// Removes the lowest lists.
    pub(crate) fn drop_lowest(&mut self, lists: usize) {
        let Some(&start) = self.starts.get(lists) else { return self.clear() };
        self.runs.drain(..start);
        self.starts.drain(..lists);
        self.starts.iter_mut().for_each(|from| *from -= start);
    }

    /// Makes room for `lists` lists and `runs` runs in all.
    pub(crate) fn try_reserve(&mut self, lists: usize, runs: usize) -> Result<(), TryReserveError> {
        self.starts.try_reserve(lists.saturating_sub(self.starts.len()))?;
        self.runs.try_reserve(runs.saturating_sub(self.runs.len()))
    }

    /// All runs, of which the lists are parts.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Where the runs of the list at `index` stand, counted from the bottom of the stack.
    pub(crate) fn list(&self, index: usize) -> std::ops::Range<usize> {
        self.starts[index]..self.starts.get(index + 1).copied().unwrap_or(self.runs.len())
    }

    /// The runs of the top list.
    pub(crate) fn top(&self) -> &[Run] {
        &self.runs[self.starts.last().copied().unwrap_or(0)..]
    }

    /// Pushes an empty list.
    pub(crate) fn open(&mut self) {
        self.starts.push(self.runs.len());
    }

    /// Adds a run to the top list. Its start is not before the last run's; an empty run is dropped, and one that
    /// touches the last run joins it.
    pub(crate) fn push(&mut self, run: Run) {
        let start = self.starts.last().copied().unwrap_or(0);
        self.push_after(start, run);
    }

    /// [`push`](Self::push) to the list that starts at `start` and ends the buffer.
    fn push_after(&mut self, start: usize, run: Run) {
        if self.hold.in_order(run.end, run.start) {
            return;
        }
        match self.runs[start..].last_mut() {
            Some(last) if self.hold.in_order(run.start, last.end) => last.end = self.hold.later(last.end, run.end),
            _ => self.runs.push(run),
        }
    }

    /// Adds the keys of `runs`, which are in order and hold in every row, that lie in `limit`.
    pub(crate) fn push_within(&mut self, limit: Run, runs: impl Iterator<Item = std::ops::Range<usize>>) {
        for run in runs {
            let run = Run::still(run.start, run.end);
            if self.hold.in_order(limit.end, run.start) {
                break;
            }
            let run = self.hold.meet(run, limit);
            self.push(run);
        }
    }

    /// Adds keys in any order, none of them twice, to the top list, which is empty. They hold for one row.
    pub(crate) fn push_scattered(&mut self, keys: impl Iterator<Item = usize>) {
        self.hold.at_most(0);
        let start = self.runs.len();
        self.runs.extend(keys.map(|key| Run::still(key, key + 1)));
        self.runs[start..].sort_unstable_by_key(|run| run.start.key);
        let mut kept = start;
        for next in start + 1..self.runs.len() {
            let run = self.runs[next];
            if self.runs[kept].end.key == run.start.key {
                self.runs[kept].end = run.end;
            } else {
                kept += 1;
                self.runs[kept] = run;
            }
        }
        self.runs.truncate(kept + 1);
    }

    /// Replaces the top list by the keys of `limit` that are not in it.
    pub(crate) fn complement(&mut self, limit: Run) {
        let start = self.starts[self.starts.len() - 1];
        let end = self.runs.len();
        let mut gap = limit.start;
        for index in start..end {
            let run = self.runs[index];
            self.push_after(end, Run { start: gap, end: run.start });
            gap = run.end;
        }
        self.push_after(end, Run { start: gap, end: limit.end });
        self.runs.drain(start..end);
    }

    /// Replaces the two top lists by the keys that are in both.
    pub(crate) fn intersect(&mut self) {
        let [first, second, end] = self.top_two();
        let (mut a, mut b) = (first, second);
        while a < second && b < end {
            let (x, y) = (self.runs[a], self.runs[b]);
            let both = self.hold.meet(x, y);
            self.push_after(end, both);
            // The run that ends first meets nothing more.
            if self.hold.in_order(x.end, y.end) {
                a += 1;
            } else {
                b += 1;
            }
        }
        self.replace_top_two(first, end);
    }

    /// Replaces the two top lists by the keys that are in either.
    pub(crate) fn unite(&mut self) {
        let [first, second, end] = self.top_two();
        let (mut a, mut b) = (first, second);
        while a < second || b < end {
            let start = |run: usize| -> Edge { self.runs[run].start };
            let from_first = b == end || (a < second && self.hold.in_order(start(a), start(b)));
            let next = if from_first { &mut a } else { &mut b };
            let run = self.runs[*next];
            *next += 1;
            self.push_after(end, run);
        }
        self.replace_top_two(first, end);
    }

    /// Where the two top lists start, and where the second ends.
    fn top_two(&self) -> [usize; 3] {
        let top = self.starts.len() - 1;
        [self.starts[top - 1], self.starts[top], self.runs.len()]
    }

    /// Drops the runs `first..end` of the two top lists, so that what was pushed after them is the top list.
    fn replace_top_two(&mut self, first: usize, end: usize) {
        self.runs.drain(first..end);
        self.starts.pop();
    }
}
