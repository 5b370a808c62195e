//! Masks that differ by batch entry and by query head.

use std::fmt;

use crate::edge::Run;
use crate::evaluate::Evaluation;
use crate::mask::{Term, bottom_right};
use crate::primitive::{Primitive, Row};
use crate::shared::Shared;
use crate::stack::Stack;
use crate::{Error, Mask};

/// A set that is another mask for each batch entry, or for each head; unless one is chosen, that of the first.
///
/// What varies along one axis holds nothing that varies along the same: where such a mask is put into another it is
/// chosen there. So these nest twice at most, and may be walked by recursion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Vary {
    axis: Axis,
    /// Two at least.
    masks: Shared<Vec<Mask>>,
}

/// What a mask may differ by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Axis {
    Batch,
    Head,
}

/// The most masks that are written.
const MAX_WRITTEN: usize = 8;

impl Axis {
    /// The name of the combinator.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Batch => "by_batch",
            Self::Head => "by_head",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Batch => "batch entries",
            Self::Head => "heads",
        }
    }
}

impl Vary {
    fn first(&self) -> &Mask {
        &self.masks[0]
    }

    pub(crate) fn allows(&self, row: Row, j: usize) -> bool {
        self.first().allows(row.p, j, row.n_k)
    }

    pub(crate) fn push_runs(&self, row: Row, limit: Run, stack: &mut Stack) {
        let mut evaluation = Evaluation::new();
        stack.hold.at_most(evaluation.push_row(self.first(), row));
        for &run in evaluation.stack.top() {
            let run = stack.hold.meet(run, limit);
            stack.push(run);
        }
    }

    /// The most terms of an expression that may take the place of this one.
    pub(crate) fn max_terms(&self) -> usize {
        self.masks.iter().map(Mask::max_terms).max().unwrap_or(1)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.masks.iter().map(Mask::bytes).fold(size_of_val(&self.masks[..]), usize::saturating_add)
    }

    pub(crate) fn max_runs(&self, n_k: usize) -> usize {
        self.masks.iter().map(|mask| mask.max_runs(n_k)).max().unwrap_or(1)
    }
}

impl fmt::Display for Vary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.axis.name())?;
        for (at, mask) in self.masks.iter().take(MAX_WRITTEN).enumerate() {
            write!(f, "{}{mask}", if at > 0 { ", " } else { "" })?;
        }
        match self.masks.len().saturating_sub(MAX_WRITTEN) {
            0 => f.write_str(")"),
            more => write!(f, ", … {more} more)"),
        }
    }
}

impl Mask {
    /// Another mask for each batch entry. One mask is that of all of them.
    ///
    /// ```
    /// use regard_masks::Mask;
    ///
    /// // The first of two sequences is filled up on the right, the second on the left.
    /// let real = [[true, true, true, false], [false, true, true, true]];
    /// let mask = Mask::causal() & Mask::by_batch(real.iter().map(|real| Mask::keys(real)))?;
    /// assert_eq!(mask.batch()?, 2);
    /// assert_eq!(mask.select(1, 0), Mask::causal() & Mask::keys(&real[1]));
    /// assert_eq!(mask.to_string(), "causal & by_batch(keys(0..3), keys(1..4))");
    /// # Ok::<(), regard_masks::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Primitive`] where there is no mask, [`Error::Vary`] where one of them tells another number of batch
    /// entries apart than there are masks.
    pub fn by_batch(masks: impl IntoIterator<Item = Mask>) -> Result<Mask, Error> {
        Self::vary(Axis::Batch, masks.into_iter().collect())
    }

    /// Another mask for each query head. One mask is that of all of them.
    ///
    /// # Errors
    ///
    /// [`Error::Primitive`] where there is no mask, [`Error::Vary`] where one of them tells another number of heads apart
    /// than there are masks.
    pub fn by_head(masks: impl IntoIterator<Item = Mask>) -> Result<Mask, Error> {
        Self::vary(Axis::Head, masks.into_iter().collect())
    }

    pub(crate) fn vary(axis: Axis, mut masks: Vec<Mask>) -> Result<Mask, Error> {
        if masks.is_empty() {
            let (has, expected) = ("no mask".into(), "at least one".into());
            return Err(Error::Primitive { primitive: axis.name(), has, expected });
        }
        let mut apart = masks.len();
        for mask in &masks {
            agree(axis, &mut apart, mask.apart(axis)?)?;
        }
        if let [mask] = &masks[..] {
            return Ok(mask.clone());
        }
        for (at, mask) in masks.iter_mut().enumerate() {
            *mask = mask.choose(&|other| (other == axis).then_some(at));
        }
        Ok(Primitive::Vary(Vary { axis, masks: Shared::new(masks) }).into())
    }

    /// An array `[batch, heads, n_q, n_k]` of the pairs that are kept, row-major, each `[n_q, n_k]` as in
    /// [`dense`](Self::dense). A batch or a number of heads of 1 is that of all.
    ///
    /// # Errors
    ///
    /// Those of [`dense`](Self::dense), and [`Error::Primitive`] for no batch entries or no heads.
    pub fn dense_array(shape: [usize; 4], kept: &[bool]) -> Result<Mask, Error> {
        let [_, _, n_q, n_k] = shape;
        Self::dense_array_at(bottom_right(n_q, n_k), shape, kept)
    }

    /// Like [`dense_array`](Self::dense_array), with row `i` at position `first + i`.
    ///
    /// # Errors
    ///
    /// Those of [`dense_array`](Self::dense_array).
    pub fn dense_array_at(first: i64, shape: [usize; 4], kept: &[bool]) -> Result<Mask, Error> {
        let [batch, heads, n_q, n_k] = shape;
        let elements = shape.iter().try_fold(1_usize, |all, &each| all.checked_mul(each));
        if elements != Some(kept.len()) || batch == 0 || heads == 0 {
            let has = format!("{} elements in {batch} × {heads} × {n_q} × {n_k}", kept.len());
            let expected = "one for each pair, of at least one batch entry and head".into();
            return Err(Error::Primitive { primitive: "dense", has, expected });
        }
        let size = n_q * n_k;
        if size == 0 {
            // They are all alike, however many there are.
            return Self::dense_at(first, n_q, n_k, &[]);
        }
        let dense = |at: usize| Self::dense_at(first, n_q, n_k, &kept[at * size..(at + 1) * size]);
        let entry = |b: usize| Self::by_head((0..heads).map(|h| dense(b * heads + h)).collect::<Result<Vec<_>, _>>()?);
        Self::by_batch((0..batch).map(entry).collect::<Result<Vec<_>, _>>()?)
    }

    /// The mask of one batch entry and query head. What does not vary is cloned, at the cost of a pointer. Beyond what the
    /// mask tells apart, a part that varies is the empty set.
    ///
    /// A mask that varies answers for batch entry 0 and head 0 until it is selected from.
    pub fn select(&self, batch: usize, head: usize) -> Mask {
        self.choose(&|axis| {
            Some(match axis {
                Axis::Batch => batch,
                Axis::Head => head,
            })
        })
    }

    /// How many batch entries the mask tells apart: 1 where it is the same for all.
    ///
    /// # Errors
    ///
    /// [`Error::Vary`] where parts of the mask disagree.
    pub fn batch(&self) -> Result<usize, Error> {
        self.apart(Axis::Batch)
    }

    /// How many query heads the mask tells apart: 1 where it is the same for all.
    ///
    /// # Errors
    ///
    /// [`Error::Vary`] where parts of the mask disagree.
    pub fn heads(&self) -> Result<usize, Error> {
        self.apart(Axis::Head)
    }

    /// Whether the mask differs by batch entry or head.
    pub(crate) fn varies(&self) -> bool {
        self.parts().next().is_some()
    }

    /// The most terms that the expression has once it is selected from.
    pub(crate) fn max_terms(&self) -> usize {
        self.parts().fold(self.terms().len(), |sum, vary| sum.saturating_add(vary.max_terms()))
    }

    fn parts(&self) -> impl Iterator<Item = &Vary> {
        self.terms().iter().filter_map(|term| match term {
            Term::Set(Primitive::Vary(vary)) => Some(vary),
            _ => None,
        })
    }

    fn apart(&self, axis: Axis) -> Result<usize, Error> {
        let mut apart = 1;
        for vary in self.parts() {
            if vary.axis == axis {
                agree(axis, &mut apart, vary.masks.len())?;
            } else {
                vary.masks.iter().try_for_each(|mask| agree(axis, &mut apart, mask.apart(axis)?))?;
            }
        }
        Ok(apart)
    }

    /// The mask with one choice made along each axis for which `choice` gives it.
    fn choose(&self, choice: &dyn Fn(Axis) -> Option<usize>) -> Mask {
        if !self.varies() {
            return self.clone();
        }
        let mut terms = Vec::with_capacity(self.terms().len());
        for term in self.terms() {
            let Term::Set(Primitive::Vary(vary)) = term else {
                terms.push(term.clone());
                continue;
            };
            match choice(vary.axis) {
                Some(at) => match vary.masks.get(at) {
                    Some(mask) => terms.extend_from_slice(mask.choose(choice).terms()),
                    None => terms.push(Term::Set(Primitive::Prefix(0))),
                },
                None => {
                    let masks = Shared::new(vary.masks.iter().map(|mask| mask.choose(choice)).collect());
                    terms.push(Term::Set(Primitive::Vary(Vary { axis: vary.axis, masks })));
                }
            }
        }
        Mask::of_terms(terms)
    }
}

/// Takes `another` count of what is told apart, where 1 agrees with any.
fn agree(axis: Axis, apart: &mut usize, another: usize) -> Result<(), Error> {
    match (*apart, another) {
        (_, 1) => Ok(()),
        (1, _) => {
            *apart = another;
            Ok(())
        }
        (one, other) if one == other => Ok(()),
        has => Err(Error::Vary { axis: axis.plural(), has: has.into() }),
    }
}
