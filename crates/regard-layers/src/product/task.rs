//! One block of the result.

use std::ops::Range;

use regard_kernels::{Band, Before as Sum, COLUMNS, Kernels, Left, PANEL};
use regard_memory::{Frame, Rows, RowsMut};

use super::plan::{CHUNK, EDGE, Plan};
use super::{Before, Side};

/// Rows up to which the right side is read where it lies, if it lies in the order of the steps. Measured: up to 128 rows packing
/// costs 4 to 35% of the time and saves nothing, also where rows are 4 KiB apart.
const IN_PLACE: usize = 192;

/// Steps up to which the left side is read where it lies, whichever way it lies.
const FEW_STEPS: usize = 32;

const FITS: &str = "sizes were checked";

pub(super) struct Task<'a> {
    pub(super) kernels: Kernels,
    pub(super) a: Side<'a>,
    pub(super) b: Side<'a>,
    pub(super) before: Before<'a>,
    pub(super) plan: Plan,
}

impl Task<'_> {
    /// Writes the block `c` of the result, which begins at this row and column.
    pub(super) fn run(&self, (row, column): (usize, usize), mut c: RowsMut<'_, f32>, frame: &mut Frame<'_>) {
        let steps = self.a.shape().1;
        let packed = frame.take(self.plan.right());
        let turned = frame.take(self.plan.left());
        let edge = frame.take(EDGE);
        let (rows, columns) = (c.rows(), column..column + c.cols());
        // Once also where there are no steps, for what the sum begins with.
        for first in (0..steps.max(1)).step_by(self.plan.steps) {
            let block = first..steps.min(first + self.plan.steps);
            let right = self.right(block.clone(), columns.clone(), rows, packed);
            for chunk in (0..rows).step_by(CHUNK).map(|r| r..rows.min(r + CHUNK)) {
                let mut c = c.reborrow().block(chunk.clone(), 0..columns.len());
                if first == 0 {
                    self.begin(columns.clone(), c.reborrow());
                }
                if !block.is_empty() {
                    let sum =
                        if first == 0 && matches!(self.before, Before::Replaced) { Sum::Replaced } else { Sum::Kept };
                    let left = self.left(row + chunk.start..row + chunk.end, block.clone(), turned);
                    right.multiply(self.kernels, left, sum, c, edge);
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

    /// Rows of the left side, turned over if need be.
    fn left<'s>(&'s self, rows: Range<usize>, steps: Range<usize>, scratch: &'s mut [f32]) -> Left<'s> {
        match self.a {
            Side::AsIs(a) => Left::Rows(a.block(rows, steps)),
            Side::Transposed(a) if steps.len() <= FEW_STEPS => Left::Columns(a.block(steps, rows)),
            Side::Transposed(a) => {
                let (count, steps_here) = (rows.len(), steps.len());
                let to = RowsMut::new(scratch, count, steps_here, self.plan.steps).expect(FITS);
                self.kernels.transpose(a.block(steps, rows), to).expect(FITS);
                Left::Rows(Rows::new(scratch, count, steps_here, self.plan.steps).expect(FITS))
            }
        }
    }

    /// A block of the right side, for so many rows.
    fn right<'s>(
        &'s self,
        steps: Range<usize>,
        columns: Range<usize>,
        rows: usize,
        packed: &'s mut [f32],
    ) -> Right<'s> {
        let body = columns.len() / COLUMNS * COLUMNS;
        let (to_body, to_edge) = packed.split_at_mut(body * steps.len());
        let place = match self.b {
            Side::AsIs(b) if rows <= IN_PLACE => Some(b.block(steps.clone(), columns.start..columns.start + body)),
            _ => None,
        };
        if place.is_none() {
            for (at, panel) in panels(body) {
                let (first, width) = (columns.start + panel.start, panel.len());
                self.pack(steps.clone(), first..first + width, width, &mut to_body[at * steps.len()..]);
            }
        }
        if body < columns.len() {
            self.pack(steps.clone(), columns.start + body..columns.end, COLUMNS, to_edge);
        }
        Right { steps: steps.len(), body, place, packed }
    }

    /// Columns of the right side as rows of so many numbers, with 0 behind the last.
    fn pack(&self, steps: Range<usize>, columns: Range<usize>, width: usize, to: &mut [f32]) {
        match self.b {
            Side::AsIs(b) => {
                for (to, from) in to.chunks_exact_mut(width).zip(b.block(steps, columns.clone()).iter()) {
                    to[..columns.len()].copy_from_slice(from);
                    to[columns.len()..].fill(0.0);
                }
            }
            Side::Transposed(b) => {
                let to = RowsMut::new(to, steps.len(), width, width).expect(FITS);
                self.kernels.transpose(b.block(columns, steps), to).expect(FITS);
            }
        }
    }
}

/// The panels of so many columns, each with its first.
fn panels(columns: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    (0..columns).step_by(PANEL).map(move |at| (at, at..columns.min(at + PANEL)))
}

/// A block of the right side, as products read it.
struct Right<'a> {
    steps: usize,
    /// Columns in whole vectors.
    body: usize,
    /// These where they lie, or else they are packed.
    place: Option<Rows<'a, f32>>,
    /// Panels `[steps][≤ PANEL]` of the body, and `[steps][COLUMNS]` of the columns behind it.
    packed: &'a [f32],
}

impl Right<'_> {
    /// `C ← sum + left·right` for a chunk of rows.
    fn multiply(&self, kernels: Kernels, left: Left<'_>, sum: Sum<'_>, mut c: RowsMut<'_, f32>, edge: &mut [f32]) {
        let (rows, columns) = (c.rows(), c.cols());
        let whole =
            |right: Rows<'_, f32>, c: RowsMut<'_, f32>| kernels.multiply(left, right, Band::Whole, sum, c).expect(FITS);
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
