//! The blocks that were chosen.

use std::fmt;

use ndarray::{Array2, ArrayView2};
use regard_attention::Direction;
use regard_masks::Mask;

use crate::select::Heads;
use crate::{Blocks, Error};

/// Which columns each row of each head keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub(crate) heads: Heads,
    pub(crate) blocks: Blocks,
    /// `[batch · heads]` of `[rows, columns]`.
    pub(crate) kept: Vec<Array2<bool>>,
}

impl Choice {
    /// The mask that keeps the pairs of these blocks which live: causal where the direction is. It differs by batch entry and head,
    /// and is meant for queries at the [offset](Blocks::offset) of the blocks.
    ///
    /// # Errors
    /// [`Error::Mask`] where there are more blocks than a mask can number.
    pub fn mask(&self) -> Result<Mask, Error> {
        let (first, columns) = (self.blocks.first(), self.blocks.columns());
        let of_head = |table: &Array2<bool>| {
            let mut kept = vec![false; first * columns];
            kept.extend(table);
            Mask::blocks(self.blocks.size(), first + table.nrows(), columns, &kept)
        };
        let of_entry = |tables: &[Array2<bool>]| match tables {
            [one, others @ ..] if others.iter().all(|other| other == one) => of_head(one),
            _ => Mask::by_head(tables.iter().map(of_head).collect::<Result<Vec<_>, _>>()?),
        };
        let entries = self.kept.chunks(self.heads.heads).map(of_entry).collect::<Result<Vec<_>, _>>()?;
        let chosen = match &entries[..] {
            [one, others @ ..] if others.iter().all(|other| other == one) => one.clone(),
            _ => Mask::by_batch(entries)?,
        };
        Ok(match self.blocks.direction() {
            Direction::Causal => Mask::causal() & chosen,
            Direction::Both => chosen,
        })
    }

    /// The blocks that were chosen from.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// `[rows, columns]` of a head: which are kept.
    ///
    /// # Panics
    /// There is no such batch entry or head.
    pub fn of(&self, batch: usize, head: usize) -> ArrayView2<'_, bool> {
        assert!(batch < self.heads.batch && head < self.heads.heads, "batch entry {batch}, head {head}");
        self.kept[batch * self.heads.heads + head].view()
    }

    /// Blocks that are kept, over all heads.
    pub fn count(&self) -> usize {
        self.kept.iter().flatten().filter(|kept| **kept).count()
    }

    /// Their share of all blocks that are seen.
    pub fn share(&self) -> f64 {
        self.count() as f64 / (self.kept.len() * self.blocks.count()) as f64
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.kept.len() * self.blocks.count();
        write!(f, "{} of {all} blocks ({:.1}%)", self.count(), 100.0 * self.share())
    }
}
