//! Runs: the keys of one row.

use std::ops::Range;

use crate::evaluate::Evaluation;

/// A set of keys as sorted, disjoint and maximal intervals. Filled by [`Mask::runs`](crate::Mask::runs); kept and
/// filled again, it does not allocate.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    pub(crate) runs: Vec<Range<usize>>,
    /// Scratch of `Mask::runs`.
    pub(crate) evaluation: Evaluation,
}

impl Runs {
    /// No runs.
    pub const fn new() -> Self {
        Self { runs: Vec::new(), evaluation: Evaluation::new() }
    }

    /// The intervals of keys, ascending; neither overlapping nor touching, none empty.
    pub fn as_slice(&self) -> &[Range<usize>] {
        &self.runs
    }

    /// How many keys the runs hold together.
    pub fn keys(&self) -> usize {
        self.runs.iter().map(Range::len).sum()
    }
}
