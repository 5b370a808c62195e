//! Linear layers: weights that are applied to the same rows, side by side.

use std::ops::Range;

use regard_kernels::{Activation, ActivationBlock, Activations, Epilogue, Kernels, PANEL, QuantizedRows, Weight};
use regard_memory::{Frame, Need, Rows, RowsMut, chunks_of};
use regard_threads::Pool;

use crate::Result;
use crate::failure::Failure;

/// Rows that one task prepares.
const ROWS_AT_ONCE: usize = 8;

/// Rows whose results are rounded together: few enough that they are still near, and enough to widen weights for.
const NEAR: usize = 384;

/// Numbers that are rounded to bytes together.
const BLOCK: usize = 32;

/// Weights `[outputs, inputs]` that are applied to the same rows: these are prepared once, and all cores meet once. The
/// results of a member start at a column that is a whole number of panels.
pub(crate) struct Projection {
    members: Vec<Member>,
    rounding: Rounding,
    /// What inputs are multiplied by before they are rounded to bytes: `[inputs]`, or none.
    factors: Vec<f32>,
}

/// What weights that are plain numbers are rounded to when they are loaded, and what they are applied to with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// Nothing: products are in f32.
    None,
    /// bf16.
    Bf16,
    /// Bytes, 32 of which share a scale.
    Int8,
}

/// What a projection takes: `[rows, inputs]`.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    /// Numbers, which the projection rounds as it needs them.
    Numbers(Rows<'a, f32>),
    /// Pairs of bf16: `[rows, ⌈inputs / 2⌉]`.
    Bf16(Rows<'a, u32>),
    /// Bytes, for weights in blocks.
    Bytes(QuantizedRows<'a, 1>),
}

impl<'a> From<Rows<'a, f32>> for Input<'a> {
    fn from(numbers: Rows<'a, f32>) -> Self {
        Input::Numbers(numbers)
    }
}

/// Where the results of a projection go: `[rows, columns]`.
pub(crate) enum Output<'a> {
    /// As they are.
    Numbers(RowsMut<'a, f32>),
    /// Rounded to pairs of bf16: `[rows, ⌈columns / 2⌉]`.
    Bf16(RowsMut<'a, u32>),
    /// Rounded to bytes: `[rows, ⌈columns / 32⌉]`.
    Bytes(RowsMut<'a, ActivationBlock<1>>),
}

impl<'a> From<RowsMut<'a, f32>> for Output<'a> {
    fn from(numbers: RowsMut<'a, f32>) -> Self {
        Output::Numbers(numbers)
    }
}

/// Activations in the kinds that a projection's weights meet.
struct Prepared<'a> {
    /// Those of weights that are plain numbers.
    plain: Activations<'a>,
    /// Those of weights in blocks.
    blocks: Activations<'a>,
}

impl Prepared<'_> {
    fn rows(&self) -> usize {
        self.plain.rows()
    }

    /// Some of the rows.
    fn block(&self, rows: Range<usize>) -> Self {
        Prepared { plain: self.plain.block(rows.clone()), blocks: self.blocks.block(rows) }
    }
}

struct Member {
    weight: Weight,
    /// `[outputs]`.
    bias: Option<Vec<f32>>,
    /// Panels of the members before it.
    first: usize,
}

impl Projection {
    /// Weights with the same number of inputs, one at least, and their biases.
    pub(crate) fn new(weights: Vec<(Weight, Option<Vec<f32>>)>) -> Projection {
        let mut next = 0;
        let member = |(weight, bias): (Weight, Option<Vec<f32>>)| {
            let first = next;
            next += weight.panels();
            Member { weight, bias, first }
        };
        Projection { members: weights.into_iter().map(member).collect(), rounding: Rounding::None, factors: Vec::new() }
    }

    /// The same, with what it is applied to rounded: for weights that are.
    pub(crate) fn rounding(self, rounding: Rounding) -> Projection {
        Projection { rounding, ..self }
    }

    /// The same, with its inputs multiplied by factors that its weights were divided by.
    pub(crate) fn scaling(self, factors: Vec<f32>) -> Projection {
        Projection { factors, ..self }
    }

    /// The column at which the results of a member start.
    pub(crate) fn start(&self, member: usize) -> usize {
        self.members[member].first * PANEL
    }

    /// Columns of the result: of a single weight its outputs, of several with gaps up to whole panels between them.
    pub(crate) fn columns(&self) -> usize {
        self.members.last().map_or(0, |last| last.first * PANEL + last.weight.outputs())
    }

    /// Bytes that the weights take.
    pub(crate) fn bytes(&self) -> usize {
        self.members.iter().map(|member| member.weight.bytes()).sum()
    }

    /// Row `row` of the first weight, as numbers: an embedding.
    pub(crate) fn lookup(&self, kernels: Kernels, row: usize, out: &mut [f32]) -> Result<()> {
        Ok(kernels.embed(&self.members[0].weight, row, out)?)
    }

    /// Whether any weight is in a block format, whose products take bytes.
    fn quantized(&self) -> bool {
        self.members.iter().any(|member| member.weight.format().is_quantized())
    }

    /// Inputs of the weights as they are stored.
    fn inputs(&self) -> usize {
        self.members.first().map_or(0, |member| member.weight.inputs())
    }

    /// Whether weights in blocks meet activations of so many bytes.
    fn takes(&self, bytes: usize) -> bool {
        self.quantized() && bytes == if self.rounding == Rounding::Int8 { 1 } else { 2 }
    }

    fn blocks<const BYTES: usize>(&self, rows: usize) -> usize {
        if self.takes(BYTES) { rows * ActivationBlock::<BYTES>::per_row(self.inputs()) } else { 0 }
    }

    fn pairs(&self, rows: usize) -> usize {
        if self.rounding == Rounding::Bf16 { rows * self.inputs().div_ceil(2) } else { 0 }
    }

    /// The scratch of [`Projection::apply`].
    pub(crate) fn need(&self, rows: usize) -> Need {
        let two = Need::of::<ActivationBlock<2>>(self.blocks::<2>(rows));
        let one =
            Need::of::<ActivationBlock<1>>(self.blocks::<1>(rows)).and(Need::of::<f32>(rows * self.factors.len()));
        two.and(one).and(Need::of::<u32>(self.pairs(rows)))
    }

    /// `x` with its inputs multiplied by the factors, if there are some: in `scaled`, `[rows][inputs]`.
    fn scaled<'x>(&self, pool: &Pool, x: Rows<'x, f32>, scaled: &'x mut [f32]) -> Result<Rows<'x, f32>> {
        if self.factors.is_empty() {
            return Ok(x);
        }
        pool.run(chunks_of(scaled, ROWS_AT_ONCE * x.cols()), |part, to| {
            for (row, to) in to.chunks_exact_mut(x.cols()).enumerate() {
                let numbers = x.row(part * ROWS_AT_ONCE + row).iter().zip(&self.factors);
                to.iter_mut().zip(numbers).for_each(|(to, (x, factor))| *to = x * factor);
            }
        });
        Ok(Rows::contiguous(scaled, x.rows(), x.cols())?)
    }

    /// The blocks of `x`, if there are any: `[rows][⌈inputs / 32⌉]`.
    fn quantize<const BYTES: usize>(
        kernels: Kernels,
        pool: &Pool,
        x: Rows<'_, f32>,
        blocks: &mut [ActivationBlock<BYTES>],
    ) -> Result<()> {
        let failure = Failure::default();
        let each = ROWS_AT_ONCE * ActivationBlock::<BYTES>::per_row(x.cols());
        pool.run(chunks_of(blocks, each.max(1)), |part, blocks| {
            let rows = part * ROWS_AT_ONCE..x.rows().min((part + 1) * ROWS_AT_ONCE);
            failure.note(kernels.quantize(x.block(rows, 0..x.cols()), blocks));
        });
        failure.into_result()
    }

    /// `x` as the weights want it.
    fn prepare<'x>(&self, kernels: Kernels, pool: &Pool, x: Input<'x>, frame: &mut Frame<'x>) -> Result<Prepared<'x>> {
        let x = match x {
            Input::Numbers(x) => x,
            Input::Bf16(x) => {
                let pairs = Activations::Bf16(x);
                return Ok(Prepared { plain: pairs, blocks: pairs });
            }
            Input::Bytes(x) => {
                let bytes = Activations::Bytes(x);
                return Ok(Prepared { plain: bytes, blocks: bytes });
            }
        };
        let (rows, inputs) = (x.rows(), self.inputs());
        let mut plain = Activations::F32(x);
        if self.rounding == Rounding::Bf16 {
            let pairs = frame.take::<u32>(self.pairs(rows));
            let of_row = x.cols().div_ceil(2);
            let failure = Failure::default();
            pool.run(RowsMut::contiguous(pairs, rows, of_row)?.row_parts(ROWS_AT_ONCE), |part, pairs| {
                let first = part * ROWS_AT_ONCE;
                failure.note(kernels.round_to_bf16(x.block(first..first + pairs.rows(), 0..x.cols()), pairs));
            });
            failure.into_result()?;
            plain = Activations::Bf16(Rows::contiguous(pairs, rows, of_row)?);
        }
        let mut blocks = plain;
        if self.takes(2) {
            let two = frame.take::<ActivationBlock<2>>(self.blocks::<2>(rows));
            Self::quantize(kernels, pool, x, two)?;
            blocks = Activations::Quantized(QuantizedRows::new(two, rows, inputs)?);
        } else if self.takes(1) {
            let one = frame.take::<ActivationBlock<1>>(self.blocks::<1>(rows));
            let scaled = frame.take::<f32>(rows * self.factors.len());
            Self::quantize(kernels, pool, self.scaled(pool, x, scaled)?, one)?;
            blocks = Activations::Bytes(QuantizedRows::new(one, rows, inputs)?);
        }
        Ok(Prepared { plain, blocks })
    }

    /// The results of some panels, side by side.
    fn product(
        &self,
        kernels: Kernels,
        x: &Prepared<'_>,
        panels: Range<usize>,
        mut out: RowsMut<'_, f32>,
        epilogue: Epilogue<'_>,
    ) -> Result<(), regard_kernels::Error> {
        for member in &self.members {
            let from = panels.start.max(member.first);
            let until = panels.end.min(member.first + member.weight.panels());
            if from >= until {
                continue;
            }
            let of_member = from - member.first..until - member.first;
            let first = (from - panels.start) * PANEL;
            let columns = member.weight.columns(of_member.clone());
            let out = out.reborrow().block(0..x.rows(), first..first + columns.len());
            let epilogue = Epilogue { bias: member.bias.as_ref().map(|bias| &bias[columns]), ..epilogue };
            let x = if member.weight.format().is_quantized() { x.blocks } else { x.plain };
            kernels.linear(&member.weight, of_member, x, out, epilogue)?;
        }
        Ok(())
    }

    /// `out = x · Wᵀ + bias`, and what the epilogue makes of it, which has no bias of its own: `x [rows, inputs]`, `out [rows,
    /// columns]`.
    ///
    /// Weights in block formats meet activations of 16 bits, and the result is nearly that of f32: the perplexity of a model
    /// in Q4_1 is off by 0.01%, where activations of 8 bits cost 0.5%. Only weights that are rounded to bytes themselves meet
    /// such.
    pub(crate) fn apply<'a>(
        &self,
        kernels: Kernels,
        pool: &Pool,
        x: impl Into<Input<'a>>,
        out: impl Into<Output<'a>>,
        epilogue: Epilogue<'_>,
        frame: &mut Frame<'_>,
    ) -> Result<()> {
        let failure = Failure::default();
        let frame = &mut frame.scope();
        let x = &self.prepare(kernels, pool, x.into(), frame)?;
        let (panels, threads) = (self.columns().div_ceil(PANEL), pool.threads());
        let together = panels_together(panels, x.rows(), threads);
        let of_part = |part: usize| part * together..panels.min((part + 1) * together);
        let each = self.results_need(x.rows(), together);
        match out.into() {
            Output::Numbers(out) => pool.run(out.column_parts(together * PANEL), |part, out| {
                failure.note(self.product(kernels, x, of_part(part), out, epilogue));
            }),
            Output::Bf16(out) => {
                let (frames, parts) = (frame.split(threads, each), out.column_parts(together * PANEL / 2));
                pool.run_in(frames, parts, |frame, part, mut out| {
                    let round = |rows: Range<usize>, x: Rows<'_, f32>| {
                        let pairs = out.cols();
                        kernels.round_to_bf16(x, out.reborrow().block(rows, 0..pairs))
                    };
                    failure.note(self.product_then(kernels, x, of_part(part), epilogue, frame, round));
                });
            }
            Output::Bytes(out) => {
                let (frames, parts) = (frame.split(threads, each), out.column_parts(together * PANEL / BLOCK));
                pool.run_in(frames, parts, |frame, part, mut out| {
                    let round = |mut rows: Range<usize>, x: Rows<'_, f32>| {
                        let first = rows.start;
                        rows.try_for_each(|row| {
                            let x = x.block(row - first..row - first + 1, 0..x.cols());
                            kernels.quantize(x, out.row_mut(row))
                        })
                    };
                    failure.note(self.product_then(kernels, x, of_part(part), epilogue, frame, round));
                });
            }
        }
        failure.into_result()
    }

    /// `out = activation(x·Gᵀ) ∘ (x·Uᵀ)` of two members with the same outputs, `G` and `U`: `x [rows, inputs]`, `out [rows,
    /// outputs]`. What both give is multiplied while it is near.
    pub(crate) fn apply_gated<'a>(
        &self,
        kernels: Kernels,
        pool: &Pool,
        activation: Activation,
        x: impl Into<Input<'a>>,
        out: RowsMut<'_, f32>,
        frame: &mut Frame<'_>,
    ) -> Result<()> {
        let failure = Failure::default();
        let frame = &mut frame.scope();
        let x = &self.prepare(kernels, pool, x.into(), frame)?;
        let (panels, threads) = (out.cols().div_ceil(PANEL), pool.threads());
        let together = panels_together(panels, x.rows(), threads);
        let frames = frame.split(threads, self.gated_results_need(x.rows(), together));
        pool.run_in(frames, out.column_parts(together * PANEL), |frame, part, out| {
            failure.note(self.product_gated(kernels, x, activation, part * together, out, frame));
        });
        failure.into_result()
    }

    /// The results of some panels of [`Projection::apply_gated`] from panel `first` on.
    fn product_gated(
        &self,
        kernels: Kernels,
        x: &Prepared<'_>,
        activation: Activation,
        first: usize,
        mut out: RowsMut<'_, f32>,
        frame: &mut Frame<'_>,
    ) -> Result<()> {
        let (columns, near) = (out.cols(), x.rows().min(NEAR));
        let mut frame = frame.scope();
        let mut both = [frame.take::<f32>(near * columns), frame.take::<f32>(near * columns)];
        for from in (0..x.rows()).step_by(NEAR) {
            let rows = from..x.rows().min(from + NEAR);
            let near = x.block(rows.clone());
            for (results, member) in both.iter_mut().zip(&self.members) {
                let panels = member.first + first..member.first + first + columns.div_ceil(PANEL);
                let results = RowsMut::contiguous(&mut results[..rows.len() * columns], rows.len(), columns)?;
                self.product(kernels, &near, panels, results, Epilogue::STORE)?;
            }
            let [gate, up] = both.each_ref().map(|results| results.chunks_exact(columns));
            for (row, (gate, up)) in rows.zip(gate.zip(up)) {
                kernels.gate(activation, gate, up, out.row_mut(row))?;
            }
        }
        Ok(())
    }

    /// A task's results before they are multiplied.
    fn gated_results_need(&self, rows: usize, together: usize) -> Need {
        let outputs = self.members.first().map_or(0, |member| member.weight.outputs());
        Need::of::<f32>(rows.min(NEAR) * outputs.min(together * PANEL)).times(2)
    }

    /// The scratch of [`Projection::apply_gated`].
    pub(crate) fn gated_need(&self, rows: usize, threads: usize) -> Need {
        let panels = self.members.first().map_or(0, |member| member.weight.panels());
        let results = self.gated_results_need(rows, panels_together(panels, rows, threads));
        self.need(rows).and(results.times(threads))
    }

    /// [`Projection::product`], of which some rows after the others are handed on while they are near.
    fn product_then(
        &self,
        kernels: Kernels,
        x: &Prepared<'_>,
        panels: Range<usize>,
        epilogue: Epilogue<'_>,
        frame: &mut Frame<'_>,
        mut then: impl FnMut(Range<usize>, Rows<'_, f32>) -> Result<(), regard_kernels::Error>,
    ) -> Result<()> {
        let columns = (panels.end * PANEL).min(self.columns()) - panels.start * PANEL;
        let results = frame.scope().take::<f32>(x.rows().min(NEAR) * columns);
        for first in (0..x.rows()).step_by(NEAR) {
            let rows = first..x.rows().min(first + NEAR);
            let results = &mut results[..rows.len() * columns];
            let out = RowsMut::contiguous(results, rows.len(), columns)?;
            self.product(kernels, &x.block(rows.clone()), panels.clone(), out, epilogue)?;
            let results = Rows::contiguous(results, rows.len(), columns)?;
            then(rows, results)?;
        }
        Ok(())
    }

    /// A task's results before they are rounded.
    fn results_need(&self, rows: usize, together: usize) -> Need {
        Need::of::<f32>(rows.min(NEAR) * self.columns().min(together * PANEL))
    }

    /// The scratch of [`Projection::apply`] with an output that is rounded, beside [`Projection::need`].
    pub(crate) fn rounded_need(&self, rows: usize, threads: usize) -> Need {
        let together = panels_together(self.columns().div_ceil(PANEL), rows, threads);
        self.results_need(rows, together).times(threads)
    }
}

/// What a projection hands to what takes it next, as precise as that takes it: `[rows, columns]`.
pub(crate) struct Carried<'f> {
    rows: usize,
    columns: usize,
    pub(crate) numbers: Numbers<'f>,
}

/// The numbers of [`Carried`].
pub(crate) enum Numbers<'f> {
    /// `[rows][columns]`.
    F32(&'f mut [f32]),
    /// `[rows][⌈columns / 2⌉]` pairs.
    Bf16(&'f mut [u32]),
    /// `[rows][⌈columns / 32⌉]`.
    Bytes(&'f mut [ActivationBlock<1>]),
}

impl<'f> Carried<'f> {
    /// The memory of so many rows and columns.
    pub(crate) fn need(rounding: Rounding, rows: usize, columns: usize) -> Need {
        match rounding {
            Rounding::None => Need::of::<f32>(rows * columns),
            Rounding::Bf16 => Need::of::<u32>(rows * columns.div_ceil(2)),
            Rounding::Int8 => Need::of::<ActivationBlock<1>>(rows * columns.div_ceil(BLOCK)),
        }
    }

    /// Memory for so many rows and columns. What stands in it is anything, but beside the last of an odd number of halves is
    /// 0.
    pub(crate) fn take(rounding: Rounding, rows: usize, columns: usize, frame: &mut Frame<'f>) -> Self {
        let numbers = match rounding {
            Rounding::None => Numbers::F32(frame.take(rows * columns)),
            Rounding::Bf16 if columns.is_multiple_of(2) => Numbers::Bf16(frame.take(rows * columns / 2)),
            Rounding::Bf16 => Numbers::Bf16(frame.take_zeroed(rows * columns.div_ceil(2))),
            Rounding::Int8 => Numbers::Bytes(frame.take(rows * columns.div_ceil(BLOCK))),
        };
        Carried { rows, columns, numbers }
    }

    /// To be written.
    pub(crate) fn output(&mut self) -> Result<Output<'_>> {
        let (rows, columns) = (self.rows, self.columns);
        Ok(match &mut self.numbers {
            Numbers::F32(numbers) => Output::Numbers(RowsMut::contiguous(numbers, rows, columns)?),
            Numbers::Bf16(pairs) => Output::Bf16(RowsMut::contiguous(pairs, rows, columns.div_ceil(2))?),
            Numbers::Bytes(blocks) => Output::Bytes(RowsMut::contiguous(blocks, rows, columns.div_ceil(BLOCK))?),
        })
    }

    /// To be read.
    pub(crate) fn input(&self) -> Result<Input<'_>> {
        let (rows, columns) = (self.rows, self.columns);
        Ok(match &self.numbers {
            Numbers::F32(numbers) => Input::Numbers(Rows::contiguous(numbers, rows, columns)?),
            Numbers::Bf16(pairs) => Input::Bf16(Rows::contiguous(pairs, rows, columns.div_ceil(2))?),
            Numbers::Bytes(blocks) => Input::Bytes(QuantizedRows::new(blocks, rows, columns.next_multiple_of(BLOCK))?),
        })
    }
}

/// Neighbouring panels of a task. Of a single row's weights every thread reads one stretch, as memory likes it; of many
/// rows' the smallest tasks leave the least to wait for.
fn panels_together(panels: usize, rows: usize, threads: usize) -> usize {
    if rows == 1 { panels.div_ceil(threads).max(1) } else { 1 }
}
