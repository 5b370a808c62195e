//! Scores on their way from the product to the weight.

use crate::Attention;
use crate::pair::Row;

/// How far a score has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// `scale·q·k`, removed or not.
    Raw,
    /// After the cap, removed or not.
    Capped,
    /// After bias and slopes; −∞ where mask or bias remove the pair.
    Masked,
    /// The softmax of those, before dropout; 0 where the pair is removed.
    Weights,
}

impl Attention<'_> {
    /// The scores of some queries of a batch entry under a head, one row of `keys` numbers each, in the order of `queries`.
    /// Pairs of no sequence have a score of −∞ and a weight of 0.
    pub fn scores(&self, stage: Stage, batch: usize, head: usize, queries: &[usize]) -> Vec<f64> {
        let attended = self.exact();
        let keys = self.sizes.keys;
        let nothing = if stage == Stage::Weights { 0.0 } else { f64::NEG_INFINITY };
        let mut scores = vec![nothing; queries.len() * keys];
        let rows = self.rows();
        for (line, &query) in queries.iter().enumerate() {
            let is_chosen = |row: &&Row| (row.batch, row.head, row.query) == (batch, head, query);
            let Some(row) = rows.iter().find(is_chosen) else { continue };
            let lse = attended.lse[row.index(self.sizes)];
            for pair in row.pairs() {
                let sees = self.sees(&pair);
                scores[line * keys + pair.key] = match stage {
                    Stage::Raw => self.raw(&pair),
                    Stage::Capped => self.capped(&pair),
                    Stage::Masked | Stage::Weights if !sees => nothing,
                    Stage::Masked => self.score(&pair),
                    // All scores that are seen may be −∞.
                    Stage::Weights if lse == f64::NEG_INFINITY => 0.0,
                    Stage::Weights => (self.score::<f64>(&pair) - lse).exp(),
                };
            }
        }
        scores
    }
}
