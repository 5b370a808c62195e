//! The middle of the engine: tiles of queries fold panels of keys and values into states.

use std::ops::Range;

use regard_kernels::{Error, Kernels, Number, Operand, PANEL, ROWS, RowState, ScoreTile};
use regard_masks::{BlockLayout, Span, Spans};
use regard_memory::{Frame, Need};

use crate::panels::{PanelSize, Panels};

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
    size: PanelSize,
}

impl<'a, E: Operand> QueryBlock<'a, E> {
    pub(crate) fn need(tiles: usize, size: PanelSize) -> Need {
        Need::of::<E::A>(tiles * ROWS * size.steps)
            .and(Need::of::<f32>(tiles * ROWS * size.width))
            .and(Need::of::<f32>(ScoreTile::words(BLOCK * PANEL)))
    }

    /// A block that has seen no key yet.
    pub(crate) fn take(frame: &mut Frame<'a>, tiles: usize, size: PanelSize) -> QueryBlock<'a, E> {
        QueryBlock {
            queries: frame.take_zeroed(tiles * ROWS * size.steps),
            states: [RowState::default(); TILES],
            sums: frame.take_zeroed(tiles * ROWS * size.width),
            scores: frame.take(ScoreTile::words(BLOCK * PANEL)),
            size,
        }
    }

    /// Writes the result of row `row` of the block, and gives its log-sum-exp.
    pub(crate) fn finish<T: Number>(&self, kernels: Kernels, row: usize, out: &mut [T]) -> Result<f32, Error> {
        let (tile, r, width) = (row / ROWS, row % ROWS, self.size.width);
        kernels.finish(&self.states[tile], r, &self.sums[tile * ROWS * width..][..ROWS * width], width, out)
    }
}

/// What one task folds: these tiles of the layout, over these panels of the head.
pub(crate) struct Job<'a, E: Operand> {
    pub kernels: Kernels,
    pub head: Panels<'a, E>,
    pub layout: &'a BlockLayout,
    pub tiles: Range<usize>,
    pub panels: Range<usize>,
    /// What a score is multiplied by to become an exponent of 2.
    pub factor: f32,
}

impl<E: Operand> Job<'_, E> {
    /// For each live tile: score = Q·Kᵀ, cut at the mask's rim, softmax into the state, add P·V.
    pub(crate) fn fold(&self, block: &mut QueryBlock<'_, E>) -> Result<(), Error> {
        let size = self.head.size;
        let rows = self.layout.tile_shape();
        let all_rows = self.layout.n_q() * rows.group;
        let mut scores = ScoreTile::new(block.scores, BLOCK * PANEL)?;
        let mut cursors: [Cursor<'_>; TILES] = std::array::from_fn(|_| Cursor::default());
        for (cursor, tile) in cursors.iter_mut().zip(self.tiles.clone()) {
            *cursor = Cursor::new(self.layout.tile(tile), self.panels.start);
        }
        let live = self.tiles.len();
        let mut from = self.panels.start;
        // The next block of keys that any tile keeps some of. Blocks stand at fixed places: where a tile's keys are cut does
        // not depend on the tiles beside it.
        while let Some(next) = cursors[..live].iter().filter_map(Cursor::peek).min() {
            from = from.max(next / BLOCK * BLOCK);
            let until = (from / BLOCK * BLOCK + BLOCK).min(self.panels.end);
            if next >= self.panels.end {
                break;
            }
            for (at, tile) in self.tiles.clone().enumerate() {
                let rows = ROWS.min(all_rows - tile * ROWS);
                let mut pieces: [Option<(usize, Span<'_>)>; BLOCK] = [const { None }; BLOCK];
                let mut count = 0;
                scores.clear();
                let queries = &block.queries[at * ROWS * size.steps..][..ROWS * size.steps];
                while let Some(span) = cursors[at].take(until) {
                    let panels = span.panels();
                    let keys = &self.head.keys[panels.start * size.keys..panels.end * size.keys];
                    let bits = match span {
                        Span::Rim { bits, .. } => Some(&bits[..rows]),
                        Span::Full(_) => None,
                    };
                    let column = scores.columns();
                    self.kernels.score::<E>(rows, size.steps, queries, keys, bits, &mut scores)?;
                    pieces[count] = Some((column, span));
                    count += 1;
                }
                if count == 0 {
                    continue;
                }
                let state = &mut block.states[at];
                let sums = &mut block.sums[at * ROWS * size.width..][..ROWS * size.width];
                self.kernels.softmax::<E>(rows, self.factor, &mut scores, state)?;
                for i in 0..count {
                    let Some((column, span)) = &pieces[i] else { break };
                    let end = pieces.get(i + 1).and_then(|next| next.as_ref().map(|next| next.0));
                    let keys = end.unwrap_or(scores.columns()) - column;
                    let panels = span.panels();
                    let values = &self.head.values[panels.start * size.values..panels.end * size.values];
                    match span {
                        // A weight of 0 times a value that is not finite would be NaN.
                        Span::Rim { panel, bits } if self.head.wild[*panel] != 0 => {
                            let bits = &bits[..rows];
                            let kernels = self.kernels;
                            kernels.accumulate_kept::<E>(bits, &scores, *column, values, size.width, state, sums)?;
                        }
                        _ => self.kernels.accumulate::<E>(
                            rows,
                            &scores,
                            (*column, keys),
                            values,
                            size.width,
                            state,
                            sums,
                        )?,
                    }
                }
            }
            from = until;
        }
        Ok(())
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
