//! What a mask comes to.

use indicatif::DecimalBytes;
use regard_draw::Grid;
use regard_masks::{BlockLayout, Mask};
use serde::Serialize;

/// What a mask keeps, and what computing it takes.
#[derive(Serialize)]
pub(super) struct Facts {
    mask: String,
    queries: usize,
    keys: usize,
    offset: i64,
    live_pairs: u64,
    density: f64,
    runs: u64,
    /// Query heads that share a layout; what follows is of all of them.
    group: usize,
    computed_pairs: u64,
    live_share_of_computed: f64,
    layout: LayoutFacts,
    compile_seconds: f64,
}

#[derive(Serialize)]
struct LayoutFacts {
    tiles: usize,
    rows_per_tile: usize,
    spans: usize,
    words: usize,
    gathered: usize,
    bytes: usize,
}

impl Facts {
    /// Of the mask of one head with its pairs, and of the layout of its group.
    pub(super) fn new(mask: &Mask, offset: i64, grid: &Grid, layout: &BlockLayout, compile_seconds: f64) -> Self {
        let (cost, size, tile) = (layout.cost(), layout.size(), layout.tile_shape());
        Self {
            mask: mask.to_string(),
            queries: layout.n_q(),
            keys: layout.n_k(),
            offset,
            live_pairs: grid.live_pairs(),
            density: grid.density(),
            runs: grid.runs(),
            group: tile.group,
            computed_pairs: cost.computed(),
            live_share_of_computed: cost.live_share(),
            layout: LayoutFacts {
                tiles: size.tiles,
                rows_per_tile: tile.rows,
                spans: size.spans,
                words: size.words,
                gathered: size.gathered,
                bytes: size.bytes(),
            },
            compile_seconds,
        }
    }

    /// A line for each.
    pub(super) fn lines(&self) -> String {
        let percent = |share: f64| format!("{:.4}%", share * 100.0);
        let heads = if self.group == 1 { String::new() } else { format!(" of {} heads", self.group) };
        let LayoutFacts { tiles, rows_per_tile, spans, words, gathered, bytes } = self.layout;
        let rows = [
            ("mask", self.mask.clone()),
            ("shape", format!("{} queries × {} keys, offset {}", self.queries, self.keys, self.offset)),
            ("live", format!("{} pairs, {} of all", self.live_pairs, percent(self.density))),
            ("runs", format!("{} of keys", self.runs)),
            (
                "computed",
                format!("{} pairs{heads}, {} of them live", self.computed_pairs, percent(self.live_share_of_computed)),
            ),
            (
                "layout",
                format!(
                    "{}: {tiles} tiles of {rows_per_tile} rows, {spans} spans, {words} words, {gathered} gathered panels",
                    DecimalBytes(bytes as u64)
                ),
            ),
            ("compiled in", format!("{:.3} ms", self.compile_seconds * 1e3)),
        ];
        rows.map(|(label, value)| format!("{label:<12}{value}")).join("\n")
    }
}
