//! Layouts as grids: what becomes of the blocks of each cell.

use std::ops::Range;

use regard_masks::{BlockLayout, PANEL, Span};

use crate::ink::Ink;

/// A layout seen from afar: of each cell of tiles and panels, the blocks of each kind.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    /// Tiles and panels.
    size: [usize; 2],
    /// Tiles and panels of a cell.
    pub(crate) cell: [usize; 2],
    /// Blocks of each cell, row by row.
    counts: Vec<Kinds>,
}

/// How many blocks (one tile by one panel) are computed without a mask, with one, and how many have gathered keys.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kinds {
    pub(crate) full: u64,
    pub(crate) rim: u64,
    pub(crate) gathered: u64,
}

impl Blocks {
    /// The layout, which has tiles and panels, in at most `most` cells down and across.
    pub(crate) fn new(layout: &BlockLayout, most: usize) -> Self {
        let size = [layout.tiles().len(), layout.panels()];
        let cell = size.map(|blocks| blocks.div_ceil(most));
        let columns = size[1].div_ceil(cell[1]);
        let mut counts = vec![Kinds::default(); size[0].div_ceil(cell[0]) * columns];
        for t in layout.tiles() {
            let row = &mut counts[t / cell[0] * columns..][..columns];
            for span in layout.tile(t) {
                match span {
                    Span::Full(Range { mut start, end }) => {
                        while start < end {
                            let column = start / cell[1];
                            let next = end.min((column + 1) * cell[1]);
                            row[column].full += (next - start) as u64;
                            start = next;
                        }
                    }
                    Span::Rim { panel, .. } => row[panel / cell[1]].rim += 1,
                }
            }
            let mut before = None;
            for panel in layout.gathered(t).flat_map(|gathered| gathered.keys).map(|&key| key as usize / PANEL) {
                // A panel's keys follow one another.
                if before.replace(panel) != Some(panel) {
                    row[panel / cell[1]].gathered += 1;
                }
            }
        }
        Self { size, cell, counts }
    }

    pub(crate) fn rows(&self) -> usize {
        self.size[0].div_ceil(self.cell[0])
    }

    pub(crate) fn columns(&self) -> usize {
        self.size[1].div_ceil(self.cell[1])
    }

    /// The ink of a cell. One of several kinds is a rim: part of it is computed.
    pub(crate) fn ink(&self, row: usize, column: usize) -> Ink {
        let tiles = self.cell[0].min(self.size[0] - row * self.cell[0]);
        let panels = self.cell[1].min(self.size[1] - column * self.cell[1]);
        match self.counts[row * self.columns() + column] {
            Kinds { full: 0, rim: 0, gathered: 0 } => Ink::Empty,
            Kinds { full: 0, rim: 0, .. } => Ink::Gathered,
            Kinds { full, .. } if full == tiles as u64 * panels as u64 => Ink::Full,
            _ => Ink::Rim,
        }
    }

    /// The blocks of all cells.
    pub(crate) fn total(&self) -> Kinds {
        self.counts.iter().fold(Kinds::default(), |sum, kinds| Kinds {
            full: sum.full + kinds.full,
            rim: sum.rim + kinds.rim,
            gathered: sum.gathered + kinds.gathered,
        })
    }

    /// How many blocks nothing is kept of.
    pub(crate) fn empty(&self) -> u64 {
        let Kinds { full, rim, gathered } = self.total();
        self.size[0] as u64 * self.size[1] as u64 - full - rim - gathered
    }
}
