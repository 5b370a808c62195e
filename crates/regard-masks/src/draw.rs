//! Masks and layouts as text.

use std::fmt;
use std::ops::Range;

use crate::layout::BlockLayout;
use crate::{Mask, PANEL, Runs, Span, position};

const FULL: char = '█';
const RIM: char = '▒';
const GATHERED: char = '∴';
const EMPTY: char = '·';

/// A mask drawn pair by pair, from [`Mask::draw`]: one line per query, one character per key.
#[derive(Clone, Debug)]
pub struct Drawing<'a> {
    mask: &'a Mask,
    n_q: usize,
    n_k: usize,
    offset: i64,
}

impl Mask {
    /// A picture of the mask for `n_q` queries, of which query `i` stands at position `i + offset`, and the keys
    /// `0..n_k`.
    ///
    /// ```
    /// use regard_masks::Mask;
    ///
    /// assert_eq!(Mask::window(Some(2), Some(1)).draw(4, 7, 3).to_string(), "\
    /// ·████··
    /// ··████·
    /// ···████
    /// ····███
    /// ");
    /// ```
    pub fn draw(&self, n_q: usize, n_k: usize, offset: i64) -> Drawing<'_> {
        Drawing { mask: self, n_q, n_k, offset }
    }
}

impl fmt::Display for Drawing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs = Runs::new();
        for i in 0..self.n_q {
            self.mask.runs(position(i, self.offset), self.n_k, &mut runs);
            let mut key = 0;
            for run in runs.as_slice() {
                write_times(f, EMPTY, run.start - key)?;
                write_times(f, FULL, run.len())?;
                key = run.end;
            }
            write_times(f, EMPTY, self.n_k - key)?;
            f.write_str("\n")?;
        }
        Ok(())
    }
}

fn write_times(f: &mut fmt::Formatter<'_>, glyph: char, times: usize) -> fmt::Result {
    (0..times).try_for_each(|_| fmt::Write::write_char(f, glyph))
}

/// The most lines and columns of a drawn layout.
const MAX_LINES: usize = 64;
const MAX_COLUMNS: usize = 128;

impl fmt::Display for BlockLayout {
    /// Draws the layout, one line per query tile and one character per panel: `█` full, `▒` rim, `∴` with gathered keys,
    /// `·` empty.
    ///
    /// A layout of more than 64 tiles or 128 panels is drawn smaller: a character stands for several of them, `█` when
    /// all are full, `·` when all are empty, and a last line says for how many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tiles, panels) = (self.tiles().len(), self.panels());
        let tiles_a_line = tiles.div_ceil(MAX_LINES).max(1);
        let panels_a_column = panels.div_ceil(MAX_COLUMNS).max(1);
        // Of the blocks that a character stands for, how many are full, how many are rims, and how many keys are gathered.
        let mut columns = vec![(0, 0, 0); panels.div_ceil(panels_a_column)];
        for first in self.tiles().step_by(tiles_a_line) {
            let line = first..tiles.min(first + tiles_a_line);
            columns.fill((0, 0, 0));
            for span in line.clone().flat_map(|t| self.tile(t)) {
                match span {
                    Span::Full(Range { mut start, end }) => {
                        while start < end {
                            let column = start / panels_a_column;
                            let next = end.min((column + 1) * panels_a_column);
                            columns[column].0 += next - start;
                            start = next;
                        }
                    }
                    Span::Rim { panel, .. } => columns[panel / panels_a_column].1 += 1,
                }
            }
            for key in line.clone().flat_map(|t| self.gathered(t)).flat_map(|gathered| gathered.keys) {
                columns[*key as usize / PANEL / panels_a_column].2 += 1;
            }
            for (column, &(full, rims, gathered)) in columns.iter().enumerate() {
                let width = panels_a_column.min(panels - column * panels_a_column);
                let glyph = match (full, rims, gathered) {
                    (0, 0, 0) => EMPTY,
                    (0, 0, _) => GATHERED,
                    (full, _, _) if full == line.len() * width => FULL,
                    _ => RIM,
                };
                write_times(f, glyph, 1)?;
            }
            f.write_str("\n")?;
        }
        if tiles_a_line > 1 || panels_a_column > 1 {
            writeln!(f, "(one character: {tiles_a_line} tiles × {panels_a_column} panels)")?;
        }
        Ok(())
    }
}
