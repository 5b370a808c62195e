//! How much room a layout takes.

use crate::layout::{PackedSpan, TileEnd};
use crate::{BlockLayout, Error, Mask, PANEL, TileShape};

/// How much room a layout takes: what it holds, or what a compilation may need at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutSize {
    /// Query tiles.
    pub tiles: usize,
    /// Spans of all tiles.
    pub spans: usize,
    /// Words of all rims.
    pub words: usize,
}

impl LayoutSize {
    /// Bytes of a layout of this size, without the scratch of its compilation.
    pub fn bytes(self) -> usize {
        let bytes = |count: usize, each: usize| count.saturating_mul(each);
        bytes(self.tiles, size_of::<TileEnd>())
            .saturating_add(bytes(self.spans, size_of::<PackedSpan>()))
            .saturating_add(bytes(self.words, size_of::<u64>()))
    }

    /// The most that compiling `mask` for `n_q` queries and any number of keys up to `n_k` can need.
    ///
    /// For one query this is a few words for each run that a row of the mask can have. For more it must allow for
    /// rows that disagree everywhere and grows with `n_q·n_k`; it is meant for the few queries of a decoding step.
    ///
    /// # Errors
    ///
    /// [`Error::Tile`] or [`Error::TooManyQueries`] for a shape that cannot be laid out, [`Error::LayoutTooLarge`]
    /// where the bound cannot be counted.
    pub fn bound(mask: &Mask, n_q: usize, n_k: usize, tile: TileShape) -> Result<Self, Error> {
        let tiles = tile.tiles(n_q)?;
        let panels = n_k.div_ceil(PANEL);
        // The rows of one query agree, so a run is at most a stretch of full panels between two rims.
        let runs = mask.max_runs();
        let (spans, rims) = match n_q {
            1 => (panels.min(runs.saturating_mul(3)), panels.min(runs.saturating_mul(2))),
            _ => (panels, panels),
        };
        let times = |a: usize, b: usize| a.checked_mul(b).ok_or(Error::LayoutTooLarge { n_q, n_k });
        Ok(Self { tiles, spans: times(tiles, spans)?, words: times(times(tiles, rims)?, tile.rows)? })
    }
}

impl BlockLayout {
    /// Makes room, so that compiling `mask` for up to `n_q` queries and `n_k` keys allocates nothing. The room is
    /// that of [`LayoutSize::bound`], and like it this is meant for few queries.
    ///
    /// # Errors
    ///
    /// Those of [`LayoutSize::bound`], and [`Error::LayoutTooLarge`] where memory cannot hold it.
    pub fn reserve(&mut self, mask: &Mask, n_q: usize, n_k: usize, tile: TileShape) -> Result<(), Error> {
        let size = LayoutSize::bound(mask, n_q, n_k, tile)?;
        // While a tile is compiled there are the lists of its queries, what they share and what they keep together,
        // and the operands and the result of one operation; none has more runs than all queries together.
        let queries = n_q.min(tile.rows);
        let runs = queries.saturating_mul(mask.max_runs());
        let lists = queries.saturating_add(mask.max_runs()).saturating_add(2);
        let room = |len: usize, wanted: usize| wanted.saturating_sub(len);
        self.tiles
            .try_reserve(room(self.tiles.len(), size.tiles))
            .and_then(|()| self.spans.try_reserve(room(self.spans.len(), size.spans)))
            .and_then(|()| self.bits.try_reserve(room(self.bits.len(), size.words)))
            .and_then(|()| self.runs.try_reserve(lists, runs.saturating_mul(5)))
            .map_err(|_| Error::LayoutTooLarge { n_q, n_k })
    }
}
