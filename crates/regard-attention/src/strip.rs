//! Strips: tasks that pack the keys which their own queries keep, a few panels at a time.
//!
//! Where a mask keeps a band of keys, all cores packing all of them first would send each panel to memory and back. Here a
//! panel is packed when the first block of the strip asks for it, read from the second-level cache by those behind, and given
//! up when none of them asks any more.

use std::ops::Range;

use regard_kernels::{Kernels, Number, Operand, PANEL, ROWS};
use regard_masks::BlockLayout;
use regard_memory::{Ahead, Frame, Need, Rows};

use crate::Error;
use crate::fold::TILES;
use crate::panels::{PanelSize, Panels, RunMut};

/// Stands for no panel and no place.
const NONE: u32 = u32::MAX;

/// Stands for the place of a panel that is asked for and not there yet.
const MISSING: u32 = u32::MAX - 1;

/// Strips of a sequence are at least so many times as long as the keys that they hold at once, since each packs what its
/// first block keeps, which the strip before may have packed too.
pub(crate) const LENGTH: usize = 4;

/// Panels that one task has packed for itself: those that a block of its queries keeps, and what is left of earlier ones.
pub(crate) struct Strip<'a, 's, T, E: Operand> {
    kernels: Kernels,
    keys: Rows<'s, T>,
    values: Rows<'s, T>,
    packed: RunMut<'a, E>,
    /// The place of each panel of the head.
    places: &'a mut [u32],
    /// The panel in each place.
    panels: &'a mut [u32],
    /// The block of queries that last asked for it.
    asked: &'a mut [u32],
    block: u32,
    /// The panels that are asked for and not there yet.
    missing: &'a mut [u32],
    /// Where the next panel goes, if what is there is not asked for.
    next: usize,
}

impl<'a, 's, T: Number, E: Operand> Strip<'a, 's, T, E> {
    /// Scratch for `held` panels at once, of `all` that a head has.
    pub(crate) fn need(held: usize, all: usize, size: PanelSize) -> Need {
        Need::of::<E::B>(held * size.keys)
            .and(Need::of::<E::B>(held * size.values.max(1)))
            .and(Need::of::<u8>(held))
            .and(Need::of::<u32>(all))
            .and(Need::of::<u32>(held).times(3))
    }

    /// A strip of a head with these keys and values, which holds nothing yet.
    pub(crate) fn take(
        frame: &mut Frame<'a>,
        kernels: Kernels,
        held: usize,
        size: PanelSize,
        (keys, values): (Rows<'s, T>, Rows<'s, T>),
    ) -> Strip<'a, 's, T, E> {
        let packed = RunMut {
            size,
            keys: frame.take(held * size.keys),
            values: frame.take(held * size.values.max(1)),
            scales: Default::default(),
            wild: frame.take(held),
        };
        let places = frame.take(keys.rows().div_ceil(PANEL));
        let (panels, asked, missing) = (frame.take(held), frame.take_zeroed(held), frame.take(held));
        places.fill(NONE);
        panels.fill(NONE);
        Strip { kernels, keys, values, packed, places, panels, asked, block: 0, missing, next: 0 }
    }

    /// Packs what the tiles of a block keep and is not there yet.
    pub(crate) fn ask(&mut self, layout: &BlockLayout, tiles: Range<usize>) -> Result<(), Error> {
        self.block += 1;
        let mut missing = 0;
        for panels in panels_of(layout, tiles) {
            for panel in panels {
                match self.places[panel] {
                    NONE => {
                        (self.places[panel], self.missing[missing]) = (MISSING, panel as u32);
                        missing += 1;
                    }
                    MISSING => {}
                    place => self.asked[place as usize] = self.block,
                }
            }
        }
        (0..missing).try_for_each(|at| self.pack(self.missing[at] as usize))
    }

    /// What is there.
    pub(crate) fn panels(&self) -> Panels<'_, E> {
        Panels::Strip(self.packed.as_run(), self.places)
    }

    /// Brings near what [`Strip::ask`] will pack for the tiles of a later block.
    pub(crate) fn bring_near(&self, layout: &BlockLayout, tiles: Range<usize>, ahead: &mut Ahead) {
        let mut next = 0;
        for panels in panels_of(layout, tiles) {
            for panel in panels.start.max(next)..panels.end {
                if self.places[panel] == NONE {
                    let (keys, values) = self.rows(panel);
                    ahead.read(keys);
                    ahead.read(values);
                    next = panel + 1;
                }
            }
        }
    }

    /// The keys of a panel, and their values.
    fn rows(&self, panel: usize) -> (Rows<'s, T>, Rows<'s, T>) {
        let rows = panel * PANEL..self.keys.rows().min(panel * PANEL + PANEL);
        (self.keys.block(rows.clone(), 0..self.keys.cols()), self.values.block(rows, 0..self.values.cols()))
    }

    fn pack(&mut self, panel: usize) -> Result<(), Error> {
        let held = self.panels.len();
        let mut places = (self.next..held).chain(0..self.next);
        let place = places.find(|&place| self.asked[place] != self.block).expect("room for the panels of a block");
        if let Some(old) = self.places.get_mut(self.panels[place] as usize) {
            *old = NONE;
        }
        (self.places[panel], self.panels[place], self.asked[place]) = (place as u32, panel as u32, self.block);
        self.next = (place + 1) % held;
        let (keys, values) = self.rows(panel);
        Ok(self.packed.part_mut(place).write(self.kernels, 0, keys, values)?)
    }
}

/// The panels that some tiles keep any keys of, some of them more than once.
fn panels_of(layout: &BlockLayout, tiles: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    // Gathered keys may stand anywhere.
    let everywhere = (layout.lists() > 0).then_some(0..layout.panels());
    tiles.flat_map(|tile| layout.tile(tile)).map(|span| span.panels()).chain(everywhere)
}

/// The most panels that a block of queries keeps any keys of, if that is at most `most`.
pub(crate) fn panels_of_a_block(layout: &BlockLayout, tiles_of_block: usize, most: usize) -> Option<usize> {
    if layout.lists() > 0 {
        return None;
    }
    let mut held = 0;
    for first in layout.tiles().step_by(tiles_of_block) {
        let tiles = first..layout.tiles().end.min(first + tiles_of_block);
        let mut ranges = [(0, 0); SPANS];
        let mut count = 0;
        for panels in tiles.flat_map(|tile| layout.tile(tile)).map(|span| span.panels()) {
            match ranges[..count].last_mut() {
                Some((_, end)) if *end == panels.start => *end = panels.end,
                _ if count == SPANS => return None,
                _ => {
                    ranges[count] = (panels.start, panels.end);
                    count += 1;
                }
            }
        }
        ranges[..count].sort_unstable();
        let (mut panels, mut seen) = (0, 0);
        for &(start, end) in &ranges[..count] {
            panels += end.saturating_sub(start.max(seen));
            seen = seen.max(end);
        }
        if panels > most {
            return None;
        }
        held = held.max(panels);
    }
    Some(held)
}

/// Stretches of panels in the tiles of a block, up to which a mask counts as one that keeps few keys at a time.
const SPANS: usize = TILES * 8;

/// Tiles of a block of queries.
pub(crate) fn tiles_of(queries: usize, group: usize) -> usize {
    (queries * group).div_ceil(ROWS).max(1)
}
