//! The sets that masks are built from.
//!
//! A new primitive is one arm of [`Primitive`]: its definition, the run around all keys of a row, its runs where they
//! are several, how many a row of it may have, and how it is written.

use std::fmt;

use crate::edge::{Edge, Hold, Run};
use crate::indices::Indices;
use crate::random::Random;
use crate::shared::Shared;
use crate::stack::Stack;
use crate::table::Table;
use crate::vary::Vary;

/// A row of a mask: its position, and how many keys there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) p: i64,
    pub(crate) n_k: usize,
}

/// One set of pairs, with both of its answers: `allows`, the definition, and `push_runs`, the same in intervals.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Primitive {
    Full,
    Causal,
    /// `p − left ≤ j ≤ p + right`; `None` is unbounded.
    Window {
        left: Option<usize>,
        right: Option<usize>,
    },
    /// `j < n`.
    Prefix(usize),
    /// `j` in the set, given as a list.
    GlobalKeys(Shared<Indices>),
    /// `p` in the set.
    GlobalQueries(Shared<Indices>),
    /// `j` in the set, given as flags.
    Keys(Shared<Indices>),
    /// `⌊p/size⌋ = ⌊j/size⌋`; the size is not 0.
    BlockDiagonal(usize),
    /// `j ≡ 0 mod step`; the step is not 0.
    Strided(usize),
    Random(Random),
    Table(Shared<Table>),
    Vary(Vary),
}

impl Primitive {
    /// Whether the pair (`row.p`, `j`) is in the set.
    pub(crate) fn allows(&self, row: Row, j: usize) -> bool {
        // 128 bits hold every sum of a position and a distance.
        let (p, key) = (i128::from(row.p), j as i128);
        match self {
            Self::Full => true,
            Self::Causal => key <= p,
            Self::Window { left, right } => {
                left.is_none_or(|left| p - left as i128 <= key) && right.is_none_or(|right| key <= p + right as i128)
            }
            Self::Prefix(n) => j < *n,
            Self::GlobalKeys(set) | Self::Keys(set) => set.contains(j),
            Self::GlobalQueries(set) => usize::try_from(p).is_ok_and(|p| set.contains(p)),
            Self::BlockDiagonal(size) => p >= 0 && p / *size as i128 == key / *size as i128,
            Self::Strided(step) => j.is_multiple_of(*step),
            Self::Random(random) => random.allows(row, j),
            Self::Table(table) => table.allows(row.p, j),
            Self::Vary(vary) => vary.allows(row, j),
        }
    }

    /// A run around all keys of `0..n_k` in the row; for a primitive that keeps one run of each row, that run.
    pub(crate) fn hull(&self, row: Row, hold: &mut Hold) -> Run {
        let Row { p, n_k } = row;
        let p = i128::from(p);
        let all = Run::still(0, n_k);
        match self {
            Self::Full | Self::Random(_) | Self::Vary(_) => all,
            Self::Causal => Run { end: clamp(p + 1, n_k, hold), ..all },
            Self::Window { left, right } => Run {
                start: left.map_or(all.start, |left| clamp(p - left as i128, n_k, hold)),
                end: right.map_or(all.end, |right| clamp(p + right as i128 + 1, n_k, hold)),
            },
            Self::Prefix(n) => Run::still(0, n_k.min(*n)),
            Self::GlobalKeys(set) | Self::Keys(set) => match set.intervals() {
                [] => Run::still(0, 0),
                [first, ..] => Run::still(first.start, n_k.min(set.intervals()[set.intervals().len() - 1].end)),
            },
            Self::GlobalQueries(set) => {
                // Negative positions come before the first query.
                let Some(next) = set.from(usize::try_from(p).unwrap_or(0)).first() else { return Run::still(0, 0) };
                let inside = next.start as i128 <= p;
                let change = if inside { next.end } else { next.start };
                hold.at_most(usize::try_from(change as i128 - p - 1).unwrap_or(usize::MAX));
                if inside { all } else { Run::still(0, 0) }
            }
            Self::BlockDiagonal(size) => {
                let size = *size as i128;
                hold.at_most((size - 1 - p.rem_euclid(size)) as usize);
                let start = p.div_euclid(size) * size;
                let clamp = |key: i128| key.clamp(0, n_k as i128) as usize;
                if p < 0 { Run::still(0, 0) } else { Run::still(clamp(start), clamp(start + size)) }
            }
            Self::Strided(step) => Run::still(0, n_k.checked_sub(1).map_or(0, |last| last - last % step + 1)),
            Self::Table(table) => table.hull(row, hold),
        }
    }

    /// Adds the keys of the row within `limit`, a part of the hull, to the top list of `stack`, which is empty.
    pub(crate) fn push_runs(&self, row: Row, limit: Run, stack: &mut Stack) {
        match self {
            Self::GlobalKeys(set) | Self::Keys(set) => {
                stack.push_within(limit, set.from(limit.start.key).iter().cloned());
            }
            Self::Strided(step) if *step > 1 => {
                let first = limit.start.key.checked_next_multiple_of(*step).unwrap_or(row.n_k);
                stack.push_within(limit, (first..row.n_k).step_by(*step).map(|key| key..key + 1));
            }
            Self::Random(random) => random.push_runs(row, limit, stack),
            Self::Table(table) => table.push_runs(row, limit, stack),
            Self::Vary(vary) => vary.push_runs(row, limit, stack),
            // The limit is a part of their only run.
            _ => stack.push(limit),
        }
    }

    /// No row of the set has more runs than this among `n_k` keys or fewer; at least 1.
    pub(crate) fn max_runs(&self, n_k: usize) -> usize {
        let runs = match self {
            Self::GlobalKeys(set) | Self::Keys(set) => set.intervals().len(),
            Self::Strided(1) => 1,
            Self::Strided(step) => n_k.div_ceil(*step),
            // As many as there are before neighbours join.
            Self::Random(random) => random.keys(n_k),
            Self::Table(table) => table.max_runs(),
            Self::Vary(vary) => vary.max_runs(n_k),
            _ => 1,
        };
        runs.max(1)
    }

    /// Bytes beside its own.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::GlobalKeys(set) | Self::GlobalQueries(set) | Self::Keys(set) => size_of_val(set.intervals()),
            Self::Table(table) => table.bytes(),
            Self::Vary(vary) => vary.bytes(),
            _ => 0,
        }
    }
}

/// An end that moves with the row and is at `key` now, held within the keys.
fn clamp(key: i128, n_k: usize, hold: &mut Hold) -> Edge {
    let end = n_k as i128;
    if key < 0 {
        hold.at_most(usize::try_from(-key).unwrap_or(usize::MAX));
        Edge::still(0)
    } else if key >= end {
        Edge::still(n_k)
    } else {
        hold.at_most((end - key) as usize);
        Edge { key: key as usize, moves: true }
    }
}

impl fmt::Display for Primitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = |distance: Option<usize>| distance.map_or("∞".into(), |d| d.to_string());
        match self {
            Self::Full => f.write_str("full"),
            Self::Causal => f.write_str("causal"),
            Self::Window { left, right } => write!(f, "window({}, {})", bound(*left), bound(*right)),
            Self::Prefix(n) => write!(f, "prefix({n})"),
            Self::GlobalKeys(set) => write!(f, "global_keys({})", **set),
            Self::GlobalQueries(set) => write!(f, "global_queries({})", **set),
            Self::Keys(set) => write!(f, "keys({})", **set),
            Self::BlockDiagonal(size) => write!(f, "block_diagonal({size})"),
            Self::Strided(step) => write!(f, "strided({step})"),
            Self::Random(random) => write!(f, "random({}, {})", random.density(), random.seed()),
            Self::Table(table) => table.fmt(f),
            Self::Vary(vary) => vary.fmt(f),
        }
    }
}
