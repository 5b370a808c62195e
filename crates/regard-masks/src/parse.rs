//! Masks from text.

use std::ops::Range;
use std::str::FromStr;

use crate::indices::Indices;
use crate::mask::Term;
use crate::primitive::Primitive;
use crate::shared::Shared;
use crate::vary::Axis;
use crate::{Error, Mask};

/// The longest text that is read, in bytes.
const MAX_BYTES: usize = 1 << 16;

impl FromStr for Mask {
    type Err = Error;

    /// Reads what [`Display`](std::fmt::Display) writes of masks that are made of numbers, with any blanks between its
    /// parts: `full`, `causal`, `window(left, right)` with `∞` or `inf` for what is unbounded, `prefix(n)`,
    /// `global_keys(…)`, `global_queries(…)` and `keys(…)` with numbers and intervals `a..b`, `block_diagonal(size)`,
    /// `strided(step)`, `random(density, seed)`, `by_batch(…)` and `by_head(…)`, under `|`, `&`, `!` and parentheses.
    ///
    /// ```
    /// use regard_masks::Mask;
    ///
    /// let mask: Mask = "causal & (window(511, inf) | prefix(4)) & !strided(8)".parse()?;
    /// assert_eq!(mask.to_string(), "causal & (window(511, ∞) | prefix(4)) & !strided(8)");
    /// let error = "causal & windw(3, 0)".parse::<Mask>().unwrap_err();
    /// assert_eq!(error.to_string(), "mask, at byte 9: `windw`; expected a mask, `!` or `(`");
    /// # Ok::<(), regard_masks::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Parse`] for anything else, and for a text of more than 65,536 bytes.
    fn from_str(text: &str) -> Result<Mask, Error> {
        if text.len() > MAX_BYTES {
            let has = format!("{} bytes", text.len());
            return Err(Error::Parse { at: 0, has, expected: format!("at most {MAX_BYTES}") });
        }
        Parser { text, at: 0, terms: Vec::new(), open: Vec::new() }.mask()
    }
}

/// An operation or a parenthesis that waits for what comes after it.
enum Open {
    Not,
    And,
    Or,
    Parenthesis,
    /// `by_batch(` or `by_head(`, with the masks that are complete and where the terms of the next begin.
    Vary {
        axis: Axis,
        at: usize,
        masks: Vec<Mask>,
        start: usize,
    },
}

/// Reads by operator precedence, with a stack of its own: text may nest deeper than the call stack.
struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// What was read, in postfix order.
    terms: Vec<Term>,
    open: Vec<Open>,
}

impl<'a> Parser<'a> {
    fn mask(mut self) -> Result<Mask, Error> {
        loop {
            self.operand()?;
            if self.operation()? {
                return Ok(Mask::of_terms(self.terms));
            }
        }
    }

    /// Reads what may stand before a set, and the set.
    fn operand(&mut self) -> Result<(), Error> {
        loop {
            if self.eat("!") {
                self.open.push(Open::Not);
            } else if self.eat("(") {
                self.open.push(Open::Parenthesis);
            } else {
                let at = self.at;
                let name = self.word();
                let axis = [Axis::Batch, Axis::Head].into_iter().find(|axis| axis.name() == name);
                let Some(axis) = axis else {
                    let mask = self.primitive(at, name)?;
                    self.terms.extend_from_slice(mask.terms());
                    return Ok(());
                };
                self.expect("(")?;
                self.open.push(Open::Vary { axis, at, masks: Vec::new(), start: self.terms.len() });
            }
        }
    }

    /// Reads what may stand after a set, up to where another one has to come; true at the end of the text.
    fn operation(&mut self) -> Result<bool, Error> {
        loop {
            if self.eat("&") {
                self.close(|open| matches!(open, Open::Not | Open::And));
                self.open.push(Open::And);
                return Ok(false);
            } else if self.eat("|") {
                self.close(|open| matches!(open, Open::Not | Open::And | Open::Or));
                self.open.push(Open::Or);
                return Ok(false);
            }
            // Nothing else is left of the innermost parenthesis.
            self.close(|open| matches!(open, Open::Not | Open::And | Open::Or));
            match self.open.pop() {
                None if self.rest().is_empty() => return Ok(true),
                None => return Err(self.unexpected("`&`, `|` or the end")),
                Some(Open::Parenthesis) if self.eat(")") => {}
                Some(Open::Vary { axis, at, mut masks, start }) => {
                    masks.push(Mask::of_terms(self.terms.split_off(start)));
                    if self.eat(",") {
                        self.open.push(Open::Vary { axis, at, masks, start });
                        return Ok(false);
                    } else if self.eat(")") {
                        let mask = Mask::vary(axis, masks).map_err(|error| wrong(at, &error))?;
                        self.terms.extend_from_slice(mask.terms());
                    } else {
                        return Err(self.unexpected("`&`, `|`, `,` or `)`"));
                    }
                }
                Some(_) => return Err(self.unexpected("`&`, `|` or `)`")),
            }
        }
    }

    /// Ends the innermost operations that are `complete`.
    fn close(&mut self, complete: impl Fn(&Open) -> bool) {
        while let Some(open) = self.open.pop_if(|open| complete(open)) {
            self.terms.push(match open {
                Open::Not => Term::Not,
                Open::And => Term::And,
                _ => Term::Or,
            });
        }
    }

    /// A primitive whose name stands at `at` and was read.
    fn primitive(&mut self, at: usize, name: &str) -> Result<Mask, Error> {
        let mask = match name {
            "full" => return Ok(Mask::full()),
            "causal" => return Ok(Mask::causal()),
            "window" => {
                self.expect("(")?;
                let left = self.distance()?;
                self.expect(",")?;
                Ok(Mask::window(left, self.distance()?))
            }
            "prefix" => {
                self.expect("(")?;
                Ok(Mask::prefix(self.number()?))
            }
            "global_keys" => return self.indices().map(|set| Primitive::GlobalKeys(set).into()),
            "global_queries" => return self.indices().map(|set| Primitive::GlobalQueries(set).into()),
            "keys" => return self.indices().map(|set| Primitive::Keys(set).into()),
            "block_diagonal" => {
                self.expect("(")?;
                Mask::block_diagonal(self.number()?)
            }
            "strided" => {
                self.expect("(")?;
                Mask::strided(self.number()?)
            }
            "random" => {
                self.expect("(")?;
                let density = self.density()?;
                self.expect(",")?;
                Mask::random(density, self.number()?)
            }
            _ => {
                // Errors point at the name.
                self.at = at;
                return Err(self.unexpected("a mask, `!` or `(`"));
            }
        };
        let mask = mask.map_err(|error| wrong(at, &error))?;
        self.expect(")")?;
        Ok(mask)
    }

    /// Numbers and intervals in parentheses.
    fn indices(&mut self) -> Result<Shared<Indices>, Error> {
        self.expect("(")?;
        let mut ranges = Vec::new();
        while !self.eat(")") {
            if !ranges.is_empty() {
                self.expect(",")?;
            }
            ranges.push(self.range()?);
        }
        Ok(Shared::new(Indices::new(ranges)))
    }

    /// A number, or an interval `a..b`.
    fn range(&mut self) -> Result<Range<usize>, Error> {
        let start: usize = self.number()?;
        match self.eat("..") {
            true => Ok(start..self.number()?),
            // The largest number is that of no key.
            false => Ok(start..start.saturating_add(1)),
        }
    }

    /// A distance of a window.
    fn distance(&mut self) -> Result<Option<usize>, Error> {
        if self.eat("∞") || self.eat("inf") { Ok(None) } else { self.number().map(Some) }
    }

    fn number<T: FromStr>(&mut self) -> Result<T, Error> {
        self.parse(|byte| byte.is_ascii_digit(), "a whole number of 64 bits")
    }

    fn density(&mut self) -> Result<f64, Error> {
        self.parse(|byte| byte.is_ascii_alphanumeric() || b".+-".contains(&byte), "a number")
    }

    /// What the next bytes that `belong` together say.
    fn parse<T: FromStr>(&mut self, belong: impl Fn(u8) -> bool, expected: &str) -> Result<T, Error> {
        let rest = self.rest();
        let end = rest.bytes().position(|byte| !belong(byte)).unwrap_or(rest.len());
        let value = rest[..end].parse().map_err(|_| self.unexpected(expected))?;
        self.at += end;
        Ok(value)
    }

    /// What is left, without the blanks before it.
    fn rest(&mut self) -> &'a str {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        rest
    }

    /// Takes `token` where it comes next.
    fn eat(&mut self, token: &str) -> bool {
        let comes = self.rest().starts_with(token);
        self.at += if comes { token.len() } else { 0 };
        comes
    }

    fn expect(&mut self, token: &str) -> Result<(), Error> {
        if self.eat(token) { Ok(()) } else { Err(self.unexpected(&format!("`{token}`"))) }
    }

    /// Takes the name that comes next, which may be empty.
    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// The error of what comes next.
    fn unexpected(&mut self, expected: &str) -> Error {
        let rest = self.rest();
        let at = self.at;
        let has = match (self.word(), rest.chars().next()) {
            (_, None) => "the end".into(),
            ("", Some(sign)) => format!("`{sign}`"),
            (word, _) => format!("`{}`", word.chars().take(MAX_QUOTED).collect::<String>()),
        };
        Error::Parse { at, has, expected: expected.into() }
    }
}

/// The most letters of a word that an error repeats.
const MAX_QUOTED: usize = 32;

/// The error of a mask that was read at `at` and cannot be made.
fn wrong(at: usize, error: &Error) -> Error {
    let (has, expected) = match error {
        Error::Primitive { primitive, has, expected } => (format!("{primitive} with {has}"), expected.clone()),
        Error::Vary { axis, has: [one, other] } => {
            (format!("parts that tell {one} and {other} {axis} apart"), "the same number, or 1".into())
        }
        other => (other.to_string(), "a mask".into()),
    };
    Error::Parse { at, has, expected }
}
