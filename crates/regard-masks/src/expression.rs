//! Masks as expressions.

use std::fmt;

use crate::Mask;
use crate::mask::Term;

/// How tightly an expression's outermost operation binds, in Rust's order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Or,
    And,
    Not,
}

/// What is left to be written.
enum Piece {
    /// The operand that ends with the term at this index, in parentheses unless it binds so tightly.
    Operand(usize, Binding),
    Text(&'static str),
}

impl fmt::Display for Mask {
    /// Writes the mask as an expression, with the operators of Rust and their precedence. Long lists are not
    /// written out. What is made of numbers alone, and written in full, is [read](std::str::FromStr) as the same expression.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = self.terms();
        let left = left_operands(terms);
        // A stack of pieces, as an expression may be deeper than the call stack.
        let mut pieces = vec![Piece::Operand(terms.len() - 1, Binding::Or)];
        while let Some(piece) = pieces.pop() {
            let (index, asked) = match piece {
                Piece::Operand(index, asked) => (index, asked),
                Piece::Text(text) => {
                    f.write_str(text)?;
                    continue;
                }
            };
            // Operations are grouped from the left, so the right operand has to bind more tightly.
            let (sign, binding, right) = match &terms[index] {
                Term::Set(set) => {
                    set.fmt(f)?;
                    continue;
                }
                Term::Not => {
                    f.write_str("!")?;
                    pieces.push(Piece::Operand(index - 1, Binding::Not));
                    continue;
                }
                Term::And => (" & ", Binding::And, Binding::Not),
                Term::Or => (" | ", Binding::Or, Binding::And),
            };
            if binding < asked {
                f.write_str("(")?;
                pieces.push(Piece::Text(")"));
            }
            pieces.extend([Piece::Operand(index - 1, right), Piece::Text(sign), Piece::Operand(left[index], binding)]);
        }
        Ok(())
    }
}

/// For each operation on two operands, where its left operand ends; the right one ends just before the operation.
fn left_operands(terms: &[Term]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut left = vec![0; terms.len()];
    for (index, term) in terms.iter().enumerate() {
        match term {
            Term::Set(_) => {}
            Term::Not => drop(ends.pop()),
            Term::And | Term::Or => {
                ends.pop();
                left[index] = ends.pop().expect("operands stand before their operation");
            }
        }
        ends.push(index);
    }
    left
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mask({self})")
    }
}
