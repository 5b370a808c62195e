//! Multi-head attention over arrays: a call, told of step by step.

use ndarray::{Array3, ArrayView3, ArrayView4, Axis};
use regard_memory::Need;

use super::{KeyHeads, Keys, MultiHeadAttention, MultiHeadCache, MultiHeadConfig};
use crate::{Error, Mode, Parameters, Size, Workspace};

/// A call of [`MultiHeadAttention`] over arrays, without gradients: of `x` among itself, unless something else is said.
///
/// ```
/// use ndarray::Array3;
/// use regard_layers::{KeyHeads, MultiHeadAttention, MultiHeadCache, MultiHeadConfig, Parameters, Workspace};
///
/// let mut parameters = Parameters::new(7);
/// let layer = MultiHeadAttention::new(&mut parameters.root(), MultiHeadConfig::new(32, 4))?;
/// let mut workspace = Workspace::new()?;
/// let element = |(b, t, c)| ((b * 31 + t * 7 + c) as f32).sin();
/// let (x, memory) = (Array3::from_shape_fn((2, 6, 32), element), Array3::from_shape_fn((2, 8, 32), element));
///
/// // Six queries over eight keys: computed at once, or from a cache.
/// let crossed = layer.call(x.view()).memory(memory.view()).run(&parameters, &mut workspace)?;
/// let mut cache = MultiHeadCache::new(&layer, KeyHeads::All, 2, 8)?;
/// layer.fill(memory.view(), &mut cache, &parameters, &mut workspace)?;
/// let cached = layer.call(x.view()).cache(&cache).run(&parameters, &mut workspace)?;
/// assert!((&crossed - &cached).iter().all(|d| d.abs() < 1e-6));
/// # Ok::<(), regard_layers::Error>(())
/// ```
#[derive(Debug)]
pub struct MultiHeadCall<'a> {
    layer: &'a MultiHeadAttention,
    x: ArrayView3<'a, f32>,
    source: Source<'a>,
    heads: KeyHeads,
    residual: Residual,
    chunk: Option<usize>,
}

#[derive(Debug)]
enum Source<'a> {
    Own,
    Memory(ArrayView3<'a, f32>),
    Given(ArrayView4<'a, f32>, ArrayView4<'a, f32>),
    Cache(&'a MultiHeadCache),
}

/// Whether what goes in is added to what comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Residual {
    None,
    Input,
}

impl MultiHeadAttention {
    /// A call over `x [batch, tokens, inputs]`.
    pub fn call<'a>(&'a self, x: ArrayView3<'a, f32>) -> MultiHeadCall<'a> {
        let (source, heads, residual) = (Source::Own, KeyHeads::All, Residual::None);
        MultiHeadCall { layer: self, x, source, heads, residual, chunk: None }
    }

    /// Writes the keys and values of a memory `[batch, tokens, inputs]` to a cache.
    ///
    /// # Errors
    /// As [`MultiHeadAttention::write`].
    pub fn fill(
        &self,
        memory: ArrayView3<'_, f32>,
        cache: &mut MultiHeadCache,
        parameters: &Parameters,
        workspace: &mut Workspace,
    ) -> Result<(), Error> {
        let (size, memory) = rows(memory);
        let need = self.write_need(size, cache.heads);
        let (mut frame, mut pass) = workspace.pass(parameters, Mode::Evaluation, need)?;
        self.write(&mut pass, size, &memory, cache, &mut frame)
    }

    /// The next tokens `x [batch, tokens, inputs]` of sequences whose earlier ones are in a cache, into which these go too.
    ///
    /// # Errors
    /// As [`MultiHeadAttention::stream`].
    pub fn next(
        &self,
        x: ArrayView3<'_, f32>,
        cache: &mut MultiHeadCache,
        parameters: &Parameters,
        workspace: &mut Workspace,
    ) -> Result<Array3<f32>, Error> {
        let (size, x) = rows(x);
        let need = self.stream_need(size, cache.heads);
        let (mut tape, mut pass) = workspace.pass(parameters, Mode::Evaluation, need)?;
        let out = self.stream(&mut pass, size, &x, cache, &mut tape)?;
        Ok(array(size, self.config.outputs, out.to_vec()))
    }
}

impl<'a> MultiHeadCall<'a> {
    /// Over the tokens of a memory `[batch, tokens, inputs]`: cross-attention.
    #[must_use]
    pub fn memory(mut self, memory: ArrayView3<'a, f32>) -> Self {
        self.source = Source::Memory(memory);
        self
    }

    /// Over keys `[batch, tokens, kv_heads, dim_k]` and values `[batch, tokens, kv_heads, dim_v]`.
    #[must_use]
    pub fn keys(mut self, k: ArrayView4<'a, f32>, v: ArrayView4<'a, f32>) -> Self {
        self.source = Source::Given(k, v);
        self
    }

    /// Over a memory that was written to a cache.
    #[must_use]
    pub fn cache(mut self, cache: &'a MultiHeadCache) -> Self {
        self.source = Source::Cache(cache);
        self
    }

    /// All queries read the first key/value head, and no other is projected. (A cache knows by itself what it holds.)
    #[must_use]
    pub fn reuse_first_head_kv(mut self) -> Self {
        self.heads = KeyHeads::First;
        self
    }

    /// `x` is added to the results.
    #[must_use]
    pub fn add_input(mut self) -> Self {
        self.residual = Residual::Input;
        self
    }

    /// So many sequences at a time: the same results with less memory. Not over a cache, which is read whole.
    #[must_use]
    pub fn batch_chunk(mut self, sequences: usize) -> Self {
        self.chunk = Some(sequences);
        self
    }

    /// The results `[batch, tokens, outputs]`.
    ///
    /// # Errors
    /// The shapes do not fit each other, the input cannot be added to results of another width, a chunk has no sequence or is one
    /// over a cache, or nothing was written to the cache.
    pub fn run(&self, parameters: &Parameters, workspace: &mut Workspace) -> Result<Array3<f32>, Error> {
        let (layer, (batch, _, inputs)) = (self.layer, self.x.dim());
        let outputs = layer.config.outputs;
        if self.residual == Residual::Input && inputs != outputs {
            return Err(Error::setting(
                "add_input",
                format!("on {inputs} inputs"),
                format!("on {outputs}, the outputs"),
            ));
        }
        self.check_source(batch)?;
        let chunk = match (self.chunk, &self.source) {
            (None, _) => batch.max(1),
            (Some(0), _) => return Err(Error::setting("batch_chunk", 0, "at least 1")),
            (Some(chunk), Source::Cache(_)) => {
                return Err(Error::setting("batch_chunk", chunk, "none over a cache, which is read whole"));
            }
            (Some(chunk), _) => chunk,
        };
        let mut out = Vec::with_capacity(self.x.dim().0 * self.x.dim().1 * outputs);
        let mut first = 0;
        while first < batch {
            let entries = first..(first + chunk).min(batch);
            out.extend(self.part(entries.clone(), parameters, workspace)?);
            first = entries.end;
        }
        let size = Size { batch, tokens: self.x.dim().1 };
        let mut out = array(size, outputs, out);
        if self.residual == Residual::Input {
            out += &self.x;
        }
        Ok(out)
    }

    /// Refuses a source of other shapes than `x` and the layer have.
    fn check_source(&self, batch: usize) -> Result<(), Error> {
        match &self.source {
            Source::Own | Source::Cache(_) => Ok(()),
            Source::Memory(memory) if memory.dim().0 == batch => Ok(()),
            Source::Memory(memory) => {
                Err(Error::shape("memory", memory.shape(), format!("a batch of {batch}, as `x`")))
            }
            Source::Given(k, v) => {
                let &MultiHeadConfig { dim_k, dim_v, .. } = self.layer.config();
                let (tokens, kv_heads) = (k.dim().1, self.layer.kv_heads(self.heads));
                for (tensor, has, dim) in [("keys", k.shape(), dim_k), ("values", v.shape(), dim_v)] {
                    let expected = [batch, tokens, kv_heads, dim];
                    if has != expected {
                        let expected = format!("{expected:?}: [batch of `x`, tokens of the keys, kv_heads, dim]");
                        return Err(Error::shape(tensor, has, expected));
                    }
                }
                Ok(())
            }
        }
    }

    /// The results of some sequences.
    fn part(
        &self,
        entries: std::ops::Range<usize>,
        parameters: &Parameters,
        workspace: &mut Workspace,
    ) -> Result<Vec<f32>, Error> {
        let layer = self.layer;
        let slice =
            |array: &ArrayView3<'_, f32>| rows(array.slice_axis(Axis(0), ndarray::Slice::from(entries.clone())));
        let (size, x) = slice(&self.x);
        let memory;
        let given;
        let keys = match &self.source {
            Source::Cache(cache) => {
                let (mut tape, mut pass) = workspace.pass(parameters, Mode::Evaluation, layer.read_need(size))?;
                return Ok(layer.read(&mut pass, size, &x, cache, &mut tape)?.to_vec());
            }
            Source::Own => Keys::Own,
            Source::Memory(array) => {
                memory = slice(array);
                Keys::Memory { rows: &memory.1, tokens: memory.0.tokens }
            }
            Source::Given(k, v) => {
                let flat = |array: &ArrayView4<'_, f32>| -> Vec<f32> {
                    array.slice_axis(Axis(0), ndarray::Slice::from(entries.clone())).iter().copied().collect()
                };
                given = (flat(k), flat(v));
                Keys::Given { k: &given.0, v: &given.1, tokens: k.dim().1 }
            }
        };
        let need: Need = layer.attend_need(size, &keys, self.heads);
        let (mut tape, mut pass) = workspace.pass(parameters, Mode::Evaluation, need)?;
        let (out, _) = layer.attend(&mut pass, size, &x, keys, self.heads, &mut tape)?;
        Ok(out.to_vec())
    }
}

fn rows(array: ArrayView3<'_, f32>) -> (Size, Vec<f32>) {
    let (batch, tokens, _) = array.dim();
    (Size { batch, tokens }, array.iter().copied().collect())
}

fn array(Size { batch, tokens }: Size, width: usize, rows: Vec<f32>) -> Array3<f32> {
    Array3::from_shape_vec((batch, tokens, width), rows).expect("as many numbers as the shape says")
}
