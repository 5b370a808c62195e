//! Tiles that look like an earlier one further on.
//!
//! Where all runs of a strip stay where they are or move on as wholes, a tile is the one before it by a whole number of
//! panels, moved on by as many: most of a long window is copied, not compiled.

use std::ops::Range;

use crate::layout::Scratch;
use crate::{BlockLayout, PANEL, TileShape};

impl TileShape {
    /// The fewest tiles whose queries are a whole number of panels, and how many panels these are.
    fn period(self) -> Option<[usize; 2]> {
        let whole = self.group.checked_mul(PANEL)?;
        let tiles = whole / gcd(whole, self.rows);
        Some([tiles, tiles.checked_mul(self.rows)? / whole])
    }
}

/// The runs of a strip, as panels: those before `left` and from `right` on stay where they are, and between them all move on.
struct Moving {
    left: usize,
    right: usize,
    /// Where those that move end.
    end: usize,
}

impl Scratch {
    /// The queries that all of the last strips hold for.
    fn strip(&self, masks: usize) -> Range<usize> {
        self.sweeps[..masks].iter().fold(0..usize::MAX, |all, sweep| match sweep.strips().last() {
            Some((strip, _)) => all.start.max(strip.start)..all.end.min(strip.end),
            None => 0..0,
        })
    }

    /// The runs of the last strips at a query that they hold for; none where some of them grow or shrink, or a panel has both
    /// what moves and what stays.
    fn moving(&self, masks: usize, query: usize) -> Option<Moving> {
        let runs = || {
            self.sweeps[..masks].iter().flat_map(move |sweep| {
                let (start, runs) = sweep.strips().last().map_or((0, 0..0), |(strip, runs)| (strip.start, runs));
                sweep.runs()[runs].iter().map(move |run| (run, query - start))
            })
        };
        if runs().any(|(run, _)| run.start.moves != run.end.moves) {
            return None;
        }
        let moving = || runs().filter(|(run, _)| run.start.moves);
        let first = moving().map(|(run, shift)| run.start.after(shift)).min()?;
        let end = moving().map(|(run, shift)| run.end.after(shift)).max()?;
        let still = || runs().filter(|(run, _)| !run.start.moves).map(|(run, _)| run.start.key..run.end.key);
        let left = still().filter(|run| run.start < first).map(|run| run.end).max().unwrap_or(0).div_ceil(PANEL);
        let right = still().filter(|run| run.start >= first).map(|run| run.start).min().unwrap_or(usize::MAX) / PANEL;
        let apart = left <= first / PANEL && end.div_ceil(PANEL) <= right;
        apart.then_some(Moving { left, right, end })
    }
}

impl BlockLayout {
    /// Copies what tiles after the last one keep from those a period before them, as long as the last strips go. None
    /// where there are more spans than can be numbered.
    pub(crate) fn repeat(&mut self, scratch: &Scratch) -> Option<()> {
        let first = self.tiles.len();
        let Some([period, panels]) = self.tile.period().filter(|[period, _]| *period <= first) else { return Some(()) };
        let strip = scratch.strip(self.masks);
        let from = self.tile.queries_of(first - period, self.n_q).start;
        if from < strip.start || from >= strip.end {
            return Some(());
        }
        let Some(moving) = scratch.moving(self.masks, from) else { return Some(()) };
        let before = |ends: &[u32], tile: usize| tile.checked_sub(1).map_or(0, |tile| ends[tile]);
        // What is gathered is chosen beside what the tile before gathers.
        if self.gathered_ends.last().is_some_and(|&end| end != before(&self.gathered_ends, first - period)) {
            return Some(());
        }
        // The queries until which what moves meets nothing, among whole tiles of the strip.
        let room = moving.right.saturating_mul(PANEL).saturating_sub(moving.end).saturating_add(from);
        let rows = strip.end.min(room).saturating_mul(self.tile.group);
        let last = rows.checked_div(self.tile.rows).unwrap_or(0).min(self.n_q * self.tile.group / self.tile.rows);
        if last <= first {
            return Some(());
        }
        let (start, rest) = (before(&self.tiles, first - period), (last - first) % period);
        let of_rest = (before(&self.tiles, first - period + rest) - start) as usize;
        let more = (self.spans.len() - start as usize).checked_mul((last - first) / period)?.checked_add(of_rest)?;
        u32::try_from(self.spans.len().checked_add(more)?).ok()?;
        self.spans.try_reserve(more).ok()?;
        for tile in first..last {
            let copied = before(&self.tiles, tile - period) as usize..self.tiles[tile - period] as usize;
            for at in copied {
                let span = self.spans[at];
                let stays = !(moving.left..moving.right).contains(&span.first());
                self.spans.push(if stays { span } else { span.moved(panels) });
            }
            self.tiles.push(self.spans.len() as u32);
        }
        if let Some(&end) = self.gathered_ends.last() {
            self.gathered_ends.resize(last, end);
        }
        Some(())
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
