//! Masks: sets of (position, key) pairs, and the set operations on them.

use std::borrow::Borrow;
use std::fmt;
use std::ops::{BitAnd, BitOr, Not};
use std::sync::Arc;

use crate::Runs;
use crate::primitive::Primitive;

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
/// assert!(mask.allows(9, 0) && mask.allows(9, 7) && mask.allows(9, 9));
/// assert!(!mask.allows(9, 5) && !mask.allows(9, 10));
/// assert_eq!(mask.to_string(), "causal & (prefix(4) | window(2, ∞))");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mask {
    /// The expression in postfix order. A tree would be walked and dropped by recursion, and a deep one would exhaust
    /// the call stack; this one is walked with a stack of its own.
    terms: Arc<Vec<Term>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Term {
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

    /// Whether the query at position `p` sees key `j`: the definition of the mask.
    pub fn allows(&self, p: i64, j: usize) -> bool {
        self.evaluate(|set| set.allows(p, j), |a| !a, |a, b| a & b, |a, b| a | b)
    }

    /// Fills `runs` with the keys of `0..n_k` that the query at position `p` sees, as sorted, disjoint and maximal
    /// intervals.
    ///
    /// Allocates nothing once the capacity of `runs` has grown to the mask's need.
    ///
    /// ```
    /// use regard_masks::{Mask, Runs};
    ///
    /// let mut runs = Runs::new();
    /// (Mask::prefix(2) | Mask::window(Some(1), Some(1))).runs(6, 10, &mut runs);
    /// assert_eq!(runs.as_slice(), [0..2, 5..8]);
    /// ```
    pub fn runs(&self, p: i64, n_k: usize, runs: &mut Runs) {
        runs.clear();
        self.push_runs(p, n_k, runs);
    }

    /// Like [`runs`](Self::runs), as one more list on top of those already there.
    pub(crate) fn push_runs(&self, p: i64, n_k: usize, runs: &mut Runs) {
        for term in self.terms.iter() {
            match term {
                Term::Set(set) => {
                    runs.open();
                    set.push_runs(p, n_k, runs);
                }
                Term::Not => runs.complement(n_k),
                Term::And => runs.intersect(),
                Term::Or => runs.unite(),
            }
        }
    }

    /// The most runs that any row of the mask can have.
    pub fn max_runs(&self) -> usize {
        self.evaluate(Primitive::max_runs, |a| a.saturating_add(1), usize::saturating_add, usize::saturating_add)
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
        Self { terms: Arc::new(vec![Term::Set(primitive)]) }
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

/// How tightly an expression's outermost operation binds, in Rust's order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Or,
    And,
    Atom,
}

/// `text`, in parentheses where it binds less tightly than its surroundings ask.
fn enclose((text, binding): (String, Binding), asked: Binding) -> String {
    if binding < asked { format!("({text})") } else { text }
}

impl fmt::Display for Mask {
    /// Writes the mask as an expression, with the operators of Rust and their precedence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Binding::{And, Atom, Or};
        let (text, _) = self.evaluate(
            |set| (set.to_string(), Atom),
            |a| (format!("!{}", enclose(a, Atom)), Atom),
            |a, b| (format!("{} & {}", enclose(a, And), enclose(b, And)), And),
            |a, b| (format!("{} | {}", enclose(a, Or), enclose(b, Or)), Or),
        );
        f.write_str(&text)
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mask({self})")
    }
}
