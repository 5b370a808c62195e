//! The forward pass in f64.

use regard_kernels::PANEL;
use regard_memory::TensorMut;
use regard_threads::Pool;

use super::{ALL, Row, Softmax, add, fill};
use crate::plan::Phase;
use crate::{Error, Inputs, Outputs, Plan};

impl Plan {
    /// [`Plan::run`] in f64, for gradient checks and for numbers that come in f64: slower by an order of magnitude, and
    /// without scratch. The same weights fall.
    ///
    /// ```
    /// use regard_attention::{Inputs, Options, Outputs, Plan, Shape};
    /// use regard_masks::Mask;
    /// use regard_memory::{Tensor, TensorMut};
    /// use regard_threads::Pool;
    ///
    /// // One query of 1 and two keys, ln 1 and ln 3: the weights are ¼ and ¾.
    /// let shape = Shape { batch: 1, heads: 1, kv_heads: 1, queries: 1, keys: 2, dim_k: 1, dim_v: 1 };
    /// let (q, k, v) = ([1.0], [0.0, 3f64.ln()], [4.0, 8.0]);
    /// let inputs = Inputs::new(
    ///     Tensor::contiguous(&q, [1, 1, 1, 1])?,
    ///     Tensor::contiguous(&k, [1, 1, 2, 1])?,
    ///     Tensor::contiguous(&v, [1, 1, 2, 1])?,
    /// );
    /// let mut out = [0.0];
    /// let plan = Plan::new(shape, &Mask::causal(), &Options::default())?;
    /// plan.run_f64(&inputs, Outputs::new(TensorMut::contiguous(&mut out, [1, 1, 1, 1])?), Pool::global())?;
    /// assert!((out[0] - 7.0).abs() < 1e-15);
    /// # Ok::<(), regard_attention::Error>(())
    /// ```
    ///
    /// # Errors
    /// A tensor's shape is not the plan's; then nothing is written.
    pub fn run_f64(
        &self,
        inputs: &Inputs<'_, f64, f64>,
        outputs: Outputs<'_, f64, f64>,
        pool: &Pool,
    ) -> Result<(), Error> {
        inputs.check(self.shape, self.sequences.len())?;
        outputs.check(self.shape)?;
        if self.shape.rows() == 0 {
            return Ok(());
        }
        let Outputs { mut out, mut lse } = outputs;
        fill(&mut out, &self.dead, 0.0);
        if let Some(lse) = &mut lse {
            fill(lse, &self.dead, f64::NEG_INFINITY);
        }
        let group = self.shape.group();
        for phase in &self.phases {
            let out = out.reborrow().cut(group, &phase.cuts)?;
            match &mut lse {
                Some(lse) => {
                    let parts = (out, lse.reborrow().cut(group, &phase.cuts)?);
                    pool.run(parts, |block, (out, lse)| self.attend(phase, block, inputs, out, Some(lse)));
                }
                None => pool.run(out, |block, out| self.attend(phase, block, inputs, out, None)),
            }
        }
        Ok(())
    }

    /// A block of queries, under the query heads of one key/value head.
    fn attend(
        &self,
        phase: &Phase,
        block: usize,
        inputs: &Inputs<'_, f64, f64>,
        mut out: TensorMut<'_, f64>,
        mut lse: Option<TensorMut<'_, f64>>,
    ) {
        let (stretch, kv_head, block) = phase.cuts.place(block);
        let (number, group) = (phase.sequences[stretch], self.shape.group());
        let first = block * self.sequences[number].block;
        for g in 0..group {
            for i in 0..out.shape()[2] {
                let row = Row::new(self, inputs, (number, kv_head * group + g, first + i));
                let sum = attend_row(&row, out.rows_mut(0, g).row_mut(i));
                if let Some(lse) = &mut lse {
                    lse.rows_mut(0, g).row_mut(i)[0] = sum;
                }
            }
        }
    }
}

/// Writes the result of a row, and gives its log-sum-exp.
fn attend_row(row: &Row<'_, f64>, out: &mut [f64]) -> f64 {
    out.fill(0.0);
    let mut softmax = Softmax::new(row.sink);
    for chunk in row.chunks(ALL) {
        let (mut keys, mut weights, mut count) = ([0; PANEL], [0.0; PANEL], 0);
        for j in row.seen_of(chunk) {
            (keys[count], weights[count]) = (j, row.score(j));
            count += 1;
        }
        let before = softmax.fold(&mut weights[..count]);
        if before != 1.0 {
            out.iter_mut().for_each(|out| *out *= before);
        }
        for (&j, &weight) in keys.iter().zip(&weights[..count]) {
            add(out, row.kept(j) * weight, row.values.row(j));
        }
    }
    out.iter_mut().for_each(|out| *out = softmax.share(*out));
    softmax.lse()
}
