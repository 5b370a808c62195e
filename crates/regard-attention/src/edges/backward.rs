//! The backward pass, pair by pair: first each query makes the weights and score gradients of its list, and its own gradient;
//! then each key adds up what the queries that keep it have made. The formulas stand in [`crate::backward`].

use std::ops::Range;

use regard_kernels::{Adjustment, Dropout, F32, KeyNumbers, KeyPlaces, Number, Transposable, Weighing};
use regard_memory::{Cuts, Frame, Need, TensorMut, backwards, pieces_of};
use regard_threads::Pool;

use super::lists::Readers;
use super::row::{Listed, width};
use super::{Lists, MOST};
use crate::backward::{Differentiable, Pass};
use crate::plan::Unit;
use crate::scoring::Scoring;
use crate::task::Failure;
use crate::{Error, Plan, Shape};

/// Keys of a task of the second step.
const KEYS: usize = 128;

/// Rows that a task adds up of the gradient of the bias.
const BIAS_ROWS: usize = 16;

/// What the backward pass needs of the sequences that go by their edges.
#[derive(Clone, Debug)]
pub(crate) struct EdgePlan {
    /// Their numbers.
    sequences: Vec<usize>,
    /// Of each layout of the plan.
    readers: Vec<Readers>,
    queries: Cuts,
    keys: Cuts,
}

impl EdgePlan {
    /// Of those sequences that are said to.
    pub(crate) fn new(plan: &Plan, by_edges: &[bool]) -> Result<EdgePlan, Error> {
        let Shape { kv_heads, .. } = plan.shape;
        let numbers: Vec<usize> = (0..by_edges.len()).filter(|&number| by_edges[number]).collect();
        let of_edges = || numbers.iter().map(|&number| &plan.sequences[number]);
        let queries = of_edges().map(|sequence| (sequence.batch, sequence.queries.clone(), sequence.block));
        let keys = of_edges().map(|sequence| (sequence.batch, sequence.keys.clone(), KEYS));
        let (queries, keys) = (Cuts::new(kv_heads, queries)?, Cuts::new(kv_heads, keys)?);
        let layouts = &plan.layouts;
        let mut readers = vec![None; layouts.all.len()];
        for unit in numbers.iter().flat_map(|&sequence| (0..kv_heads).map(move |head| Unit { sequence, head })) {
            let number = layouts.number(unit.sequence, unit.head, kv_heads);
            if readers[number].is_none() {
                readers[number] = Some(Readers::new(plan.lists(unit)?, &layouts.all[number])?);
            }
        }
        let readers = readers.into_iter().map(Option::unwrap_or_default).collect();
        Ok(EdgePlan { sequences: numbers, readers, queries, keys })
    }

    /// The lists of a unit, which are there since this was made.
    fn lists<'p>(&self, plan: &'p Plan, unit: Unit) -> &'p Lists {
        plan.lists(unit).expect("listed before")
    }

    /// Key/value heads of all these sequences.
    fn units(&self, kv_heads: usize) -> usize {
        self.sequences.len() * kv_heads
    }

    fn unit(&self, index: usize, kv_heads: usize) -> Unit {
        Unit { sequence: self.sequences[index / kv_heads], head: index % kv_heads }
    }
}

/// Numbers of some units' pairs: those of all queries and heads one after the other.
struct Pairs<'a> {
    weights: &'a mut [f32],
    gradients: &'a mut [f32],
    /// The gradients of the adjusted scores, where the bias's gradient is asked for.
    of_bias: &'a mut [f32],
    /// Where those of each block of queries end.
    ends: &'a mut [usize],
}

/// The numbers of the pairs of a block of queries.
struct BlockPairs<'a> {
    weights: &'a mut [f32],
    gradients: &'a mut [f32],
    of_bias: &'a mut [f32],
}

/// Scratch of a worker.
struct Worker<'a> {
    query: &'a mut [f32],
    out_gradient: &'a mut [f32],
    sums: &'a mut [f32],
    more_sums: &'a mut [f32],
    /// Products of a list.
    numbers: [&'a mut [f32]; 3],
    list: &'a mut [u32],
    listed: Listed<'a>,
}

impl<'a> Worker<'a> {
    fn need(shape: Shape) -> Need {
        let (k, v) = (width(shape.dim_k), width(shape.dim_v));
        let rows = Need::of::<f32>(k).times(2).and(Need::of::<f32>(v).times(2));
        rows.and(Need::of::<f32>(MOST).times(3)).and(Need::of::<u32>(MOST)).and(Listed::need())
    }

    fn take(frame: &mut Frame<'a>, shape: Shape) -> Worker<'a> {
        let (k, v) = (width(shape.dim_k), width(shape.dim_v));
        Worker {
            query: frame.take_zeroed(k),
            out_gradient: frame.take_zeroed(v),
            sums: frame.take_zeroed(k),
            more_sums: frame.take_zeroed(v),
            numbers: [frame.take_zeroed(MOST), frame.take_zeroed(MOST), frame.take_zeroed(MOST)],
            list: frame.take_zeroed(MOST),
            listed: Listed::take(frame),
        }
    }
}

/// The sequences of a backward pass that go by their edges.
pub(crate) struct EdgePass<'p, 'a, T, O, E> {
    pub pass: &'p Pass<'p, 'a, T, O, E>,
    pub edges: &'p EdgePlan,
}

impl<T: Differentiable, O: Differentiable, E: Transposable> EdgePass<'_, '_, T, O, E> {
    fn kv_heads(&self) -> usize {
        self.pass.plan.shape.kv_heads
    }

    /// The most pairs of a unit, and the most blocks of its queries.
    fn sizes(&self) -> (usize, usize) {
        let units = || (0..self.edges.units(self.kv_heads())).map(|unit| self.edges.unit(unit, self.kv_heads()));
        let pairs = units().map(|unit| self.edges.lists(self.pass.plan, unit).pairs()).max().unwrap_or(0);
        let blocks = units().map(|unit| {
            let sequence = &self.pass.plan.sequences[unit.sequence];
            sequence.queries.len().div_ceil(sequence.block)
        });
        (pairs, blocks.max().unwrap_or(0))
    }

    /// Scratch for so many units at once.
    fn need_of(&self, units: usize, threads: usize) -> Need {
        let (pairs, blocks) = self.sizes();
        let numbers = Need::of::<f32>(pairs.saturating_mul(units)).times(3);
        numbers
            .and(Need::of::<usize>(blocks.saturating_mul(units)).times(2))
            .and(Worker::need(self.pass.plan.shape).times(threads))
    }

    /// Units whose pairs take at most so many bytes, one at least.
    fn in_flight(&self, bytes: usize) -> usize {
        let of_one = self.sizes().0.saturating_mul(3 * size_of::<f32>());
        (bytes / of_one.max(1)).clamp(1, self.edges.units(self.kv_heads()).max(1))
    }

    pub(crate) fn need(&self, bytes: usize, threads: usize) -> Need {
        self.need_of(self.in_flight(bytes), threads)
    }

    /// The gradients of all of them; the pairs of units in flight take at most so many bytes.
    #[allow(clippy::too_many_arguments, reason = "the gradients one by one, and what the call runs on")]
    pub(crate) fn run<G: Number>(
        &self,
        bytes: usize,
        mut q: TensorMut<'_, G>,
        mut k: TensorMut<'_, G>,
        mut v: TensorMut<'_, G>,
        mut bias: Option<TensorMut<'_, f32>>,
        frame: &mut Frame<'_>,
        pool: &Pool,
    ) -> Result<(), Error> {
        let all = self.edges.units(self.kv_heads());
        let in_flight = self.in_flight(bytes);
        for first in (0..all).step_by(in_flight) {
            let units = first..all.min(first + in_flight);
            let bias = bias.as_mut().map(TensorMut::reborrow);
            self.units(units, q.reborrow(), k.reborrow(), v.reborrow(), bias, &mut frame.scope(), pool)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the gradients one by one, and what the call runs on")]
    fn units<G: Number>(
        &self,
        units: Range<usize>,
        q: TensorMut<'_, G>,
        k: TensorMut<'_, G>,
        v: TensorMut<'_, G>,
        bias: Option<TensorMut<'_, f32>>,
        frame: &mut Frame<'_>,
        pool: &Pool,
    ) -> Result<(), Error> {
        let (plan, kv_heads) = (self.pass.plan, self.kv_heads());
        let EdgePlan { queries: query_cuts, keys: key_cuts, .. } = self.edges;
        let blocks_of = |cuts: &Cuts, unit: usize| cuts.blocks(unit / kv_heads, unit % kv_heads);
        let all_of = |cuts: &Cuts| blocks_of(cuts, units.start).start..blocks_of(cuts, units.end - 1).end;

        let blocks = all_of(query_cuts);
        let ends = frame.take::<usize>(blocks.len());
        let (mut before, mut end_of) = (0, ends.iter_mut());
        for index in units.clone() {
            let unit = self.edges.unit(index, kv_heads);
            let (sequence, lists) = (&plan.sequences[unit.sequence], self.edges.lists(plan, unit));
            for first in (0..sequence.queries.len()).step_by(sequence.block) {
                let until = (first + sequence.block).min(sequence.queries.len());
                before += lists.before(until) - lists.before(first);
                *end_of.next().expect("a block") = before;
            }
        }
        let of_bias = if self.pass.with_bias { before } else { 0 };
        let pairs =
            Pairs { weights: frame.take(before), gradients: frame.take(before), of_bias: frame.take(of_bias), ends };

        let failure = Failure::default();
        // Without a bias every block has none of its numbers.
        let no_ends = &*frame.take_zeroed::<usize>(blocks.len());
        let bias_ends = if self.pass.with_bias { &*pairs.ends } else { no_ends };
        let numbers = (
            pieces_of(&mut *pairs.weights, pairs.ends),
            pieces_of(&mut *pairs.gradients, pairs.ends),
            pieces_of(&mut *pairs.of_bias, bias_ends),
        );
        let parts =
            (backwards(q.cut(self.pass.group, query_cuts)?, blocks.clone()), backwards(numbers, 0..blocks.len()));
        let mut scope = frame.scope();
        let workers = scope.split(pool.threads(), Worker::need(plan.shape));
        pool.run_in(workers, parts, |frame, _, ((index, mut q), (_, (weights, gradients, of_bias)))| {
            let (stretch, head, block) = query_cuts.place(index);
            let unit = Unit { sequence: self.edges.sequences[stretch], head };
            let pairs = BlockPairs { weights, gradients, of_bias };
            failure.catch(|| self.block(unit, block, pairs, &mut q, &mut frame.scope()));
        });
        failure.into_result()?;

        // Where the pairs of each unit begin.
        let first_of = |unit: usize| {
            let block = blocks_of(query_cuts, unit).start - blocks.start;
            block.checked_sub(1).map_or(0, |before| pairs.ends[before])
        };
        if let Some(bias) = bias {
            self.add_bias(units.clone(), pairs.of_bias, &first_of, bias, pool);
        }
        let failure = Failure::default();
        let mut scope = frame.scope();
        let parts = backwards((k.cut(1, key_cuts)?, v.cut(1, key_cuts)?), all_of(key_cuts));
        let (weights, gradients) = (&*pairs.weights, &*pairs.gradients);
        let workers = scope.split(pool.threads(), Worker::need(plan.shape));
        pool.run_in(workers, parts, |frame, _, (index, (mut k, mut v))| {
            let (stretch, head, block) = key_cuts.place(index);
            let first = first_of(stretch * kv_heads + head);
            let unit = Unit { sequence: self.edges.sequences[stretch], head };
            let numbers = (&weights[first..], &gradients[first..]);
            failure.catch(|| self.keys(unit, block * KEYS, numbers, &mut k, &mut v, &mut frame.scope()));
        });
        failure.into_result()
    }

    /// Weights and gradients of a block of queries.
    fn block<G: Number>(
        &self,
        unit: Unit,
        block: usize,
        pairs: BlockPairs<'_>,
        q: &mut TensorMut<'_, G>,
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        let (plan, group) = (self.pass.plan, self.pass.group);
        let (sequence, lists) = (&plan.sequences[unit.sequence], self.edges.lists(plan, unit));
        let scoring = Scoring::new(plan, self.pass.inputs.terms, unit, 1.0);
        let worker = &mut Worker::take(frame, plan.shape);
        let (mut done, first) = (0, block * sequence.block);
        let BlockPairs { weights, gradients, of_bias } = pairs;
        for i in 0..q.shape()[2] {
            for g in 0..group {
                let list = lists.of(first + i, g);
                let here = done..done + list.len();
                done = here.end;
                let of_bias = if of_bias.is_empty() { &mut [][..] } else { &mut of_bias[here.clone()] };
                let pairs =
                    BlockPairs { weights: &mut weights[here.clone()], gradients: &mut gradients[here], of_bias };
                self.row(unit, (first + i, g), &scoring, list, pairs, worker)?;
                let rows = q.rows_mut(0, g);
                let columns = 0..rows.cols();
                let row = rows.block(i..i + 1, columns);
                plan.kernels.store_sum(&[&*worker.sums], width(plan.shape.dim_k), plan.scale as f32, row)?;
            }
        }
        Ok(())
    }

    /// Weights and score gradients of one query, and the sum of its gradient in the worker's scratch.
    fn row(
        &self,
        unit: Unit,
        (i, g): (usize, usize),
        scoring: &Scoring<'_>,
        list: &[u32],
        pairs: BlockPairs<'_>,
        worker: &mut Worker<'_>,
    ) -> Result<(), Error> {
        let Pass { plan, inputs, upstream, group, .. } = *self.pass;
        let (kernels, sequence, r) = (plan.kernels, &plan.sequences[unit.sequence], i * group + g);
        let (head, query) = (unit.head * group + g, sequence.queries.start + i);
        let Worker { query: packed, out_gradient, sums, numbers: [scores, d_weights, d_scores], listed, .. } = worker;
        sums.fill(0.0);
        let (lse, delta) = self.pass.row_statistics(unit.sequence, head, i);
        let BlockPairs { weights, gradients, of_bias } = pairs;
        // A row that has seen no key has no weights.
        let list = if lse == f32::NEG_INFINITY { &[][..] } else { list };
        if list.is_empty() || scoring.may_mask() {
            weights.fill(0.0);
            gradients.fill(0.0);
            of_bias.fill(0.0);
        }
        if list.is_empty() {
            return Ok(());
        }
        kernels.pack_query::<F32, T>(inputs.q.rows(sequence.batch, head).row(query), 1.0, packed)?;
        let flow = upstream.out_gradient.rows(sequence.batch, head).row(query);
        kernels.pack_query::<F32, O>(flow, 1.0, out_gradient)?;
        let all = sequence.keys.clone();
        let keys = inputs.k.rows(sequence.batch, unit.head).block(all.clone(), 0..plan.shape.dim_k);
        let values = inputs.v.rows(sequence.batch, unit.head).block(all, 0..plan.shape.dim_v);
        let dropped = scoring.dropout(r).map(|row| [row]);
        for (number, list) in list.chunks(MOST).enumerate() {
            let first = number * MOST;
            let mut seen = listed.seen(scoring, r, list);
            let (of_seen, kept, count) = (seen.keys, seen.kept, seen.keys.len());
            kernels.dot_listed(packed, keys, of_seen, scores)?;
            kernels.dot_listed(out_gradient, values, of_seen, d_weights)?;
            let (row, places) = seen.adjustment(scoring, r);
            let rows = [row];
            let mut weighing = Weighing {
                adjustment: scoring.adjustment.unwrap_or(Adjustment { scale: plan.scale as f32, softcap: None }),
                rows: if scoring.adds() { &rows } else { &[] },
                places: KeyPlaces::Gathered(places),
                dropout: dropped.as_ref().map(|rows| Dropout {
                    rows,
                    numbers: KeyNumbers::Gathered(of_seen),
                    gain: scoring.gain(),
                }),
                d_scores: self.pass.with_bias.then_some(&mut **d_scores),
            };
            kernels.weigh_listed(&mut weighing, (lse, delta), count, [scores, d_weights])?;
            kernels.add_listed(d_weights, keys, of_seen, sums)?;
            let put = |from: &[f32], to: &mut [f32]| match kept {
                None => to[first..first + count].copy_from_slice(&from[..count]),
                Some(kept) => kept.iter().zip(from).for_each(|(&at, &x)| to[first + at as usize] = x),
            };
            put(scores, weights);
            put(d_weights, gradients);
            if self.pass.with_bias {
                put(d_scores, of_bias);
            }
        }
        Ok(())
    }

    /// The gradients of some keys and values of a unit, from key `first` on.
    fn keys<G: Number>(
        &self,
        unit: Unit,
        first: usize,
        (weights, gradients): (&[f32], &[f32]),
        k: &mut TensorMut<'_, G>,
        v: &mut TensorMut<'_, G>,
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        let Pass { plan, inputs, upstream, group, .. } = *self.pass;
        let (kernels, sequence, lists) = (plan.kernels, &plan.sequences[unit.sequence], self.edges.lists(plan, unit));
        let number = plan.layouts.number(unit.sequence, unit.head, self.kv_heads());
        let readers = &self.edges.readers[number];
        let scoring = Scoring::new(plan, inputs.terms, unit, 1.0);
        let Worker { sums, more_sums, numbers: [of_keys, of_values, _], list, .. } = Worker::take(frame, plan.shape);
        for j in 0..k.shape()[2] {
            sums.fill(0.0);
            more_sums.fill(0.0);
            for g in 0..group {
                let head = unit.head * group + g;
                let of_queries = sequence.queries.clone();
                let queries = inputs.q.rows(sequence.batch, head).block(of_queries.clone(), 0..plan.shape.dim_k);
                let flow =
                    upstream.out_gradient.rows(sequence.batch, head).block(of_queries.clone(), 0..plan.shape.dim_v);
                let lse = upstream.lse.rows(sequence.batch, head);
                for some in readers.of(first + j, g).chunks(MOST) {
                    let mut count = 0;
                    for &(i, place) in some {
                        let query = i as usize;
                        // What such a row holds must not be looked at.
                        let unseen = lse.row(sequence.queries.start + query)[0] == f32::NEG_INFINITY;
                        if unseen || scoring.masks(query * group + g)(first + j) {
                            continue;
                        }
                        let at = lists.pair(query, g, place as usize);
                        (list[count], of_keys[count], of_values[count]) = (i, gradients[at], weights[at]);
                        count += 1;
                    }
                    kernels.add_listed(of_keys, queries, &list[..count], sums)?;
                    kernels.add_listed(of_values, flow, &list[..count], more_sums)?;
                }
            }
            let store = |sums: &[f32], factor: f32, to: &mut TensorMut<'_, G>| {
                let rows = to.rows_mut(0, 0);
                let columns = 0..rows.cols();
                kernels.store_sum(&[sums], sums.len(), factor, rows.block(j..j + 1, columns))
            };
            store(sums, plan.scale as f32, k)?;
            store(more_sums, scoring.gain(), v)?;
        }
        Ok(())
    }

    /// Adds up what the pairs of some units make of the gradient of the bias.
    fn add_bias(
        &self,
        units: Range<usize>,
        of_pairs: &[f32],
        first_of: &(impl Fn(usize) -> usize + Sync),
        gradient: TensorMut<'_, f32>,
        pool: &Pool,
    ) {
        let [bias_batch, bias_heads, bias_rows, bias_keys] = gradient.shape();
        if gradient.shape().contains(&0) {
            return;
        }
        let (plan, group) = (self.pass.plan, self.pass.group);
        let blocks = bias_rows.div_ceil(BIAS_ROWS);
        pool.run(gradient.block_parts(1, BIAS_ROWS), |index, mut part| {
            let (entry, head, block) = (index / (bias_heads * blocks), index / blocks % bias_heads, index % blocks);
            for number in units.clone() {
                let unit = self.edges.unit(number, self.kv_heads());
                let (sequence, lists) = (&plan.sequences[unit.sequence], self.edges.lists(plan, unit));
                let own = unit.head * group..(unit.head + 1) * group;
                if !(bias_batch == 1 || sequence.batch == entry) || !(bias_heads == 1 || own.contains(&head)) {
                    continue;
                }
                let heads = if bias_heads == 1 { 0..group } else { head - own.start..head - own.start + 1 };
                // The queries whose rows these are: all of them where there is one row.
                let first_row = block * BIAS_ROWS;
                let rows = first_row..first_row + part.shape()[2];
                let queries = match bias_rows {
                    1 => sequence.queries.clone(),
                    _ => sequence.queries.start.max(rows.start)..sequence.queries.end.min(rows.end),
                };
                for query in queries {
                    let (i, at) = (query - sequence.queries.start, if bias_rows == 1 { 0 } else { query - first_row });
                    for g in heads.clone() {
                        let list = lists.of(i, g);
                        let first = first_of(number) + lists.first(i, g);
                        let mut to = part.rows_mut(0, 0);
                        let of_list = &of_pairs[first..first + list.len()];
                        if bias_keys == 1 {
                            // But for what falls out they cancel.
                            to.row_mut(at)[0] += of_list.iter().copied().map(f64::from).sum::<f64>() as f32;
                            continue;
                        }
                        for (&key, &x) in list.iter().zip(of_list) {
                            to.row_mut(at)[sequence.keys.start + key as usize] += x;
                        }
                    }
                }
            }
        });
    }
}
