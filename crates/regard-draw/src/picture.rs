//! Pictures.

use crate::Theme;
use crate::scene::Scene;

/// A picture of a mask or a layout, from [`draw_mask`](crate::draw_mask) or [`draw_layout`](crate::draw_layout).
#[derive(Clone, Debug)]
pub struct Picture {
    pub(crate) scene: Scene,
    pub(crate) plot: Plot,
    pub(crate) theme: Theme,
}

/// Where the cells of a picture are, in pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plot {
    pub(crate) left: usize,
    pub(crate) top: usize,
    /// Of a cell.
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Plot {
    /// A pixel of a cell: the one in its middle, or before it.
    pub(crate) fn middle(&self, row: usize, column: usize) -> [usize; 2] {
        [self.left + column * self.width + (self.width - 1) / 2, self.top + row * self.height + (self.height - 1) / 2]
    }
}

impl Picture {
    /// The width and height in pixels.
    pub fn size(&self) -> [usize; 2] {
        [self.scene.width, self.scene.height]
    }

    /// How many cells are drawn down and across.
    pub fn cells(&self) -> [usize; 2] {
        [self.plot.rows, self.plot.columns]
    }

    /// The middle of a cell, `[x, y]` in pixels from the upper left corner: its pixel has the cell's colour.
    ///
    /// # Panics
    ///
    /// When there is no such cell.
    pub fn middle(&self, row: usize, column: usize) -> [usize; 2] {
        let [rows, columns] = self.cells();
        assert!(row < rows && column < columns, "cell ({row}, {column}) of {rows} × {columns}");
        self.plot.middle(row, column)
    }

    /// The picture as an SVG document.
    pub fn svg(&self) -> String {
        crate::svg::write(&self.scene, self.theme)
    }

    /// The picture as the bytes of a PNG file, of up to 256 colours.
    pub fn png(&self) -> Vec<u8> {
        crate::png::write(&self.scene, self.theme == Theme::Dark)
    }
}
