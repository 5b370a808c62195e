//! How tokens are cut into blocks, and which blocks a block of queries may see.

use std::fmt;
use std::ops::Range;

use regard_attention::Direction;

use crate::{Error, check};

/// Queries and keys of a sequence in blocks of `size` positions.
///
/// A _row_ is a block of queries, a _column_ a block of keys; both are cut at the same positions, multiples of the size, so that
/// the first and the last may be shorter. Query `i` stands at position `i + offset`.
///
/// ```
/// use regard_attention::Direction;
/// use regard_select::Blocks;
///
/// // The last 5 of 11 tokens, in blocks of 4, causal.
/// let blocks = Blocks::new(5, 11, 4, Direction::Causal, None)?;
/// assert_eq!((blocks.rows(), blocks.columns()), (2, 3));
/// assert_eq!((blocks.queries_of(0), blocks.queries_of(1)), (0..2, 2..5));
/// assert_eq!(blocks.keys_of(2), 8..11);
/// assert_eq!((blocks.seen(0), blocks.seen(1)), (2, 3));
/// # Ok::<(), regard_select::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blocks {
    queries: usize,
    keys: usize,
    size: usize,
    offset: usize,
    direction: Direction,
}

impl Blocks {
    /// Unless an offset is given, the last query stands at the last key.
    ///
    /// # Errors
    /// [`Error::Axis`] where there are no queries or no keys, or without an offset more queries than keys, the first of which
    /// would stand before the first key; [`Error::Parameter`] for blocks of size 0 and for an offset beyond all memory.
    pub fn new(
        queries: usize,
        keys: usize,
        size: usize,
        direction: Direction,
        offset: Option<usize>,
    ) -> Result<Blocks, Error> {
        check::some("queries", "tokens", queries)?;
        check::some("keys", "tokens", keys)?;
        check::at_least_one("block size", size)?;
        let offset = match offset {
            Some(has) if has.checked_add(queries).is_none_or(|end| end > isize::MAX as usize) => {
                let expected = format!("a position, and those of {queries} queries with it");
                return Err(Error::Parameter { parameter: "offset", has: has.to_string(), expected });
            }
            Some(offset) => offset,
            None => keys.checked_sub(queries).ok_or_else(|| Error::Axis {
                tensor: "queries",
                axis: "tokens",
                has: queries,
                expected: format!("at most those of `keys`, {keys}, where no offset is given"),
            })?,
        };
        Ok(Blocks { queries, keys, size, offset, direction })
    }

    /// How many queries there are.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Positions of a block.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The position of the first query: what [`regard_attention::Offset`] has to say where it is not `keys − queries`.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Which keys a query sees.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Blocks of queries.
    pub fn rows(&self) -> usize {
        (self.offset + self.queries).div_ceil(self.size) - self.first()
    }

    /// Blocks of keys.
    pub fn columns(&self) -> usize {
        self.keys.div_ceil(self.size)
    }

    /// The queries of a row, counted from the first query.
    pub fn queries_of(&self, row: usize) -> Range<usize> {
        let start = (self.first() + row) * self.size;
        let position = |p: usize| p.clamp(self.offset, self.offset + self.queries) - self.offset;
        position(start)..position(start + self.size)
    }

    /// The keys of a column.
    pub fn keys_of(&self, column: usize) -> Range<usize> {
        column * self.size..((column + 1) * self.size).min(self.keys)
    }

    /// The columns of which a row sees any key: these and none after them.
    pub fn seen(&self, row: usize) -> usize {
        match self.direction {
            Direction::Causal => self.columns().min(self.first() + row + 1),
            Direction::Both => self.columns(),
        }
    }

    /// The column at a row's own positions; where there are no such keys any more, the last one.
    pub fn own(&self, row: usize) -> usize {
        (self.first() + row).min(self.columns() - 1)
    }

    /// The pairs of a row and a column that live.
    pub fn pairs(&self, row: usize, column: usize) -> usize {
        let (queries, keys) = (self.queries_of(row), self.keys_of(column));
        let visible = |i: usize| match self.direction {
            Direction::Causal => (i + self.offset + 1).clamp(keys.start, keys.end) - keys.start,
            Direction::Both => keys.len(),
        };
        if self.direction == Direction::Both || column < self.own(row) {
            return queries.len() * keys.len();
        }
        queries.map(visible).sum()
    }

    /// The pairs of rows and columns of which any lives: what a share of the blocks is a share of.
    pub fn count(&self) -> usize {
        (0..self.rows()).map(|row| self.seen(row)).sum()
    }

    /// The number of the first row among all blocks of positions.
    pub(crate) fn first(&self) -> usize {
        self.offset / self.size
    }

    /// Refuses what is of other blocks.
    pub(crate) fn expect(&self, tensor: &'static str, expected: &Blocks) -> Result<(), Error> {
        if self == expected {
            return Ok(());
        }
        Err(Error::Blocks { tensor, has: self.to_string(), expected: expected.to_string() })
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Blocks { queries, keys, size, offset, direction } = self;
        let direction = match direction {
            Direction::Causal => "causal",
            Direction::Both => "both ways",
        };
        write!(f, "{queries} queries from position {offset} over {keys} keys in blocks of {size}, {direction}")
    }
}
