//! Ends of runs, and how they move from row to row.
//!
//! The rows of most masks follow from one another: an end of a run stays where it is, or moves on by one key with every
//! row. So runs are computed for one row together with the number of rows for which their shape *holds*: the rows in
//! which every comparison that led to them has the same outcome. A causal window over a million queries is computed a
//! handful of times.

/// One end of a run: a key of one row, and whether it moves on by one key with every row after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) key: usize,
    pub(crate) moves: bool,
}

impl Edge {
    /// An end that stays where it is.
    pub(crate) const fn still(key: usize) -> Self {
        Self { key, moves: false }
    }

    /// Where the end is `rows` rows later.
    pub(crate) fn after(self, rows: usize) -> usize {
        if self.moves { self.key + rows } else { self.key }
    }
}

/// The keys from `start` to before `end`; none where the ends have passed each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: Edge,
    pub(crate) end: Edge,
}

impl Run {
    /// The keys `start..end`, in every row.
    pub(crate) const fn still(start: usize, end: usize) -> Self {
        Self { start: Edge::still(start), end: Edge::still(end) }
    }
}

/// For how many rows after the first what was computed stays true.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold(usize);

impl Hold {
    pub(crate) const FOREVER: Self = Self(usize::MAX);

    /// The rows after the first.
    pub(crate) fn rows(self) -> usize {
        self.0
    }

    /// It stays true for `rows` rows after the first at most.
    pub(crate) fn at_most(&mut self, rows: usize) {
        self.0 = self.0.min(rows);
    }

    /// Whether `a` does not lie beyond `b`, in all rows for which this holds.
    pub(crate) fn in_order(&mut self, a: Edge, b: Edge) -> bool {
        let in_order = a.key <= b.key;
        match (in_order, a.moves, b.moves) {
            (true, true, false) => self.at_most(b.key - a.key),
            (false, false, true) => self.at_most(a.key - b.key - 1),
            _ => {}
        }
        in_order
    }

    pub(crate) fn later(&mut self, a: Edge, b: Edge) -> Edge {
        if self.in_order(a, b) { b } else { a }
    }

    pub(crate) fn earlier(&mut self, a: Edge, b: Edge) -> Edge {
        if self.in_order(a, b) { a } else { b }
    }

    /// The keys that are in both runs.
    pub(crate) fn meet(&mut self, a: Run, b: Run) -> Run {
        Run { start: self.later(a.start, b.start), end: self.earlier(a.end, b.end) }
    }

    /// The shortest run around both.
    pub(crate) fn join(&mut self, a: Run, b: Run) -> Run {
        Run { start: self.earlier(a.start, b.start), end: self.later(a.end, b.end) }
    }
}
