//! Tables: masks that are given row by row, as an array, a list of blocks or the edges of a graph.

use std::fmt;
use std::ops::Range;

use crate::Error;
use crate::edge::{Hold, Run};
use crate::indices::push_flagged;
use crate::primitive::Row;
use crate::stack::Stack;

/// Rows of pairs. Equal rows that follow one another are held once, and rows without pairs not at all: the size is
/// that of the runs that differ from row to row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Table {
    source: Source,
    /// The position of row 0.
    first: i64,
    /// Queries and keys of a cell: 1, or the size of a block.
    cell: usize,
    bands: Vec<Band>,
    /// The runs of all bands, each from its first column to before its end.
    runs: Vec<[u32; 2]>,
    /// The most runs of a row, at least 1.
    most_runs: usize,
}

/// What a table was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    Edges { pairs: usize },
    Blocks { rows: usize, columns: usize },
    Dense { rows: usize, columns: usize },
}

/// Rows that are equal and not empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Band {
    rows: Range<usize>,
    /// Where its runs end; they begin where those of the band before it end.
    end: usize,
}

/// Whether an edge of a graph is taken in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Edges {
    /// As given: query `p` sees key `j`.
    Directed,
    /// In both directions: query `j` sees key `p`, too.
    Symmetric,
}

impl Table {
    fn new(source: Source, first: i64, cell: usize) -> Self {
        Self { source, first, cell, bands: Vec::new(), runs: Vec::new(), most_runs: 1 }
    }

    /// The edges of a graph, as pairs in any order.
    pub(crate) fn of_edges(mut pairs: Vec<(usize, usize)>, edges: Edges) -> Result<Self, Error> {
        if edges == Edges::Symmetric {
            pairs.extend_from_within(..);
            let half = pairs.len() / 2;
            pairs[half..].iter_mut().for_each(|(p, j)| std::mem::swap(p, j));
        }
        pairs.sort_unstable();
        pairs.dedup();
        let mut table = Self::new(Source::Edges { pairs: pairs.len() }, 0, 1);
        for row in pairs.chunk_by(|a, b| a.0 == b.0) {
            let start = table.runs.len();
            for &(p, j) in row {
                let key = u32::try_from(j).ok().filter(|&key| key < u32::MAX).ok_or_else(|| Error::Primitive {
                    primitive: "edges",
                    has: format!("the pair ({p}, {j})"),
                    expected: "keys below 2³² − 1".into(),
                })?;
                match table.runs[start..].last_mut() {
                    Some(last) if last[1] == key => last[1] += 1,
                    _ => table.runs.push([key, key + 1]),
                }
            }
            table.close(row[0].0, start);
        }
        Ok(table.shrunk())
    }

    /// Rows of cells that are kept or not, `[rows, columns]`.
    fn fill(mut self, columns: usize, kept: &[bool]) -> Self {
        for (row, cells) in kept.chunks(columns.max(1)).enumerate() {
            let start = self.runs.len();
            push_flagged(cells, |run| self.runs.push([run.start as u32, run.end as u32]));
            self.close(row, start);
        }
        self.shrunk()
    }

    /// An array `[rows, columns]` whose first row stands at position `first`.
    pub(crate) fn of_dense(first: i64, rows: usize, columns: usize, kept: &[bool]) -> Result<Self, Error> {
        check("dense", rows, columns, kept.len())?;
        Ok(Self::new(Source::Dense { rows, columns }, first, 1).fill(columns, kept))
    }

    /// An array `[rows, columns]` of square blocks.
    pub(crate) fn of_blocks(size: usize, rows: usize, columns: usize, kept: &[bool]) -> Result<Self, Error> {
        if size == 0 {
            return Err(Error::Primitive {
                primitive: "blocks",
                has: "size 0".into(),
                expected: "a size of at least 1".into(),
            });
        }
        check("blocks", rows, columns, kept.len())?;
        Ok(Self::new(Source::Blocks { rows, columns }, 0, size).fill(columns, kept))
    }

    /// Ends the row whose runs were pushed from `start` on.
    fn close(&mut self, row: usize, start: usize) {
        let end = self.runs.len();
        if start == end {
            return;
        }
        let from = self.bands.len().checked_sub(2).map_or(0, |before| self.bands[before].end);
        match self.bands.last_mut() {
            Some(last) if last.rows.end == row && self.runs[from..start] == self.runs[start..] => {
                last.rows.end += 1;
                self.runs.truncate(start);
            }
            _ => {
                self.bands.push(Band { rows: row..row.saturating_add(1), end });
                self.most_runs = self.most_runs.max(end - start);
            }
        }
    }

    fn shrunk(mut self) -> Self {
        self.bands.shrink_to_fit();
        self.runs.shrink_to_fit();
        self
    }

    /// The runs of the row at position `p`, in cells, and for how many rows after it they are the same.
    fn row(&self, p: i64) -> (&[[u32; 2]], usize) {
        let from_first = i128::from(p) - i128::from(self.first);
        let row = from_first.div_euclid(self.cell as i128);
        let at = self.bands.partition_point(|band| band.rows.end as i128 <= row);
        let Some(band) = self.bands.get(at) else { return (&[], usize::MAX) };
        let until = |row: usize| row as i128 * self.cell as i128 - from_first - 1;
        let (runs, hold) = if row < band.rows.start as i128 {
            (0..0, until(band.rows.start))
        } else {
            let start = at.checked_sub(1).map_or(0, |before| self.bands[before].end);
            (start..band.end, until(band.rows.end))
        };
        (&self.runs[runs], usize::try_from(hold).unwrap_or(usize::MAX))
    }

    /// The keys of a run of cells.
    fn keys(&self, [start, end]: [u32; 2]) -> Range<usize> {
        (start as usize).saturating_mul(self.cell)..(end as usize).saturating_mul(self.cell)
    }

    pub(crate) fn allows(&self, p: i64, j: usize) -> bool {
        let (runs, _) = self.row(p);
        let at = runs.partition_point(|&run| self.keys(run).end <= j);
        runs.get(at).is_some_and(|&run| self.keys(run).start <= j)
    }

    pub(crate) fn hull(&self, row: Row, hold: &mut Hold) -> Run {
        let (runs, rows) = self.row(row.p);
        hold.at_most(rows);
        match runs {
            [] => Run::still(0, 0),
            [first, ..] => Run::still(self.keys(*first).start, self.keys(runs[runs.len() - 1]).end.min(row.n_k)),
        }
    }

    pub(crate) fn push_runs(&self, row: Row, limit: Run, stack: &mut Stack) {
        let (runs, _) = self.row(row.p);
        let from = runs.partition_point(|&run| self.keys(run).end <= limit.start.key);
        stack.push_within(limit, runs[from..].iter().map(|&run| self.keys(run)));
    }

    pub(crate) fn max_runs(&self) -> usize {
        self.most_runs
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&self.bands[..]) + size_of_val(&self.runs[..])
    }
}

/// An array of `rows × columns` has as many elements, and columns that can be numbered.
fn check(primitive: &'static str, rows: usize, columns: usize, has: usize) -> Result<(), Error> {
    let error = |has, expected| Err(Error::Primitive { primitive, has, expected });
    if columns >= u32::MAX as usize {
        return error(format!("{columns} columns"), "fewer than 2³² − 1".into());
    }
    if rows.checked_mul(columns) != Some(has) {
        return error(format!("{has} elements"), format!("{rows} × {columns}"));
    }
    Ok(())
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Source::Edges { pairs } => write!(f, "edges({pairs} pairs)"),
            Source::Blocks { rows, columns } => write!(f, "blocks({rows} × {columns} of {})", self.cell),
            Source::Dense { rows, columns } => write!(f, "dense({rows} × {columns} from {})", self.first),
        }
    }
}
