//! Scores on request: for pictures, and for tests.

use ndarray::Array4;
use regard_memory::chunks_of;
use regard_threads::Pool;

use crate::array::vec_of;
use crate::double::{ALL, Row, Softmax};
use crate::{Error, Inputs, Plan, Real, Sequence};

/// How far a score has come on its way from the product of a query and a key to a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// `scale·q·k`, whatever the mask says.
    Raw,
    /// After the softcap, whatever the mask says.
    Capped,
    /// After bias and ALiBi: what the softmax takes. −∞ where mask or bias remove the pair.
    Masked,
    /// The softmax of these, which a sink takes part in, before dropout; 0 where the pair is removed.
    Weights,
}

/// Rows of scores: each of these batch entries with each of the heads with each of the rows. They may come in any order and
/// more than once.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// Batch entries.
    pub batch: &'a [usize],
    /// Query heads.
    pub heads: &'a [usize],
    /// Rows of queries, as the tensor counts them.
    pub rows: &'a [usize],
}

impl Plan {
    /// The scores of chosen rows, `[batch entries, heads, rows, keys]`, worked out in f64; nothing else is. Keys of another
    /// sequence, or of none, have the score −∞ and the weight 0; so have all keys for a query of no sequence.
    ///
    /// ```
    /// use regard_attention::{Chosen, Inputs, Options, Plan, Shape, Stage};
    /// use regard_masks::Mask;
    /// use regard_memory::Tensor;
    ///
    /// // Queries of 1 and keys of ln 1, ln 3 and ln 2.
    /// let shape = Shape { batch: 1, heads: 1, kv_heads: 1, queries: 3, keys: 3, dim_k: 1, dim_v: 1 };
    /// let (q, k, v) = ([1f32; 3], [0.0, 3f32.ln(), 2f32.ln()], [0f32; 3]);
    /// let tensor = |x| Tensor::contiguous(x, [1, 1, 3, 1]);
    /// let inputs = Inputs::new(tensor(&q)?, tensor(&k)?, tensor(&v)?);
    /// let plan = Plan::new(shape, &Mask::causal(), &Options::default())?;
    /// let weights = plan.scores(&inputs, Stage::Weights, Chosen { batch: &[0], heads: &[0], rows: &[1] })?;
    /// assert_eq!(weights.dim(), (1, 1, 1, 3));
    /// for (weight, expected) in weights.iter().zip([0.25, 0.75, 0.0]) {
    ///     assert!((weight - expected).abs() < 1e-6);
    /// }
    /// # Ok::<(), regard_attention::Error>(())
    /// ```
    ///
    /// # Errors
    /// A tensor's shape is not the plan's; a batch entry, head or row is none of the call's; or there is no memory for the
    /// scores.
    pub fn scores<T: Real>(
        &self,
        inputs: &Inputs<'_, T, T::Wide>,
        stage: Stage,
        chosen: Chosen<'_>,
    ) -> Result<Array4<T::Wide>, Error> {
        inputs.check(self.shape, self.sequences.len())?;
        let Chosen { batch, heads, rows } = chosen;
        within("chosen batch entries", "batch", batch, self.shape.batch)?;
        within("chosen heads", "heads", heads, self.shape.heads)?;
        within("chosen rows", "seq", rows, self.shape.queries)?;
        let shape = [batch.len(), heads.len(), rows.len(), self.shape.keys];
        let nothing = T::wide(if stage == Stage::Weights { 0.0 } else { f64::NEG_INFINITY });
        let mut scores = vec_of("scores", shape, nothing)?;
        // Without keys there is nothing to be written.
        Pool::global().run(chunks_of(&mut scores, self.shape.keys.max(1)), |at, scores| {
            let (batch, head) = (batch[at / rows.len() / heads.len()], heads[at / rows.len() % heads.len()]);
            let query = rows[at % rows.len()];
            let of_query = |(_, of): &(usize, &Sequence)| of.batch == batch && of.queries.contains(&query);
            let Some((number, sequence)) = self.sequences.iter().enumerate().find(of_query) else { return };
            let row = Row::new(self, inputs, (number, head, query - sequence.queries.start));
            score(&row, stage, &mut scores[sequence.keys.clone()]);
        });
        Ok(Array4::from_shape_vec(shape, scores).expect("the vector was made for the shape"))
    }
}

/// Writes the scores of a row that are not nothing.
fn score<T: Real>(row: &Row<'_, T>, stage: Stage, scores: &mut [T::Wide]) {
    match stage {
        Stage::Raw => scores.iter_mut().enumerate().for_each(|(j, score)| *score = T::wide(row.raw(j))),
        Stage::Capped => scores.iter_mut().enumerate().for_each(|(j, score)| *score = T::wide(row.capped(j))),
        Stage::Masked => row.seen(ALL).for_each(|j| scores[j] = T::wide(row.score(j))),
        Stage::Weights => {
            let mut weights: Vec<f64> = row.seen(ALL).map(|j| row.score(j)).collect();
            let mut softmax = Softmax::new(row.sink);
            softmax.fold(&mut weights);
            row.seen(ALL).zip(weights).for_each(|(j, weight)| scores[j] = T::wide(softmax.share(weight)));
        }
    }
}

/// Refuses an index that an axis of this extent does not have.
fn within(tensor: &'static str, axis: &'static str, chosen: &[usize], extent: usize) -> Result<(), Error> {
    match chosen.iter().find(|&&index| index >= extent) {
        Some(&has) => Err(Error::Axis { tensor, axis, has, expected: format!("less than {extent}") }),
        None => Ok(()),
    }
}
