//! Runs: sets of keys as sorted intervals, and the set operations as merges of them.

use std::collections::TryReserveError;
use std::ops::Range;

/// A set of keys as sorted, disjoint and maximal intervals. Filled by [`Mask::runs`](crate::Mask::runs); kept and
/// filled again, it does not allocate.
///
/// Inside the crate it is a stack of such sets in one buffer: an expression pushes the sets of its primitives, and
/// each operation replaces the topmost sets by its result.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// The runs of all lists, one list after the other.
    runs: Vec<Range<usize>>,
    /// Where each list starts.
    starts: Vec<usize>,
}

impl Runs {
    /// No runs.
    pub const fn new() -> Self {
        Self { runs: Vec::new(), starts: Vec::new() }
    }

    /// The intervals of keys, ascending; neither overlapping nor touching, none empty.
    pub fn as_slice(&self) -> &[Range<usize>] {
        &self.runs[self.starts.last().copied().unwrap_or(0)..]
    }

    /// How many keys the runs hold together.
    pub fn keys(&self) -> usize {
        self.as_slice().iter().map(Range::len).sum()
    }

    /// Removes every list; keeps the capacity.
    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.starts.clear();
    }

    /// Makes room for `lists` lists and `runs` runs in all.
    pub(crate) fn try_reserve(&mut self, lists: usize, runs: usize) -> Result<(), TryReserveError> {
        self.starts.try_reserve(lists.saturating_sub(self.starts.len()))?;
        self.runs.try_reserve(runs.saturating_sub(self.runs.len()))
    }

    /// The list at `index`, counted from the bottom of the stack.
    pub(crate) fn list(&self, index: usize) -> &[Range<usize>] {
        let end = self.starts.get(index + 1).copied().unwrap_or(self.runs.len());
        &self.runs[self.starts[index]..end]
    }

    /// Pushes an empty list.
    pub(crate) fn open(&mut self) {
        self.starts.push(self.runs.len());
    }

    /// Adds a run to the top list. Its start is not before the last run's; an empty run is dropped, and one that
    /// touches the last run joins it.
    pub(crate) fn push(&mut self, run: Range<usize>) {
        let start = self.starts.last().copied().unwrap_or(0);
        self.push_after(start, run);
    }

    /// [`push`](Self::push) to the list that starts at `start` and ends the buffer.
    fn push_after(&mut self, start: usize, run: Range<usize>) {
        if run.is_empty() {
            return;
        }
        match self.runs[start..].last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => self.runs.push(run),
        }
    }

    /// Pushes a copy of the list at `index`.
    fn copy(&mut self, index: usize) {
        let start = self.starts[index];
        let end = start + self.list(index).len();
        self.open();
        self.runs.extend_from_within(start..end);
    }

    /// Pushes the keys that are in every one of the lists `0..lists`, of which there is at least one.
    pub(crate) fn push_intersection(&mut self, lists: usize) {
        self.copy(0);
        for list in 1..lists {
            self.copy(list);
            self.intersect();
        }
    }

    /// Pushes the keys that are in any of the lists `0..lists`, of which there is at least one.
    pub(crate) fn push_union(&mut self, lists: usize) {
        self.copy(0);
        for list in 1..lists {
            self.copy(list);
            self.unite();
        }
    }

    /// Replaces the top list by the keys of `0..n_k` that are not in it.
    pub(crate) fn complement(&mut self, n_k: usize) {
        let start = self.starts[self.starts.len() - 1];
        let end = self.runs.len();
        let mut gap = 0;
        for index in start..end {
            let run = self.runs[index].clone();
            self.push_after(end, gap..run.start);
            gap = run.end;
        }
        self.push_after(end, gap..n_k);
        self.runs.drain(start..end);
    }

    /// Replaces the two top lists by the keys that are in both.
    pub(crate) fn intersect(&mut self) {
        let [first, second, end] = self.top_two();
        let (mut a, mut b) = (first, second);
        while a < second && b < end {
            let (x, y) = (self.runs[a].clone(), self.runs[b].clone());
            self.push_after(end, x.start.max(y.start)..x.end.min(y.end));
            // The run that ends first meets nothing more.
            if x.end <= y.end {
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
            let from_first = b == end || (a < second && self.runs[a].start <= self.runs[b].start);
            let next = if from_first { &mut a } else { &mut b };
            let run = self.runs[*next].clone();
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
