//! The rows of an expression.

use std::collections::TryReserveError;

use crate::edge::{Hold, Run};
use crate::mask::Term;
use crate::primitive::Row;
use crate::stack::Stack;
use crate::{Mask, Runs};

/// Lists of runs, one for each row that was evaluated, and the scratch of an evaluation.
#[derive(Clone, Debug)]
pub(crate) struct Evaluation {
    pub(crate) stack: Stack,
    /// For each term a run around its keys, and later the run within which its keys are asked for.
    limits: Vec<Run>,
    /// Those of the terms that wait for their operation.
    waiting: Vec<Run>,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self::new()
    }
}

impl Evaluation {
    pub(crate) const fn new() -> Self {
        Self { stack: Stack::new(), limits: Vec::new(), waiting: Vec::new() }
    }

    /// Makes room for the runs of `rows` rows of `mask`, or of what is selected from it, among up to `n_k` keys.
    pub(crate) fn try_reserve(&mut self, mask: &Mask, rows: usize, n_k: usize) -> Result<(), TryReserveError> {
        let terms = mask.max_terms();
        // Beside the rows there are the operands and the result of an operation, and none has more runs than a row.
        self.stack
            .try_reserve(rows.saturating_add(terms), rows.saturating_add(3).saturating_mul(mask.max_runs(n_k)))?;
        self.limits.try_reserve(terms.saturating_sub(self.limits.len()))?;
        self.waiting.try_reserve(terms.saturating_sub(self.waiting.len()))
    }

    /// Pushes the runs of a row of `mask` onto the stack. They hold, each end moving as it says, for as many rows after
    /// it as is returned.
    pub(crate) fn push_row(&mut self, mask: &Mask, row: Row) -> usize {
        self.stack.hold = Hold::FOREVER;
        // Positions are held at the end of their type, where nothing moves any more.
        self.stack.hold.at_most(usize::try_from(i64::MAX.saturating_sub(row.p)).unwrap_or(usize::MAX));
        self.push_within(mask, row, Run::still(0, row.n_k));
        self.stack.hold.rows()
    }

    /// Pushes what a row of `mask` keeps within `limit`.
    ///
    /// Where a window meets scattered keys, only those within the window are looked at: each term is evaluated within
    /// a run around the keys of all terms that it is a part of.
    fn push_within(&mut self, mask: &Mask, row: Row, limit: Run) {
        let terms = mask.terms();
        if let [Term::Set(set)] = terms {
            let hull = set.hull(row, &mut self.stack.hold);
            let limit = self.stack.hold.meet(hull, limit);
            self.stack.open();
            return set.push_runs(row, limit, &mut self.stack);
        }
        self.push_hulls(terms, row);
        self.cut_limits(terms, limit);
        for (term, &limit) in terms.iter().zip(&self.limits) {
            match term {
                Term::Set(set) => {
                    self.stack.open();
                    set.push_runs(row, limit, &mut self.stack);
                }
                Term::Not => self.stack.complement(limit),
                Term::And => self.stack.intersect(),
                Term::Or => self.stack.unite(),
            }
        }
    }

    /// Fills `limits` with a run around the keys of each term.
    fn push_hulls(&mut self, terms: &[Term], row: Row) {
        const POSTFIX: &str = "operands stand before their operation";
        let hold = &mut self.stack.hold;
        self.limits.clear();
        self.waiting.clear();
        for term in terms {
            let mut operand = || self.waiting.pop().expect(POSTFIX);
            let hull = match term {
                Term::Set(set) => set.hull(row, hold),
                Term::Not => {
                    operand();
                    Run::still(0, row.n_k)
                }
                Term::And => hold.meet(operand(), operand()),
                Term::Or => hold.join(operand(), operand()),
            };
            self.limits.push(hull);
            self.waiting.push(hull);
        }
    }

    /// Cuts the run around each term to those around the terms that it is a part of.
    fn cut_limits(&mut self, terms: &[Term], limit: Run) {
        self.waiting.clear();
        self.waiting.push(limit);
        for (term, hull) in terms.iter().zip(&mut self.limits).rev() {
            let limit = self.waiting.pop().expect("a term is a part of one other");
            *hull = self.stack.hold.meet(*hull, limit);
            match term {
                Term::Set(_) => {}
                Term::Not => self.waiting.push(*hull),
                Term::And | Term::Or => self.waiting.extend([*hull, *hull]),
            }
        }
    }
}

impl Mask {
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
        let Runs { runs, evaluation } = runs;
        evaluation.stack.clear();
        evaluation.push_row(self, Row { p, n_k });
        runs.clear();
        runs.extend(evaluation.stack.top().iter().map(|run| run.start.key..run.end.key));
    }
}
