//! Matrices cut both ways.

use crate::{Parts, RowsMut};

/// A matrix by blocks of rows and columns; see [`RowsMut::grid_parts`].
#[derive(Debug)]
pub struct GridParts<'a, T> {
    whole: RowsMut<'a, T>,
    rows: usize,
    cols: usize,
    /// Blocks from the top to the bottom.
    down: usize,
}

impl<'a, T> RowsMut<'a, T> {
    /// Parts of so many rows and columns, each with its first row and column; the last of either may have fewer. Those that
    /// share columns come one after the other.
    ///
    /// ```
    /// use regard_memory::{Parts, RowsMut};
    ///
    /// let mut data = [0; 15];
    /// let parts = RowsMut::contiguous(&mut data, 3, 5)?.grid_parts(2, 2);
    /// assert_eq!(parts.count(), 2 * 3);
    /// # Ok::<(), regard_memory::Error>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If either is zero.
    #[must_use]
    pub fn grid_parts(self, rows: usize, cols: usize) -> GridParts<'a, T> {
        assert!(rows > 0 && cols > 0, "a part has at least one row and one column");
        GridParts { down: self.rows().div_ceil(rows), whole: self, rows, cols }
    }
}

// SAFETY: sharing gives nothing but `part`, which moves `RowsMut` to another thread.
unsafe impl<T: Send> Sync for GridParts<'_, T> {}

// SAFETY: parts of different index differ in their block of rows or in their block of columns, and blocks are disjoint.
unsafe impl<'a, T: Send> Parts for GridParts<'a, T> {
    type Part = ((usize, usize), RowsMut<'a, T>);

    fn count(&self) -> usize {
        // Views without rows may have columns that no memory could hold; they have no parts.
        self.down.saturating_mul(self.whole.cols().div_ceil(self.cols))
    }

    unsafe fn part(&self, index: usize) -> Self::Part {
        let (row, col) = (index % self.down * self.rows, index / self.down * self.cols);
        let rows = row..row + self.rows.min(self.whole.rows() - row);
        let cols = col..col + self.cols.min(self.whole.cols() - col);
        // SAFETY: the caller takes each index once, and the parts are disjoint.
        ((row, col), unsafe { self.whole.part(rows, cols) })
    }
}
