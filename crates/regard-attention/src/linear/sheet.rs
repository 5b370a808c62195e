//! Matrices of a chunk in scratch.

use regard_memory::{Frame, Need, Rows, RowsMut};

/// Room for a matrix of a chunk, row after row.
pub(super) struct Sheet<'a> {
    numbers: &'a mut [f32],
    stride: usize,
}

impl<'a> Sheet<'a> {
    pub(super) fn need(rows: usize, stride: usize) -> Need {
        Need::of::<f32>(rows.saturating_mul(stride))
    }

    pub(super) fn take(frame: &mut Frame<'a>, rows: usize, stride: usize) -> Self {
        Sheet { numbers: frame.take(rows * stride), stride }
    }

    /// The first rows and columns.
    pub(super) fn rows(&self, rows: usize, cols: usize) -> Rows<'_, f32> {
        Rows::new(self.numbers, rows, cols, self.stride).expect("a sheet holds the rows of a chunk")
    }

    /// The same, to be written.
    pub(super) fn rows_mut(&mut self, rows: usize, cols: usize) -> RowsMut<'_, f32> {
        RowsMut::new(self.numbers, rows, cols, self.stride).expect("a sheet holds the rows of a chunk")
    }

    /// All numbers.
    pub(super) fn all_mut(&mut self) -> &mut [f32] {
        self.numbers
    }
}

impl Sheet<'_> {
    /// The numbers of a sheet of one column.
    pub(super) fn column(&self, rows: usize) -> &[f32] {
        &self.numbers[..rows]
    }
}
