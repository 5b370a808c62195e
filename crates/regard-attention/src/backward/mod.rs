//! The exact backward pass: gradients of queries, keys and values, and of what joins the scores.
//!
//! As FlashAttention-2 (Dao, 2023, algorithm 2): the weights are computed anew from the log-sum-exp,
//!
//! ```text
//! P = exp(ŝ − LSE)    Δ = rowsum(dO∘O)    dŝ = P∘(dO·Vᵀ − Δ + dLSE)    ds = dŝ·(1 − (c/cap)²)
//! dQ = scale·ds·K     dK = scale·dsᵀ·Q    dV = Pᵀ·dO    dbias = dŝ    dsink = Σ e^(sink − LSE)·(dLSE − Δ)
//! ```
//!
//! A task is a split of the keys of one key/value head, with `dK` and `dV` of its own, so that a single head keeps all cores
//! busy; each split leaves a partial `dQ`, and these are added up in the order of the splits.

mod bias;
mod rows;
mod split;

use std::marker::PhantomData;
use std::ops::Range;

use half::{bf16, f16};
use regard_kernels::{Bf16, F32, Number, Operand, PANEL, ROWS, Transposable};
use regard_masks::{BlockLayout, Gathered, Span, Transpose};
use regard_memory::{Arena, Cuts, Frame, Need, Tensor, TensorMut, backwards, chunks_of, each_of};
use regard_threads::Pool;

use crate::backward::rows::{PackedRows, Room};
use crate::backward::split::Partial;
use crate::edges::{EdgePass, EdgePlan};
use crate::plan::{Layouts, Unit};
use crate::scoring::{Keys, Scoring};
use crate::sequence::find_dead;
use crate::shape::expect;
use crate::task::Failure;
use crate::{Element, Error, Inputs, Plan, Shape, Terms};

/// Panels that a task goes over at once, for all queries: keys and values of 256 tokens in three layouts, with their
/// gradients 320 KiB in f32 (heads of 64), stay in the second-level cache.
pub(crate) const PANELS: usize = 4;

/// Keys of a split at least. Four splits of a causal head of 2048 keys share two cores evenly (7 + 1 and 5 + 3 sixteenths).
const SPLIT: usize = 512;

/// Splits of a key/value head at most: each has a partial gradient of all queries.
const SPLITS: usize = 8;

/// Rows of queries and partial gradients of the heads in flight take at most this much (and one head at least).
const IN_FLIGHT_BYTES: usize = 64 << 20;

/// A number type that attention can be differentiated in.
pub trait Differentiable: Element {
    /// How the products of the backward pass hold it.
    type Pairs: Transposable;
}

impl Differentiable for f32 {
    type Pairs = F32;
}

impl Differentiable for bf16 {
    type Pairs = Bf16;
}

impl Differentiable for f16 {
    type Pairs = F32;
}

/// What the forward pass gave, and the gradients that flow back into it.
#[derive(Clone, Copy, Debug)]
pub struct Upstream<'a, O, W = f32> {
    /// The result, `[batch, heads, queries, dim_v]`.
    pub out: Tensor<'a, O>,
    /// Its log-sum-exp, `[batch, heads, queries, 1]`.
    pub lse: Tensor<'a, W>,
    /// The gradient of the result.
    pub out_gradient: Tensor<'a, O>,
    /// The gradient of the log-sum-exp; 0 unless given.
    pub lse_gradient: Option<Tensor<'a, W>>,
}

impl<O, W> Upstream<'_, O, W> {
    /// Compares shapes with the plan's.
    pub(crate) fn check(&self, shape: Shape) -> Result<(), Error> {
        let Shape { batch, heads, queries, dim_v, .. } = shape;
        expect("out", self.out.shape(), [batch, heads, queries, dim_v])?;
        expect("lse", self.lse.shape(), [batch, heads, queries, 1])?;
        expect("out gradient", self.out_gradient.shape(), [batch, heads, queries, dim_v])?;
        match &self.lse_gradient {
            Some(gradient) => expect("lse gradient", gradient.shape(), [batch, heads, queries, 1]),
            None => Ok(()),
        }
    }
}

/// Where gradients are written.
#[derive(Debug)]
pub struct Gradients<'a, G, W = f32> {
    /// `[batch, heads, queries, dim_k]`.
    pub q: TensorMut<'a, G>,
    /// `[batch, kv_heads, keys, dim_k]`.
    pub k: TensorMut<'a, G>,
    /// `[batch, kv_heads, keys, dim_v]`.
    pub v: TensorMut<'a, G>,
    /// In the shape of the bias.
    pub bias: Option<TensorMut<'a, W>>,
    /// `[heads]`.
    pub sinks: Option<&'a mut [W]>,
}

impl<'a, G, W> Gradients<'a, G, W> {
    /// Gradients of queries, keys and values alone.
    pub fn new(q: TensorMut<'a, G>, k: TensorMut<'a, G>, v: TensorMut<'a, G>) -> Self {
        Gradients { q, k, v, bias: None, sinks: None }
    }

    /// Compares shapes with the plan's, and what is asked for with what is there.
    pub(crate) fn check(&self, shape: Shape, terms: &Terms<'_, W>) -> Result<(), Error> {
        let Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = shape;
        expect("gradient of queries", self.q.shape(), [batch, heads, queries, dim_k])?;
        expect("gradient of keys", self.k.shape(), [batch, kv_heads, keys, dim_k])?;
        expect("gradient of values", self.v.shape(), [batch, kv_heads, keys, dim_v])?;
        if let Some(gradient) = &self.bias {
            let Some(bias) = &terms.bias else { return Err(Error::NoTerm { tensor: "bias" }) };
            expect("gradient of the bias", gradient.shape(), bias.shape())?;
        }
        if let Some(gradient) = &self.sinks {
            if terms.sinks.is_none() {
                return Err(Error::NoTerm { tensor: "sinks" });
            }
            if gradient.len() != heads {
                let (has, expected) = (gradient.len(), heads.to_string());
                return Err(Error::Axis { tensor: "gradient of sinks", axis: "heads", has, expected });
            }
        }
        Ok(())
    }
}

/// What the backward pass of a plan needs beside the forward pass.
#[derive(Clone, Debug)]
pub(crate) struct BackwardPlan {
    /// The plan's layouts without gathered keys, where it has such.
    layouts: Option<Layouts>,
    /// Of each layout, in blocks of [`PANELS`].
    transposes: Vec<Transpose>,
    /// Blocks of queries of the sequences that are folded in tiles; the others have none.
    pub queries: Cuts,
    /// Splits of the keys of the same.
    pub keys: Cuts,
    /// Both of all sequences, where some go by their edges.
    all: Option<(Cuts, Cuts)>,
    /// Of those.
    edges: Option<EdgePlan>,
    /// Whether each sequence does.
    by_edges: Vec<bool>,
    /// Keys of a split, of each sequence.
    pub split_keys: Vec<usize>,
    /// Rows of keys that are in no sequence, or that nobody reads.
    pub dead_keys: Vec<(usize, Range<usize>)>,
}

/// Keys of a split of a sequence: a whole number of what is gone over at once.
fn split_keys(keys: usize) -> usize {
    keys.div_ceil(SPLITS).max(SPLIT).next_multiple_of(PANELS * PANEL)
}

impl BackwardPlan {
    pub(crate) fn new(plan: &Plan) -> Result<BackwardPlan, Error> {
        let sequences = &plan.sequences;
        let split_keys: Vec<usize> = sequences.iter().map(|sequence| split_keys(sequence.keys.len())).collect();
        // Tiles have no gathered keys here.
        let mut layouts = None;
        if plan.layouts.all.iter().any(|layout| layout.lists() > 0) {
            let layouts = layouts.insert(Layouts::default());
            plan.lay_out_keys(None, layouts)?;
            layouts.set_prices(plan.options.crossovers, plan.shape);
        }
        let priced = layouts.as_ref().unwrap_or(&plan.layouts);
        let by_edges = |number| priced.backward_by_edges(number, plan.shape.kv_heads);
        let by_edges: Vec<bool> = (0..sequences.len()).map(by_edges).collect();
        // The rows of a sequence, or none of them.
        let some = |rows: &Range<usize>, has: bool| rows.start..if has { rows.end } else { rows.start };
        let query_cuts = |has: &dyn Fn(usize) -> bool| {
            let all = sequences.iter().enumerate();
            let blocks = all.map(|(number, s)| (s.batch, some(&s.queries, has(number)), s.block));
            Ok::<_, Error>(Cuts::new(plan.shape.kv_heads, blocks)?)
        };
        let key_cuts = |has: &dyn Fn(usize) -> bool| {
            let all = sequences.iter().zip(&split_keys).enumerate();
            let splits = all.map(|(number, (s, &split))| (s.batch, some(&s.keys, has(number)), split));
            Cuts::new(plan.shape.kv_heads, splits).map_err(|_| Error::SharedKeys)
        };
        let all = (query_cuts(&|_| true)?, key_cuts(&|_| true)?);
        let (queries, keys, all, edges) = if by_edges.contains(&true) {
            let in_tiles = |number: usize| !by_edges[number];
            (query_cuts(&in_tiles)?, key_cuts(&in_tiles)?, Some(all), Some(EdgePlan::new(plan, &by_edges)?))
        } else {
            (all.0, all.1, None, None)
        };
        let mut dead_keys = Vec::new();
        // Without queries nobody reads a key.
        let readers = if plan.shape.rows() == 0 { &[][..] } else { &sequences[..] };
        let all_keys = readers.iter().map(|sequence| (sequence.batch, sequence.keys.clone()));
        find_dead((plan.shape.batch, plan.shape.keys), all_keys, &mut dead_keys)?;
        // Where all go by their edges nobody reads a tile.
        let in_tiles = by_edges.contains(&false);
        let layouts = layouts.filter(|_| in_tiles);
        let of_tiles = if in_tiles { &layouts.as_ref().unwrap_or(&plan.layouts).all[..] } else { &[] };
        Ok(BackwardPlan {
            transposes: of_tiles.iter().map(|layout| layout.transpose(PANELS)).collect::<Result<_, _>>()?,
            layouts,
            queries,
            keys,
            all,
            edges,
            by_edges,
            split_keys,
            dead_keys,
        })
    }

    /// The layout of a unit, and its transpose.
    fn layout<'p>(&'p self, plan: &'p Plan, unit: Unit) -> (&'p BlockLayout, &'p Transpose) {
        let (layouts, kv_heads) = (self.layouts.as_ref().unwrap_or(&plan.layouts), plan.shape.kv_heads);
        let number = layouts.number(unit.sequence, unit.head, kv_heads);
        (&layouts.all[number], &self.transposes[number])
    }

    /// Whether a sequence goes by its edges.
    pub(crate) fn goes_by_edges(&self, sequence: usize) -> bool {
        self.by_edges[sequence]
    }

    /// Blocks of queries, and splits of keys, of all sequences.
    pub(crate) fn all(&self) -> (&Cuts, &Cuts) {
        self.all.as_ref().map_or((&self.queries, &self.keys), |(queries, keys)| (queries, keys))
    }

    /// Splits of a sequence.
    pub(crate) fn splits(&self, sequence: usize) -> usize {
        // Of no heads there are no blocks, not even of the first.
        if self.keys.count() == 0 { 0 } else { self.keys.blocks(sequence, 0).len() }
    }
}

impl Plan {
    /// Computes the gradients of [`Plan::run`], exactly: those of queries, keys and values, and where asked of the bias
    /// and of the sinks. The sums are made in f32 whatever the numbers are stored in; the same weights fall as before.
    ///
    /// A query that sees no key, and one of no sequence, has the gradient 0 and adds nothing to any but its sink's; keys
    /// of no sequence have the gradient 0.
    ///
    /// # Errors
    /// A tensor's shape is not the plan's, a gradient is asked for of what is not there, packed sequences share keys, or
    /// there is no memory for the scratch; then nothing is written.
    pub fn backward<T: Differentiable, O: Differentiable, G: Number>(
        &self,
        inputs: &Inputs<'_, T>,
        upstream: &Upstream<'_, O>,
        gradients: Gradients<'_, G>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        inputs.check(self.shape, self.sequences.len())?;
        upstream.check(self.shape)?;
        gradients.check(self.shape, &inputs.terms)?;
        let backward = self.backward_plan()?;
        if T::Pairs::DEPTH > 1 && !self.kernels.isa().has_bf16_dots() {
            // Pairs would be taken apart at every use; widened once, they cost what f32 costs.
            return self.backward_as::<T, O, F32, G>(backward, inputs, upstream, gradients, scratch, pool);
        }
        self.backward_as::<T, O, T::Pairs, G>(backward, inputs, upstream, gradients, scratch, pool)
    }

    fn backward_as<T: Differentiable, O: Differentiable, E: Transposable, G: Number>(
        &self,
        backward: &BackwardPlan,
        inputs: &Inputs<'_, T>,
        upstream: &Upstream<'_, O>,
        mut gradients: Gradients<'_, G>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let pass = Pass::<T, O, E>::new(self, backward, inputs, upstream, gradients.bias.is_some());
        // Without queries there are no rows to be packed.
        let in_tiles = self.shape.rows() > 0 && backward.by_edges.contains(&false);
        let units = if in_tiles { self.sequences.len() * self.shape.kv_heads } else { 0 };
        let edges = backward.edges.as_ref().filter(|_| self.shape.rows() > 0);
        let edges = edges.map(|edges| EdgePass { pass: &pass, edges });
        let in_flight = (IN_FLIGHT_BYTES / pass.unit_need().bytes().max(1)).clamp(1, units.max(1));
        let worker = split::need::<E>(pass.room);
        let of_tiles = pass.unit_need().times(in_flight).and(worker.times(pool.threads()));
        let of_edges = edges.as_ref().map_or(Need::NONE, |edges| edges.need(IN_FLIGHT_BYTES, pool.threads()));
        let mut frame = scratch.frame(if units == 0 { of_edges } else { of_tiles.or(of_edges) })?;
        self.clear_gradients(backward, &mut gradients);
        if let Some(sinks) = gradients.sinks {
            pass.sinks(sinks, pool);
        }
        let (mut q, mut k, mut v, mut bias) = (gradients.q, gradients.k, gradients.v, gradients.bias);
        if let Some(bias) = &mut bias {
            let [batch, heads, rows, _] = bias.shape();
            for at in 0..batch * heads * rows {
                bias.rows_mut(at / rows / heads, at / rows % heads).row_mut(at % rows).fill(0.0);
            }
        }
        for first in (0..units).step_by(in_flight) {
            let units = first..units.min(first + in_flight);
            let bias = bias.as_mut().map(TensorMut::reborrow);
            pass.units(units, q.reborrow(), k.reborrow(), v.reborrow(), bias, &mut frame.scope(), pool)?;
        }
        if let Some(edges) = edges {
            edges.run(IN_FLIGHT_BYTES, q, k, v, bias, &mut frame.scope(), pool)?;
        }
        Ok(())
    }

    /// Rows of no sequence: no gradient.
    fn clear_gradients<G: Number>(&self, backward: &BackwardPlan, gradients: &mut Gradients<'_, G>) {
        let clear = |tensor: &mut TensorMut<'_, G>, dead: &[(usize, Range<usize>)]| {
            for (batch, rows) in dead {
                for head in 0..tensor.shape()[1] {
                    rows.clone().for_each(|row| tensor.rows_mut(*batch, head).row_mut(row).fill(G::default()));
                }
            }
        };
        clear(&mut gradients.q, &self.dead);
        clear(&mut gradients.k, &backward.dead_keys);
        clear(&mut gradients.v, &backward.dead_keys);
    }
}

/// One backward pass.
pub(crate) struct Pass<'p, 'a, T, O, E> {
    pub plan: &'p Plan,
    pub backward: &'p BackwardPlan,
    pub inputs: &'a Inputs<'a, T>,
    pub upstream: &'a Upstream<'a, O>,
    pub group: usize,
    pub room: Room,
    /// Whether the gradient of the bias is asked for.
    pub with_bias: bool,
    operand: PhantomData<E>,
}

impl<'p, 'a, T: Differentiable, O: Differentiable, E: Transposable> Pass<'p, 'a, T, O, E> {
    fn new(
        plan: &'p Plan,
        backward: &'p BackwardPlan,
        inputs: &'a Inputs<'a, T>,
        upstream: &'a Upstream<'a, O>,
        with_bias: bool,
    ) -> Self {
        let Shape { dim_k, dim_v, .. } = plan.shape;
        let group = plan.shape.group();
        let in_tiles = plan.sequences.iter().zip(&backward.by_edges).filter(|(_, by_edges)| !**by_edges);
        let rows = in_tiles.map(|(sequence, _)| sequence.queries.len() * group).max().unwrap_or(0);
        let (room, operand) = (Room::of::<E>(rows, dim_k, dim_v), PhantomData);
        Pass { plan, backward, inputs, upstream, group, room, with_bias, operand }
    }

    /// Scratch of a unit: its rows, and a partial gradient of them for each split.
    fn unit_need(&self) -> Need {
        let sequences = 0..self.plan.sequences.len();
        let splits = sequences.map(|sequence| self.backward.splits(sequence)).max().unwrap_or(0);
        let partials = Need::of::<f32>(splits * self.room.partial()).and(Need::of::<u8>(splits * self.room.chunks()));
        self.room.need::<E>().and(partials).and(Need::of::<f32>(splits * self.bias_words()))
    }

    /// Words that a split has for its sums of the gradient of the bias, at least one.
    fn bias_words(&self) -> usize {
        let sequences = 0..self.plan.sequences.len();
        let words = sequences.filter_map(|sequence| self.bias_shape(sequence, 0)).map(|shape| shape.len());
        words.max().unwrap_or(0).max(1)
    }

    fn unit(&self, index: usize) -> Unit {
        let kv_heads = self.plan.shape.kv_heads;
        Unit { sequence: index / kv_heads, head: index % kv_heads }
    }

    /// The gradients of some units, all cores together.
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
        let BackwardPlan { queries: query_cuts, keys: key_cuts, .. } = self.backward;
        let (kv_heads, room) = (self.plan.shape.kv_heads, self.room);
        let blocks_of = |cuts: &Cuts, unit: usize| cuts.blocks(unit / kv_heads, unit % kv_heads);
        let all_of = |cuts: &Cuts| blocks_of(cuts, units.start).start..blocks_of(cuts, units.end - 1).end;

        // The rows of each unit are packed once, and read by all its splits.
        let mut packed = PackedRows::<E>::take(frame, units.len(), room);
        let failure = Failure::default();
        pool.run(packed.parts(room), |index, mut rows| {
            let unit = self.unit(units.start + index / room.chunks());
            failure.catch(|| self.pack_rows(unit, index % room.chunks(), &mut rows));
        });
        failure.into_result()?;
        let packed = &packed;

        let splits = all_of(key_cuts);
        let partials = frame.take::<f32>(splits.len() * room.partial());
        let touched = frame.take::<u8>(splits.len() * room.chunks());
        let failure = Failure::default();
        let words = self.bias_words();
        let bias_sums = frame.take::<f32>(splits.len() * words);
        let partial_parts = (
            chunks_of(&mut *partials, room.partial()),
            chunks_of(&mut *touched, room.chunks()),
            chunks_of(&mut *bias_sums, words),
        );
        let parts = (
            backwards((k.cut(1, key_cuts)?, v.cut(1, key_cuts)?), splits.clone()),
            backwards(partial_parts, 0..splits.len()),
        );
        let workers = frame.split(pool.threads(), split::need::<E>(room));
        pool.run_in(workers, parts, |frame, _, ((index, (mut k, mut v)), (_, (partial, touched, bias)))| {
            let (sequence, head, split) = key_cuts.place(index);
            let rows = packed.unit(sequence * kv_heads + head - units.start, room);
            let partial = Partial { gradient: partial, touched };
            let unit = Unit { sequence, head };
            failure.catch(|| self.split(unit, split, rows, partial, bias, &mut frame.scope(), &mut k, &mut v));
        });
        failure.into_result()?;

        if let Some(bias) = bias {
            self.add_bias(units.clone(), bias_sums, words, bias, pool);
        }

        // Partial gradients of queries are added up in the order of the splits.
        let (partials, touched) = (&*partials, &*touched);
        let failure = Failure::default();
        pool.run(backwards(q.cut(self.group, query_cuts)?, all_of(query_cuts)), |_, (index, mut q)| {
            let (sequence, head, block) = query_cuts.place(index);
            let first = block * self.plan.sequences[sequence].block;
            let own = key_cuts.blocks(sequence, head);
            let own = own.start - splits.start..own.end - splits.start;
            for g in 0..self.group {
                let mut rows = q.rows_mut(0, g);
                let mut done = 0;
                while done < rows.rows() {
                    // As many as lie in one chunk: there each split has all of them or none.
                    let row = (first + done) * self.group + g;
                    let chunk = row / room.chunk;
                    let count = ((chunk + 1) * room.chunk - row).div_ceil(self.group).min(rows.rows() - done);
                    let mut parts: [&[f32]; SPLITS] = [&[]; SPLITS];
                    let mut touching = 0;
                    for split in own.clone().filter(|split| touched[split * room.chunks() + chunk] != 0) {
                        parts[touching] = &partials[split * room.partial() + row * room.width_k..];
                        touching += 1;
                    }
                    let (columns, stride) = (0..rows.cols(), self.group * room.width_k);
                    let to = rows.reborrow().block(done..done + count, columns);
                    let scale = self.plan.scale as f32;
                    failure.catch(|| Ok(self.plan.kernels.store_sum(&parts[..touching], stride, scale, to)?));
                    done += count;
                }
            }
        });
        failure.into_result()
    }

    /// `Σ e^(sink − LSE)·(dLSE − Δ)` over the rows of each head, in f64.
    fn sinks(&self, gradients: &mut [f32], pool: &Pool) {
        let sinks = self.inputs.terms.sinks.unwrap_or_default();
        pool.run(each_of(gradients), |head, gradient| {
            let mut sum = 0.0;
            for (number, sequence) in self.plan.sequences.iter().enumerate() {
                for i in 0..sequence.queries.len() {
                    let (lse, delta) = self.row_statistics(number, head, i);
                    // A sink of −∞ is none.
                    if sinks[head] != f32::NEG_INFINITY {
                        sum -= (f64::from(sinks[head]) - f64::from(lse)).exp() * f64::from(delta);
                    }
                }
            }
            *gradient = sum as f32;
        });
    }

    /// The log-sum-exp of query `i` of a sequence under a query head, and `Δ − dLSE`.
    pub(crate) fn row_statistics(&self, number: usize, head: usize, i: usize) -> (f32, f32) {
        let sequence = &self.plan.sequences[number];
        let (batch, row) = (sequence.batch, sequence.queries.start + i);
        let of = |tensor: &Tensor<'a, O>| tensor.rows(batch, head).row(row);
        let (out, gradient) = (of(&self.upstream.out), of(&self.upstream.out_gradient));
        let mut delta = self.plan.kernels.dot(out, gradient).expect("rows of one length");
        // A row without keys is 0, and adds nothing whatever flows into it: 0·NaN would be NaN.
        if delta.is_nan() && out.iter().all(|x| x.to_f32() == 0.0) && !self.sees(number, head, i) {
            delta = 0.0;
        }
        let lse_gradient = self.upstream.lse_gradient.map_or(0.0, |tensor| tensor.rows(batch, head).row(row)[0]);
        (self.upstream.lse.rows(batch, head).row(row)[0], delta - lse_gradient)
    }

    /// Whether a query sees a key.
    fn sees(&self, number: usize, head: usize, i: usize) -> bool {
        let unit = Unit { sequence: number, head: head / self.group };
        let scoring = Scoring::new(self.plan, self.inputs.terms, unit, 1.0);
        let (layout, r) = (self.plan.layout(number, unit.head), i * self.group + head % self.group);
        let (tile, within) = (r / ROWS, r % ROWS);
        let sees = |keys: Keys<'_>, bits: u64| scoring.kept(r, keys, bits) != 0;
        let of_span = |span: Span<'_>| match span {
            Span::Full(panels) => panels.into_iter().any(|panel| sees(Keys::From(panel * PANEL), u64::MAX)),
            Span::Rim { panel, bits } => sees(Keys::From(panel * PANEL), bits[within]),
        };
        let of_gathered = |gathered: Gathered<'_>| sees(Keys::Gathered(gathered.keys), gathered.bits[within]);
        layout.tile(tile).any(of_span) || layout.gathered(tile).any(of_gathered)
    }
}
