//! How much scratch an algorithm needs, stated before it runs.

use crate::{Error, LINE, Result};

/// The scratch that something will take from an [`Arena`](crate::Arena), composed as the code that takes it is composed.
///
/// Every piece is rounded up to whole 64-byte lines, as the arena hands them out. A sum too large for the address space
/// stays too large and is reported by [`Arena::frame`](crate::Arena::frame), so composing needs no checks.
///
/// ```
/// use regard_memory::Need;
///
/// // Per worker a tile of scores [64, 64] and the maxima of its rows; one packed panel for all.
/// let worker = Need::of::<f32>(64 * 64).and(Need::of::<f32>(64));
/// let all = Need::of::<f32>(64 * 128).and(worker.times(4));
/// assert_eq!(all.bytes(), 4 * (64 * 128 + 4 * (64 * 64 + 64)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Need {
    pub(crate) lines: usize,
}

impl Need {
    /// Nothing.
    pub const NONE: Self = Self { lines: 0 };

    /// One piece of `len` numbers.
    #[must_use]
    pub const fn of<T>(len: usize) -> Self {
        const { assert!(align_of::<T>() <= LINE) };
        Self { lines: len.saturating_mul(size_of::<T>()).div_ceil(LINE) }
    }

    /// This, and the other beside it.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { lines: self.lines.saturating_add(other.lines) }
    }

    /// This or the other, in the same place one after the other: the larger of both.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        if self.lines >= other.lines { self } else { other }
    }

    /// This `count` times, side by side: for `count` workers, say.
    #[must_use]
    pub const fn times(self, count: usize) -> Self {
        Self { lines: self.lines.saturating_mul(count) }
    }

    /// The size in bytes; `usize::MAX` when it is beyond the address space.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.lines.saturating_mul(LINE)
    }

    /// The size in lines.
    ///
    /// # Errors
    ///
    /// [`Error::Overflow`] if that many bytes cannot be addressed.
    pub(crate) fn lines(self) -> Result<usize> {
        match self.lines.checked_mul(LINE) {
            Some(_) => Ok(self.lines),
            None => Err(Error::Overflow { what: "scratch" }),
        }
    }
}
