//! How much room a layout takes.

use crate::gathered::PackedGathered;
use crate::layout::PackedSpan;
use crate::sweep::Sweep;
use crate::{BlockLayout, Error, Mask, PANEL, TileShape};

/// How much room a layout takes: what it holds, or what a compilation may need at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayoutSize {
    /// Query tiles.
    pub tiles: usize,
    /// Spans of all tiles.
    pub spans: usize,
    /// Words of all rims, and of all gathered panels, that differ.
    pub words: usize,
    /// Gathered panels of all tiles.
    pub gathered: usize,
    /// Lists of gathered keys.
    pub lists: usize,
    /// Keys of all lists.
    pub keys: usize,
}

impl LayoutSize {
    /// Bytes of a layout of this size, without the scratch of its compilation.
    pub fn bytes(self) -> usize {
        let bytes = |count: usize, each: usize| count.saturating_mul(each);
        // A tile has an end among the gathered panels where there are any.
        let ends = if self.gathered > 0 { 2 } else { 1 };
        [
            bytes(self.tiles, ends * size_of::<u32>()),
            bytes(self.spans, size_of::<PackedSpan>()),
            bytes(self.words, size_of::<u64>()),
            bytes(self.gathered, size_of::<PackedGathered>()),
            bytes(self.lists, size_of::<u32>()),
            bytes(self.keys, size_of::<u32>()),
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }

    /// The most that compiling `mask`, or what is selected from it for the heads of a group, can need for `n_q` queries
    /// and any number of keys up to `n_k`, when nothing is gathered.
    ///
    /// For one query whose heads agree this is a few words for each run that a row of the mask can have. For more it must allow for
    /// rows that disagree everywhere and grows with `n_q·n_k`; it is meant for the few queries of a decoding step.
    ///
    /// # Errors
    ///
    /// [`Error::Tile`] or [`Error::TooManyQueries`] for a shape that cannot be laid out, [`Error::LayoutTooLarge`]
    /// where the bound cannot be counted.
    pub fn bound(mask: &Mask, n_q: usize, n_k: usize, tile: TileShape) -> Result<Self, Error> {
        let tiles = tile.tiles(n_q)?;
        let panels = n_k.div_ceil(PANEL);
        // Where all rows agree, a run is at most a stretch of full panels between two rims.
        let runs = mask.max_runs(n_k);
        let (spans, rims) = match (n_q, mask.heads()) {
            (1, Ok(1)) => (panels.min(runs.saturating_mul(3)), panels.min(runs.saturating_mul(2))),
            _ => (panels, panels),
        };
        let times = |a: usize, b: usize| a.checked_mul(b).ok_or(Error::LayoutTooLarge { n_q, n_k });
        Ok(Self {
            tiles,
            spans: times(tiles, spans)?,
            words: times(times(tiles, rims)?, tile.rows)?,
            ..Self::default()
        })
    }
}

impl BlockLayout {
    /// Makes room, so that compiling `mask`, or what is selected from it for the heads of a group, for up to `n_q`
    /// queries and `n_k` keys allocates nothing. The room is that of [`LayoutSize::bound`], and like it this is meant for few queries.
    ///
    /// # Errors
    ///
    /// Those of [`LayoutSize::bound`], and [`Error::LayoutTooLarge`] where memory cannot hold it.
    pub fn reserve(&mut self, mask: &Mask, n_q: usize, n_k: usize, tile: TileShape) -> Result<(), Error> {
        let size = LayoutSize::bound(mask, n_q, n_k, tile)?;
        let queries = n_q.min(tile.rows);
        let scratch = &mut self.scratch;
        let masks = if mask.heads() == Ok(1) { 1 } else { tile.group };
        if scratch.sweeps.len() < masks {
            scratch.sweeps.resize_with(masks, Sweep::default);
        }
        let room = |len: usize, wanted: usize| wanted.saturating_sub(len);
        self.tiles
            .try_reserve(room(self.tiles.len(), size.tiles))
            .and_then(|()| self.spans.try_reserve(room(self.spans.len(), size.spans)))
            .and_then(|()| self.words.try_reserve(size.words))
            .and_then(|()| scratch.words.try_reserve(room(scratch.words.len(), tile.rows)))
            .and_then(|()| scratch.cursors.try_reserve(room(scratch.cursors.len(), tile.rows)))
            .and_then(|()| scratch.sweeps[..masks].iter_mut().try_for_each(|s| s.try_reserve(mask, queries, n_k)))
            .map_err(|_| Error::LayoutTooLarge { n_q, n_k })
    }
}
