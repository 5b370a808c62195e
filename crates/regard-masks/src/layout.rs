//! Block layouts: a mask compiled against the tiles of a kernel.

use std::iter::FusedIterator;
use std::ops::Range;
use std::slice;

use crate::compile::Cursor;
use crate::gathered::{Draft, Lists, PackedGathered};
use crate::sweep::Sweep;
use crate::words::Words;
use crate::{LayoutSize, PANEL, Span, TileShape};

/// What a mask keeps of each query tile, in panels of 64 keys.
///
/// For every tile of query rows the layout holds [`Span`]s in ascending key order: stretches of full panels, which
/// need no mask, and rim panels with their bits. Empty panels do not appear, and neither does what is
/// [gathered](Self::gathered). A full panel is one that every *row with a
/// query* keeps whole: the missing rows of a ragged last tile make no rim. The last panel of a number of keys that 64
/// does not divide is always a rim.
///
/// Compiling takes time and memory in proportion to the runs and rims that the mask has, not to `n_q·n_k`; equal rims
/// share their bits. A layout that is compiled again keeps its capacity.
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
    /// How many masks there are: 1, or one for each head of a group.
    pub(crate) masks: usize,
    /// Where the spans of each tile end; they begin where those of the tile before it end.
    pub(crate) tiles: Vec<u32>,
    pub(crate) spans: Vec<PackedSpan>,
    /// The words of the rims, `tile.rows` of each.
    pub(crate) words: Words,
    /// What is gathered of all tiles, where each tile's ends (nothing unless there was a policy), and the lists of it.
    pub(crate) gathered: Vec<PackedGathered>,
    pub(crate) gathered_ends: Vec<u32>,
    pub(crate) lists: Lists,
    /// Pairs of all masks.
    pub(crate) pairs: u128,
    pub(crate) scratch: Scratch,
    /// Asked now and then while it is compiled.
    pub(crate) ends: fn() -> bool,
}

/// What a compilation needs beside the layout.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    /// One for each mask.
    pub(crate) sweeps: Vec<Sweep>,
    /// The rows of a tile.
    pub(crate) cursors: Vec<Cursor>,
    /// The words of a rim.
    pub(crate) words: Vec<u64>,
    /// The rims of a tile some of which may be gathered.
    pub(crate) draft: Draft,
}

impl Scratch {
    const fn new() -> Self {
        Self { sweeps: Vec::new(), cursors: Vec::new(), words: Vec::new(), draft: Draft::new() }
    }
}

/// The panels `start..end`, or with [`RIM`](Self::RIM) in the start one panel and where its words stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedSpan {
    start: u32,
    end: u32,
}

impl PackedSpan {
    /// Panels are fewer.
    const RIM: u32 = 1 << 31;
    pub(crate) const MAX_PANELS: usize = Self::RIM as usize;

    pub(crate) fn full(panels: Range<usize>) -> Self {
        Self { start: panels.start as u32, end: panels.end as u32 }
    }

    pub(crate) fn rim(panel: usize, words: u32) -> Self {
        Self { start: panel as u32 | Self::RIM, end: words }
    }

    /// The first panel.
    pub(crate) fn first(self) -> usize {
        (self.start & !Self::RIM) as usize
    }

    /// The same so many panels further on.
    pub(crate) fn moved(self, panels: usize) -> Self {
        let panels = panels as u32;
        let end = if self.start & Self::RIM == 0 { self.end + panels } else { self.end };
        Self { start: self.start + panels, end }
    }

    /// The panel of a rim, and where its words stand.
    #[inline]
    pub(crate) fn as_rim(self) -> Option<(usize, u32)> {
        (self.start & Self::RIM != 0).then_some((self.first(), self.end))
    }
}

fn never() -> bool {
    false
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
            masks: 1,
            tiles: Vec::new(),
            spans: Vec::new(),
            words: Words::new(),
            gathered: Vec::new(),
            gathered_ends: Vec::new(),
            lists: Lists::new(),
            pairs: 0,
            scratch: Scratch::new(),
            ends: never,
        }
    }

    /// The layout, which asks `ends` every few tiles of a compilation whether to leave off, with [`Error::Ended`](crate::Error):
    /// scattered masks over many queries and keys take long.
    ///
    /// ```
    /// use regard_masks::{BlockLayout, Error, Mask, TileShape};
    ///
    /// let mut layout = BlockLayout::new().that_ends(|| true);
    /// let tile = TileShape { rows: 64, group: 1 };
    /// assert_eq!(layout.compile(&Mask::random(0.1, 0)?, 5000, 5000, 0, tile), Err(Error::Ended));
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub const fn that_ends(self, ends: fn() -> bool) -> Self {
        let mut layout = self;
        layout.ends = ends;
        layout
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
    #[inline]
    pub fn tile(&self, t: usize) -> Spans<'_> {
        let end = self.tiles[t];
        let start = t.checked_sub(1).map_or(0, |before| self.tiles[before]);
        self.spans_within([start, end], 0..PackedSpan::MAX_PANELS)
    }

    /// The spans `start..end`, cut to `panels`, of which each has some.
    #[inline]
    pub(crate) fn spans_within(&self, [start, end]: [u32; 2], panels: Range<usize>) -> Spans<'_> {
        let spans = self.spans[start as usize..end as usize].iter();
        Spans { spans, panels, words: &self.words, rows: self.tile.rows }
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

    /// How many panels tile `t` keeps, wholly or in part, without those of gathered keys.
    ///
    /// # Panics
    ///
    /// When there is no tile `t`.
    pub fn tile_live_panels(&self, t: usize) -> usize {
        self.tile(t).map(|span| span.panels().len()).sum()
    }

    /// How many (query, key) pairs a head keeps. Where the heads of a group have masks of their own this is their mean,
    /// rounded down.
    pub fn live_pairs(&self) -> u64 {
        u64::try_from(self.pairs / self.masks as u128).unwrap_or(u64::MAX)
    }

    /// The share of all pairs that the masks keep, 0 to 1; 0 where there are none.
    pub fn density(&self) -> f64 {
        let all = self.masks as f64 * self.n_q as f64 * self.n_k as f64;
        if self.pairs == 0 { 0.0 } else { self.pairs as f64 / all }
    }

    /// Gives back what memory the layout does not need to be read.
    pub fn shrink_to_fit(&mut self) {
        self.tiles.shrink_to_fit();
        self.spans.shrink_to_fit();
        self.words.shrink_to_fit();
        self.gathered.shrink_to_fit();
        self.gathered_ends.shrink_to_fit();
        self.lists.shrink_to_fit();
        self.scratch = Scratch::new();
    }

    /// How much the layout holds.
    pub fn size(&self) -> LayoutSize {
        LayoutSize {
            tiles: self.tiles.len(),
            spans: self.spans.len(),
            words: self.words.len(),
            gathered: self.gathered.len(),
            lists: self.lists.len(),
            keys: self.lists.keys(),
        }
    }
}

/// The spans of one tile, from [`BlockLayout::tile`].
#[derive(Clone, Debug)]
pub struct Spans<'a> {
    spans: slice::Iter<'a, PackedSpan>,
    panels: Range<usize>,
    words: &'a Words,
    rows: usize,
}

impl<'a> Spans<'a> {
    #[inline]
    fn unpack(&self, span: PackedSpan) -> Span<'a> {
        match span.as_rim() {
            Some((panel, at)) => Span::Rim { panel, bits: self.words.record(at, self.rows) },
            None => Span::Full(self.panels.start.max(span.start as usize)..self.panels.end.min(span.end as usize)),
        }
    }
}

impl<'a> Iterator for Spans<'a> {
    type Item = Span<'a>;

    #[inline]
    fn next(&mut self) -> Option<Span<'a>> {
        self.spans.next().map(|&span| self.unpack(span))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.spans.size_hint()
    }
}

impl<'a> DoubleEndedIterator for Spans<'a> {
    fn next_back(&mut self) -> Option<Span<'a>> {
        self.spans.next_back().map(|&span| self.unpack(span))
    }
}

impl ExactSizeIterator for Spans<'_> {}
impl FusedIterator for Spans<'_> {}
