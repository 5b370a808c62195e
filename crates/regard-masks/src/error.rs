//! What can be refused.

use crate::{MAX_TILE_ROWS, TileShape};

/// A shape that no layout or array can be made for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tile without rows, with too many of them, or with an empty group.
    #[error("tile: {} rows in groups of {}; expected 1 to {MAX_TILE_ROWS} rows and groups of at least 1", .0.rows, .0.group)]
    Tile(TileShape),
    /// More engine rows than can be counted.
    #[error("queries: {n_q} in groups of {group} are more rows than can be counted")]
    TooManyQueries {
        /// Queries of the call.
        n_q: usize,
        /// Engine rows per query.
        group: usize,
    },
    /// More panels of keys than a layout can number.
    #[error("keys: {n_k}; a layout holds at most 2³² − 1 panels of 64")]
    TooManyKeys {
        /// Keys of the call.
        n_k: usize,
    },
    /// A layout that memory cannot hold.
    #[error("layout: {n_q} queries × {n_k} keys may not fit in memory")]
    LayoutTooLarge {
        /// Queries of the layout.
        n_q: usize,
        /// Keys of the layout.
        n_k: usize,
    },
    /// An array of pairs that memory cannot hold.
    #[error("array: {n_q} queries × {n_k} keys do not fit in memory")]
    ArrayTooLarge {
        /// Rows of the array.
        n_q: usize,
        /// Columns of the array.
        n_k: usize,
    },
}
