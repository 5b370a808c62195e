//! Matrices on their way into the cache.

use crate::{LINE, Rows, RowsMut, prefetch_read, prefetch_write};

/// Matrices that will soon be read or written, brought near a few cache lines at a time while something else is computed.
///
/// It is a hint: it changes nothing but the time that the next access takes, and what it has no room for it forgets. It
/// borrows nothing: should a matrix be gone by then, so are the hints.
///
/// ```
/// use regard_memory::{Ahead, Rows};
///
/// let next = [0.5f32; 40 * 64];
/// let mut ahead = Ahead::default();
/// ahead.read(Rows::contiguous(&next, 40, 64)?);
/// assert_eq!(ahead.lines(), 40 * 4);
/// let lines = ahead.lines().div_ceil(3);
/// for part in 0..3 {
///     ahead.fetch(lines);
///     // … and compute.
/// }
/// assert_eq!(ahead.lines(), 0);
/// # Ok::<(), regard_memory::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ahead {
    matrices: [Matrix; MOST],
    /// How many there are, and how many of these are done.
    count: usize,
    done: usize,
    /// How far the first that is left is done.
    row: usize,
    line: usize,
}

/// Matrices that there is room for.
const MOST: usize = 12;

#[derive(Clone, Copy, Debug)]
struct Matrix {
    /// An address, which nobody reads or writes.
    first: *mut u8,
    rows: usize,
    /// Bytes from row to row.
    stride: usize,
    /// Cache lines of a row.
    lines: usize,
    write: bool,
}

impl Default for Ahead {
    fn default() -> Self {
        let none = Matrix { first: std::ptr::null_mut(), rows: 0, stride: 0, lines: 0, write: false };
        Ahead { matrices: [none; MOST], count: 0, done: 0, row: 0, line: 0 }
    }
}

impl Ahead {
    /// Adds a matrix that will be read.
    pub fn read<T>(&mut self, rows: Rows<'_, T>) {
        let (first, size) = (rows.as_ptr().cast_mut().cast(), size_of::<T>());
        self.push(first, (rows.rows(), rows.cols()), rows.stride(), size, false);
    }

    /// Adds a matrix that will be written.
    pub fn write<T>(&mut self, rows: &mut RowsMut<'_, T>) {
        let (first, size) = (rows.as_mut_ptr().cast(), size_of::<T>());
        self.push(first, (rows.rows(), rows.cols()), rows.stride(), size, true);
    }

    fn push(&mut self, first: *mut u8, (rows, cols): (usize, usize), stride: usize, size: usize, write: bool) {
        let lines = cols.saturating_mul(size).div_ceil(LINE);
        if rows > 0 && lines > 0 && self.count < MOST {
            self.matrices[self.count] = Matrix { first, rows, stride: stride.wrapping_mul(size), lines, write };
            self.count += 1;
        }
    }

    /// Lines that are left.
    pub fn lines(&self) -> usize {
        let left = &self.matrices[self.done..self.count];
        let all: usize =
            left.iter().map(|matrix| matrix.rows.saturating_mul(matrix.lines)).fold(0, usize::saturating_add);
        let begun = left.first().map_or(0, |matrix| self.row.saturating_mul(matrix.lines).saturating_add(self.line));
        all.saturating_sub(begun)
    }

    /// Asks for some lines more.
    #[inline(always)]
    pub fn fetch(&mut self, lines: usize) {
        let mut left = lines;
        while left > 0 && self.done < self.count {
            let Matrix { first, rows, stride, lines, write } = self.matrices[self.done];
            let row = first.wrapping_add(self.row.wrapping_mul(stride));
            let some = left.min(lines - self.line);
            for line in self.line..self.line + some {
                let at = row.wrapping_add(line * LINE);
                if write {
                    prefetch_write(at)
                } else {
                    prefetch_read(at)
                };
            }
            (left, self.line) = (left - some, self.line + some);
            if self.line == lines {
                (self.row, self.line) = (self.row + 1, 0);
            }
            if self.row == rows {
                (self.done, self.row) = (self.done + 1, 0);
            }
        }
    }
}
