//! Tokens through the layers of an encoder.

use half::bf16;
use regard_attention::{Element, Inputs, Options, Outputs, Plan, Shape, Terms};
use regard_kernels::{Epilogue, Number};
use regard_masks::Mask;
use regard_memory::{Arena, Need, Rows, RowsMut, Tensor, TensorMut, cast_slice, cast_slice_mut};

use super::{Encoder, Layer, Norm, Pooling, Precision};
use crate::Result;
use crate::failure::Failure;
use crate::projection::{Carried, Input, Numbers, Output, Projection, Rounding};

/// Memory that is used again from batch to batch.
#[derive(Default)]
pub(super) struct Scratch {
    arena: Arena,
    attention: Arena,
}

/// Neighbouring texts of one length, which attend together.
struct Alike {
    plan: Plan,
    /// Rows before theirs.
    first: usize,
    texts: usize,
    len: usize,
    /// `[heads, len, len]`, where distances count.
    bias: Vec<f32>,
}

/// How precise what steps hand to each other is.
struct Carries {
    /// Queries, keys and values.
    heads: Rounding,
    /// What attention makes of them, and what norms give to products.
    mixed: Rounding,
    /// What stands between the products of a feed-forward layer.
    between: Rounding,
}

/// What a product takes of the stream: its numbers as they are, unless a norm has rounded them.
fn input<'a>(stream: &'a [f32], rows: usize, rounded: Option<&'a Carried<'_>>) -> Result<Input<'a>> {
    match rounded {
        Some(rounded) => rounded.input(),
        None => Ok(Rows::contiguous(stream, rows, stream.len().checked_div(rows).unwrap_or(0))?.into()),
    }
}

/// Rows that a task works on where each is done alone.
const ROWS_AT_ONCE: usize = 16;

impl Encoder {
    /// The vectors of some texts, each of one token at least; those of one length stand side by side.
    pub(super) fn run(&self, texts: &[&[u32]], scratch: &mut Scratch) -> Result<Vec<Vec<f32>>> {
        let (width, hidden) = (self.description.width, self.description.hidden);
        let rows = texts.iter().map(|text| text.len()).sum();
        let alike = self.alike(texts)?;
        let carries = self.carries();
        let of_halves = self.layers.iter().map(|layer| {
            let need =
                |projection: &Projection| projection.need(rows).and(projection.rounded_need(rows, self.threads()));
            let mixer = Carried::need(carries.heads, rows, layer.qkv.columns())
                .and(Carried::need(carries.mixed, rows, width))
                .and(need(&layer.qkv).or(need(&layer.out)));
            mixer.or(Carried::need(carries.between, rows, hidden).and(need(&layer.up).or(need(&layer.down))))
        });
        let stream = Need::of::<f32>(rows * width).and(Carried::need(carries.mixed, rows, width));
        let mut frame = scratch.arena.frame(stream.and(of_halves.fold(Need::default(), Need::or)))?;
        let stream = frame.take::<f32>(rows * width);
        // What a norm gives, rounded with it where products take that.
        let mut rounded = match carries.mixed {
            Rounding::Bf16 => Some(Carried::take(carries.mixed, rows, width, &mut frame)),
            _ => None,
        };

        let mut row = 0;
        for text in texts {
            for (position, &token) in text.iter().enumerate() {
                let to = &mut stream[row * width..][..width];
                self.words.lookup(self.kernels, token as usize, to)?;
                let more = &self.positions[position * width..][..width];
                to.iter_mut().zip(more).for_each(|(x, more)| *x += more);
                row += 1;
            }
        }
        self.norm_rows(&self.norm, RowsMut::contiguous(stream, rows, width)?, &mut rounded)?;
        for layer in &self.layers {
            {
                let frame = &mut frame.scope();
                let mut heads = Carried::take(carries.heads, rows, layer.qkv.columns(), frame);
                let x = input(stream, rows, rounded.as_ref())?;
                layer.qkv.apply(self.kernels, &self.pool, x, heads.output()?, Epilogue::STORE, frame)?;
                let mut mixed = Carried::take(carries.mixed, rows, width, frame);
                for alike in &alike {
                    self.attend(layer, alike, &heads, &mut mixed, &mut scratch.attention)?;
                }
                let out = RowsMut::contiguous(stream, rows, width)?;
                layer.out.apply(self.kernels, &self.pool, mixed.input()?, out, Epilogue::ADD, frame)?;
            }
            self.norm_rows(&layer.mixer_norm, RowsMut::contiguous(stream, rows, width)?, &mut rounded)?;
            {
                let frame = &mut frame.scope();
                let mut between = Carried::take(carries.between, rows, hidden, frame);
                let activated = Epilogue { activation: Some(self.description.activation), ..Epilogue::STORE };
                let x = input(stream, rows, rounded.as_ref())?;
                layer.up.apply(self.kernels, &self.pool, x, between.output()?, activated, frame)?;
                let out = RowsMut::contiguous(stream, rows, width)?;
                layer.down.apply(self.kernels, &self.pool, between.input()?, out, Epilogue::ADD, frame)?;
            }
            self.norm_rows(&layer.norm, RowsMut::contiguous(stream, rows, width)?, &mut rounded)?;
        }
        let mut first = 0;
        let vector = |text: &&[u32]| {
            let rows = &stream[first * width..][..text.len() * width];
            first += text.len();
            self.pool_rows(rows)
        };
        Ok(texts.iter().map(vector).collect())
    }

    /// The groups of texts of one length.
    fn alike(&self, texts: &[&[u32]]) -> Result<Vec<Alike>> {
        let (heads, dim) = (self.description.heads, self.description.width / self.description.heads);
        let mut first = 0;
        let group = |texts: &[&[u32]]| {
            let (texts, len) = (texts.len(), texts[0].len());
            let shape = Shape { batch: texts, heads, kv_heads: heads, queries: len, keys: len, dim_k: dim, dim_v: dim };
            let options = Options { isa: Some(self.kernels.isa()), ..Options::default() };
            let plan = Plan::new(shape, &Mask::full(), &options)?;
            let before = first;
            first += texts * len;
            Ok(Alike { plan, first: before, texts, len, bias: self.bias(len) })
        };
        texts.chunk_by(|a, b| a.len() == b.len()).map(group).collect()
    }

    /// What distances add to the scores of so many tokens, `[heads, len, len]`; nothing where they do not count.
    fn bias(&self, len: usize) -> Vec<f32> {
        if self.relative.is_empty() {
            return Vec::new();
        }
        // Of query i and key j the distance i − j stands at context − 1 + i − j.
        let centre = self.description.context - 1;
        let of_head = |table: &'_ [f32]| -> Vec<f32> {
            (0..len).flat_map(|i| (0..len).map(move |j| centre + i - j)).map(|at| table[at]).collect()
        };
        self.relative.chunks_exact(2 * self.description.context - 1).flat_map(of_head).collect()
    }

    /// How precise what steps hand to each other is.
    fn carries(&self) -> Carries {
        match self.precision {
            Precision::F32 => Carries { heads: Rounding::None, mixed: Rounding::None, between: Rounding::None },
            Precision::Bf16 => Carries { heads: Rounding::Bf16, mixed: Rounding::Bf16, between: Rounding::Bf16 },
            // Attention itself is in bf16: what it sums up are weights from 0 to 1.
            Precision::Int8 => Carries { heads: Rounding::Bf16, mixed: Rounding::None, between: Rounding::Int8 },
        }
    }

    /// `mixed = attention(heads)` for some texts: `heads [rows][qkv columns]`, `mixed [rows][width]`.
    fn attend(
        &self,
        layer: &Layer,
        alike: &Alike,
        heads: &Carried<'_>,
        mixed: &mut Carried<'_>,
        scratch: &mut Arena,
    ) -> Result<()> {
        let (columns, width) = (layer.qkv.columns(), self.description.width);
        let halves = |columns: usize| columns.next_multiple_of(2);
        match (&heads.numbers, &mut mixed.numbers) {
            (Numbers::F32(heads), Numbers::F32(mixed)) => {
                self.attend_to(layer, alike, (&**heads, columns), (&mut **mixed, width), scratch)
            }
            (Numbers::Bf16(heads), Numbers::F32(mixed)) => {
                let heads = cast_slice::<u32, bf16>(heads);
                self.attend_to(layer, alike, (heads, halves(columns)), (&mut **mixed, width), scratch)
            }
            (Numbers::Bf16(heads), Numbers::Bf16(mixed)) => {
                let (heads, mixed) = (cast_slice::<u32, bf16>(heads), cast_slice_mut::<u32, bf16>(mixed));
                self.attend_to(layer, alike, (heads, halves(columns)), (mixed, halves(width)), scratch)
            }
            _ => unreachable!("nothing asks attention for bytes"),
        }
    }

    /// [`Encoder::attend`] of numbers of a type, rows of which are so far apart.
    fn attend_to<T: Element, O: Number>(
        &self,
        layer: &Layer,
        alike: &Alike,
        (heads, stride): (&[T], usize),
        (mixed, out_stride): (&mut [O], usize),
        scratch: &mut Arena,
    ) -> Result<()> {
        let &Alike { ref plan, first, texts, len, ref bias } = alike;
        let (count, width) = (self.description.heads, self.description.width);
        let dim = width / count;
        let shape = [texts, count, len, dim];
        let view = |member: usize| {
            let from = first * stride + layer.qkv.start(member);
            Tensor::new(&heads[from..], shape, [len * stride, dim, stride])
        };
        let mut inputs = Inputs::new(view(0)?, view(1)?, view(2)?);
        if !bias.is_empty() {
            let bias = Tensor::contiguous(bias, [1, count, len, len])?;
            inputs.terms = Terms { bias: Some(bias), ..Terms::default() };
        }
        let out = TensorMut::new(&mut mixed[first * out_stride..], shape, [len * out_stride, dim, out_stride])?;
        Ok(plan.run(&inputs, Outputs::new(out), scratch, &self.pool)?)
    }

    /// `rows = norm(rows)`, and the same rounded where that is asked for.
    fn norm_rows(&self, norm: &Norm, rows: RowsMut<'_, f32>, rounded: &mut Option<Carried<'_>>) -> Result<()> {
        let (failure, eps) = (Failure::default(), self.description.eps);
        let normed = |row: &mut [f32]| self.kernels.layer_norm_in(row, &norm.weight, &norm.bias, eps);
        match rounded.as_mut().map(Carried::output).transpose()? {
            Some(Output::Bf16(pairs)) => {
                let parts = (rows.row_parts(ROWS_AT_ONCE), pairs.row_parts(ROWS_AT_ONCE));
                self.pool.run(parts, |_, (mut rows, pairs)| {
                    for row in 0..rows.rows() {
                        failure.note(normed(rows.row_mut(row)));
                    }
                    failure.note(self.kernels.round_to_bf16(rows.as_rows(), pairs));
                });
            }
            _ => self.pool.run(rows.row_parts(ROWS_AT_ONCE), |_, mut rows| {
                for row in 0..rows.rows() {
                    failure.note(normed(rows.row_mut(row)));
                }
            }),
        }
        failure.into_result()
    }

    /// One vector of the tokens of a text, `[len][width]`.
    fn pool_rows(&self, rows: &[f32]) -> Vec<f32> {
        let width = self.description.width;
        let last = rows.len() - width;
        let mut vector = match self.description.pooling {
            Pooling::Cls => rows[..width].to_vec(),
            Pooling::LastToken => rows[last..].to_vec(),
            Pooling::Mean => {
                let mut sum = vec![0.0; width];
                for row in rows.chunks_exact(width) {
                    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
                let share = width as f32 / rows.len() as f32;
                sum.iter_mut().for_each(|x| *x *= share);
                sum
            }
        };
        if self.description.normalized {
            let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-12) as f32;
            vector.iter_mut().for_each(|x| *x /= norm);
        }
        vector
    }
}
