//! What is found of a method at a budget, and how it is printed.

use comfy_table::{CellAlignment, Table, TableStyle};
use serde_json::{Value, json};

use crate::bench::report::significant;
use crate::bench::select::method::Method;
use crate::bench::setting::Setting;

/// The largest difference between the mass that is kept by the engine's sums, in f32, and by f64.
const BOUND: f64 = 1e-3;

/// A method at a budget, over all layers and held-out windows.
pub(crate) struct Row {
    pub(crate) method: Method,
    pub(crate) budget: f64,
    /// Of the blocks that are seen.
    pub(crate) blocks: f64,
    /// Of the softmax mass.
    pub(crate) mass: f64,
    /// Of the mass that lies neither in the first block nor in the row's own.
    pub(crate) rest: f64,
    /// Of the softmax mass of the layer of which the least is kept.
    pub(crate) lowest: f64,
    /// Of the layer in the middle: seconds to choose, unless exact masses are needed, to attend, and to attend to all.
    pub(crate) choose: Option<f64>,
    pub(crate) attend: f64,
    pub(crate) dense: f64,
    /// By how much the engine's sums differ from the mass that is kept in that layer.
    pub(crate) error: f64,
}

impl Row {
    pub(crate) fn is_right(&self) -> bool {
        self.error <= BOUND
    }

    pub(crate) fn json(&self, setting: &Setting) -> Value {
        json!({
            "method": self.method.id(),
            "budget": self.budget,
            "blocks": self.blocks,
            "mass": self.mass,
            "rest": self.rest,
            "lowest_layer": self.lowest,
            "choose_ms": self.choose.map(|seconds| seconds * 1e3),
            "attend_ms": self.attend * 1e3,
            "dense_ms": self.dense * 1e3,
            "ratio": self.dense / self.attend,
            "error": self.error,
            "right": self.is_right(),
            "isa": setting.isa.name(),
            "threads": setting.threads,
        })
    }
}

pub(crate) fn table(rows: &[Row], style: TableStyle) -> String {
    let mut table = Table::new();
    let header = ["blocks kept", "budget", "blocks", "mass", "of the rest", "lowest layer"];
    table.load_style(style).set_header(header.into_iter().chain(["choose ms", "attend ms", "dense ms", "ratio"]));
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    let percent = |share: f64| format!("{:.1}%", 100.0 * share);
    let ms = |seconds: f64| significant(seconds * 1e3);
    for row in rows {
        let mut cells = vec![row.method.words().to_owned(), format!("{:.0}%", 100.0 * row.budget)];
        cells.extend([row.blocks, row.mass, row.rest, row.lowest].map(percent));
        cells.push(row.choose.map_or_else(|| "–".to_owned(), ms));
        cells.extend([row.attend, row.dense].map(ms));
        let wrong = if row.is_right() { "" } else { " WRONG" };
        cells.push(format!("{:.1}×{wrong}", row.dense / row.attend));
        table.add_row(cells);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
