//! One block of the result.

use std::ops::Range;

use regard_kernels::{Before as Sum, COLUMNS, Kernels, Left, PANEL};
use regard_memory::{Frame, Rows, RowsMut};

use super::plan::{CHUNK, EDGE, Plan};
use super::word::{FITS, Word};
use super::{Before, Side};

/// Rows up to which the right side is read where it lies, if it lies in the order of the steps. Measured: up to 128 rows packing
/// costs 4 to 35% of the time and saves nothing, also where rows are 4 KiB apart.
const IN_PLACE: usize = 192;

pub(super) struct Task<'a> {
    pub(super) kernels: Kernels,
    pub(super) a: Side<'a>,
    pub(super) b: Side<'a>,
    pub(super) before: Before<'a>,
    pub(super) plan: Plan,
}

impl Task<'_> {
    /// Writes the block `c` of the result, which begins at this row and column.
    pub(super) fn run<W: Word>(&self, (row, column): (usize, usize), mut c: RowsMut<'_, f32>, frame: &mut Frame<'_>) {
        let steps = self.a.shape().1;
        let packed: &mut [W] = frame.take(self.plan.right());
        let written: &mut [W] = frame.take(self.plan.left());
        let edge = frame.take(EDGE);
        let (rows, columns) = (c.rows(), column..column + c.cols());
        // Once also where there are no steps, for what the sum begins with.
        for first in (0..steps.max(1)).step_by(self.plan.steps * W::DEPTH) {
            let block = first..steps.min(first + self.plan.steps * W::DEPTH);
            let right = self.right(block.clone(), columns.clone(), rows, packed, written);
            for chunk in (0..rows).step_by(CHUNK).map(|r| r..rows.min(r + CHUNK)) {
                let mut c = c.reborrow().block(chunk.clone(), 0..columns.len());
                if first == 0 {
                    self.begin(columns.clone(), c.reborrow());
                }
                if !block.is_empty() {
                    let sum =
                        if first == 0 && matches!(self.before, Before::Replaced) { Sum::Replaced } else { Sum::Kept };
                    let a = self.a.block(row + chunk.start..row + chunk.end, block.clone());
                    right.multiply(self.kernels, W::left(self.kernels, a, self.plan.steps, written), sum, c, edge);
                }
            }
        }
    }

    /// Writes what the sums begin with, where that is not what is there and not left to the first step.
    fn begin(&self, columns: Range<usize>, c: RowsMut<'_, f32>) {
        match self.before {
            Before::Bias(bias) => c.into_rows().for_each(|row| row.copy_from_slice(&bias[columns.clone()])),
            Before::Replaced if self.a.shape().1 == 0 => c.into_rows().for_each(|row| row.fill(0.0)),
            _ => {}
        }
    }

    /// A block of the right side, for so many rows.
    fn right<'s, W: Word>(
        &'s self,
        steps: Range<usize>,
        columns: Range<usize>,
        rows: usize,
        packed: &'s mut [W],
        scratch: &mut [W],
    ) -> Right<'s, W> {
        let (words, body) = (steps.len().div_ceil(W::DEPTH), columns.len() / COLUMNS * COLUMNS);
        let (to_body, to_edge) = packed.split_at_mut(body * words);
        let part = |of: Range<usize>| self.b.block(steps.clone(), columns.start + of.start..columns.start + of.end);
        let place = if rows <= IN_PLACE { W::in_place(part(0..body)) } else { None };
        if place.is_none() {
            for (at, panel) in panels(body) {
                let width = panel.len();
                W::pack(self.kernels, part(panel), width, &mut to_body[at * words..], scratch);
            }
        }
        if body < columns.len() {
            W::pack(self.kernels, part(body..columns.len()), COLUMNS, to_edge, scratch);
        }
        Right { steps: words, body, place, packed }
    }
}

/// The panels of so many columns, each with its first.
fn panels(columns: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    (0..columns).step_by(PANEL).map(move |at| (at, at..columns.min(at + PANEL)))
}

/// A block of the right side, as products read it.
struct Right<'a, W> {
    /// In words.
    steps: usize,
    /// Columns in whole vectors.
    body: usize,
    /// These where they lie, or else they are packed.
    place: Option<Rows<'a, W>>,
    /// Panels `[steps][≤ PANEL]` of the body, and `[steps][COLUMNS]` of the columns behind it.
    packed: &'a [W],
}

impl<W: Word> Right<'_, W> {
    /// `C ← sum + left·right` for a chunk of rows.
    fn multiply(&self, kernels: Kernels, left: Left<'_, W>, sum: Sum<'_>, mut c: RowsMut<'_, f32>, edge: &mut [f32]) {
        let (rows, columns) = (c.rows(), c.cols());
        let whole = |right: Rows<'_, W>, c: RowsMut<'_, f32>| W::multiply(kernels, left, right, sum, c);
        let view = |at: usize, width| Rows::new(&self.packed[at * self.steps..], self.steps, width, width).expect(FITS);
        match self.place {
            Some(right) => whole(right, c.reborrow().block(0..rows, 0..self.body)),
            None => panels(self.body).for_each(|(at, panel)| {
                whole(view(at, panel.len()), c.reborrow().block(0..rows, panel));
            }),
        }
        if self.body < columns {
            let mut c = c.block(0..rows, self.body..columns);
            let edge = &mut edge[..rows * COLUMNS];
            for (r, edge) in edge.chunks_exact_mut(COLUMNS).enumerate() {
                edge[..c.cols()].copy_from_slice(c.row(r));
            }
            whole(view(self.body, COLUMNS), RowsMut::contiguous(edge, rows, COLUMNS).expect(FITS));
            for (r, edge) in edge.chunks_exact(COLUMNS).enumerate() {
                let width = c.cols();
                c.row_mut(r).copy_from_slice(&edge[..width]);
            }
        }
    }
}
