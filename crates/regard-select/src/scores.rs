//! What is held of each block of keys, and the rules that choose by it.

use ndarray::{Array2, ArrayView2};

use crate::select::Heads;
use crate::{Blocks, Budget, Choice, Error, check};

/// A number for each row and column of each head: the higher, the better. What a row does not see has −∞.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    pub(crate) heads: Heads,
    pub(crate) blocks: Blocks,
    /// `[batch · heads]` of `[rows, columns]`.
    pub(crate) tables: Vec<Array2<f64>>,
}

impl Scores {
    /// The blocks that they are of.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// `[rows, columns]` of a head.
    ///
    /// # Panics
    /// There is no such batch entry or head.
    pub fn of(&self, batch: usize, head: usize) -> ArrayView2<'_, f64> {
        assert!(batch < self.heads.batch && head < self.heads.heads, "batch entry {batch}, head {head}");
        self.tables[batch * self.heads.heads + head].view()
    }

    /// The columns with the highest scores, the row's own and the first among them whatever theirs are; the nearer of equals.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a budget of no blocks, or of a share that is not in 0 to 1.
    pub fn top(&self, budget: Budget) -> Result<Choice, Error> {
        budget.check()?;
        let mut order = Vec::new();
        Ok(self.choose(|row, scores, kept| {
            let own = self.blocks.own(row);
            let count = budget.of(scores.len());
            order.clear();
            order.extend((0..scores.len()).filter(|&column| column != 0 && column != own));
            let near = |column: usize| own.abs_diff(column);
            order
                .sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(near(a).cmp(&near(b))).then(a.cmp(&b)));
            (kept[0], kept[own]) = (true, true);
            let left = count - if own == 0 { 1 } else { 2 };
            order.iter().take(left).for_each(|&column| kept[column] = true);
        }))
    }

    /// The narrowest window of whole columns around the row's own that with the first column holds a share of the mass, where a
    /// column's mass is `e^score`: as many columns on either side, as far as there are any.
    ///
    /// Without the first column there would hardly be a narrow window: in most language models the first tokens draw mass from
    /// everywhere (Xiao et al., 2023, "Efficient Streaming Language Models with Attention Sinks").
    ///
    /// # Errors
    /// [`Error::Parameter`] for a share that is not above 0, up to 1.
    pub fn window(&self, share: f64) -> Result<Choice, Error> {
        check::within("share of the mass", share, share > 0.0 && share <= 1.0, "above 0, and at most 1")?;
        Ok(self.choose(|row, scores, kept| {
            let masses = masses(scores);
            let goal = share * masses.iter().sum::<f64>();
            let own = self.blocks.own(row);
            let (mut held, mut reach) = (masses[0], 0);
            kept[0] = true;
            loop {
                // Columns at this distance; the own one is at none.
                let sides = [own.checked_sub(reach), (reach > 0).then_some(own + reach)];
                for column in sides.into_iter().flatten().filter(|&column| column < masses.len()) {
                    held += if kept[column] { 0.0 } else { masses[column] };
                    kept[column] = true;
                }
                reach += 1;
                let is_all = reach > own && own + reach >= masses.len();
                if held >= goal || is_all {
                    break;
                }
            }
        }))
    }

    /// Every column whose share of its row's mass is at least this, where a column's mass is `e^score`; and the row's own and the
    /// first. Rows and heads whose mass is spread keep more than others.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a share that is not in 0 to 1.
    pub fn above(&self, share: f64) -> Result<Choice, Error> {
        check::within("share of the mass", share, (0.0..=1.0).contains(&share), "in 0 to 1")?;
        Ok(self.choose(|row, scores, kept| {
            let masses = masses(scores);
            let least = share * masses.iter().sum::<f64>();
            kept.iter_mut().zip(&masses).for_each(|(kept, mass)| *kept = *mass >= least);
            (kept[0], kept[self.blocks.own(row)]) = (true, true);
        }))
    }

    /// One choice for all heads that share keys: each head's score becomes the logarithm of the mean, over the heads of its group,
    /// of what a softmax over the row's columns gives them.
    ///
    /// The engine computes such heads together, so that a column that one of them keeps costs nearly what it costs all of them.
    /// NSA chooses so (Yuan et al., 2025, "Native Sparse Attention: Hardware-Aligned and Natively Trainable Sparse Attention").
    pub fn of_groups(&self) -> Scores {
        let group = self.heads.heads / self.heads.kv_heads;
        let mut tables = Vec::with_capacity(self.tables.len());
        for heads in self.tables.chunks(group) {
            let mut sum = Array2::<f64>::zeros(heads[0].dim());
            for table in heads {
                for (row, mut sum) in sum.rows_mut().into_iter().enumerate() {
                    let masses = masses(&self.row(table, row));
                    let total: f64 = masses.iter().sum();
                    sum.iter_mut().zip(&masses).for_each(|(sum, mass)| *sum += mass / total);
                }
            }
            sum.mapv_inplace(|sum| (sum / group as f64).ln());
            tables.extend(std::iter::repeat_n(sum, group));
        }
        Scores { heads: self.heads, blocks: self.blocks, tables }
    }

    /// The share of the mass that a choice keeps, where a column's mass is `e^score`: the mean over all queries of all heads. Of
    /// [exact](crate::Select::exact) scores this is the share of the softmax mass.
    ///
    /// # Errors
    /// [`Error::Blocks`] or [`Error::Axis`] where the choice is of other blocks, batch entries or heads.
    pub fn kept(&self, choice: &Choice) -> Result<f64, Error> {
        choice.blocks.expect("choice", &self.blocks)?;
        check::extent("choice", "batch", choice.heads.batch, self.heads.batch)?;
        check::extent("choice", "heads", choice.heads.heads, self.heads.heads)?;
        let mut sum = 0.0;
        for (table, kept) in self.tables.iter().zip(&choice.kept) {
            for row in 0..self.blocks.rows() {
                let masses = masses(&self.row(table, row));
                let held: f64 = masses.iter().zip(kept.row(row)).filter(|(_, kept)| **kept).map(|(mass, _)| mass).sum();
                sum += self.blocks.queries_of(row).len() as f64 * held / masses.iter().sum::<f64>();
            }
        }
        Ok(sum / (self.tables.len() * self.blocks.queries()) as f64)
    }

    /// Those of the columns that a row sees.
    fn row(&self, table: &Array2<f64>, row: usize) -> Vec<f64> {
        table.row(row).iter().take(self.blocks.seen(row)).copied().collect()
    }

    /// Chooses in each row: `rule(row, scores of the columns it sees, what is kept of them)`.
    fn choose(&self, mut rule: impl FnMut(usize, &[f64], &mut [bool])) -> Choice {
        let (rows, columns) = (self.blocks.rows(), self.blocks.columns());
        let mut of_head = |table: &Array2<f64>| {
            let mut kept = vec![false; rows * columns];
            for (row, kept) in kept.chunks_exact_mut(columns).enumerate() {
                let scores = self.row(table, row);
                rule(row, &scores, &mut kept[..scores.len()]);
            }
            Array2::from_shape_vec((rows, columns), kept).expect("the vector was made for the shape")
        };
        let kept = self.tables.iter().map(&mut of_head).collect();
        Choice { heads: self.heads, blocks: self.blocks, kept }
    }
}

/// `e^(score − the highest)`.
fn masses(scores: &[f64]) -> Vec<f64> {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter().map(|score| (score - most).exp()).collect()
}
