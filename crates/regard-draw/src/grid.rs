//! Masks as grids: how many pairs of each cell live.

use std::fmt;
use std::ops::Range;

use regard_masks::{Mask, Runs};

use crate::Error;

/// The most keys of a picture, so that pairs can be counted in 64 bits.
pub(crate) const MAX_KEYS: usize = 1 << 32;

/// The most queries, and runs of keys, that are looked at for a picture: a few seconds of work.
pub(crate) const MAX_RUNS: usize = 1 << 27;

/// The most runs that one row may have. They are listed at once.
const MAX_RUNS_OF_A_ROW: usize = 1 << 22;

/// A mask seen from afar: equal cells of queries and keys, and how many pairs of each live.
///
/// Made from the mask's runs: the cost is one step for each query and each run of keys, whatever the number of keys.
///
/// ```
/// use regard_draw::Grid;
/// use regard_masks::Mask;
///
/// let grid = Grid::new(&Mask::causal(), 1000, 1000, 0, [5, 10])?;
/// assert_eq!(grid.cell(), [200, 100]);
/// assert_eq!((grid.live(1, 2), grid.live(1, 3)), (15_050, 5_050));
/// assert_eq!(grid.live_pairs(), 1000 * 1001 / 2);
/// assert_eq!(grid.to_string(), "\
/// ▓░········
/// ██▓░······
/// ████▓░····
/// ██████▓░··
/// ████████▓░
/// ");
/// # Ok::<(), regard_draw::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Queries and keys.
    size: [usize; 2],
    /// Queries and keys of a cell; the last ones may have fewer.
    cell: [usize; 2],
    /// Live pairs of each cell, row by row.
    live: Vec<u64>,
    runs: u64,
}

impl Grid {
    /// The mask for `n_q` queries, of which query `i` stands at position `i + offset`, and the keys `0..n_k`, in at most
    /// `most` cells down and across. Cells are as small as that allows.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] without queries, keys or cells; [`Error::TooManyKeys`] and [`Error::TooManyRuns`] for what is out
    /// of proportion.
    pub fn new(mask: &Mask, n_q: usize, n_k: usize, offset: i64, most: [usize; 2]) -> Result<Self, Error> {
        if [n_q, n_k, most[0], most[1]].contains(&0) {
            return Err(Error::Empty { n_q, n_k });
        }
        if n_k > MAX_KEYS {
            return Err(Error::TooManyKeys { n_k });
        }
        let too_many = Error::TooManyRuns { n_q, n_k };
        if n_q > MAX_RUNS || mask.max_runs(n_k) > MAX_RUNS_OF_A_ROW {
            return Err(too_many);
        }
        let cell = [n_q.div_ceil(most[0]), n_k.div_ceil(most[1])];
        let columns = n_k.div_ceil(cell[1]);
        let mut grid = Self { size: [n_q, n_k], cell, live: vec![0; n_q.div_ceil(cell[0]) * columns], runs: 0 };
        let mut runs = Runs::new();
        let mut changes = vec![0; columns];
        for (row, live) in grid.live.chunks_exact_mut(columns).enumerate() {
            changes.fill(0);
            for i in row * cell[0]..n_q.min((row + 1) * cell[0]) {
                mask.runs(offset.saturating_add_unsigned(i as u64), n_k, &mut runs);
                grid.runs += runs.as_slice().len() as u64;
                if grid.runs > MAX_RUNS as u64 {
                    return Err(too_many);
                }
                runs.as_slice().iter().for_each(|run| count(run, cell[1], live, &mut changes));
            }
            let mut whole = 0;
            for (live, change) in live.iter_mut().zip(&changes) {
                whole += change;
                *live += whole as u64 * cell[1] as u64;
            }
        }
        Ok(grid)
    }

    /// Cells down.
    pub fn rows(&self) -> usize {
        self.size[0].div_ceil(self.cell[0])
    }

    /// Cells across.
    pub fn columns(&self) -> usize {
        self.size[1].div_ceil(self.cell[1])
    }

    /// Queries and keys of a cell; the last ones may have fewer.
    pub fn cell(&self) -> [usize; 2] {
        self.cell
    }

    /// How many pairs of a cell live.
    ///
    /// # Panics
    ///
    /// When there is no such cell.
    pub fn live(&self, row: usize, column: usize) -> u64 {
        assert!(column < self.columns(), "column {column} of {}", self.columns());
        self.live[row * self.columns() + column]
    }

    /// How many pairs a cell has.
    ///
    /// # Panics
    ///
    /// When there is no such cell.
    pub fn pairs(&self, row: usize, column: usize) -> u64 {
        let extent = |axis: usize, at: usize| {
            let start = at * self.cell[axis];
            assert!(start < self.size[axis], "cell ({row}, {column}) of {} × {}", self.rows(), self.columns());
            (self.size[axis] - start).min(self.cell[axis]) as u64
        };
        extent(0, row) * extent(1, column)
    }

    /// How many pairs live in all.
    pub fn live_pairs(&self) -> u64 {
        self.live.iter().sum()
    }

    /// The share of all pairs that live, 0 to 1.
    pub fn density(&self) -> f64 {
        self.live_pairs() as f64 / (self.size[0] as f64 * self.size[1] as f64)
    }

    /// How many runs of keys the queries have in all.
    pub fn runs(&self) -> u64 {
        self.runs
    }
}

/// Adds the keys of a run to the columns of `width` keys. The ends are counted; of the columns between, which it holds
/// whole, only the first and the one after the last are noted.
fn count(run: &Range<usize>, width: usize, live: &mut [u64], changes: &mut [i64]) {
    let [first, last] = [run.start / width, (run.end - 1) / width];
    if first == last {
        live[first] += run.len() as u64;
        return;
    }
    live[first] += ((first + 1) * width - run.start) as u64;
    live[last] += (run.end - last * width) as u64;
    changes[first + 1] += 1;
    changes[last] -= 1;
}

impl fmt::Display for Grid {
    /// Draws the grid, one line per row and one character per cell: `█` where all pairs live, `·` where none does, and
    /// `░`, `▒`, `▓` for each third between.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in 0..self.rows() {
            for column in 0..self.columns() {
                let [live, pairs] = [self.live(row, column), self.pairs(row, column)];
                let glyph = match live {
                    0 => '·',
                    live if live == pairs => '█',
                    live => ['░', '▒', '▓'][(u128::from(live) * 3 / u128::from(pairs)) as usize],
                };
                fmt::Write::write_char(f, glyph)?;
            }
            f.write_str("\n")?;
        }
        Ok(())
    }
}
