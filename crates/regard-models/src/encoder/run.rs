//! Tokens through the layers of an encoder.

use regard_attention::{Inputs, Options, Outputs, Plan, Shape, Terms};
use regard_kernels::Epilogue;
use regard_masks::Mask;
use regard_memory::{Arena, Need, Rows, RowsMut, Tensor, TensorMut};

use super::{Encoder, Layer, Norm, Pooling};
use crate::Result;
use crate::failure::Failure;

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

/// Rows that a task works on where each is done alone.
const ROWS_AT_ONCE: usize = 16;

impl Encoder {
    /// The vectors of some texts, each of one token at least; those of one length stand side by side.
    pub(super) fn run(&self, texts: &[&[u32]], scratch: &mut Scratch) -> Result<Vec<Vec<f32>>> {
        let (width, hidden) = (self.description.width, self.description.hidden);
        let rows = texts.iter().map(|text| text.len()).sum();
        let alike = self.alike(texts)?;
        let widest = self.layers.iter().map(|layer| layer.qkv.columns()).max().unwrap_or(0).max(hidden);
        let of_products = self.layers.iter().flat_map(|layer| [&layer.qkv, &layer.out, &layer.up, &layer.down]);
        let products = of_products.map(|product| product.need(rows)).fold(Need::default(), Need::or);
        let need = Need::of::<f32>(rows * width).and(Need::of::<f32>(rows * width)).and(Need::of::<f32>(rows * widest));
        let mut frame = scratch.arena.frame(need.and(products))?;
        let stream = frame.take::<f32>(rows * width);
        let mixed = frame.take::<f32>(rows * width);
        let wide = frame.take::<f32>(rows * widest);

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
        self.norm_rows(&self.norm, RowsMut::contiguous(stream, rows, width)?)?;
        for layer in &self.layers {
            let stride = layer.qkv.columns();
            let heads = &mut wide[..rows * stride];
            let x = Rows::contiguous(stream, rows, width)?;
            let out = RowsMut::contiguous(heads, rows, stride)?;
            layer.qkv.apply(self.kernels, &self.pool, x, out, Epilogue::Store, &mut frame.scope())?;
            for alike in &alike {
                self.attend(layer, alike, heads, mixed, &mut scratch.attention)?;
            }
            let x = Rows::contiguous(mixed, rows, width)?;
            let out = RowsMut::contiguous(stream, rows, width)?;
            layer.out.apply(self.kernels, &self.pool, x, out, Epilogue::Add, &mut frame.scope())?;
            self.norm_rows(&layer.mixer_norm, RowsMut::contiguous(stream, rows, width)?)?;

            let between = &mut wide[..rows * hidden];
            let x = Rows::contiguous(stream, rows, width)?;
            let out = RowsMut::contiguous(between, rows, hidden)?;
            let activation = self.description.activation;
            layer.up.apply_activated(self.kernels, &self.pool, x, out, activation, &mut frame.scope())?;
            let x = Rows::contiguous(between, rows, hidden)?;
            let out = RowsMut::contiguous(stream, rows, width)?;
            layer.down.apply(self.kernels, &self.pool, x, out, Epilogue::Add, &mut frame.scope())?;
            self.norm_rows(&layer.norm, RowsMut::contiguous(stream, rows, width)?)?;
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

    /// `mixed = attention(heads)` for some texts: `heads [rows][qkv columns]`, `mixed [rows][width]`.
    fn attend(
        &self,
        layer: &Layer,
        alike: &Alike,
        heads: &[f32],
        mixed: &mut [f32],
        scratch: &mut Arena,
    ) -> Result<()> {
        let &Alike { ref plan, first, texts, len, ref bias } = alike;
        let (count, width) = (self.description.heads, self.description.width);
        let (dim, stride) = (width / count, layer.qkv.columns());
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
        let mixed = &mut mixed[first * width..][..texts * len * width];
        let out = TensorMut::new(mixed, shape, [len * width, dim, width])?;
        Ok(plan.run(&inputs, Outputs::new(out), scratch, &self.pool)?)
    }

    fn norm_rows(&self, norm: &Norm, rows: RowsMut<'_, f32>) -> Result<()> {
        let failure = Failure::default();
        self.pool.run(rows.row_parts(ROWS_AT_ONCE), |_, mut rows| {
            for row in 0..rows.rows() {
                let eps = self.description.eps;
                failure.note(self.kernels.layer_norm_in(rows.row_mut(row), &norm.weight, &norm.bias, eps));
            }
        });
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
