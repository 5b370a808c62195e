//! The sets that masks are built from.
//!
//! A new primitive is one arm of [`Primitive`]: its definition, its runs, how many runs a row of it may have, and how
//! it is written.

use std::fmt;

use crate::Runs;

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
}

impl Primitive {
    /// Whether the pair `(p, j)` is in the set.
    pub(crate) fn allows(&self, p: i64, j: usize) -> bool {
        // 128 bits hold every sum of a position and a distance.
        let (p, key) = (i128::from(p), j as i128);
        match *self {
            Self::Full => true,
            Self::Causal => key <= p,
            Self::Window { left, right } => {
                left.is_none_or(|left| p - left as i128 <= key) && right.is_none_or(|right| key <= p + right as i128)
            }
            Self::Prefix(n) => j < n,
        }
    }

    /// Pushes the keys of `0..n_k` that position `p` keeps onto the top list of `runs`, in ascending order.
    pub(crate) fn push_runs(&self, p: i64, n_k: usize, runs: &mut Runs) {
        let p = i128::from(p);
        let clamp = |key: i128| key.clamp(0, n_k as i128) as usize;
        match *self {
            Self::Full => runs.push(0..n_k),
            Self::Causal => runs.push(0..clamp(p + 1)),
            Self::Window { left, right } => {
                let start = left.map_or(0, |left| clamp(p - left as i128));
                let end = right.map_or(n_k, |right| clamp(p + right as i128 + 1));
                runs.push(start..end);
            }
            Self::Prefix(n) => runs.push(0..n.min(n_k)),
        }
    }

    /// No row of the set has more runs than this, which is at least 1.
    pub(crate) fn max_runs(&self) -> usize {
        match self {
            Self::Full | Self::Causal | Self::Window { .. } | Self::Prefix(_) => 1,
        }
    }
}

impl fmt::Display for Primitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = |distance: Option<usize>| distance.map_or("∞".into(), |d| d.to_string());
        match *self {
            Self::Full => f.write_str("full"),
            Self::Causal => f.write_str("causal"),
            Self::Window { left, right } => {
                write!(f, "window({}, {})", bound(left), bound(right))
            }
            Self::Prefix(n) => write!(f, "prefix({n})"),
        }
    }
}
