//! A selector that is trained to predict the blocks that exact attention uses.

mod head;
mod lesson;
#[cfg(test)]
mod tests;
mod train;

use ndarray::Array2;

pub use lesson::Lesson;
pub use train::{Trained, Training};

use self::head::Weights;
use crate::summary::{HeadSummary, Summary};
use crate::{Blocks, Error, check};

/// Scores of blocks for the heads of one layer, learned from [`Lesson`]s: for each head a small model of pooled queries and keys.
///
/// `score = g·π + e·ν + (A·x)·(B·y) + b[distance]`: `π = scale·q̄·k̄` is the product that block routing chooses by, `ν` the half of
/// its variance that the estimate of the mass adds, `x = (q̄, 1)` and `y = (k̄, σ)` are the pooled queries, and the means and
/// standard deviations of the keys, in units of their size in training; `A` and `B` have `rank` rows, and `b` is a number for
/// each doubling of the distance between the blocks. Before training `g = 1` and all else but `A` is 0: it starts as block routing,
/// and learns what to add.
///
/// Learning to predict a model's own attention map by pooled queries and keys is SeerAttention's idea (Gao et al., 2024,
/// "SeerAttention: Learning Intrinsic Sparse Attention in Your LLMs"); its gate and its loss are others.
///
/// ```
/// use ndarray::Array4;
/// use regard_select::{Budget, Select, Selector, Training};
///
/// // Some blocks have keys that are all alike, some have a few large ones that their mean does not show.
/// let text = |phase: usize| {
///     let q = Array4::from_shape_fn((1, 2, 200, 8), |(_, h, i, c)| ((h + i / 16 * 5 + c * phase) as f32).sin());
///     let size = |i: usize| if i / 16 % 3 > 0 { 1.0 } else { (i % 5) as f32 * 2.0 - 4.0 };
///     let k = Array4::from_shape_fn((1, 1, 200, 8), |(_, _, i, c)| size(i) * ((i / 16 * 3 + c * phase) as f32).cos());
///     (q, k)
/// };
/// let ((q, k), (other_q, other_k)) = (text(1), text(2));
/// let lesson = Select::new(q.view(), k.view()).block(16).lesson()?;
/// let trained = Selector::train(&[lesson], &Training { rank: 4, steps: 50, ..Training::default() })?;
/// assert!(trained.losses[50] < 0.9 * trained.losses[0]);
///
/// // On another text.
/// let select = Select::new(other_q.view(), other_k.view()).block(16);
/// let choice = select.learned(&trained.selector)?.top(Budget::Share(0.25))?;
/// println!("{choice}, {:.2} of the mass", select.exact()?.kept(&choice)?);
/// # Ok::<(), regard_select::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Selector {
    dim: usize,
    heads: Vec<Weights>,
}

impl Selector {
    /// Query heads of the layer.
    pub fn heads(&self) -> usize {
        self.heads.len()
    }

    /// Numbers of a query and of a key.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Numbers that were learned, of all heads.
    pub fn parameters(&self) -> usize {
        self.heads.iter().map(Weights::len).sum()
    }

    /// What training makes small: the cross-entropy, in nats, of the softmax of scores against the exact masses of blocks, over
    /// those that are left to choose from once the first and a row's own are kept. Rows count by the mass that they have there.
    /// It is 0 where there is none.
    ///
    /// # Errors
    /// [`Error::Axis`] where a lesson is of other heads.
    pub fn loss(&self, lessons: &[Lesson]) -> Result<f64, Error> {
        lessons.iter().try_for_each(|lesson| self.check(&lesson.summary))?;
        let of_head = |at| {
            let examples = lesson::examples(lessons, at, self.heads[at].units);
            let mass = examples.iter().map(|example| example.mass).sum::<f64>();
            (self.heads[at].loss(&examples) * mass, mass)
        };
        let (losses, masses): (Vec<f64>, Vec<f64>) = (0..self.heads()).map(of_head).unzip();
        Ok(train::mean(&losses, &masses))
    }

    /// `[rows, columns]` of a head.
    pub(crate) fn scores(&self, at: usize, summary: HeadSummary<'_>, blocks: &Blocks) -> Array2<f64> {
        let weights = &self.heads[at];
        weights.scores(&head::Features::new(summary, blocks, weights.units))
    }

    /// Refuses what is of other heads.
    pub(crate) fn check(&self, summary: &Summary) -> Result<(), Error> {
        check::extent("queries", "heads", summary.heads.heads, self.heads())?;
        check::extent("queries", "dim", summary.heads.dim, self.dim)
    }
}
