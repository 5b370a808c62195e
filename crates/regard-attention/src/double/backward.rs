//! The backward pass in f64. The formulas stand in [`crate::backward`].
//!
//! Weights are computed anew for each of three passes, so that every task has its results to itself: over blocks of queries
//! for theirs, over splits of the keys for keys and values, over rows of the bias for it.

use std::ops::Range;

use regard_memory::{TensorMut, each_of};
use regard_threads::Pool;

use super::{ALL, Row, add, dot, fill};
use crate::backward::BackwardPlan;
use crate::{Error, Gradients, Inputs, Plan, Upstream};

/// Rows of the bias of a task.
const BIAS_ROWS: usize = 16;

impl Plan {
    /// [`Plan::backward`] in f64: the exact gradients of [`Plan::run_f64`], without scratch.
    ///
    /// # Errors
    /// A tensor's shape is not the plan's, a gradient is asked for of what is not there, or packed sequences share keys;
    /// then nothing is written.
    pub fn backward_f64(
        &self,
        inputs: &Inputs<'_, f64, f64>,
        upstream: &Upstream<'_, f64, f64>,
        gradients: Gradients<'_, f64, f64>,
        pool: &Pool,
    ) -> Result<(), Error> {
        inputs.check(self.shape, self.sequences.len())?;
        upstream.check(self.shape)?;
        gradients.check(self.shape, &inputs.terms)?;
        let backward = self.backward_plan()?;
        let Gradients { mut q, mut k, mut v, bias, sinks } = gradients;
        fill(&mut q, &self.dead, 0.0);
        fill(&mut k, &backward.dead_keys, 0.0);
        fill(&mut v, &backward.dead_keys, 0.0);
        let pass = Pass { plan: self, inputs, upstream };
        if self.shape.rows() > 0 {
            pool.run(q.cut(self.shape.group(), backward.all().0)?, |block, q| pass.queries(backward, block, q));
            let parts = (k.cut(1, backward.all().1)?, v.cut(1, backward.all().1)?);
            pool.run(parts, |split, (k, v)| pass.keys(backward, split, k, v));
        }
        if let Some(bias) = bias {
            let shape = bias.shape();
            pool.run(bias.block_parts(1, BIAS_ROWS), |part, bias| pass.bias(shape, part, bias));
        }
        if let Some(sinks) = sinks {
            pool.run(each_of(sinks), |head, sink| *sink = pass.sink(head));
        }
        Ok(())
    }
}

struct Pass<'a> {
    plan: &'a Plan,
    inputs: &'a Inputs<'a, f64, f64>,
    upstream: &'a Upstream<'a, f64, f64>,
}

/// A row, and what flows back into it.
struct Flow<'a> {
    row: Row<'a, f64>,
    lse: f64,
    out_gradient: &'a [f64],
    /// `dLSE − Δ`.
    shift: f64,
}

/// What flows back into a pair.
struct Pair {
    key: usize,
    /// The weight, as dropout leaves it.
    weight: f64,
    /// The gradient of the score that the softmax takes, `dŝ`.
    score: f64,
    /// The gradient of the product of query and key, `scale·ds`.
    product: f64,
}

impl<'a> Pass<'a> {
    /// What flows back into query `i` of a sequence; nothing where it has seen nothing.
    fn flow(&self, (number, head, i): (usize, usize, usize)) -> Option<Flow<'a>> {
        let sequence = &self.plan.sequences[number];
        let (batch, query) = (sequence.batch, sequence.queries.start + i);
        let lse = self.upstream.lse.rows(batch, head).row(query)[0];
        if lse == f64::NEG_INFINITY {
            return None;
        }
        let row = Row::new(self.plan, self.inputs, (number, head, i));
        let out_gradient = self.upstream.out_gradient.rows(batch, head).row(query);
        // Without keys the result is 0, whatever its gradient is.
        let delta = match row.seen(ALL).next() {
            Some(_) => dot(out_gradient, self.upstream.out.rows(batch, head).row(query)),
            None => 0.0,
        };
        let lse_gradient = self.upstream.lse_gradient.map_or(0.0, |gradient| gradient.rows(batch, head).row(query)[0]);
        Some(Flow { row, lse, out_gradient, shift: lse_gradient - delta })
    }

    /// The gradient of a block of queries.
    fn queries(&self, backward: &BackwardPlan, block: usize, mut q: TensorMut<'_, f64>) {
        let (number, kv_head, block) = backward.all().0.place(block);
        let (first, group) = (block * self.plan.sequences[number].block, self.plan.shape.group());
        for g in 0..group {
            for i in 0..q.shape()[2] {
                let mut q = q.rows_mut(0, g);
                q.row_mut(i).fill(0.0);
                let Some(flow) = self.flow((number, kv_head * group + g, first + i)) else { continue };
                flow.pairs(ALL).for_each(|pair| add(q.row_mut(i), pair.product, flow.row.keys.row(pair.key)));
            }
        }
    }

    /// The gradients of a split of the keys.
    fn keys(&self, backward: &BackwardPlan, split: usize, mut k: TensorMut<'_, f64>, mut v: TensorMut<'_, f64>) {
        let (number, kv_head, split) = backward.all().1.place(split);
        let (first, group) = (split * backward.split_keys[number], self.plan.shape.group());
        let (mut k, mut v) = (k.rows_mut(0, 0), v.rows_mut(0, 0));
        for j in 0..k.rows() {
            k.row_mut(j).fill(0.0);
            v.row_mut(j).fill(0.0);
        }
        let own = first..first + k.rows();
        for head in kv_head * group..(kv_head + 1) * group {
            for i in 0..self.plan.sequences[number].queries.len() {
                let Some(flow) = self.flow((number, head, i)) else { continue };
                for pair in flow.pairs(own.clone()) {
                    add(k.row_mut(pair.key - first), pair.product, flow.row.query);
                    add(v.row_mut(pair.key - first), pair.weight, flow.out_gradient);
                }
            }
        }
    }

    /// The gradient of some rows of a bias of this shape: the sum over all that they are added to.
    fn bias(&self, shape: [usize; 4], part: usize, mut bias: TensorMut<'_, f64>) {
        let [_, heads, queries, keys] = shape;
        let blocks = queries.div_ceil(BIAS_ROWS);
        let (entry, head, first) = (part / blocks / heads, part / blocks % heads, part % blocks * BIAS_ROWS);
        let all = |extent: usize, own: Range<usize>, size: usize| if extent == 1 { 0..size } else { own };
        let entries = all(shape[0], entry..entry + 1, self.plan.shape.batch);
        let heads = all(heads, head..head + 1, self.plan.shape.heads);
        let rows = all(queries, first..first + bias.shape()[2], self.plan.shape.queries);
        let mut bias = bias.rows_mut(0, 0);
        for row in 0..bias.rows() {
            bias.row_mut(row).fill(0.0);
        }
        let sequences = self.plan.sequences.iter().enumerate();
        for (number, sequence) in sequences.filter(|(_, sequence)| entries.contains(&sequence.batch)) {
            let own = sequence.queries.start.max(rows.start)..sequence.queries.end.min(rows.end);
            for (head, query) in heads.clone().flat_map(|head| own.clone().map(move |query| (head, query))) {
                let Some(flow) = self.flow((number, head, query - sequence.queries.start)) else { continue };
                let to = bias.row_mut(if queries == 1 { 0 } else { query - first });
                for pair in flow.pairs(ALL) {
                    to[if keys == 1 { 0 } else { sequence.keys.start + pair.key }] += pair.score;
                }
            }
        }
    }

    /// The gradient of a head's sink; 0 for one of −∞, which is none.
    fn sink(&self, head: usize) -> f64 {
        let rows = self.plan.sequences.iter().enumerate();
        let rows = rows.flat_map(|(number, sequence)| (0..sequence.queries.len()).map(move |i| (number, head, i)));
        let flows = rows.filter_map(|row| self.flow(row)).filter(|flow| flow.row.sink != f64::NEG_INFINITY);
        flows.map(|flow| (flow.row.sink - flow.lse).exp() * flow.shift).sum()
    }
}

impl Flow<'_> {
    /// The pairs of the row with the keys of a range that it sees.
    fn pairs(&self, keys: Range<usize>) -> impl Iterator<Item = Pair> {
        self.row.seen(keys).map(|key| {
            let capped = self.row.capped(key);
            let weight = (self.row.adjusted(key, capped) - self.lse).exp();
            let gain = self.row.kept(key);
            // What falls is 0, whatever it was.
            let kept = |x: f64| if gain == 0.0 { 0.0 } else { gain * x };
            let score = weight * (kept(dot(self.out_gradient, self.row.values.row(key))) + self.shift);
            let product = self.row.scale() * score * self.row.bend(capped);
            Pair { key, weight: kept(weight), score, product }
        })
    }
}
