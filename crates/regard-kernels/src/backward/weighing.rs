//! How scores become weights: what the forward pass did between its products.

use super::weigh::Weigh;
use crate::dropout::Keeps;
use crate::{Adjustment, DropoutRow, Error, Kernels, KeyNumbers, KeyPlaces, PANEL, ROWS, RowAdjustment};

/// How scores become weights, as in the forward pass. Keys are counted from the first panel of the call; where lists of
/// them end, those behind must be ones that no row keeps.
#[derive(Debug)]
pub struct Weighing<'a> {
    /// What all scores go through.
    pub adjustment: Adjustment,
    /// `[rows]`: what is added to each row's scores; empty where nothing is.
    pub rows: &'a [RowAdjustment<'a>],
    /// Where the keys stand.
    pub places: KeyPlaces<'a>,
    /// Which weights fall, if any do.
    pub dropout: Option<Dropout<'a>>,
    /// `[rows][panels·PANEL]`: where to write the gradients `dŝ` of the adjusted scores, which are a bias's.
    pub d_scores: Option<&'a mut [f32]>,
}

/// Which weights fell in the forward pass. The weights that [`Pairs`](crate::Pairs) keep are those that did not fall,
/// without the gain.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    /// `[rows]`.
    pub rows: &'a [DropoutRow],
    /// The keys' numbers.
    pub numbers: KeyNumbers<'a>,
    /// `1 / (1 − probability)`.
    pub gain: f32,
}

impl<'a> Weighing<'a> {
    /// Scores are products times `scale`, and nothing else.
    pub fn plain(scale: f32) -> Self {
        let adjustment = Adjustment { scale, softcap: None };
        Weighing { adjustment, rows: &[], places: KeyPlaces::Consecutive, dropout: None, d_scores: None }
    }

    pub(crate) fn check(&self, rows: usize, columns: usize) -> Result<(), Error> {
        if !self.rows.is_empty() {
            Error::check_length("row adjustments", self.rows.len(), rows)?;
        }
        if let Some(dropout) = self.dropout {
            Error::check_length("rows of dropout", dropout.rows.len(), rows)?;
        }
        match &self.d_scores {
            Some(d_scores) => Error::check_length("gradients of scores", d_scores.len(), rows.saturating_mul(columns)),
            None => Ok(()),
        }
    }

    /// Makes the gradients of scores 0, where any are asked for.
    pub(super) fn clear(&mut self, rows: usize, columns: usize) {
        if let Some(d_scores) = &mut self.d_scores {
            d_scores[..rows * columns].fill(0.0);
        }
    }

    /// What becomes of one panel, whose first column is `first_column`, in some of its columns.
    pub(crate) fn panel<'t>(
        &'t mut self,
        kernels: Kernels,
        (lse, delta): (&'t [f32], &'t [f32]),
        bits: [u64; ROWS],
        columns: (usize, usize),
        (first_column, all_columns): (usize, usize),
    ) -> Weigh<'t> {
        let kept = self.dropout.map(|Dropout { rows, numbers, gain }| {
            let mut kept = [0; ROWS];
            for (kept, &row) in kept.iter_mut().zip(rows) {
                let count = numbers.len().saturating_sub(first_column).min(PANEL);
                *kept = kernels.isa().run(Keeps { row, numbers, first: first_column, count });
            }
            (kept, gain)
        });
        let is_plain =
            self.rows.is_empty() && self.adjustment.softcap.is_none() && kept.is_none() && self.d_scores.is_none();
        Weigh {
            adjustment: self.adjustment,
            adjustments: self.rows,
            places: self.places,
            lse,
            delta,
            bits,
            columns,
            first_column,
            kept,
            d_scores: self.d_scores.as_deref_mut().unwrap_or_default(),
            all_columns,
            is_plain,
        }
    }
}
