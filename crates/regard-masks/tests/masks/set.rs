//! Masks as the oracle reads them, and shapes to ask them at.

use std::ops::Range;

use proptest::prelude::*;
use regard_masks::{Edges, Mask, TileShape};

/// The most keys and queries of a shape. An interpreter takes a microsecond for what a CPU does in one nanosecond.
const MOST_KEYS: usize = if cfg!(miri) { 130 } else { 330 };
const MOST_QUERIES: usize = if cfg!(miri) { 8 } else { 40 };

/// Columns of an array.
const MOST_COLUMNS: usize = if cfg!(miri) { 70 } else { 200 };

/// How deep an expression is, and how many sets it has.
const DEPTH: u32 = if cfg!(miri) { 2 } else { 4 };
const NODES: u32 = if cfg!(miri) { 4 } else { 24 };

/// An expression of sets of pairs.
#[derive(Clone, Debug)]
pub(crate) enum Set {
    Full,
    Causal,
    Window(Option<usize>, Option<usize>),
    Prefix(usize),
    GlobalKeys(Vec<usize>),
    GlobalQueries(Vec<usize>),
    Keys(Vec<bool>),
    BlockDiagonal(usize),
    Strided(usize),
    Random(f64, u64),
    EdgePairs(Vec<(usize, usize)>, Edges),
    /// The targets of each row.
    EdgeRows(Vec<Vec<usize>>, Edges),
    Blocks(usize, Grid),
    Dense(Grid),
    DenseAt(i64, Grid),
    Not(Box<Set>),
    And(Box<Set>, Box<Set>),
    Or(Box<Set>, Box<Set>),
    ByBatch(Vec<Set>),
    ByHead(Vec<Set>),
    /// One array for each batch entry and head, or for all of them, all of one shape.
    DenseArray {
        batch: usize,
        heads: usize,
        grids: Vec<Grid>,
    },
}

/// What varying sets of the tests tell apart.
pub(crate) const BATCH: usize = 2;
pub(crate) const HEADS: usize = 3;

/// An array `[rows, columns]`.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) kept: Vec<bool>,
}

impl Grid {
    fn holds(&self, row: i64, column: i64) -> bool {
        let inside = (0..self.rows as i64).contains(&row) && (0..self.columns as i64).contains(&column);
        inside && self.kept[row as usize * self.columns + column as usize]
    }
}

impl Set {
    /// The definitions of the primitives and of the set operations, word for word.
    pub(crate) fn holds(&self, p: i64, j: usize, n_k: usize) -> bool {
        self.holds_in((0, 0), p, j, n_k)
    }

    /// The same for a batch entry and a head.
    pub(crate) fn holds_in(&self, (batch, head): (usize, usize), p: i64, j: usize, n_k: usize) -> bool {
        let key = j as i64;
        let holds = |set: &Set| set.holds_in((batch, head), p, j, n_k);
        match self {
            Set::Full => true,
            Set::Causal => key <= p,
            Set::Window(left, right) => {
                left.is_none_or(|left| p - left as i64 <= key) && right.is_none_or(|right| key <= p + right as i64)
            }
            Set::Prefix(n) => j < *n,
            Set::GlobalKeys(list) => list.contains(&j),
            Set::GlobalQueries(list) => list.iter().any(|&query| query as i64 == p),
            Set::Keys(kept) => kept.get(j) == Some(&true),
            Set::BlockDiagonal(size) => p >= 0 && p / *size as i64 == key / *size as i64,
            Set::Strided(step) => key % *step as i64 == 0,
            // What is drawn has no other definition. That it is drawn as promised is a test of its own.
            Set::Random(density, seed) => Mask::random(*density, *seed).unwrap().allows(p, j, n_k),
            Set::EdgePairs(pairs, edges) => {
                let edge = |p, j| pairs.iter().any(|&pair| (pair.0 as i64, pair.1 as i64) == (p, j));
                edge(p, key) || (*edges == Edges::Symmetric && edge(key, p))
            }
            Set::EdgeRows(rows, edges) => {
                let edge =
                    |p: i64, j: i64| p >= 0 && rows.get(p as usize).is_some_and(|row| row.contains(&(j as usize)));
                edge(p, key) || (*edges == Edges::Symmetric && p >= 0 && edge(key, p))
            }
            Set::Blocks(size, grid) => grid.holds(p.div_euclid(*size as i64), key / *size as i64),
            Set::Dense(grid) => grid.holds(p - (grid.columns as i64 - grid.rows as i64), key),
            Set::DenseAt(first, grid) => grid.holds(p - first, key),
            Set::Not(a) => !holds(a),
            Set::And(a, b) => holds(a) && holds(b),
            Set::Or(a, b) => holds(a) || holds(b),
            Set::ByBatch(sets) => holds(&sets[batch % sets.len()]),
            Set::ByHead(sets) => holds(&sets[head % sets.len()]),
            Set::DenseArray { batch: entries, heads, grids } => {
                let grid = &grids[batch % entries * heads + head % heads];
                grid.holds(p - (grid.columns as i64 - grid.rows as i64), key)
            }
        }
    }

    pub(crate) fn mask(&self) -> Mask {
        match self {
            Set::Full => Mask::full(),
            Set::Causal => Mask::causal(),
            Set::Window(left, right) => Mask::window(*left, *right),
            Set::Prefix(n) => Mask::prefix(*n),
            Set::GlobalKeys(list) => Mask::global_keys(list.iter().copied()),
            Set::GlobalQueries(list) => Mask::global_queries(list.iter().copied()),
            Set::Keys(kept) => Mask::keys(kept),
            Set::BlockDiagonal(size) => Mask::block_diagonal(*size).unwrap(),
            Set::Strided(step) => Mask::strided(*step).unwrap(),
            Set::Random(density, seed) => Mask::random(*density, *seed).unwrap(),
            Set::EdgePairs(pairs, edges) => Mask::edge_pairs(pairs.iter().copied(), *edges).unwrap(),
            Set::EdgeRows(rows, edges) => {
                let mut offsets = vec![0];
                offsets.extend(rows.iter().scan(0, |end, row| {
                    *end += row.len();
                    Some(*end)
                }));
                Mask::edges(&offsets, &rows.concat(), *edges).unwrap()
            }
            Set::Blocks(size, grid) => Mask::blocks(*size, grid.rows, grid.columns, &grid.kept).unwrap(),
            Set::Dense(grid) => Mask::dense(grid.rows, grid.columns, &grid.kept).unwrap(),
            Set::DenseAt(first, grid) => Mask::dense_at(*first, grid.rows, grid.columns, &grid.kept).unwrap(),
            Set::Not(a) => !a.mask(),
            Set::And(a, b) => a.mask() & b.mask(),
            Set::Or(a, b) => a.mask() | b.mask(),
            Set::ByBatch(sets) => Mask::by_batch(sets.iter().map(Set::mask)).unwrap(),
            Set::ByHead(sets) => Mask::by_head(sets.iter().map(Set::mask)).unwrap(),
            Set::DenseArray { batch, heads, grids } => {
                let kept: Vec<bool> = grids.iter().flat_map(|grid| grid.kept.iter().copied()).collect();
                Mask::dense_array([*batch, *heads, grids[0].rows, grids[0].columns], &kept).unwrap()
            }
        }
    }
}

/// Arrays of up to so many rows and columns; often several rows are the same, and some are empty.
fn grids(rows: Range<usize>, columns: Range<usize>) -> impl Strategy<Value = Grid> {
    (rows, columns).prop_flat_map(|(rows, columns)| {
        let row = prop::collection::vec(prop::bool::weighted(0.4), columns);
        let distinct = prop::collection::vec(row, 1..4).prop_map(move |mut rows| {
            rows.push(vec![false; columns]);
            rows
        });
        (distinct, prop::collection::vec(any::<prop::sample::Index>(), rows)).prop_map(move |(distinct, order)| Grid {
            rows,
            columns,
            kept: order.iter().flat_map(|row| row.get(&distinct).clone()).collect(),
        })
    })
}

/// Sets that are given as data.
fn tables() -> impl Strategy<Value = Set> {
    let edges = || prop_oneof![Just(Edges::Directed), Just(Edges::Symmetric)];
    let index = || 0..260_usize;
    let rows = prop::collection::vec(prop::collection::vec(index(), 0..6), 0..40);
    prop_oneof![
        prop::collection::vec(index(), 0..12).prop_map(Set::GlobalKeys),
        prop::collection::vec(index(), 0..12).prop_map(Set::GlobalQueries),
        prop::collection::vec(any::<bool>(), 0..260).prop_map(Set::Keys),
        (prop::collection::vec((0..40_usize, index()), 0..90), edges())
            .prop_map(|(list, edges)| Set::EdgePairs(list, edges)),
        (rows, edges()).prop_map(|(rows, edges)| Set::EdgeRows(rows, edges)),
        (1..70_usize, grids(0..6, 0..6)).prop_map(|(size, grid)| Set::Blocks(size, grid)),
        grids(0..30, 0..MOST_COLUMNS).prop_map(Set::Dense),
        (-40..90_i64, grids(0..30, 0..MOST_COLUMNS)).prop_map(|(first, grid)| Set::DenseAt(first, grid)),
    ]
}

/// Sets that are given as numbers.
fn formulas() -> impl Strategy<Value = Set> {
    let distance = || prop_oneof![1 => Just(None), 4 => (0..90_usize).prop_map(Some)];
    prop_oneof![
        1 => Just(Set::Full),
        2 => Just(Set::Causal),
        4 => (distance(), distance()).prop_map(|(left, right)| Set::Window(left, right)),
        2 => (0..260_usize).prop_map(Set::Prefix),
        2 => (1..90_usize).prop_map(Set::BlockDiagonal),
        2 => (1..90_usize).prop_map(Set::Strided),
        // Each pair of it draws a row.
        u32::from(!cfg!(miri)) => (0.0..=1.0, any::<u64>()).prop_map(|(density, seed)| Set::Random(density, seed)),
    ]
}

pub(crate) fn sets() -> impl Strategy<Value = Set> {
    prop_oneof![3 => formulas(), 1 => tables()].prop_recursive(DEPTH, NODES, 2, |set| {
        prop_oneof![
            set.clone().prop_map(|a| Set::Not(Box::new(a))),
            (set.clone(), set.clone()).prop_map(|(a, b)| Set::And(Box::new(a), Box::new(b))),
            (set.clone(), set).prop_map(|(a, b)| Set::Or(Box::new(a), Box::new(b))),
        ]
    })
}

/// Sets that may differ by batch entry, of which there are [`BATCH`], and by head, of which there are [`HEADS`].
pub(crate) fn varying_sets() -> impl Strategy<Value = Set> {
    let cells = BATCH * HEADS * 12 * 70;
    let arrays = (0..12_usize, 0..70_usize, any::<(bool, bool)>(), prop::collection::vec(any::<bool>(), cells));
    let arrays = arrays.prop_map(|(rows, columns, (by_batch, by_head), kept)| {
        let (batch, heads) = (if by_batch { BATCH } else { 1 }, if by_head { HEADS } else { 1 });
        let grid = |at: usize| Grid { rows, columns, kept: kept[at * rows * columns..][..rows * columns].to_vec() };
        Set::DenseArray { batch, heads, grids: (0..batch * heads).map(grid).collect() }
    });
    prop_oneof![4 => formulas(), 1 => tables(), 1 => arrays].prop_recursive(DEPTH, NODES, 3, |set| {
        let two = (set.clone(), set.clone());
        prop_oneof![
            1 => set.clone().prop_map(|a| Set::Not(Box::new(a))),
            1 => two.clone().prop_map(|(a, b)| Set::And(Box::new(a), Box::new(b))),
            1 => two.prop_map(|(a, b)| Set::Or(Box::new(a), Box::new(b))),
            2 => prop_oneof![3 => Just(BATCH), 1 => Just(1)]
                .prop_flat_map({
                    let set = set.clone();
                    move |count| prop::collection::vec(set.clone(), count)
                })
                .prop_map(Set::ByBatch),
            2 => prop_oneof![3 => Just(HEADS), 1 => Just(1)]
                .prop_flat_map(move |count| prop::collection::vec(set.clone(), count))
                .prop_map(Set::ByHead),
        ]
    })
}

/// Sets that are made of few numbers, and may vary like [`varying_sets`].
pub(crate) fn numbers() -> impl Strategy<Value = Set> {
    let list = || prop::collection::vec(0..260_usize, 0..12);
    let lists = prop_oneof![
        list().prop_map(Set::GlobalKeys),
        list().prop_map(Set::GlobalQueries),
        prop::collection::vec(any::<bool>(), 0..60).prop_map(Set::Keys),
    ];
    prop_oneof![3 => formulas(), 1 => lists].prop_recursive(DEPTH + 2, NODES + 16, 3, |set| {
        let two = (set.clone(), set.clone());
        prop_oneof![
            3 => set.clone().prop_map(|a| Set::Not(Box::new(a))),
            3 => two.clone().prop_map(|(a, b)| Set::And(Box::new(a), Box::new(b))),
            3 => two.prop_map(|(a, b)| Set::Or(Box::new(a), Box::new(b))),
            1 => prop::collection::vec(set.clone(), BATCH).prop_map(Set::ByBatch),
            1 => prop::collection::vec(set, HEADS).prop_map(Set::ByHead),
        ]
    })
}

/// Counts of keys, with what is odd about panels of 64 among them.
pub(crate) fn key_counts() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), Just(1), Just(63), Just(64), Just(65), Just(128), Just(129), 0..MOST_KEYS]
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) n_q: usize,
    pub(crate) n_k: usize,
    pub(crate) offset: i64,
    pub(crate) tile: TileShape,
}

prop_compose! {
    pub(crate) fn shapes()(
        n_q in prop_oneof![Just(0), Just(1), 0..MOST_QUERIES],
        n_k in key_counts(),
        offset in -150..350_i64,
        group in 1..=5_usize,
        rows in 1..=8_usize,
    ) -> Shape {
        Shape { n_q, n_k, offset, tile: TileShape { rows, group } }
    }
}

/// How many cases a property is checked on.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if cfg!(miri) { 1 } else { cases }) }
}
