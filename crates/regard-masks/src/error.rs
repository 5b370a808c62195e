//! What can be refused.

use crate::{MAX_TILE_ROWS, TileShape};

/// What no mask, layout or array can be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A primitive of a mask that was given what makes no set.
    #[error("{primitive}: {has}; expected {expected}")]
    Primitive {
        /// The primitive.
        primitive: &'static str,
        /// What it was given.
        has: String,
        /// What it takes.
        expected: String,
    },
    /// A tile without rows, with too many of them, or with an empty group.
    #[error("tile: {} rows in groups of {}; expected 1 to {MAX_TILE_ROWS} rows and groups of at least 1", .0.rows, .0.group)]
    Tile(TileShape),
    /// A text that is no mask.
    #[error("mask, at byte {at}: {has}; expected {expected}")]
    Parse {
        /// Where it stops being one, in bytes from its start.
        at: usize,
        /// What stands there.
        has: String,
        /// What could.
        expected: String,
    },
    /// Parts of a mask that do not vary alike.
    #[error("mask: its parts tell {} and {} {axis} apart; expected the same number, or 1", .has[0], .has[1])]
    Vary {
        /// What the mask differs by.
        axis: &'static str,
        /// How many two of its parts tell apart.
        has: [usize; 2],
    },
    /// A number of masks that a group of heads cannot have.
    #[error("masks: {masks} for a group of {group}; expected 1, or one for each head")]
    Masks {
        /// How many masks there are.
        masks: usize,
        /// Heads of the group.
        group: usize,
    },
    /// More engine rows than can be counted.
    #[error("queries: {n_q} in groups of {group} are more rows than can be counted")]
    TooManyQueries {
        /// Queries of the call.
        n_q: usize,
        /// Engine rows per query.
        group: usize,
    },
    /// More panels of keys than a layout can number.
    #[error("keys: {n_k}; a layout holds at most 2³¹ panels of 64")]
    TooManyKeys {
        /// Keys of the call.
        n_k: usize,
    },
    /// Blocks of keys without panels.
    #[error("panels of a block: 0; expected at least 1")]
    PanelsPerBlock,
    /// A layout that memory cannot hold.
    #[error("layout: {n_q} queries × {n_k} keys may not fit in memory")]
    LayoutTooLarge {
        /// Queries of the layout.
        n_q: usize,
        /// Keys of the layout.
        n_k: usize,
    },
    /// A compilation that was told to leave off.
    #[error("layout: ended before it was compiled")]
    Ended,
    /// An array of pairs that memory cannot hold.
    #[error("array: {n_q} queries × {n_k} keys do not fit in memory")]
    ArrayTooLarge {
        /// Rows of the array.
        n_q: usize,
        /// Columns of the array.
        n_k: usize,
    },
}
