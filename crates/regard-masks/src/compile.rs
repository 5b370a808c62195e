//! From a mask to its layout.

use std::ops::Range;

use crate::layout::{PackedSpan, TileEnd};
use crate::{BlockLayout, Error, Mask, PANEL, TileShape, position};

impl BlockLayout {
    /// Replaces the layout by that of `mask` for `n_q` queries, of which query `i` stands at position `i + offset`,
    /// and the keys `0..n_k`. Allocates nothing where the capacity suffices.
    ///
    /// # Errors
    ///
    /// [`Error::Tile`], [`Error::TooManyQueries`], [`Error::TooManyKeys`] or [`Error::LayoutTooLarge`] for a shape that
    /// cannot be laid out; the layout is then as it was.
    pub fn compile(&mut self, mask: &Mask, n_q: usize, n_k: usize, offset: i64, tile: TileShape) -> Result<(), Error> {
        let tiles = tile.tiles(n_q)?;
        let keys = n_k.checked_next_multiple_of(PANEL).ok_or(Error::TooManyKeys { n_k })?;
        u32::try_from(keys / PANEL).map_err(|_| Error::TooManyKeys { n_k })?;
        self.tiles
            .try_reserve(tiles.saturating_sub(self.tiles.len()))
            .map_err(|_| Error::LayoutTooLarge { n_q, n_k })?;

        (self.n_q, self.n_k, self.tile, self.live_pairs) = (n_q, n_k, tile, 0);
        self.tiles.clear();
        self.spans.clear();
        self.bits.clear();
        for t in 0..tiles {
            self.compile_tile(mask, t, offset);
        }
        Ok(())
    }

    fn compile_tile(&mut self, mask: &Mask, t: usize, offset: i64) {
        let rows = self.tile.rows_of(t, self.n_q);
        let queries = self.tile.queries_of(t, self.n_q);

        // One list of runs a query, then what all of them keep, then what any of them keeps.
        self.runs.clear();
        for i in queries.clone() {
            mask.push_runs(position(i, offset), self.n_k, &mut self.runs);
            // A query whose group crosses tiles counts in the tile of its first row.
            if i * self.tile.group >= rows.start {
                self.live_pairs = self.live_pairs.saturating_add(self.runs.keys() as u64);
            }
        }
        let (all, any) = (queries.len(), queries.len() + 1);
        self.runs.push_intersection(queries.len());
        self.runs.push_union(queries.len());

        // The panels inside a run of `all` are full, the others that `any` touches are rims. Full panels lie inside one
        // run of `any`, so one walk over both in step finds them in order.
        let mut next_full = 0;
        let mut panel = 0;
        for index in 0..self.runs.list(any).len() {
            let run = self.runs.list(any)[index].clone();
            // The run before may have ended in the panel in which this one begins.
            panel = panel.max(run.start / PANEL);
            let end = run.end.div_ceil(PANEL);
            while let Some(full) = self.runs.list(all).get(next_full).map(whole_panels)
                && full.start < end
            {
                next_full += 1;
                if !full.is_empty() {
                    self.push_rims(panel..full.start, &rows, &queries);
                    panel = full.end;
                    self.spans.push(PackedSpan::Full { start: full.start as u32, end: full.end as u32 });
                }
            }
            self.push_rims(panel..end, &rows, &queries);
            panel = end;
        }
        self.tiles.push(TileEnd { spans: self.spans.len(), bits: self.bits.len() });
    }

    /// Adds rims, with the bits of the tile's `rows` and their `queries`.
    fn push_rims(&mut self, panels: Range<usize>, rows: &Range<usize>, queries: &Range<usize>) {
        let group = self.tile.group;
        for panel in panels {
            let first = self.bits.len();
            self.bits.resize(first + self.tile.rows, 0);
            let words = &mut self.bits[first..];
            for (list, i) in queries.clone().enumerate() {
                let of_query = (i * group).max(rows.start)..((i + 1) * group).min(rows.end);
                words[of_query.start - rows.start..of_query.end - rows.start]
                    .fill(panel_bits(self.runs.list(list), panel));
            }
            self.spans.push(PackedSpan::Rim { panel: panel as u32 });
        }
    }
}

/// The panels that lie inside `run`.
fn whole_panels(run: &Range<usize>) -> Range<usize> {
    run.start.div_ceil(PANEL)..run.end / PANEL
}

/// The keys of `panel` that are in `runs`, one bit each.
fn panel_bits(runs: &[Range<usize>], panel: usize) -> u64 {
    let keys = panel * PANEL..(panel + 1) * PANEL;
    let first = runs.partition_point(|run| run.end <= keys.start);
    runs[first..]
        .iter()
        .take_while(|run| run.start < keys.end)
        .map(|run| bits(run.start.max(keys.start) - keys.start..run.end.min(keys.end) - keys.start))
        .fold(0, |word, bits| word | bits)
}

/// A word with the bits of a range set, which is not empty and ends at 64 at most.
fn bits(range: Range<usize>) -> u64 {
    u64::MAX >> (PANEL - range.len()) << range.start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_a_panel() {
        assert_eq!(bits(0..64), u64::MAX);
        assert_eq!(bits(63..64), 1 << 63);
        assert_eq!(bits(4..7), 0b111_0000);
        let runs = [0..3, 62..66, 127..300];
        assert_eq!(panel_bits(&runs, 0), 0b11 << 62 | 0b111);
        assert_eq!(panel_bits(&runs, 1), 1 << 63 | 0b11);
        assert_eq!(panel_bits(&runs, 2), u64::MAX);
        assert_eq!(panel_bits(&runs, 4), u64::MAX >> 20);
        assert_eq!(panel_bits(&runs, 5), 0);
    }
}
