//! Block layouts: a mask compiled against the tiles of a kernel.

use std::iter::FusedIterator;
use std::ops::Range;
use std::slice;

use crate::size::LayoutSize;
use crate::{PANEL, Runs, Span, TileShape};

/// What a mask keeps of each query tile, in panels of 64 keys.
///
/// For every tile of query rows the layout holds [`Span`]s in ascending key order: stretches of full panels, which
/// need no mask, and rim panels with their bits. Empty panels do not appear. A full panel is one that every *row with a
/// query* keeps whole: the missing rows of a ragged last tile make no rim. The last panel of a number of keys that 64
/// does not divide is always a rim.
///
/// Compiling takes time and memory in proportion to the runs and rims that the mask has, not to `n_q·n_k`. A layout
/// that is compiled again keeps its capacity.
///
/// ```
/// use regard_masks::{BlockLayout, Mask, Span, TileShape};
///
/// let tile = TileShape { rows: 32, group: 1 };
/// let mut layout = BlockLayout::new();
/// layout.compile(&Mask::causal(), 160, 160, 0, tile)?;
/// assert_eq!(layout.to_string(), "\
/// ▒··
/// ▒··
/// █▒·
/// █▒·
/// ██▒
/// ");
/// let panels: Vec<_> = layout.tile(4).map(|span| span.panels()).collect();
/// assert_eq!(panels, [0..2, 2..3]);
/// assert_eq!(layout.live_pairs(), 160 * 161 / 2);
/// # Ok::<(), regard_masks::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BlockLayout {
    pub(crate) n_q: usize,
    pub(crate) n_k: usize,
    pub(crate) tile: TileShape,
    pub(crate) tiles: Vec<TileEnd>,
    pub(crate) spans: Vec<PackedSpan>,
    /// The words of all rims in the order of their spans, `tile.rows` of each.
    pub(crate) bits: Vec<u64>,
    pub(crate) live_pairs: u64,
    /// Scratch of `compile`.
    pub(crate) runs: Runs,
}

/// Where the spans and the bits of a tile end; they begin where those of the tile before it end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TileEnd {
    pub(crate) spans: usize,
    pub(crate) bits: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum PackedSpan {
    Full { start: u32, end: u32 },
    Rim { panel: u32 },
}

impl Default for BlockLayout {
    fn default() -> Self {
        Self::new()
    }
}

impl BlockLayout {
    /// A layout of no queries and no keys. Allocates nothing.
    pub const fn new() -> Self {
        Self {
            n_q: 0,
            n_k: 0,
            tile: TileShape { rows: 1, group: 1 },
            tiles: Vec::new(),
            spans: Vec::new(),
            bits: Vec::new(),
            live_pairs: 0,
            runs: Runs::new(),
        }
    }

    /// How many queries the layout covers.
    pub fn n_q(&self) -> usize {
        self.n_q
    }

    /// How many keys the layout covers.
    pub fn n_k(&self) -> usize {
        self.n_k
    }

    /// How many panels the keys make, live or not.
    pub fn panels(&self) -> usize {
        self.n_k.div_ceil(PANEL)
    }

    /// How the rows are cut.
    pub fn tile_shape(&self) -> TileShape {
        self.tile
    }

    /// The numbers of the query tiles, `0..` how many there are.
    pub fn tiles(&self) -> Range<usize> {
        0..self.tiles.len()
    }

    /// What tile `t` keeps, in ascending key order; nothing where it keeps nothing.
    ///
    /// # Panics
    ///
    /// When there is no tile `t`.
    pub fn tile(&self, t: usize) -> Spans<'_> {
        let end = self.tiles[t];
        let start = t.checked_sub(1).map_or(TileEnd::default(), |before| self.tiles[before]);
        Spans {
            spans: self.spans[start.spans..end.spans].iter(),
            bits: self.bits[start.bits..end.bits].chunks_exact(self.tile.rows),
        }
    }

    /// The queries that have a row in tile `t`. A query whose group crosses tiles stands in each of them.
    ///
    /// # Panics
    ///
    /// When there is no tile `t`.
    pub fn tile_queries(&self, t: usize) -> Range<usize> {
        assert!(t < self.tiles.len(), "tile {t} of {}", self.tiles.len());
        self.tile.queries_of(t, self.n_q)
    }

    /// How many panels tile `t` keeps, wholly or in part.
    ///
    /// # Panics
    ///
    /// When there is no tile `t`.
    pub fn tile_live_panels(&self, t: usize) -> usize {
        self.tile(t).map(|span| span.panels().len()).sum()
    }

    /// How many (query, key) pairs the mask keeps. The heads of a group share them and are not counted.
    pub fn live_pairs(&self) -> u64 {
        self.live_pairs
    }

    /// The share of all `n_q·n_k` pairs that the mask keeps, 0 to 1; 0 where there are none.
    pub fn density(&self) -> f64 {
        if self.live_pairs == 0 { 0.0 } else { self.live_pairs as f64 / (self.n_q as f64 * self.n_k as f64) }
    }

    /// How much the layout holds.
    pub fn size(&self) -> LayoutSize {
        LayoutSize { tiles: self.tiles.len(), spans: self.spans.len(), words: self.bits.len() }
    }
}

/// The spans of one tile, from [`BlockLayout::tile`].
#[derive(Clone, Debug)]
pub struct Spans<'a> {
    spans: slice::Iter<'a, PackedSpan>,
    /// The words of the rims among `spans`.
    bits: slice::ChunksExact<'a, u64>,
}

impl<'a> Iterator for Spans<'a> {
    type Item = Span<'a>;

    fn next(&mut self) -> Option<Span<'a>> {
        Some(match *self.spans.next()? {
            PackedSpan::Full { start, end } => Span::Full(start as usize..end as usize),
            PackedSpan::Rim { panel } => Span::Rim {
                panel: panel as usize,
                bits: self.bits.next().expect("a layout holds the words of each rim"),
            },
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.spans.size_hint()
    }
}

impl ExactSizeIterator for Spans<'_> {}
impl FusedIterator for Spans<'_> {}
