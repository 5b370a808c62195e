//! Masks as sets of pairs, each primitive by its definition.

use std::collections::BTreeSet;
use std::ops::{BitAnd, BitOr, Not};

/// An expression of sets of pairs `(p, j)`: the query at position `p` of a sequence sees its key `j`. It may differ by batch
/// entry and by query head.
///
/// What an array or a list does not reach is not in the set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Set {
    /// Every pair.
    #[default]
    Full,
    /// `j ≤ p`.
    Causal,
    /// `p − left ≤ j ≤ p + right`; `None` is unbounded.
    Window(Option<usize>, Option<usize>),
    /// `j < n`.
    Prefix(usize),
    /// `j` is in the list, whose order does not matter and which may repeat itself.
    GlobalKeys(Vec<usize>),
    /// `p` is in the list, whose order does not matter and which may repeat itself.
    GlobalQueries(Vec<usize>),
    /// `j` is marked.
    KeySet(Vec<bool>),
    /// `⌊p/size⌋ = ⌊j/size⌋`.
    BlockDiagonal(usize),
    /// `j ≡ 0 mod step`.
    Strided(usize),
    /// `(p, j)` is an edge of a graph; where it is symmetric, `(j, p)` will do as well.
    Edges {
        /// From query to key.
        edges: BTreeSet<(usize, usize)>,
        /// Whether edges lead both ways.
        symmetric: bool,
    },
    /// `(⌊p/rows⌋, ⌊j/columns⌋)` is in the list.
    Blocks {
        /// Positions of a block.
        rows: usize,
        /// Keys of a block.
        columns: usize,
        /// Row and column of each block, counted in blocks.
        blocks: BTreeSet<(usize, usize)>,
    },
    /// Row `p`, column `j` of an array is true.
    Dense {
        /// Keys of a row.
        columns: usize,
        /// `[positions, columns]`.
        cells: Vec<bool>,
    },
    /// One set for each batch entry.
    ByBatch(Vec<Set>),
    /// One set for each query head.
    ByHead(Vec<Set>),
    /// What is not in it.
    Not(Box<Set>),
    /// What is in both.
    And(Box<Set>, Box<Set>),
    /// What is in either.
    Or(Box<Set>, Box<Set>),
}

impl Set {
    /// Whether the query at position `p` sees key `j`, in a batch entry and under a query head.
    pub fn holds(&self, batch: usize, head: usize, p: i64, j: usize) -> bool {
        let (at, key) = (i128::from(p), j as i128);
        // Lists and arrays have no rows of negative numbers.
        let row = usize::try_from(p).ok();
        match self {
            Set::Full => true,
            Set::Causal => key <= at,
            Set::Window(left, right) => {
                left.is_none_or(|left| at - left as i128 <= key) && right.is_none_or(|right| key <= at + right as i128)
            }
            Set::Prefix(n) => j < *n,
            Set::GlobalKeys(keys) => keys.contains(&j),
            Set::GlobalQueries(queries) => row.is_some_and(|row| queries.contains(&row)),
            Set::KeySet(marked) => marked.get(j) == Some(&true),
            Set::BlockDiagonal(size) => at.div_euclid(*size as i128) == key.div_euclid(*size as i128),
            Set::Strided(step) => j.is_multiple_of(*step),
            Set::Edges { edges, symmetric } => {
                row.is_some_and(|row| edges.contains(&(row, j)) || *symmetric && edges.contains(&(j, row)))
            }
            Set::Blocks { rows, columns, blocks } => row.is_some_and(|row| blocks.contains(&(row / rows, j / columns))),
            Set::Dense { columns, cells } => {
                j < *columns && row.is_some_and(|row| cells.chunks(*columns).nth(row).is_some_and(|cells| cells[j]))
            }
            Set::ByBatch(sets) => sets[batch].holds(batch, head, p, j),
            Set::ByHead(sets) => sets[head].holds(batch, head, p, j),
            Set::Not(a) => !a.holds(batch, head, p, j),
            Set::And(a, b) => a.holds(batch, head, p, j) && b.holds(batch, head, p, j),
            Set::Or(a, b) => a.holds(batch, head, p, j) || b.holds(batch, head, p, j),
        }
    }

    /// The keys up to the query's own, and of these the last `window` before it.
    pub fn causal_window(window: usize) -> Set {
        Set::Causal & Set::Window(Some(window), None)
    }

    /// Whether the set differs by batch entry.
    pub fn differs_by_batch(&self) -> bool {
        self.any(&|set| matches!(set, Set::ByBatch(_)))
    }

    /// Whether the set differs by query head.
    pub fn differs_by_head(&self) -> bool {
        self.any(&|set| matches!(set, Set::ByHead(_)))
    }

    fn any(&self, is: &dyn Fn(&Set) -> bool) -> bool {
        let within = match self {
            Set::ByBatch(sets) | Set::ByHead(sets) => sets.iter().any(|set| set.any(is)),
            Set::Not(a) => a.any(is),
            Set::And(a, b) | Set::Or(a, b) => a.any(is) || b.any(is),
            _ => false,
        };
        is(self) || within
    }
}

impl BitAnd for Set {
    type Output = Set;

    fn bitand(self, other: Set) -> Set {
        Set::And(Box::new(self), Box::new(other))
    }
}

impl BitOr for Set {
    type Output = Set;

    fn bitor(self, other: Set) -> Set {
        Set::Or(Box::new(self), Box::new(other))
    }
}

impl Not for Set {
    type Output = Set;

    fn not(self) -> Set {
        Set::Not(Box::new(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positions −1 to 3 and keys 0 to 5, a row each.
    fn draw(set: &Set) -> [String; 5] {
        [-1, 0, 1, 2, 3].map(|p| (0..6).map(|j| if set.holds(1, 2, p, j) { '#' } else { '.' }).collect())
    }

    #[test]
    fn primitives() {
        let pairs = |pairs: &[(usize, usize)]| pairs.iter().copied().collect::<BTreeSet<_>>();
        let edges = |symmetric| Set::Edges { edges: pairs(&[(0, 3), (1, 1), (3, 5)]), symmetric };
        let none = "......";
        for (set, expected) in [
            (Set::Full, ["######"; 5]),
            (Set::Causal, [none, "#.....", "##....", "###...", "####.."]),
            (Set::Window(Some(1), Some(2)), ["##....", "###...", "####..", ".####.", "..####"]),
            (Set::Window(None, Some(0)), [none, "#.....", "##....", "###...", "####.."]),
            (Set::Window(Some(0), None), ["######", "######", ".#####", "..####", "...###"]),
            (Set::Window(Some(usize::MAX), Some(usize::MAX)), ["######"; 5]),
            (Set::Prefix(2), ["##...."; 5]),
            (Set::GlobalKeys(vec![4, 1, 4, 9]), [".#..#."; 5]),
            (Set::GlobalQueries(vec![2, 0]), [none, "######", none, "######", none]),
            (Set::KeySet(vec![true, false, true]), ["#.#..."; 5]),
            (Set::BlockDiagonal(2), [none, "##....", "##....", "..##..", "..##.."]),
            (Set::Strided(3), ["#..#.."; 5]),
            (edges(false), [none, "...#..", ".#....", none, ".....#"]),
            (edges(true), [none, "...#..", ".#....", none, "#....#"]),
            (
                Set::Blocks { rows: 3, columns: 2, blocks: pairs(&[(0, 2), (1, 0)]) },
                [none, "....##", "....##", "....##", "##...."],
            ),
            (
                Set::Dense { columns: 3, cells: [true, false, false, false, true, true].to_vec() },
                [none, "#.....", ".##...", none, none],
            ),
            (Set::Dense { columns: 0, cells: vec![] }, [none; 5]),
        ] {
            assert_eq!(draw(&set), expected, "{set:?}");
        }
    }

    #[test]
    fn expressions() {
        let (a, b) = (Set::Prefix(3), Set::Strided(2));
        for (set, row) in [
            (!a.clone(), "...###"),
            (a.clone() & b.clone(), "#.#..."),
            (a.clone() | b.clone(), "###.#."),
            (Set::ByBatch(vec![a.clone(), b.clone()]), "#.#.#."),
            (Set::ByHead(vec![b.clone(), b.clone(), a.clone()]), "###..."),
        ] {
            assert_eq!(draw(&set), [row; 5], "{set:?}");
        }
        let within = !(Set::ByHead(vec![a.clone()]) & b.clone());
        assert!(within.differs_by_head() && !within.differs_by_batch());
        assert!(Set::ByBatch(vec![a.clone() | within]).differs_by_head() && !(a | b).differs_by_head());
    }
}
