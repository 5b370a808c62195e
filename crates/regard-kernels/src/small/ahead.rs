//! What the next head needs, brought near while this one is computed.

use regard_memory::{LINE, Rows, prefetch_read};

/// Matrices on their way into the cache, a cache line at a time.
pub(super) struct Ahead<'a, T> {
    /// Those that are left, the first of them from here on.
    matrices: &'a [Rows<'a, T>],
    row: usize,
    column: usize,
}

impl<'a, T> Ahead<'a, T> {
    const STEP: usize = LINE / size_of::<T>();

    pub(super) fn new(matrices: &'a [Rows<'a, T>]) -> Self {
        Ahead { matrices, row: 0, column: 0 }
    }

    /// Lines that are left.
    pub(super) fn lines(&self) -> usize {
        self.matrices.iter().map(|rows| rows.rows().saturating_mul(rows.cols().div_ceil(Self::STEP))).sum()
    }

    /// Asks for some lines more.
    #[inline(always)]
    pub(super) fn fetch(&mut self, lines: usize) {
        for _ in 0..lines {
            let [rows, rest @ ..] = self.matrices else { return };
            prefetch_read(rows.as_ptr().wrapping_add(self.row.wrapping_mul(rows.stride()).wrapping_add(self.column)));
            self.column += Self::STEP;
            if self.column >= rows.cols() {
                (self.row, self.column) = (self.row + 1, 0);
            }
            if self.row >= rows.rows() {
                (self.matrices, self.row) = (rest, 0);
            }
        }
    }
}
