//! Cells with axes, a legend and words around them, put where they belong.

use std::collections::BTreeMap;

use crate::axis::Axis;
use crate::ink::Ink;
use crate::picture::Plot;
use crate::scene::{Anchor, Area, Label, Scene};
use crate::words::wrapped;

/// The least width of a picture, which its words need.
const LEAST_WIDTH: usize = 480;
const MARGIN: usize = 16;
/// From line to line.
const LINE: usize = 19;
/// A letter's width at most, in all fonts that the words may be written in.
const LETTER: usize = 8;
/// From the top of a letter to the line on which it stands.
const ASCENT: usize = 12;
/// The most lines of a title; all of it is in the scene's.
const TITLE_LINES: usize = 4;
/// Colours of the legend.
const SWATCH: usize = 12;
/// Marks of the axes.
const MARK: usize = 4;
/// The most pixels of a cell.
const LARGEST_CELL: usize = 24;
/// The shorter side of the cells is drawn larger than life up to so many pixels.
const SHORTEST_SIDE: usize = 96;
/// Cells of so many pixels are drawn apart.
const APART: usize = 6;

/// What is drawn.
pub(crate) struct Chart<'a> {
    pub(crate) title: String,
    /// Lines below the title.
    pub(crate) notes: Vec<String>,
    /// Inks and what they mean.
    pub(crate) legend: Vec<(Vec<Ink>, String)>,
    /// Down and across.
    pub(crate) axes: [Axis; 2],
    /// The ink of the cell at (row, column).
    pub(crate) ink: &'a dyn Fn(usize, usize) -> Ink,
}

impl Chart<'_> {
    /// Draws the cells in at most `size` pixels down and across.
    pub(crate) fn draw(&self, size: usize) -> (Scene, Plot) {
        let [down, across] = self.axes;
        let [height, width] = cell_pixels(self.axes, size);
        let left = MARGIN + LETTER * down.name.len().max(down.widest()) + LETTER + MARK;
        // Half of the last number may stand out.
        let right = MARGIN + LETTER * across.widest().div_ceil(2);
        let mut scene = Scene {
            width: LEAST_WIDTH.max(left + width * across.cells + right),
            height: 0,
            title: self.title.clone(),
            description: self.notes.join(". "),
            layers: Vec::new(),
            labels: Vec::new(),
        };
        let mut y = self.words(&mut scene);
        y = self.legend(&mut scene, y + LINE / 2);
        // The names of the axes and the numbers across stand between the legend and the cells.
        let plot = Plot { left, top: y + 2 * LINE + MARK + 4, width, height, rows: down.cells, columns: across.cells };
        self.axes(&mut scene, &plot);
        self.cells(&mut scene, &plot);
        scene.height = plot.top + plot.rows * height + MARGIN;
        (scene, plot)
    }

    /// Writes title and notes, and returns where they end.
    fn words(&self, scene: &mut Scene) -> usize {
        let letters = (scene.width - 2 * MARGIN) / LETTER;
        let mut y = MARGIN;
        let title = wrapped(&self.title, letters, TITLE_LINES).into_iter().map(|line| (line, true));
        let notes = self.notes.iter().flat_map(|note| wrapped(note, letters, usize::MAX)).map(|line| (line, false));
        for (text, bold) in title.chain(notes) {
            let ink = if bold { Ink::Text } else { Ink::Soft };
            scene.labels.push(Label { x: MARGIN, baseline: y + ASCENT, anchor: Anchor::Start, ink, bold, text });
            y += LINE;
        }
        y
    }

    /// Draws the legend from `y` on, and returns where it ends.
    fn legend(&self, scene: &mut Scene, mut y: usize) -> usize {
        let mut x = MARGIN;
        for (inks, text) in &self.legend {
            let swatches = SWATCH * inks.len();
            let width = swatches + LETTER * (text.chars().count() + 1);
            if x > MARGIN && x + width + MARGIN > scene.width {
                (x, y) = (MARGIN, y + LINE);
            }
            for (at, &ink) in inks.iter().enumerate() {
                let area = Area { x: x + at * SWATCH, y, width: SWATCH, height: SWATCH };
                // What is translucent lies on what is empty.
                scene.layers.push((Ink::Empty, vec![area]));
                if ink != Ink::Empty {
                    scene.layers.push((ink, vec![area]));
                }
            }
            scene.labels.push(Label {
                x: x + swatches + LETTER,
                baseline: y + ASCENT - 1,
                anchor: Anchor::Start,
                ink: Ink::Text,
                bold: false,
                text: text.clone(),
            });
            x += width + 2 * LETTER;
        }
        y + LINE
    }

    /// Draws names, numbers and marks of the axes.
    fn axes(&self, scene: &mut Scene, plot: &Plot) {
        let [down, across] = self.axes;
        let numbers = plot.top - MARK - 4;
        let edge = plot.left - MARK - LETTER / 2;
        let mut write = |x, baseline, anchor, text| {
            scene.labels.push(Label { x, baseline, anchor, ink: Ink::Soft, bold: false, text });
        };
        write(plot.left, numbers - LINE, Anchor::Start, across.name.to_owned());
        write(edge, numbers, Anchor::End, down.name.to_owned());
        let mut marks = Vec::new();
        for (number, column) in across.ticks(plot.width, LETTER * (across.widest() + 2)) {
            let [x, _] = plot.middle(0, column);
            write(x, numbers, Anchor::Middle, number.to_string());
            marks.push(Area { x, y: plot.top - MARK, width: 1, height: MARK });
        }
        for (number, row) in down.ticks(plot.height, LINE) {
            let [_, y] = plot.middle(row, 0);
            write(edge, y + ASCENT / 2 - 1, Anchor::End, number.to_string());
            marks.push(Area { x: plot.left - MARK, y, width: MARK, height: 1 });
        }
        scene.layers.push((Ink::Soft, marks));
    }

    /// Draws the cells; neighbours of one ink in a row as one area.
    fn cells(&self, scene: &mut Scene, plot: &Plot) {
        let Plot { left, top, width, height, rows, columns } = *plot;
        let mut areas: BTreeMap<Ink, Vec<Area>> = BTreeMap::new();
        for row in 0..rows {
            let mut start = 0;
            while start < columns {
                let ink = (self.ink)(row, start);
                let end = (start..columns).find(|&column| (self.ink)(row, column) != ink).unwrap_or(columns);
                if ink != Ink::Empty {
                    let (x, y) = (left + start * width, top + row * height);
                    areas.entry(ink).or_default().push(Area { x, y, width: (end - start) * width, height });
                }
                start = end;
            }
        }
        let whole = Area { x: left, y: top, width: columns * width, height: rows * height };
        scene.layers.push((Ink::Empty, vec![whole]));
        scene.layers.extend(areas);
        if width.min(height) >= APART {
            let across = (1..columns).map(|column| Area { x: left + column * width - 1, width: 1, ..whole });
            let down = (1..rows).map(|row| Area { y: top + row * height - 1, height: 1, ..whole });
            scene.layers.push((Ink::Paper, across.chain(down).collect()));
        }
    }
}

/// The pixels of a cell, down and across: as large as fits, with queries as high as keys are wide, unless one side would
/// be hard to see.
fn cell_pixels(axes: [Axis; 2], size: usize) -> [usize; 2] {
    let most = axes.map(|axis| (size / axis.cells).clamp(1, LARGEST_CELL));
    let least = axes.map(|axis| SHORTEST_SIDE / axis.cells);
    // Numbers of a cell.
    let numbers = axes.map(|axis| axis.over as f64 / axis.times as f64);
    let scale = (most[0] as f64 / numbers[0]).min(most[1] as f64 / numbers[1]);
    [0, 1].map(|axis| ((scale * numbers[axis]) as usize).max(least[axis]).clamp(1, most[axis]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(cells: [usize; 2], numbers: [usize; 2], size: usize) -> [usize; 2] {
        let axis = |at: usize| Axis { name: "", count: 1, cells: cells[at], times: 1, over: numbers[at] };
        cell_pixels([axis(0), axis(1)], size)
    }

    #[test]
    fn pairs_are_square_where_both_sides_can_be_seen() {
        assert_eq!(pixels([8, 8], [1, 1], 512), [24, 24]);
        assert_eq!(pixels([64, 128], [1, 1], 512), [4, 4]);
        assert_eq!(pixels([128, 128], [8, 8], 512), [4, 4]);
        // 64 queries and 512 keys, four in a cell.
        assert_eq!(pixels([64, 128], [1, 4], 512), [1, 4]);
        // One query.
        assert_eq!(pixels([1, 128], [1, 64], 512), [24, 4]);
        assert_eq!(pixels([128, 1], [1000, 1], 512), [4, 24]);
        // More cells than pixels cannot be asked for, but each has one.
        assert_eq!(pixels([600, 600], [1, 1], 512), [1, 1]);
    }
}
