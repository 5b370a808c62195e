//! Masks: sets of (position, key) pairs, and the set operations on them.

use std::borrow::Borrow;
use std::ops::{BitAnd, BitOr, Not};
use std::sync::Arc;

use crate::indices::Indices;
use crate::primitive::{Primitive, Row};
use crate::random::Random;
use crate::shared::Shared;
use crate::table::Table;
use crate::{Edges, Error};

/// A set of pairs `(p, j)`: the query at position `p` sees the key `j`.
///
/// A mask is built from primitives and combined with `|` (union), `&` (intersection) and `!` (complement). It is a
/// small value: cloning it copies a pointer. It knows nothing of how many queries and keys there are; these belong to
/// the call.
///
/// [`allows`](Self::allows) is its definition. Everything else that a mask or a layout answers follows from it.
///
/// Two masks are equal when they are the same expression. Different expressions may be the same set.
///
/// ```
/// use regard_masks::Mask;
///
/// // The first four keys always, and the last three up to one's own.
/// let mask = Mask::causal() & (Mask::prefix(4) | Mask::window(Some(2), None));
/// let allows = |p, j| mask.allows(p, j, 12);
/// assert!(allows(9, 0) && allows(9, 7) && allows(9, 9));
/// assert!(!allows(9, 5) && !allows(9, 10));
/// assert_eq!(mask.to_string(), "causal & (prefix(4) | window(2, ∞))");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mask {
    /// The expression in postfix order. A tree would be walked and dropped by recursion, and a deep one would exhaust
    /// the call stack; this one is walked with a stack of its own.
    terms: Arc<Vec<Term>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Term {
    Set(Primitive),
    Not,
    And,
    Or,
}

impl Mask {
    /// Every pair.
    pub fn full() -> Self {
        Primitive::Full.into()
    }

    /// The keys up to the query's own position: `j ≤ p`.
    pub fn causal() -> Self {
        Primitive::Causal.into()
    }

    /// The keys around the query's position: `p − left ≤ j ≤ p + right`, both inclusive; `None` is unbounded.
    ///
    /// A "sliding window of W", as model files say it, is `Mask::window(Some(W - 1), Some(0))`.
    pub fn window(left: Option<usize>, right: Option<usize>) -> Self {
        Primitive::Window { left, right }.into()
    }

    /// The first `n` keys: `j < n`.
    pub fn prefix(n: usize) -> Self {
        Primitive::Prefix(n).into()
    }

    /// The keys of a list, for every query: `j` in `indices`. Numbers may come in any order and more than once.
    pub fn global_keys(indices: impl IntoIterator<Item = usize>) -> Self {
        Primitive::GlobalKeys(Shared::new(Indices::of_list(indices))).into()
    }

    /// Every key, for the queries of a list: `p` in `indices`. Numbers may come in any order and more than once.
    pub fn global_queries(indices: impl IntoIterator<Item = usize>) -> Self {
        Primitive::GlobalQueries(Shared::new(Indices::of_list(indices))).into()
    }

    /// The keys that are kept: `j < kept.len()` and `kept[j]`. Keys that only fill up a batch, on any side, are left
    /// out so.
    pub fn keys(kept: &[bool]) -> Self {
        Primitive::Keys(Shared::new(Indices::of_flags(kept))).into()
    }

    /// The keys of the query's own block: `⌊p/size⌋ = ⌊j/size⌋`. A negative position is in no block.
    ///
    /// # Errors
    ///
    /// [`Error::Primitive`] for size 0.
    pub fn block_diagonal(size: usize) -> Result<Self, Error> {
        at_least_one("block_diagonal", "size", size).map(|size| Primitive::BlockDiagonal(size).into())
    }

    /// Every `step`-th key: `j ≡ 0 mod step`.
    ///
    /// # Errors
    ///
    /// [`Error::Primitive`] for step 0.
    pub fn strided(step: usize) -> Result<Self, Error> {
        at_least_one("strided", "step", step).map(|step| Primitive::Strided(step).into())
    }

    /// Keys drawn at random: of `n_k` keys each row keeps `round(density·n_k)` different ones, drawn by a generator that
    /// is keyed by `seed` and the row's position. The same numbers give the same keys, always and everywhere.
    ///
    /// # Errors
    ///
    /// [`Error::Primitive`] for a density that is not in 0 to 1.
    pub fn random(density: f64, seed: u64) -> Result<Self, Error> {
        Random::new(density, seed).map(|random| Primitive::Random(random).into())
    }

    /// The edges of a graph in compressed rows: query `p` sees the keys `targets[offsets[p]..offsets[p + 1]]`, which may
    /// come in any order and more than once. Queries beyond the rows see nothing.
    ///
    /// ```
    /// use regard_masks::{Edges, Mask};
    ///
    /// let graph = Mask::edges(&[0, 2, 2, 3], &[1, 3, 0], Edges::Directed)?;
    /// assert_eq!(graph.draw(3, 4, 0).to_string(), "\
    /// ·█·█
    /// ····
    /// █···
    /// ");
    /// # Ok::<(), regard_masks::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Primitive`] where offsets do not ascend from 0 to the number of targets, or a key is 2³² − 1 or more.
    pub fn edges(offsets: &[usize], targets: &[usize], edges: Edges) -> Result<Self, Error> {
        let whole = offsets.first() == Some(&0) && offsets.last() == Some(&targets.len());
        if !whole || !offsets.is_sorted() {
            return Err(Error::Primitive {
                primitive: "edges",
                has: format!("{} offsets for {} targets", offsets.len(), targets.len()),
                expected: format!("offsets that ascend from 0 to {}", targets.len()),
            });
        }
        let rows = offsets.windows(2).enumerate();
        let pairs = rows.flat_map(|(p, row)| targets[row[0]..row[1]].iter().map(move |&j| (p, j)));
        Self::edge_pairs(pairs, edges)
    }

    /// The edges of a graph as pairs `(p, j)`, in any order; a pair that comes again counts once.
    ///
    /// # Errors
    ///
    /// [`Error::Primitive`] where a key is 2³² − 1 or more.
    pub fn edge_pairs(pairs: impl IntoIterator<Item = (usize, usize)>, edges: Edges) -> Result<Self, Error> {
        Table::of_edges(pairs.into_iter().collect(), edges).map(Self::table)
    }

    /// Square blocks of `size` queries and keys, from an array `[rows, columns]` of those that are kept, row-major: the
    /// pair is in the set where block (`⌊p/size⌋`, `⌊j/size⌋`) is kept. Blocks beyond the array are not.
    ///
    /// # Errors
    ///
    /// [`Error::Primitive`] for size 0, and where the array has not `rows·columns` elements or 2³² − 1 columns or more.
    pub fn blocks(size: usize, rows: usize, columns: usize, kept: &[bool]) -> Result<Self, Error> {
        Table::of_blocks(size, rows, columns, kept).map(Self::table)
    }

    /// An array `[n_q, n_k]` of the pairs that are kept, row-major, with the last query at the last key: row `i` is
    /// position `i + n_k − n_q`. Pairs beyond the array are not in the set.
    ///
    /// # Errors
    ///
    /// [`Error::Primitive`] where the array has not `n_q·n_k` elements, or 2³² − 1 columns or more.
    pub fn dense(n_q: usize, n_k: usize, kept: &[bool]) -> Result<Self, Error> {
        Self::dense_at(bottom_right(n_q, n_k), n_q, n_k, kept)
    }

    /// Like [`dense`](Self::dense), with row `i` at position `first + i`.
    ///
    /// # Errors
    ///
    /// Those of [`dense`](Self::dense).
    pub fn dense_at(first: i64, n_q: usize, n_k: usize, kept: &[bool]) -> Result<Self, Error> {
        Table::of_dense(first, n_q, n_k, kept).map(Self::table)
    }

    fn table(table: Table) -> Self {
        Primitive::Table(Shared::new(table)).into()
    }

    /// Whether the query at position `p` sees key `j` of the keys `0..n_k`: the definition of the mask.
    ///
    /// A mask that varies answers for batch entry 0 and head 0, here and wherever none is [selected](Self::select).
    pub fn allows(&self, p: i64, j: usize, n_k: usize) -> bool {
        let row = Row { p, n_k };
        j < n_k && self.evaluate(|set| set.allows(row, j), |a| !a, |a, b| a & b, |a, b| a | b)
    }

    /// The most runs that a row of the mask can have among `n_k` keys or fewer.
    pub fn max_runs(&self, n_k: usize) -> usize {
        let sum = usize::saturating_add;
        self.evaluate(|set| set.max_runs(n_k), |a| a.saturating_add(1), sum, sum)
    }

    /// Bytes that the mask keeps alive, some of which it may share with others.
    pub(crate) fn bytes(&self) -> usize {
        self.terms.iter().fold(size_of_val(self.terms()), |sum, term| match term {
            Term::Set(set) => sum.saturating_add(set.bytes()),
            Term::Not | Term::And | Term::Or => sum,
        })
    }

    pub(crate) fn of_terms(terms: Vec<Term>) -> Self {
        Self { terms: Arc::new(terms) }
    }

    /// The expression in postfix order.
    pub(crate) fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The value of the expression, given the values of its sets and the meaning of its operations.
    fn evaluate<T>(
        &self,
        set: impl Fn(&Primitive) -> T,
        not: impl Fn(T) -> T,
        and: impl Fn(T, T) -> T,
        or: impl Fn(T, T) -> T,
    ) -> T {
        const POSTFIX: &str = "operands stand before their operation";
        let mut stack = Vec::new();
        for term in self.terms.iter() {
            let mut operand = || stack.pop().expect(POSTFIX);
            let value = match term {
                Term::Set(primitive) => set(primitive),
                Term::Not => not(operand()),
                Term::And => {
                    let right = operand();
                    and(operand(), right)
                }
                Term::Or => {
                    let right = operand();
                    or(operand(), right)
                }
            };
            stack.push(value);
        }
        stack.pop().expect(POSTFIX)
    }

    /// Appends the terms of an operand and an operation; in place where nobody else holds this expression.
    fn append(mut self, operand: &[Term], operation: Term) -> Self {
        let terms = Arc::make_mut(&mut self.terms);
        terms.extend_from_slice(operand);
        terms.push(operation);
        self
    }
}

impl From<Primitive> for Mask {
    fn from(primitive: Primitive) -> Self {
        Self::of_terms(vec![Term::Set(primitive)])
    }
}

impl<R: Borrow<Mask>> BitAnd<R> for Mask {
    type Output = Self;

    /// The pairs that are in both.
    fn bitand(self, rhs: R) -> Self {
        self.append(&rhs.borrow().terms, Term::And)
    }
}

impl<R: Borrow<Mask>> BitOr<R> for Mask {
    type Output = Self;

    /// The pairs that are in either.
    fn bitor(self, rhs: R) -> Self {
        self.append(&rhs.borrow().terms, Term::Or)
    }
}

impl Not for Mask {
    type Output = Self;

    /// The pairs that are not in the mask.
    fn not(self) -> Self {
        self.append(&[], Term::Not)
    }
}

impl<R: Borrow<Mask>> BitAnd<R> for &Mask {
    type Output = Mask;

    fn bitand(self, rhs: R) -> Mask {
        self.clone() & rhs
    }
}

impl<R: Borrow<Mask>> BitOr<R> for &Mask {
    type Output = Mask;

    fn bitor(self, rhs: R) -> Mask {
        self.clone() | rhs
    }
}

impl Not for &Mask {
    type Output = Mask;

    fn not(self) -> Mask {
        !self.clone()
    }
}

/// `number`, unless it is 0.
fn at_least_one(primitive: &'static str, name: &str, number: usize) -> Result<usize, Error> {
    match number {
        0 => Err(Error::Primitive { primitive, has: format!("{name} 0"), expected: format!("a {name} of at least 1") }),
        _ => Ok(number),
    }
}

/// The position of the first of `n_q` queries, of which the last stands at the last of `n_k` keys.
pub(crate) fn bottom_right(n_q: usize, n_k: usize) -> i64 {
    (n_k as i128 - n_q as i128).clamp(i64::MIN.into(), i64::MAX.into()) as i64
}
