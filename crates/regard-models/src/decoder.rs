//! The decoder: one body for every family, driven by its [`Description`].

use std::sync::Arc;

use regard_attention::{Cache, Outputs, Plan, Terms};
use regard_kernels::{Epilogue, Kernels};
use regard_memory::{Arena, Frame, Need, Rows, RowsMut, Tensor, TensorMut};
use regard_threads::Pool;

use crate::Result;
use crate::description::{Attention, Description, FeedForward, Mixer, Norm};
use crate::failure::Failure;
use crate::observed::{Observed, Observer};
use crate::projection::Projection;

/// Weights in the kernels' layouts, and what they run on.
pub(crate) struct Decoder {
    pub description: Description,
    pub kernels: Kernels,
    pub pool: Arc<Pool>,
    /// `[vocabulary, width]`.
    pub embedding: Projection,
    pub blocks: Vec<BlockWeights>,
    /// `[width]`.
    pub norm: Vec<f32>,
    /// `[vocabulary, width]`, unless the embedding serves.
    pub output: Option<Projection>,
}

/// The weights of one block. A projection `[out, in]` takes `in` numbers to `out`.
pub(crate) struct BlockWeights {
    /// `[width]`.
    pub mixer_norm: Vec<f32>,
    /// Queries `[heads·dim_k, width]`, keys `[kv_heads·dim_k, width]`, values `[kv_heads·dim_v, width]`.
    pub qkv: Projection,
    /// `[dim_k]`.
    pub query_norm: Option<Vec<f32>>,
    /// `[dim_k]`.
    pub key_norm: Option<Vec<f32>>,
    /// `[width, heads·dim_v]`.
    pub out: Projection,
    /// `[width]`.
    pub mixer_post_norm: Option<Vec<f32>>,
    /// `[width]`.
    pub feed_forward_norm: Vec<f32>,
    /// The gate `[hidden, width]`, and what it opens for, `[hidden, width]`.
    pub gate_up: Projection,
    /// `[width, hidden]`.
    pub down: Projection,
    /// `[width]`.
    pub feed_forward_post_norm: Option<Vec<f32>>,
}

/// Rows that a task works on where each is done alone.
const ROWS_AT_ONCE: usize = 8;

/// The members of [`BlockWeights::qkv`].
const QUERIES: usize = 0;
const KEYS: usize = 1;
const VALUES: usize = 2;

/// Rows of a step that are tokens of one sequence, as a block's attention sees it.
pub(crate) struct Sequence<'a> {
    /// How many; those of the sequences stand one below the other.
    pub(crate) rows: usize,
    /// Its keys and values.
    pub(crate) cache: &'a mut Cache,
    /// Its queries against all keys up to them.
    pub(crate) plan: &'a Plan,
    /// Attention's own scratch.
    pub(crate) scratch: &'a mut Arena,
}

impl Decoder {
    /// `stream[i] = scale·embedding[tokens[i]]`.
    pub(crate) fn embed(&self, tokens: &[u32], mut stream: RowsMut<'_, f32>) -> Result<()> {
        for (i, &token) in tokens.iter().enumerate() {
            let row = stream.row_mut(i);
            self.embedding.lookup(self.kernels, token as usize, row)?;
            if self.description.embedding_scale != 1.0 {
                row.iter_mut().for_each(|x| *x *= self.description.embedding_scale);
            }
        }
        Ok(())
    }

    /// The scratch of block `index` for so many tokens.
    pub(crate) fn block_need(&self, index: usize, rows: usize) -> Need {
        let (block, weights) = (&self.description.blocks[index], &self.blocks[index]);
        let Mixer::Attention(attention) = &block.mixer;
        let normed = Need::of::<f32>(rows * self.description.width);
        let mixer = Need::of::<f32>(rows * weights.qkv.columns())
            .and(Need::of::<f32>(rows * attention.heads * attention.dim_v))
            .and(weights.qkv.need(rows).or(weights.out.need(rows)));
        let feed_forward = Need::of::<f32>(rows * block.feed_forward.hidden)
            .and(weights.gate_up.gated_need(rows, self.pool.threads()).or(weights.down.need(rows)));
        // What a half gives, and what its norm makes of it.
        let joined = if block.post_norm.is_some() { normed.and(normed) } else { Need::default() };
        normed.and(mixer.or(feed_forward)).and(joined)
    }

    /// `stream += out(attention(qkv(norm(stream))))`, the keys and values going through the sequences' caches. `turns`: the
    /// rotary turn of each row. `observer` is shown what each sequence's attention is of.
    pub(crate) fn mix(
        &self,
        index: usize,
        stream: RowsMut<'_, f32>,
        turns: Rows<'_, f32>,
        sequences: &mut [Sequence<'_>],
        frame: &mut Frame<'_>,
        mut observer: Option<Observer<'_>>,
    ) -> Result<()> {
        let (block, weights) = (&self.description.blocks[index], &self.blocks[index]);
        let Mixer::Attention(attention) = &block.mixer;
        let &Attention { heads, kv_heads, dim_k, dim_v, .. } = attention;
        let (rows, stride) = (stream.rows(), weights.qkv.columns());

        let heads_of_all = frame.take::<f32>(rows * stride);
        {
            let normed = self.norm_rows(&block.norm, &weights.mixer_norm, stream.as_rows(), frame)?;
            let out = RowsMut::contiguous(heads_of_all, rows, stride)?;
            weights.qkv.apply(self.kernels, &self.pool, normed, out, Epilogue::STORE, &mut frame.scope())?;
        }
        let turned = [(QUERIES, heads, &weights.query_norm), (KEYS, kv_heads, &weights.key_norm)];
        self.for_rows(RowsMut::contiguous(heads_of_all, rows, stride)?, |row, all| {
            for (member, count, norm) in turned {
                let heads = &mut all[weights.qkv.start(member)..][..count * dim_k];
                if let (Some(Norm::Rms { eps }), Some(norm)) = (attention.query_key_norm, norm) {
                    heads.chunks_exact_mut(dim_k).try_for_each(|head| self.kernels.rms_norm_in(head, norm, eps))?;
                }
                self.kernels.rotate(attention.rotary.order, turns.row(row), dim_k, heads)?;
            }
            Ok(())
        })?;
        let mixed = frame.take::<f32>(rows * heads * dim_v);
        let mut first = 0;
        for Sequence { rows, cache, plan, scratch } in sequences {
            let (rows, of_sequence) = (*rows, &heads_of_all[first * stride..]);
            let view = |member: usize, heads: usize, dim: usize| {
                let from = weights.qkv.start(member);
                Tensor::new(&of_sequence[from..], [1, heads, rows, dim], [0, dim, stride])
            };
            let queries = view(QUERIES, heads, dim_k)?;
            let (keys, values) = (view(KEYS, kv_heads, dim_k)?, view(VALUES, kv_heads, dim_v)?);
            if let Some(observer) = &mut observer {
                observer(&Observed { block: index, first: cache.len(), queries, keys, values });
            }
            cache.append(keys, values, self.kernels.isa(), &self.pool)?;
            let out = &mut mixed[first * heads * dim_v..][..rows * heads * dim_v];
            let out = TensorMut::new(out, [1, heads, rows, dim_v], [0, dim_v, heads * dim_v])?;
            plan.run_cached(queries, &[&**cache], Terms::default(), Outputs::new(out), scratch, &self.pool)?;
            first += rows;
        }
        let mixed = Rows::contiguous(mixed, rows, heads * dim_v)?;
        let post_norm = block.post_norm.as_ref().zip(weights.mixer_post_norm.as_deref());
        self.join(&weights.out, mixed, post_norm, stream, frame)
    }

    /// `stream += down(activation(gate(norm(stream))) · up(norm(stream)))`.
    pub(crate) fn feed_forward(&self, index: usize, stream: RowsMut<'_, f32>, frame: &mut Frame<'_>) -> Result<()> {
        let (block, weights) = (&self.description.blocks[index], &self.blocks[index]);
        let FeedForward { hidden, activation } = block.feed_forward;
        let rows = stream.rows();
        let gated = frame.take::<f32>(rows * hidden);
        {
            let normed = self.norm_rows(&block.norm, &weights.feed_forward_norm, stream.as_rows(), frame)?;
            let out = RowsMut::contiguous(gated, rows, hidden)?;
            weights.gate_up.apply_gated(self.kernels, &self.pool, activation, normed, out, &mut frame.scope())?;
        }
        let gated = Rows::contiguous(gated, rows, hidden)?;
        let post_norm = block.post_norm.as_ref().zip(weights.feed_forward_post_norm.as_deref());
        self.join(&weights.down, gated, post_norm, stream, frame)
    }

    /// `stream += projection(x)`, or what a norm makes of it.
    fn join(
        &self,
        projection: &Projection,
        x: Rows<'_, f32>,
        norm: Option<(&Norm, &[f32])>,
        stream: RowsMut<'_, f32>,
        frame: &mut Frame<'_>,
    ) -> Result<()> {
        let Some((norm, weight)) = norm else {
            return projection.apply(self.kernels, &self.pool, x, stream, Epilogue::ADD, frame);
        };
        let (rows, width) = (stream.rows(), stream.cols());
        let result = frame.take::<f32>(rows * width);
        let out = RowsMut::contiguous(result, rows, width)?;
        projection.apply(self.kernels, &self.pool, x, out, Epilogue::STORE, &mut frame.scope())?;
        let normed = self.norm_rows(norm, weight, Rows::contiguous(result, rows, width)?, frame)?;
        self.for_rows(stream, |row, stream| {
            stream.iter_mut().zip(normed.row(row)).for_each(|(x, more)| *x += more);
            Ok(())
        })
    }

    /// The scratch of [`Decoder::logits`].
    pub(crate) fn logits_need(&self, rows: usize) -> Need {
        Need::of::<f32>(rows * self.description.width).and(self.head().need(rows))
    }

    /// The logits of some rows of the stream, `[rows, vocabulary]`.
    pub(crate) fn logits(&self, stream: Rows<'_, f32>, logits: RowsMut<'_, f32>, frame: &mut Frame<'_>) -> Result<()> {
        let normed = self.norm_rows(&self.description.norm, &self.norm, stream, frame)?;
        self.head().apply(self.kernels, &self.pool, normed, logits, Epilogue::STORE, frame)
    }

    /// What makes logits.
    fn head(&self) -> &Projection {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    fn norm_rows<'a>(
        &self,
        norm: &Norm,
        weight: &[f32],
        rows: Rows<'_, f32>,
        frame: &mut Frame<'a>,
    ) -> Result<Rows<'a, f32>> {
        let width = rows.cols();
        let normed = frame.take::<f32>(rows.rows() * width);
        self.for_rows(RowsMut::contiguous(normed, rows.rows(), width)?, |row, out| match *norm {
            Norm::Rms { eps } => self.kernels.rms_norm(rows.row(row), weight, eps, out),
        })?;
        Ok(Rows::contiguous(normed, rows.rows(), width)?)
    }

    /// Does something to every row, all cores together.
    fn for_rows(
        &self,
        rows: RowsMut<'_, f32>,
        work: impl Fn(usize, &mut [f32]) -> Result<(), regard_kernels::Error> + Sync,
    ) -> Result<()> {
        let failure = Failure::default();
        self.pool.run(rows.row_parts(ROWS_AT_ONCE), |part, mut rows| {
            for row in 0..rows.rows() {
                failure.note(work(part * ROWS_AT_ONCE + row, rows.row_mut(row)));
            }
        });
        failure.into_result()
    }

    /// Bytes that the weights take.
    pub(crate) fn bytes(&self) -> usize {
        let block =
            |block: &BlockWeights| block.qkv.bytes() + block.out.bytes() + block.gate_up.bytes() + block.down.bytes();
        let output = self.output.as_ref().map_or(0, Projection::bytes);
        self.embedding.bytes() + output + self.blocks.iter().map(block).sum::<usize>()
    }
}
