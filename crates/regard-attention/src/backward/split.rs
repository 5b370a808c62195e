//! One split of the keys of a unit: its gradients of keys and values, and its part of those of the queries.

use std::ops::Range;

use regard_kernels::{
    Adjustment, COLUMNS, GradientRows, KeyNumbers, KeyPanels, KeyPlaces, Number, PANEL, Pairs, ROWS, Region,
    Transposable, Weighing,
};
use regard_masks::{BlockLayout, Span, Spans};
use regard_memory::{Frame, Need, RowsMut, TensorMut};

use crate::Error;
use crate::backward::bias::BiasShape;
use crate::backward::rows::{Room, RowsOf};
use crate::backward::{Differentiable, PANELS, Pass};
use crate::fold::TILES;
use crate::plan::Unit;
use crate::scoring::{Keys, Scoring};

/// Keys that are gone over at once.
const KEYS: usize = PANELS * PANEL;

/// A split's part of the gradient of the queries: `[chunks][rows of a chunk][width]`, of those chunks that are touched.
pub(crate) struct Partial<'a> {
    pub gradient: &'a mut [f32],
    pub touched: &'a mut [u8],
}

/// Scratch of one worker.
pub(crate) fn need<E: Transposable>(room: Room) -> Need {
    Need::of::<f32>(ROWS * KEYS)
        .and(Need::of::<E::B>(KEYS * room.steps_k))
        .and(Need::of::<E::B>(KEYS * room.steps_v))
        .and(Need::of::<E::B>(KEYS / E::DEPTH * room.width_k))
        .and(Need::of::<f32>(KEYS * room.width_k))
        .and(Need::of::<f32>(KEYS * room.width_v))
        .and(Need::of::<E::A>(Pairs::<E>::words(room.chunk, PANELS)))
}

/// Some keys of a unit, in the three layouts that the products read.
struct KeyBlock<'a, E: Transposable> {
    /// Panels of the layout before the block's.
    first_panel: usize,
    keys: &'a [E::B],
    values: &'a [E::B],
    keys_down: &'a [E::B],
    /// Whether a key is not finite.
    wild: bool,
}

/// What a split sums of the gradient of the bias.
pub(crate) struct BiasSums<'a> {
    /// None where nobody asks for it.
    pub shape: Option<BiasShape>,
    pub sums: &'a mut [f32],
    /// The gradients of the scores of a tile with a span.
    of_scores: &'a mut [f32],
    /// The first key of the split.
    first_key: usize,
}

/// The sums of a block's gradients, `[KEYS][width]`.
struct KeySums<'a> {
    keys: &'a mut [f32],
    values: &'a mut [f32],
}

impl<T: Differentiable, O: Differentiable, E: Transposable> Pass<'_, '_, T, O, E> {
    /// The gradients of the keys and values of a split, into `k` and `v` `[1, 1, keys of the split, dim]`.
    #[allow(clippy::too_many_arguments, reason = "what is read, the scratch, and the three results")]
    pub(crate) fn split<G: Number>(
        &self,
        unit: Unit,
        split: usize,
        rows: RowsOf<'_, E>,
        mut partial: Partial<'_>,
        bias_sums: &mut [f32],
        frame: &mut Frame<'_>,
        k: &mut TensorMut<'_, G>,
        v: &mut TensorMut<'_, G>,
    ) -> Result<(), Error> {
        let (room, kernels) = (self.room, self.plan.kernels);
        let sequence = &self.plan.sequences[unit.sequence];
        let all_keys = self.inputs.k.rows(sequence.batch, unit.head);
        let all_values = self.inputs.v.rows(sequence.batch, unit.head);
        let first = split * self.backward.split_keys[unit.sequence];
        let count = k.shape()[2];
        partial.touched.fill(0);
        let shape = self.bias_shape(unit.sequence, split);
        let words = shape.map_or(0, |shape| shape.len());
        bias_sums[..words].fill(0.0);
        let of_scores = frame.take::<f32>(ROWS * KEYS);
        let mut bias = BiasSums { shape, sums: &mut bias_sums[..words], of_scores, first_key: first };
        let scoring = Scoring::new(self.plan, self.inputs.terms, unit, 1.0);

        let keys = frame.take::<E::B>(KEYS * room.steps_k);
        let values = frame.take::<E::B>(KEYS * room.steps_v);
        let keys_down = frame.take::<E::B>(KEYS / E::DEPTH * room.width_k);
        let sums = KeySums { keys: frame.take(KEYS * room.width_k), values: frame.take(KEYS * room.width_v) };
        let mut pairs = Pairs::<E>::new(frame.take(Pairs::<E>::words(room.chunk, PANELS)), room.chunk, PANELS)?;
        for done in (0..count).step_by(KEYS) {
            let here = KEYS.min(count - done);
            let start = sequence.keys.start + first + done;
            let some_keys = all_keys.block(start..start + here, 0..all_keys.cols());
            let some_values = all_values.block(start..start + here, 0..all_values.cols());
            kernels.pack_keys::<E, T>(some_keys, 0, keys)?;
            kernels.pack_keys::<E, T>(some_values, 0, values)?;
            // What is behind the keys multiplies gradients of 0.
            keys_down[here / E::DEPTH * room.width_k..].fill(E::B::default());
            let finite = kernels.pack_values::<E, T>(some_keys, 0, keys_down, room.width_k)?;
            let block = KeyBlock::<E> { first_panel: (first + done) / PANEL, keys, values, keys_down, wild: !finite };
            sums.keys.fill(0.0);
            sums.values.fill(0.0);
            let mut block_sums = KeySums { keys: &mut *sums.keys, values: &mut *sums.values };
            self.block(unit, &scoring, rows, &block, &mut partial, &mut pairs, &mut block_sums, &mut bias)?;
            let scale = self.plan.scale as f32;
            let (k, v) = (rows_of(k, done..done + here), rows_of(v, done..done + here));
            kernels.store_sum(&[&*sums.keys], room.width_k, scale, k)?;
            kernels.store_sum(&[&*sums.values], room.width_v, scoring.gain(), v)?;
        }
        Ok(())
    }

    /// All queries of the unit that see keys of a block, chunk by chunk.
    #[allow(clippy::too_many_arguments, reason = "rows, keys, and where the gradients go")]
    fn block(
        &self,
        unit: Unit,
        scoring: &Scoring<'_>,
        rows: RowsOf<'_, E>,
        keys: &KeyBlock<'_, E>,
        partial: &mut Partial<'_>,
        pairs: &mut Pairs<'_, E>,
        sums: &mut KeySums<'_>,
        bias: &mut BiasSums<'_>,
    ) -> Result<(), Error> {
        let (room, (layout, transpose)) = (self.room, self.backward.layout(self.plan, unit));
        let block = keys.first_panel / PANELS;
        if !transpose.blocks().contains(&block) {
            return Ok(());
        }
        let tiles_of_chunk = room.chunk / ROWS;
        let mut cell = Cell::default();
        let mut tiles = transpose.block(layout, block).peekable();
        while let Some(&(first, _)) = tiles.peek() {
            let chunk = first / tiles_of_chunk;
            cell.clear();
            while let Some((tile, spans)) = tiles.next_if(|(tile, _)| tile / tiles_of_chunk == chunk) {
                let place = tile % tiles_of_chunk;
                self.recompute(layout, scoring, rows, keys, (tile, spans), place, pairs, &mut cell, bias)?;
            }
            let gradient = &mut partial.gradient[chunk * room.chunk * room.width_k..][..room.chunk * room.width_k];
            if partial.touched[chunk] == 0 {
                partial.touched[chunk] = 1;
                gradient.fill(0.0);
            }
            if keys.wild || rows.wild[chunk] != 0 {
                self.products_kept(unit, scoring, rows, keys, chunk, pairs, gradient, sums)?;
            } else {
                self.products(rows, keys, chunk, &cell, pairs, gradient, sums)?;
            }
        }
        Ok(())
    }

    /// Weights and score gradients of a tile with the block's keys.
    #[allow(clippy::too_many_arguments, reason = "a tile, a block, and where they meet")]
    fn recompute(
        &self,
        layout: &BlockLayout,
        scoring: &Scoring<'_>,
        rows: RowsOf<'_, E>,
        keys: &KeyBlock<'_, E>,
        (tile, spans): (usize, Spans<'_>),
        place: usize,
        pairs: &mut Pairs<'_, E>,
        cell: &mut Cell,
        bias: &mut BiasSums<'_>,
    ) -> Result<(), Error> {
        let steps = (self.room.steps_k, self.room.steps_v);
        let of_tile = tile * ROWS..(layout.n_q() * self.group).min(tile * ROWS + ROWS);
        let count = of_tile.len();
        let (queries, output_gradients) = rows.tile(tile);
        let (lse, delta) = (&rows.lse[of_tile.clone()], &rows.delta[of_tile.clone()]);
        let tile_rows = GradientRows { rows: count, steps, queries, output_gradients, lse, delta };
        for span in spans {
            let panels = span.panels();
            let here = panels.start - keys.first_panel..panels.end - keys.first_panel;
            let live = match span {
                Span::Rim { bits, .. } => Some(&bits[..count]),
                Span::Full(_) => None,
            };
            let of = |steps: usize| here.start * steps * PANEL..here.end * steps * PANEL;
            let some = KeyPanels { keys: &keys.keys[of(steps.0)], values: &keys.values[of(steps.1)], live };
            let first_key = panels.start * PANEL;
            let adjustments = scoring.rows(of_tile.clone(), first_key);
            let dropout = scoring.dropout_rows(of_tile.clone());
            let columns = panels.len() * PANEL;
            let mut weighing = Weighing {
                adjustment: scoring.adjustment.unwrap_or(Adjustment { scale: self.plan.scale as f32, softcap: None }),
                rows: adjustments.as_ref().map_or(&[], |rows| &rows[..count]),
                places: KeyPlaces::Consecutive,
                dropout: dropout.as_ref().map(|rows| regard_kernels::Dropout {
                    rows: &rows[..count],
                    numbers: KeyNumbers::From(first_key as u32),
                    gain: scoring.gain(),
                }),
                d_scores: bias.shape.map(|_| &mut bias.of_scores[..count * columns]),
            };
            self.plan.kernels.recompute::<E>(&tile_rows, &some, &mut weighing, pairs, place, here.clone())?;
            cell.keep(place, here, live);
            if let Some(shape) = bias.shape {
                for (r, of_row) in of_tile.clone().zip(bias.of_scores.chunks_exact(columns)) {
                    shape.add(bias.sums, r / self.group, r % self.group, first_key - bias.first_key, of_row);
                }
            }
        }
        Ok(())
    }

    /// The three products over the pairs of a chunk and a block.
    #[allow(clippy::too_many_arguments, reason = "both sides of three products, and where they go")]
    fn products(
        &self,
        rows: RowsOf<'_, E>,
        keys: &KeyBlock<'_, E>,
        chunk: usize,
        cell: &Cell,
        pairs: &mut Pairs<'_, E>,
        gradient: &mut [f32],
        sums: &mut KeySums<'_>,
    ) -> Result<(), Error> {
        let (room, kernels) = (self.room, self.plan.kernels);
        let (queries, output_gradients) = rows.chunk_down(chunk);
        cell.clear_gaps(pairs)?;
        for region in cell.by_columns() {
            kernels.add_value_gradients(pairs, region.clone(), output_gradients, room.width_v, sums.values)?;
            kernels.add_key_gradients(pairs, region, queries, room.width_k, sums.keys)?;
        }
        for region in cell.by_tile() {
            kernels.add_query_gradients(pairs, region, keys.keys_down, room.width_k, gradient)?;
        }
        Ok(())
    }

    /// The same where a number is not finite: over the pairs that are kept, one by one.
    #[allow(clippy::too_many_arguments, reason = "both sides of three products, and where they go")]
    fn products_kept(
        &self,
        unit: Unit,
        scoring: &Scoring<'_>,
        rows: RowsOf<'_, E>,
        keys: &KeyBlock<'_, E>,
        chunk: usize,
        pairs: &Pairs<'_, E>,
        gradient: &mut [f32],
        sums: &mut KeySums<'_>,
    ) -> Result<(), Error> {
        let (room, kernels) = (self.room, self.plan.kernels);
        let (layout, transpose) = self.backward.layout(self.plan, unit);
        let (queries, output_gradients) = rows.chunk_down(chunk);
        let tiles_of_chunk = room.chunk / ROWS;
        let tiles = transpose.block(layout, keys.first_panel / PANELS);
        for (tile, spans) in tiles.filter(|(tile, _)| tile / tiles_of_chunk == chunk) {
            let place = tile % tiles_of_chunk;
            let count = ROWS.min(layout.n_q() * self.group - tile * ROWS);
            for span in spans {
                let panels = span.panels();
                for panel in panels {
                    let mut live = [0; ROWS];
                    for (r, live) in live[..count].iter_mut().enumerate() {
                        let bits = match span {
                            Span::Rim { bits, .. } => bits[r],
                            Span::Full(_) => u64::MAX,
                        };
                        *live = scoring.kept(tile * ROWS + r, Keys::From(panel * PANEL), bits);
                        // A row that has seen no key has no weights.
                        if rows.lse[tile * ROWS + r] == f32::NEG_INFINITY {
                            *live = 0;
                        }
                    }
                    let (row, panel) = (place * ROWS, panel - keys.first_panel);
                    let region = || Region::Kept { row, panel, live: &live[..count] };
                    kernels.add_value_gradients(pairs, region(), output_gradients, room.width_v, sums.values)?;
                    kernels.add_key_gradients(pairs, region(), queries, room.width_k, sums.keys)?;
                    kernels.add_query_gradients(pairs, region(), keys.keys_down, room.width_k, gradient)?;
                }
            }
        }
        Ok(())
    }
}

/// Some rows of a part of a tensor that has one head.
fn rows_of<'a, G>(part: &'a mut TensorMut<'_, G>, rows: Range<usize>) -> RowsMut<'a, G> {
    let all = part.rows_mut(0, 0);
    let columns = 0..all.cols();
    all.block(rows, columns)
}

/// Which keys of a block the tiles of a chunk keep.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    /// Of each tile, a bit for each [`COLUMNS`] keys.
    kept: [u16; TILES],
    /// Of each tile, a bit for each panel whose pairs were made.
    made: [u8; TILES],
}

/// Columns that are kept or not together, in a block.
const COLUMNS_OF_BLOCK: usize = KEYS / COLUMNS;

impl Cell {
    fn clear(&mut self) {
        *self = Cell::default();
    }

    /// Takes in a span of a tile, counted from the block's first panel; of a rim, the bits of its rows.
    fn keep(&mut self, tile: usize, panels: Range<usize>, live: Option<&[u64]>) {
        let keys = live.map_or(u64::MAX, |rows| rows.iter().fold(0, |all, row| all | row));
        let some = |columns: usize| keys >> (columns * COLUMNS) & ((1 << COLUMNS) - 1) != 0;
        let columns =
            (0..PANEL / COLUMNS).filter(|&columns| some(columns)).fold(0, |bits, columns| bits | 1 << columns);
        for panel in panels {
            self.kept[tile] |= columns << (panel * PANEL / COLUMNS);
            self.made[tile] |= 1 << panel;
        }
    }

    /// From the first tile that keeps keys of some columns to the last.
    fn tiles_of(&self, columns: usize) -> Range<usize> {
        let keeps = |tile: &usize| self.kept[*tile] >> columns & 1 == 1;
        let first = (0..TILES).find(keeps);
        first.map_or(0..0, |first| first..(0..TILES).rev().find(keeps).unwrap_or(first) + 1)
    }

    /// From the first columns that a tile keeps keys of to the last.
    fn columns_of(&self, tile: usize) -> Range<usize> {
        let kept = self.kept[tile];
        if kept == 0 { 0..0 } else { kept.trailing_zeros() as usize..(u16::BITS - kept.leading_zeros()) as usize }
    }

    /// Makes 0 of the pairs that a product goes over although no tile keeps them. What is made is 0 where it is not kept.
    fn clear_gaps<E: Transposable>(&self, pairs: &mut Pairs<'_, E>) -> Result<(), Error> {
        let mut gaps = [0; TILES];
        for columns in 0..COLUMNS_OF_BLOCK {
            self.tiles_of(columns).for_each(|tile| gaps[tile] |= 1 << (columns * COLUMNS / PANEL));
        }
        for (tile, gaps) in gaps.iter_mut().enumerate() {
            self.columns_of(tile).for_each(|columns| *gaps |= 1 << (columns * COLUMNS / PANEL));
            let gaps: u8 = *gaps & !self.made[tile];
            for panel in (0..PANELS).filter(|panel| gaps >> panel & 1 == 1) {
                pairs.clear(tile, panel..panel + 1)?;
            }
        }
        Ok(())
    }

    /// Columns that the same tiles keep keys of, together with these.
    fn by_columns(&self) -> impl Iterator<Item = Region<'static>> {
        runs(COLUMNS_OF_BLOCK, |columns| self.tiles_of(columns)).map(|(columns, tiles)| region(tiles, columns))
    }

    /// Tiles that keep keys of the same columns, together with these.
    fn by_tile(&self) -> impl Iterator<Item = Region<'static>> {
        runs(TILES, |tile| self.columns_of(tile)).map(|(tiles, columns)| region(tiles, columns))
    }
}

fn region(tiles: Range<usize>, columns: Range<usize>) -> Region<'static> {
    Region::Whole { rows: tiles.start * ROWS..tiles.end * ROWS, keys: columns.start * COLUMNS..columns.end * COLUMNS }
}

/// Runs of neighbours to which the same range belongs; those with an empty one left out.
fn runs(count: usize, of: impl Fn(usize) -> Range<usize>) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < count {
            let (start, range) = (at, of(at));
            while at < count && of(at) == range {
                at += 1;
            }
            if !range.is_empty() {
                return Some((start..at, range));
            }
        }
        None
    })
}
