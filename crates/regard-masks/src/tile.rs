//! Tiles: how queries and keys are cut, and what a tile keeps.

use std::ops::Range;

use crate::Error;

/// Keys per panel. The bits of one row and one panel are one `u64`.
pub const PANEL: usize = 64;

/// Keys that a rim is computed in: of its panel, those from the first such stretch that any row keeps to the last.
pub(crate) const COLUMNS: usize = 16;

/// The most rows that a tile may have.
pub const MAX_TILE_ROWS: usize = 4096;

/// How the engine's rows are cut into tiles.
///
/// Engine rows are (query, head of its group) with the head running fastest: row `r` belongs to query `r / group`.
/// Tile `t` covers the rows `t·rows .. (t + 1)·rows`, the last tile maybe fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TileShape {
    /// Rows per tile, 1 to [`MAX_TILE_ROWS`].
    pub rows: usize,
    /// Engine rows per query: how many query heads share a key/value head. At least 1.
    pub group: usize,
}

impl TileShape {
    /// How many tiles cover `n_q` queries.
    ///
    /// # Errors
    ///
    /// [`Error::Tile`] for a shape outside its bounds, [`Error::TooManyQueries`] where the rows cannot be counted.
    pub fn tiles(self, n_q: usize) -> Result<usize, Error> {
        let Self { rows, group } = self;
        if rows == 0 || rows > MAX_TILE_ROWS || group == 0 {
            return Err(Error::Tile(self));
        }
        let all = n_q.checked_mul(group).ok_or(Error::TooManyQueries { n_q, group })?;
        Ok(all.div_ceil(rows))
    }

    /// The engine rows of tile `t` of `n_q` queries.
    pub(crate) fn rows_of(self, t: usize, n_q: usize) -> Range<usize> {
        let start = t * self.rows;
        start..(n_q * self.group).min(start.saturating_add(self.rows))
    }

    /// The queries that have a row in tile `t` of `n_q` queries.
    pub(crate) fn queries_of(self, t: usize, n_q: usize) -> Range<usize> {
        let rows = self.rows_of(t, n_q);
        rows.start / self.group..rows.end.div_ceil(self.group)
    }
}

/// A stretch of key panels that a tile keeps, wholly or in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span<'a> {
    /// Panels of which every row keeps all 64 keys, and all 64 exist.
    Full(Range<usize>),
    /// One panel of which some rows keep some keys.
    Rim {
        /// The panel: its keys start at `64·panel`.
        panel: usize,
        /// One word per row of the tile; bit `b` is set when the row keeps key `64·panel + b`. Bits of keys that do
        /// not exist are zero, and so are the words of rows beyond the last query.
        bits: &'a [u64],
    },
}

impl Span<'_> {
    /// The panels of the span.
    #[inline]
    pub fn panels(&self) -> Range<usize> {
        match *self {
            Self::Full(ref panels) => panels.clone(),
            Self::Rim { panel, .. } => panel..panel + 1,
        }
    }
}
