//! How many blocks a row may keep.

use crate::{Error, check};

/// How many columns a row may keep of those that it sees. Its own and the first are always kept, and count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// So many, or all where they are fewer.
    Blocks(usize),
    /// `⌊share · n⌋` of the `n` that it sees.
    Share(f64),
}

impl Budget {
    /// How many of `seen` columns are kept: at least one, and two where there are two.
    ///
    /// ```
    /// use regard_select::Budget;
    ///
    /// let of = |seen| Budget::Share(0.1).of(seen);
    /// assert_eq!([of(1), of(2), of(29), of(30), of(64)], [1, 2, 2, 3, 6]);
    /// assert_eq!([Budget::Blocks(4).of(3), Budget::Blocks(4).of(9)], [3, 4]);
    /// ```
    pub fn of(self, seen: usize) -> usize {
        let kept = match self {
            Budget::Blocks(count) => count,
            // 0.29 · 100 is a little less than 29 in binary.
            Budget::Share(share) => (share * seen as f64 + 1e-9) as usize,
        };
        kept.max(2).min(seen)
    }

    /// # Errors
    /// [`Error::Parameter`] for no blocks and for a share that is not in 0 to 1.
    pub(crate) fn check(self) -> Result<(), Error> {
        match self {
            Budget::Blocks(count) => check::at_least_one("budget", count),
            Budget::Share(share) => check::within("budget", share, (0.0..=1.0).contains(&share), "a share in 0 to 1"),
        }
    }
}
