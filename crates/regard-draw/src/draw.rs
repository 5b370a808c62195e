//! What is drawn of a mask and of a layout.

use regard_masks::{BlockLayout, Mask, PANEL};

use crate::axis::Axis;
use crate::blocks::{Blocks, Kinds};
use crate::chart::Chart;
use crate::ink::Ink;
use crate::words::{percent, printable};
use crate::{Error, Grid, Picture, Style};

/// Draws the pairs of a mask for `n_q` queries, of which query `i` stands at position `i + offset`, and the keys `0..n_k`.
///
/// Up to `style.cells` queries and keys are drawn one by one. Of more, several share a cell, which is shaded by the share
/// of its pairs that live; see [`Grid`] for what that costs. A cell with a live pair never looks empty, and one with a
/// removed pair never looks full.
///
/// # Errors
///
/// [`Error::Empty`] without queries or keys, [`Error::TooManyKeys`] and [`Error::TooManyRuns`] for what is out of
/// proportion, [`Error::Style`] for a style outside its bounds.
///
/// ```
/// use regard_draw::{Style, draw_mask};
/// use regard_masks::Mask;
///
/// // Heads with windows of their own; the second one.
/// let windows = [15, 63].map(|left| Mask::window(Some(left), Some(0)));
/// let mask = Mask::by_head(windows)?;
/// let style = Style { title: Some("head 1".into()), ..Style::default() };
/// let picture = draw_mask(&mask.select(0, 1), 4096, 4096, 0, &style)?;
/// assert_eq!(picture.cells(), [128, 128]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn draw_mask(mask: &Mask, n_q: usize, n_k: usize, offset: i64, style: &Style) -> Result<Picture, Error> {
    style.check()?;
    let grid = Grid::new(mask, n_q, n_k, offset, [style.cells; 2])?;
    let [queries, keys] = grid.cell();
    let (live, pairs) = (grid.live_pairs(), n_q as u64 * n_k as u64);
    let mut notes = vec![
        format!("{n_q} queries × {n_k} keys"),
        format!("{} of the pairs live: {live} of {pairs}", percent(live, pairs as f64)),
    ];
    if offset != 0 {
        notes[0] += &format!(", offset {offset}");
    }
    let legend = if [queries, keys] == [1, 1] {
        vec![(vec![Ink::Live(Ink::ALL_LIVE)], "live".into()), (vec![Ink::Empty], "removed".into())]
    } else {
        notes.push(format!("a cell is {queries} × {keys} pairs"));
        let shares = [0, 1, 2, 3, 4].map(|quarters| Ink::of_share(quarters, 4));
        vec![(shares.into(), "from none to all of a cell live".into())]
    };
    let axis = |name, count, cells, over| Axis { name, count, cells, times: 1, over };
    let chart = Chart {
        title: title(style, || mask.to_string()),
        notes,
        legend,
        axes: [axis("queries", n_q, grid.rows(), queries), axis("keys", n_k, grid.columns(), keys)],
        ink: &|row, column| Ink::of_share(grid.live(row, column), grid.pairs(row, column)),
    };
    Ok(picture(&chart, style))
}

/// Draws the blocks of a layout: tiles of queries by panels of keys.
///
/// Full blocks are computed without a mask, rims with one bit a pair; of a block with gathered keys these alone are
/// copied and computed, and empty blocks cost nothing. Where a layout has more blocks than `style.cells`, a cell stands for
/// several: one that is partly computed is drawn as a rim.
///
/// # Errors
///
/// [`Error::Empty`] for a layout of no queries or no keys, [`Error::Style`] for a style outside its bounds.
///
/// ```
/// use regard_draw::{Style, draw_layout};
/// use regard_masks::{BlockLayout, Mask, TileShape};
///
/// let mut layout = BlockLayout::new();
/// layout.compile(&Mask::causal(), 640, 640, 0, TileShape { rows: 64, group: 1 })?;
/// let style = Style { title: Some("causal".into()), ..Style::default() };
/// let picture = draw_layout(&layout, &style)?;
/// assert_eq!(picture.cells(), [10, 10]);
/// assert!(picture.svg().contains("full 45"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn draw_layout(layout: &BlockLayout, style: &Style) -> Result<Picture, Error> {
    style.check()?;
    let (n_q, n_k, tile) = (layout.n_q(), layout.n_k(), layout.tile_shape());
    if n_q == 0 || n_k == 0 {
        return Err(Error::Empty { n_q, n_k });
    }
    let blocks = Blocks::new(layout, style.cells);
    let [tiles, panels] = blocks.cell;
    let pairs = n_q as f64 * n_k as f64;
    let mut notes = vec![
        format!("{n_q} queries × {n_k} keys, {} of the pairs live", percent(layout.live_pairs(), pairs)),
        format!("tiles of {} rows, {} a query, × panels of {PANEL} keys", tile.rows, tile.group),
    ];
    if [tiles, panels] != [1, 1] {
        notes.push(format!("a cell is {tiles} × {panels} blocks; a rim may be several kinds"));
    }
    let Kinds { full, rim, gathered } = blocks.total();
    let legend = [
        (Ink::Full, "full", full),
        (Ink::Rim, "rim", rim),
        (Ink::Gathered, "gathered", gathered),
        (Ink::Empty, "empty", blocks.empty()),
    ];
    let queries = tiles.saturating_mul(tile.rows);
    let chart = Chart {
        title: title(style, || "layout".into()),
        notes,
        legend: legend.map(|(ink, kind, count)| (vec![ink], format!("{kind} {count}"))).into(),
        axes: [
            Axis { name: "queries", count: n_q, cells: blocks.rows(), times: tile.group, over: queries },
            Axis { name: "keys", count: n_k, cells: blocks.columns(), times: 1, over: panels * PANEL },
        ],
        ink: &|row, column| blocks.ink(row, column),
    };
    Ok(picture(&chart, style))
}

fn title(style: &Style, otherwise: impl FnOnce() -> String) -> String {
    printable(&style.title.clone().unwrap_or_else(otherwise))
}

fn picture(chart: &Chart<'_>, style: &Style) -> Picture {
    let (scene, plot) = chart.draw(style.size);
    Picture { scene, plot, theme: style.theme }
}
