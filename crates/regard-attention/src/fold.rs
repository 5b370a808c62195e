//! The middle of the engine: tiles of queries fold panels of keys and values into states.

use std::ops::Range;

use regard_kernels::{Ending, Error, Int8, Kernels, Number, Operand, PANEL, ROWS, RowState, ScoreTile, Stretch};
use regard_masks::{BlockLayout, Gathered, Span, Spans};
use regard_memory::{Ahead, Frame, Need};

use crate::panels::{PanelSize, Panels};
use crate::scoring::{Keys, Scoring};

/// Panels that one softmax goes over: 1024 keys. Fewer pay for more rescaling of the sums (on the dense 2048 case of a
/// Zen 5, 128 keys −9%, 512 keys −2%); with more, keys and values of a block (512 KiB in f32, heads of 64) would leave the
/// second-level cache.
pub(crate) const BLOCK: usize = 16;

/// Query tiles that go over a block of keys while the second-level cache holds it: 96 rows.
pub(crate) const TILES: usize = 16;

/// The queries of one task, and what they have gathered: up to [`TILES`] tiles of [`ROWS`] rows.
pub(crate) struct QueryBlock<'a, E: Operand> {
    /// `[tiles][ROWS][steps]`.
    pub queries: &'a mut [E::A],
    /// `[tiles]`.
    states: [RowState; TILES],
    /// `[tiles][ROWS][width]`.
    sums: &'a mut [f32],
    scores: &'a mut [f32],
    /// A panel of gathered keys, and one of their values.
    gathered: (&'a mut [E::B], &'a mut [E::B]),
    size: PanelSize,
}

impl<'a, E: Operand> QueryBlock<'a, E> {
    pub(crate) fn need(tiles: usize, size: PanelSize) -> Need {
        let rows = tiles.saturating_mul(ROWS);
        Need::of::<E::A>(rows.saturating_mul(size.steps))
            .and(Need::of::<f32>(rows.saturating_mul(size.width)))
            .and(Need::of::<f32>(ScoreTile::words(BLOCK * PANEL)))
            .and(Need::of::<E::B>(size.keys))
            .and(Need::of::<E::B>(size.values))
    }

    /// A block that has seen no key yet.
    pub(crate) fn take(frame: &mut Frame<'a>, tiles: usize, size: PanelSize) -> QueryBlock<'a, E> {
        QueryBlock {
            queries: frame.take_zeroed(tiles * ROWS * size.steps),
            states: [RowState::default(); TILES],
            sums: frame.take_zeroed(tiles * ROWS * size.width),
            scores: frame.take(ScoreTile::words(BLOCK * PANEL)),
            gathered: (frame.take(size.keys), frame.take(size.values)),
            size,
        }
    }

    /// Writes the result of row `row` of the block, and gives its log-sum-exp.
    pub(crate) fn finish<T: Number>(
        &self,
        kernels: Kernels,
        row: usize,
        ending: Ending,
        out: &mut [T],
    ) -> Result<f32, Error> {
        let (tile, r, width) = (row / ROWS, row % ROWS, self.size.width);
        kernels.finish(&self.states[tile], r, &self.sums[tile * ROWS * width..][..ROWS * width], width, ending, out)
    }
}

/// What one task folds: these tiles of the layout, over these panels of the head.
pub(crate) struct Job<'a, E: Operand> {
    pub kernels: Kernels,
    pub head: Panels<'a, E>,
    pub layout: &'a BlockLayout,
    pub tiles: Range<usize>,
    pub panels: Range<usize>,
    pub scoring: Scoring<'a>,
}

impl<E: Operand> Job<'_, E> {
    /// For each live tile: score = Q·Kᵀ, cut at the mask's rim, softmax into the state, add P·V. Meanwhile brings near what
    /// comes after it.
    pub(crate) fn fold(&self, block: &mut QueryBlock<'_, E>, ahead: &mut Ahead) -> Result<(), Error> {
        let size = self.head.size();
        let rows = self.layout.tile_shape();
        let all_rows = self.layout.n_q() * rows.group;
        let mut scores = ScoreTile::new(block.scores, BLOCK * PANEL)?;
        let mut cursors: [Cursor<'_>; TILES] = std::array::from_fn(|_| Cursor::default());
        for (cursor, tile) in cursors.iter_mut().zip(self.tiles.clone()) {
            *cursor = Cursor::new(self.layout.tile(tile), self.panels.start);
        }
        let live = self.tiles.len();
        // Few at a time: a core waits when too many are on their way.
        let lines = ahead.lines().div_ceil(3 * live.max(1));
        let mut pieces = Pieces::default();
        // Block by block: the next panels that a tile keeps keys of, wherever they stand. Which these are does not depend on
        // the tiles beside it.
        let mut left = live > 0;
        while std::mem::take(&mut left) {
            for (at, tile) in self.tiles.clone().enumerate() {
                let rows = tile * ROWS..all_rows.min(tile * ROWS + ROWS);
                pieces.clear();
                let mut panels = 0;
                while let Some(span) = self.take(&mut cursors[at], BLOCK - panels) {
                    panels += span.panels().len();
                    self.push(span, rows.len(), &mut pieces);
                }
                if pieces.count == 0 {
                    continue;
                }
                left = true;
                ahead.fetch(lines);
                scores.clear();
                let queries = &block.queries[at * ROWS * size.steps..][..ROWS * size.steps];
                self.kernels.score::<E>(rows.len(), size.steps, queries, pieces.stretches(), &mut scores)?;
                self.scale_scores(rows.len(), &pieces, &mut scores)?;
                if self.scoring.adjustment.is_some() {
                    scores.forget_maxima();
                    for piece in pieces.all() {
                        let (keys, bits) = (Keys::From(piece.keys.start), piece.bits(piece.keys.start));
                        let bits = piece.live.map(|_| &bits[..rows.len()]);
                        self.scoring.adjust(self.kernels, rows.clone(), keys, bits, piece.columns(), &mut scores)?;
                    }
                }
                ahead.fetch(lines);
                let state = &mut block.states[at];
                let sums = &mut block.sums[at * ROWS * size.width..][..ROWS * size.width];
                self.kernels.softmax::<E>(rows.len(), self.scoring.factor, &mut scores, state)?;
                for piece in pieces.all() {
                    let keys = Keys::From(piece.keys.start);
                    self.scoring.drop_weights::<E>(self.kernels, rows.clone(), keys, piece.columns(), &mut scores)?;
                }
                self.scale_weights(&rows, &pieces, &mut scores)?;
                ahead.fetch(lines);
                self.accumulate(&rows, &pieces, &scores, state, sums)?;
            }
        }
        // The first split has them all.
        if self.panels.start == 0 && self.layout.lists() > 0 { self.fold_gathered(block) } else { Ok(()) }
    }

    /// The same for scattered keys, gathered into panels: tiles that need the same list use the same panel.
    fn fold_gathered(&self, block: &mut QueryBlock<'_, E>) -> Result<(), Error> {
        let (size, kernels) = (self.head.size(), self.kernels);
        let most = self.tiles.clone().map(|tile| self.layout.gathered(tile).len()).max().unwrap_or(0);
        let all_rows = self.layout.n_q() * self.layout.tile_shape().group;
        let mut scores = ScoreTile::new(block.scores, BLOCK * PANEL)?;
        let (keys, values) = (&mut *block.gathered.0, &mut *block.gathered.1);
        let mut scales = ([0.0; PANEL], [0.0; PANEL]);
        let mut packed = None;
        for nth in 0..most {
            for (at, tile) in self.tiles.clone().enumerate() {
                let Some(Gathered { list, keys: numbers, bits }) = self.layout.gathered(tile).nth(nth) else {
                    continue;
                };
                if packed != Some(list) {
                    packed = Some(list);
                    let panel = |panel| {
                        let run = self.head.run(panel..panel + 1);
                        (run.keys, run.values)
                    };
                    kernels.gather::<E>((size.steps, size.width), panel, numbers, keys, values)?;
                    for (place, &key) in numbers.iter().enumerate().filter(|_| E::SCALED) {
                        let (of_key, of_value) = self.head.scales(key as usize..key as usize + 1);
                        (scales.0[place], scales.1[place]) = (of_key[0], of_value[0]);
                    }
                }
                let rows = tile * ROWS..all_rows.min(tile * ROWS + ROWS);
                let live = &bits[..rows.len()];
                let stretch = Stretch::<E>::rim(keys, live);
                let columns = stretch.columns();
                let (first, here) = (columns.start, (0, columns.len()));
                let some = &numbers[first..numbers.len().min(columns.end)];
                scores.clear();
                let queries = &block.queries[at * ROWS * size.steps..][..ROWS * size.steps];
                kernels.score::<E>(rows.len(), size.steps, queries, &[stretch], &mut scores)?;
                let piece = Piece { column: 0, keys: columns.clone(), live: Some(live), selects: true };
                let mut kept = piece.bits(first);
                if E::SCALED {
                    scores.forget_maxima();
                    let live = Some(&kept[..rows.len()]);
                    kernels.scale_scores(rows.len(), &scales.0[first..], live, here, &mut scores)?;
                }
                if self.scoring.adjustment.is_some() {
                    scores.forget_maxima();
                    let (keys, bits) = (Keys::Gathered(some), Some(&kept[..rows.len()]));
                    self.scoring.adjust(kernels, rows.clone(), keys, bits, (0, some.len()), &mut scores)?;
                }
                let state = &mut block.states[at];
                let sums = &mut block.sums[at * ROWS * size.width..][..ROWS * size.width];
                kernels.softmax::<E>(rows.len(), self.scoring.factor, &mut scores, state)?;
                let keys = Keys::Gathered(some);
                self.scoring.drop_weights::<E>(kernels, rows.clone(), keys, (0, some.len()), &mut scores)?;
                let values = &values[first / E::DEPTH * size.width..];
                let wild = some.iter().any(|&key| self.head.is_wild(key as usize / PANEL));
                if wild {
                    for (kept, r) in kept.iter_mut().zip(rows.clone()) {
                        *kept = self.scoring.kept(r, keys, *kept);
                    }
                }
                if E::SCALED {
                    let live = Some(&kept[..rows.len()]);
                    kernels.scale_weights::<Int8>(rows.len(), &scales.1[first..], live, here, &mut scores)?;
                }
                if E::SCALED || !wild {
                    kernels.accumulate::<E>(rows.len(), &scores, here, values, size.width, state, sums)?;
                    continue;
                }
                kernels.accumulate_kept::<E>(&kept[..rows.len()], &scores, 0, values, size.width, state, sums)?;
            }
        }
        Ok(())
    }

    /// The next span of a tile, of `most` panels at most, cut where a run of panels ends.
    fn take<'s>(&self, cursor: &mut Cursor<'s>, most: usize) -> Option<Span<'s>> {
        let next = cursor.peek()?;
        cursor.take(self.panels.end.min(next + most).min(self.head.run_end(next)))
    }

    /// Adds to the pieces what a tile of so many rows scores of a span.
    fn push<'s>(&'s self, span: Span<'s>, rows: usize, pieces: &mut Pieces<'s, E>) {
        let panels = span.panels();
        let run = self.head.run(panels.clone());
        let wild = run.wild.iter().any(|&wild| wild != 0);
        match span {
            Span::Rim { bits, .. } => {
                let live = &bits[..rows];
                pieces.push(Stretch::rim(run.keys, live), panels.start, Some(live), wild);
            }
            // What the layout keeps whole a bias may mask. Panel by panel, so that where spans are cut changes no bit.
            Span::Full(_) if wild && self.scoring.may_mask() => {
                for panel in panels {
                    let keys = self.head.run(panel..panel + 1).keys;
                    pieces.push(Stretch::whole(keys, 1), panel, None, self.head.is_wild(panel));
                }
            }
            Span::Full(_) => pieces.push(Stretch::whole(run.keys, panels.len()), panels.start, None, false),
        }
    }

    /// Multiplies scores by the scales of their keys, if those have some.
    fn scale_scores(&self, rows: usize, pieces: &Pieces<'_, E>, scores: &mut ScoreTile<'_>) -> Result<(), Error> {
        if E::SCALED {
            scores.forget_maxima();
            for piece in pieces.all() {
                let (bits, (scales, _)) = (piece.bits(piece.keys.start), self.head.scales(piece.keys.clone()));
                let live = piece.live.map(|_| &bits[..rows]);
                self.kernels.scale_scores(rows, scales, live, piece.columns(), scores)?;
            }
        }
        Ok(())
    }

    /// Multiplies weights by the scales of their values, if those have some.
    fn scale_weights(
        &self,
        rows: &Range<usize>,
        pieces: &Pieces<'_, E>,
        scores: &mut ScoreTile<'_>,
    ) -> Result<(), Error> {
        if E::SCALED {
            for piece in pieces.all() {
                let (kept, (_, scales)) = (self.kept(piece, rows), self.head.scales(piece.keys.clone()));
                let live = (piece.live.is_some() || piece.selects).then_some(&kept[..rows.len()]);
                self.kernels.scale_weights::<Int8>(rows.len(), scales, live, piece.columns(), scores)?;
            }
        }
        Ok(())
    }

    /// The bits of a piece's keys that each row keeps; those that a bias masks only where that matters.
    fn kept(&self, piece: &Piece<'_>, rows: &Range<usize>) -> [u64; ROWS] {
        let mut kept = piece.bits(piece.keys.start);
        for (kept, r) in kept.iter_mut().zip(rows.clone()).filter(|_| piece.selects) {
            *kept = self.scoring.kept(r, Keys::From(piece.keys.start), *kept);
        }
        kept
    }

    /// Adds P·V of a tile's scores.
    fn accumulate(
        &self,
        rows: &Range<usize>,
        pieces: &Pieces<'_, E>,
        scores: &ScoreTile<'_>,
        state: &mut RowState,
        sums: &mut [f32],
    ) -> Result<(), Error> {
        let (size, kernels) = (self.head.size(), self.kernels);
        // Numbers with a scale are finite themselves, and the weights of those whose scale is not are right by now.
        let selects = |piece: &Piece<'_>| piece.selects && !E::SCALED;
        let mut pieces = pieces.all().peekable();
        while let Some(piece) = pieces.next() {
            let mut keys = piece.keys.clone();
            if !selects(piece) {
                // Neighbours in one run are one product.
                let run_end = self.head.run_end(keys.start / PANEL);
                let joins = |next: &Piece<'_>, end| !selects(next) && next.keys.start == end && end / PANEL < run_end;
                while let Some(next) = pieces.next_if(|next| joins(next, keys.end)) {
                    keys.end = next.keys.end;
                }
                let (columns, values) = ((piece.column, keys.len()), self.head.values(keys));
                kernels.accumulate::<E>(rows.len(), scores, columns, values, size.width, state, sums)?;
                continue;
            }
            // A weight of 0 times a value that is not finite would be NaN.
            let kept = self.kept(piece, rows);
            let (kept, values) = (&kept[..rows.len()], self.head.values(keys));
            kernels.accumulate_kept::<E>(kept, scores, piece.column, values, size.width, state, sums)?;
        }
        Ok(())
    }
}

/// What a tile scores of a span.
#[derive(Clone, Default)]
struct Piece<'a> {
    /// The column of its first key.
    column: usize,
    keys: Range<usize>,
    /// Of a rim, the bits of its panel, a word a row.
    live: Option<&'a [u64]>,
    /// Whether removed pairs must not be looked at: a value is not finite. Then it is of one panel.
    selects: bool,
}

impl Piece<'_> {
    fn columns(&self) -> (usize, usize) {
        (self.column, self.keys.len())
    }

    /// The bits that each row keeps of the keys from `first` on.
    fn bits(&self, first: usize) -> [u64; ROWS] {
        let Some(live) = self.live else { return [u64::MAX; ROWS] };
        std::array::from_fn(|r| live.get(r).map_or(0, |bits| bits >> (first % PANEL)))
    }
}

/// What a tile scores of a block of keys.
struct Pieces<'a, E: Operand> {
    stretches: [Stretch<'a, E>; BLOCK],
    pieces: [Piece<'a>; BLOCK],
    count: usize,
    columns: usize,
}

impl<E: Operand> Default for Pieces<'_, E> {
    fn default() -> Self {
        let stretches = std::array::from_fn(|_| Stretch::whole(&[], 0));
        Pieces { stretches, pieces: std::array::from_fn(|_| Piece::default()), count: 0, columns: 0 }
    }
}

impl<'a, E: Operand> Pieces<'a, E> {
    /// A stretch from panel `panel` on.
    fn push(&mut self, stretch: Stretch<'a, E>, panel: usize, live: Option<&'a [u64]>, selects: bool) {
        let (column, columns) = (self.columns, stretch.columns());
        let keys = panel * PANEL + columns.start..panel * PANEL + columns.end;
        self.columns += keys.len();
        self.stretches[self.count] = stretch;
        self.pieces[self.count] = Piece { column, keys, live, selects };
        self.count += 1;
    }

    fn clear(&mut self) {
        (self.count, self.columns) = (0, 0);
    }

    fn all(&self) -> impl Iterator<Item = &Piece<'a>> {
        self.pieces[..self.count].iter()
    }

    fn stretches(&self) -> &[Stretch<'a, E>] {
        &self.stretches[..self.count]
    }
}

/// The spans of a tile, handed out up to a panel.
#[derive(Default)]
struct Cursor<'a> {
    spans: Option<Spans<'a>>,
    current: Option<Span<'a>>,
}

impl<'a> Cursor<'a> {
    /// Starts at the first live panel from `from` on.
    fn new(spans: Spans<'a>, from: usize) -> Cursor<'a> {
        let mut cursor = Cursor { spans: Some(spans), current: None };
        cursor.advance();
        while cursor.take(from).is_some() {}
        cursor
    }

    fn advance(&mut self) {
        self.current = self.spans.as_mut().and_then(Iterator::next);
    }

    /// The first panel that is left.
    fn peek(&self) -> Option<usize> {
        self.current.as_ref().map(|span| span.panels().start)
    }

    /// The next span, cut before panel `until`; none when what is left begins there or later.
    fn take(&mut self, until: usize) -> Option<Span<'a>> {
        let span = self.current.take()?;
        let panels = span.panels();
        if panels.start >= until {
            self.current = Some(span);
            None
        } else if panels.end > until {
            self.current = Some(Span::Full(until..panels.end));
            Some(Span::Full(panels.start..until))
        } else {
            self.advance();
            Some(span)
        }
    }
}
