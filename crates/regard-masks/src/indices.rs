//! Sets of numbers: keys or queries.

use std::fmt;
use std::ops::Range;

/// A set of numbers as sorted, disjoint and maximal intervals.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Indices(Vec<Range<usize>>);

/// The most intervals that are written.
const MAX_WRITTEN: usize = 32;

impl Indices {
    /// The numbers in these intervals, which may come in any order and overlap.
    pub(crate) fn new(ranges: impl IntoIterator<Item = Range<usize>>) -> Self {
        let mut ranges: Vec<Range<usize>> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|next, last| {
            let touches = next.start <= last.end;
            if touches {
                last.end = last.end.max(next.end);
            }
            touches
        });
        ranges.shrink_to_fit();
        Self(ranges)
    }

    /// The numbers of a list. The largest `usize` numbers neither a key nor a query.
    pub(crate) fn of_list(list: impl IntoIterator<Item = usize>) -> Self {
        Self::new(list.into_iter().filter(|&index| index < usize::MAX).map(|index| index..index + 1))
    }

    /// The numbers whose flag is set.
    pub(crate) fn of_flags(flags: &[bool]) -> Self {
        let mut ranges = Vec::new();
        push_flagged(flags, |range| ranges.push(range));
        Self(ranges)
    }

    pub(crate) fn contains(&self, index: usize) -> bool {
        self.from(index).first().is_some_and(|range| range.start <= index)
    }

    /// The intervals that do not end before `index`.
    pub(crate) fn from(&self, index: usize) -> &[Range<usize>] {
        &self.0[self.0.partition_point(|range| range.end <= index)..]
    }

    pub(crate) fn intervals(&self) -> &[Range<usize>] {
        &self.0
    }
}

/// Gives the maximal intervals of set flags to `push`, in order.
pub(crate) fn push_flagged(flags: &[bool], mut push: impl FnMut(Range<usize>)) {
    let mut at = 0;
    while let Some(clear) = flags[at..].iter().position(|&flag| flag) {
        let start = at + clear;
        let length = flags[start..].iter().position(|&flag| !flag).unwrap_or(flags.len() - start);
        at = start + length;
        push(start..at);
    }
}

impl fmt::Display for Indices {
    /// Writes the numbers, those in a row as an interval: `1, 5..9`. Many intervals are not written out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().take(MAX_WRITTEN).enumerate() {
            f.write_str(if at > 0 { ", " } else { "" })?;
            match range.len() {
                1 => write!(f, "{}", range.start)?,
                _ => write!(f, "{}..{}", range.start, range.end)?,
            }
        }
        match self.0.len().saturating_sub(MAX_WRITTEN) {
            0 => Ok(()),
            more => write!(f, ", … {more} more"),
        }
    }
}
