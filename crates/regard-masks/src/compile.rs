//! From a mask to its layout.

use std::ops::Range;
use std::slice;

use crate::layout::{PackedSpan, Scratch};
use crate::sweep::Sweep;
use crate::{BlockLayout, Error, Gather, Mask, PANEL, TileShape};

/// Runs that a row of a mask may have: a list of so many takes 4 GiB.
const MOST_RUNS: usize = 1 << 28;

/// Tiles that are compiled between two questions whether to leave off.
const TILES_BETWEEN: usize = 16;

impl BlockLayout {
    /// Replaces the layout by that of `mask` for `n_q` queries, of which query `i` stands at position `i + offset`,
    /// and the keys `0..n_k`. Allocates nothing where the capacity suffices.
    ///
    /// # Errors
    ///
    /// [`Error::Tile`], [`Error::TooManyQueries`], [`Error::TooManyKeys`] or [`Error::LayoutTooLarge`] for a shape that
    /// cannot be laid out; the layout is then as it was. [`Error::LayoutTooLarge`] where there are 2³² spans; the layout is then
    /// empty.
    pub fn compile(&mut self, mask: &Mask, n_q: usize, n_k: usize, offset: i64, tile: TileShape) -> Result<(), Error> {
        self.compile_group(slice::from_ref(mask), n_q, n_k, offset, tile)
    }

    /// Like [`compile`](Self::compile), for heads of a group that have masks of their own: engine row `r` keeps what
    /// `masks[r % group]` does. One mask is that of all heads.
    ///
    /// # Errors
    ///
    /// Those of [`compile`](Self::compile), and [`Error::Masks`] where there are neither one mask nor `tile.group`.
    pub fn compile_group(
        &mut self,
        masks: &[Mask],
        n_q: usize,
        n_k: usize,
        offset: i64,
        tile: TileShape,
    ) -> Result<(), Error> {
        self.compile_with(masks, n_q, n_k, offset, tile, None)
    }

    /// Like [`compile_group`](Self::compile_group), and gathers scattered keys where `gather` says that this is cheaper.
    ///
    /// # Errors
    ///
    /// Those of [`compile_group`](Self::compile_group), and [`Error::Ended`] of a layout [that ends](Self::that_ends), which is
    /// then empty.
    ///
    /// ```
    /// use regard_masks::{BlockLayout, Gather, Mask, TileShape};
    ///
    /// let mask = Mask::causal() & (Mask::window(Some(63), None) | Mask::global_keys([3, 100, 222]));
    /// let gather = Some(Gather { rim: 1.0, panel: 1.0, key: 0.1 });
    /// let tile = TileShape { rows: 64, group: 1 };
    /// let mut layout = BlockLayout::new();
    /// layout.compile_with(&[mask], 512, 512, 0, tile, gather)?;
    /// assert_eq!(layout.to_string(), "\
    /// ▒·······
    /// ▒▒······
    /// ▒▒▒·····
    /// ∴∴▒▒····
    /// ∴∴·▒▒···
    /// ∴∴·∴▒▒··
    /// ∴∴·∴·▒▒·
    /// ∴∴·∴··▒▒
    /// ");
    /// let last = layout.gathered(7).next().expect("three keys are scattered");
    /// assert_eq!(last.keys, [3, 100, 222]);
    /// # Ok::<(), regard_masks::Error>(())
    /// ```
    pub fn compile_with(
        &mut self,
        masks: &[Mask],
        n_q: usize,
        n_k: usize,
        offset: i64,
        tile: TileShape,
        gather: Option<Gather>,
    ) -> Result<(), Error> {
        let tiles = tile.tiles(n_q)?;
        if n_k.div_ceil(PANEL) > PackedSpan::MAX_PANELS {
            return Err(Error::TooManyKeys { n_k });
        }
        if masks.len() != 1 && masks.len() != tile.group {
            return Err(Error::Masks { masks: masks.len(), group: tile.group });
        }
        if masks.iter().any(Mask::varies) {
            let first: Vec<Mask> = masks.iter().map(|mask| mask.select(0, 0)).collect();
            return self.compile_with(&first, n_q, n_k, offset, tile, gather);
        }
        // The runs of a row are listed one by one; of few keys there are few.
        if n_q > 0 && n_k > MOST_RUNS && masks.iter().any(|mask| mask.max_runs(n_k) > MOST_RUNS) {
            return Err(Error::LayoutTooLarge { n_q, n_k });
        }
        let too_large = |_| Error::LayoutTooLarge { n_q, n_k };
        self.tiles.try_reserve(tiles.saturating_sub(self.tiles.len())).map_err(too_large)?;

        (self.n_q, self.n_k, self.tile, self.masks) = (n_q, n_k, tile, masks.len());
        self.tiles.clear();
        self.spans.clear();
        self.words.clear();
        self.gathered.clear();
        self.gathered_ends.clear();
        self.lists.clear();
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.start(masks.len());
        while self.tiles.len() < tiles {
            scratch.find_rows(masks, self, self.tiles.len(), offset);
            if self.push_tile(&mut scratch, gather).and_then(|()| self.repeat(&scratch)).is_none() {
                *self = Self::new().that_ends(self.ends);
                return Err(Error::LayoutTooLarge { n_q, n_k });
            }
            if self.tiles.len().is_multiple_of(TILES_BETWEEN) && (self.ends)() {
                *self = Self::new().that_ends(self.ends);
                return Err(Error::Ended);
            }
        }
        self.pairs = scratch.sweeps[..masks.len()].iter().fold(0, |sum, sweep| sweep.pairs.saturating_add(sum));
        self.scratch = scratch;
        Ok(())
    }

    /// Adds the tile whose rows are in `scratch`; none where there are more spans or rims than can be numbered.
    fn push_tile(&mut self, scratch: &mut Scratch, gather: Option<Gather>) -> Option<()> {
        let Scratch { sweeps, cursors, words, draft } = scratch;
        let first = self.spans.len();
        words.resize(self.tile.rows, 0);
        let mut panel = 0;
        // The first key that any row has left says which panel is next.
        let mut key = cursors.iter().map(|cursor| cursor.run.start).min().unwrap_or(usize::MAX);
        while key < usize::MAX {
            panel = panel.max(key / PANEL);
            let whole = cursors.iter().map(|cursor| cursor.whole_panels(panel)).min().unwrap_or(panel);
            key = usize::MAX;
            if whole > panel {
                self.spans.push(PackedSpan::full(panel..whole));
                panel = whole;
                for cursor in &mut *cursors {
                    cursor.pass(panel, sweeps);
                    key = key.min(cursor.run.start);
                }
            } else {
                words.fill(0);
                for cursor in &mut *cursors {
                    let word = cursor.take_bits(panel, sweeps);
                    words[cursor.rows.clone()].fill(word);
                    key = key.min(cursor.run.start);
                }
                let words = match gather {
                    None => self.words.add(words)?,
                    Some(_) => draft.push(panel, words),
                };
                self.spans.push(PackedSpan::rim(panel, words));
                panel += 1;
            }
        }
        if let Some(gather) = gather {
            self.settle_tile(first, scratch, gather)?;
        }
        self.tiles.push(u32::try_from(self.spans.len()).ok()?);
        Some(())
    }
}

/// The runs that rows of a tile have left, from the first key to the last. The rows are those of one query whose heads
/// share a mask.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    /// The run at hand; at the end, one that starts behind all keys.
    run: Range<usize>,
    /// Where the runs after it stand among those of the sweep.
    next: Range<usize>,
    /// How many rows after that of the runs this one comes.
    shift: usize,
    sweep: usize,
    /// The rows, counted from the first of the tile.
    rows: Range<usize>,
}

impl Cursor {
    /// Goes to the next run.
    #[inline]
    fn advance(&mut self, sweeps: &[Sweep]) {
        self.run = match self.next.next() {
            Some(next) => {
                let run = &sweeps[self.sweep].runs()[next];
                run.start.after(self.shift)..run.end.after(self.shift)
            }
            None => usize::MAX..usize::MAX,
        };
    }

    /// Up to which panel the run at hand holds `panel` and all after it whole; 0 where it does not hold `panel`.
    fn whole_panels(&self, panel: usize) -> usize {
        if self.run.start <= panel * PANEL { self.run.end / PANEL } else { 0 }
    }

    /// Leaves behind what ends before `panel`, which cuts no other run than the one at hand.
    fn pass(&mut self, panel: usize, sweeps: &[Sweep]) {
        if self.run.end <= panel * PANEL {
            self.advance(sweeps);
        }
    }

    /// The keys of `panel`, one bit each, which are left behind.
    #[inline]
    fn take_bits(&mut self, panel: usize, sweeps: &[Sweep]) -> u64 {
        let keys = panel * PANEL..(panel + 1) * PANEL;
        let mut word = 0;
        while self.run.start < keys.end {
            word |= bits(self.run.start.max(keys.start) - keys.start..self.run.end.min(keys.end) - keys.start);
            if self.run.end > keys.end {
                break;
            }
            self.advance(sweeps);
        }
        word
    }
}

impl Scratch {
    /// Before the first tile of `masks` masks.
    fn start(&mut self, masks: usize) {
        if self.sweeps.len() < masks {
            self.sweeps.resize_with(masks, Sweep::default);
        }
        self.sweeps[..masks].iter_mut().for_each(Sweep::clear);
        self.draft.start();
    }

    /// Sets the cursors to the first runs of the rows of tile `t`.
    fn find_rows(&mut self, masks: &[Mask], layout: &BlockLayout, t: usize, offset: i64) {
        let (n_q, n_k, group) = (layout.n_q, layout.n_k, layout.tile.group);
        let rows = layout.tile.rows_of(t, n_q);
        let queries = layout.tile.queries_of(t, n_q);
        self.cursors.clear();
        for (sweep, mask) in masks.iter().enumerate() {
            self.sweeps[sweep].advance(mask, &queries, n_q, n_k, offset);
            for (strip, runs) in self.sweeps[sweep].strips() {
                for i in strip.start.max(queries.start)..strip.end.min(queries.end) {
                    // All heads of the query, or the one that has this mask.
                    let heads = if masks.len() == 1 {
                        i * group..(i + 1) * group
                    } else {
                        i * group + sweep..i * group + sweep + 1
                    };
                    let rows = heads.start.max(rows.start)..heads.end.min(rows.end);
                    if rows.is_empty() {
                        continue;
                    }
                    let rows = rows.start - t * layout.tile.rows..rows.end - t * layout.tile.rows;
                    let mut cursor = Cursor { run: 0..0, next: runs.clone(), shift: i - strip.start, sweep, rows };
                    cursor.advance(&self.sweeps);
                    self.cursors.push(cursor);
                }
            }
        }
    }
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
    }
}
