//! Multi-head attention of a row's own tokens or of a memory, with heads that share keys, and caches.

mod cache;
mod call;
mod config;
mod weights;

use regard_attention::{Inputs, Options, Outputs, Shape, Terms, Upstream};
use regard_memory::{Frame, Need, Rows, RowsMut, Tensor, TensorMut};

use weights::{Part, Weights};

use crate::layer::check_rows;
use crate::linear::{Matrix, Order};
use crate::{Before, Bias, Error, Gradients, Initial, Layer, Mode, Parameter, Pass, Scope, Size};

pub use cache::MultiHeadCache;
pub use call::MultiHeadCall;
pub use config::MultiHeadConfig;

/// Multi-head attention (Vaswani et al., 2017, section 3.2.2): of the tokens of `x` among each other, or, where the caller says
/// so, over the tokens of a memory, over keys and values that are given, or over a cache.
///
/// Parameters, with `H` heads, `H_kv = H / share_kv_across_n_heads` and `E` inputs: `w_qkv [3, H, d_k, E]` where `d_k = d_v` and
/// no heads share keys; else `w_q [1, H, d_k, E]` with `w_kv [2, H_kv, d_k, E]`, or where `d_k ≠ d_v` with `w_k [H_kv, d_k, E]`
/// and `w_v [H_kv, d_v, E]`. Always `w_out [H, d_v, outputs]`; with biases `b_q [H, d_k]`, `b_k [H_kv, d_k]`, `b_v [H_kv, d_v]`,
/// `b_out [outputs]`.
///
/// As a [`Layer`] it is attention of `x` among itself.
///
/// ```
/// use ndarray::Array3;
/// use regard_layers::{Mode, MultiHeadAttention, MultiHeadConfig, Parameters, Workspace, run};
///
/// let mut parameters = Parameters::new(7);
/// let config = MultiHeadConfig { share_kv_across_n_heads: 2, ..MultiHeadConfig::new(32, 4) };
/// let layer = MultiHeadAttention::new(&mut parameters.root(), config)?;
/// assert_eq!(parameters.get("w_kv").unwrap().shape(), [2, 2, 8, 32]);
/// let x = Array3::from_shape_fn((2, 9, 32), |(b, t, c)| ((b * 31 + t * 7 + c) as f32).sin());
/// let y = run(&layer, &parameters, &mut Workspace::new()?, Mode::Evaluation, x.view())?;
/// assert_eq!(y.dim(), (2, 9, 32));
/// # Ok::<(), regard_layers::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MultiHeadAttention {
    config: MultiHeadConfig,
    options: Options,
    weights: Weights,
    out: Matrix,
    /// Of queries, keys, values and results.
    biases: Option<[Parameter; 4]>,
}

/// Where keys and values come from: said by the caller, never guessed from shapes.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'a> {
    /// From the tokens of `x`: self-attention.
    Own,
    /// From a memory `[batch, tokens, inputs]`: cross-attention.
    Memory {
        /// Its rows.
        rows: &'a [f32],
        /// Tokens of each sequence.
        tokens: usize,
    },
    /// They are given.
    Given {
        /// `[batch, tokens, H_kv, d_k]`, or of one head.
        k: &'a [f32],
        /// `[batch, tokens, H_kv, d_v]`, or of one head.
        v: &'a [f32],
        /// Tokens of each sequence.
        tokens: usize,
    },
}

/// Which key/value heads there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyHeads {
    /// All.
    All,
    /// The first alone, which all query heads read (`reuse_first_head_kv`).
    First,
}

/// What multi-head attention keeps for its backward pass.
#[derive(Debug)]
pub struct MultiHeadKept<'a> {
    x: &'a [f32],
    keys: Keys<'a>,
    heads: KeyHeads,
    /// Queries, and where keys are of the same rows these too; and keys and values of other rows.
    projected: [&'a [f32]; 2],
    attended: &'a [f32],
    lse: &'a [f32],
    numbers: &'a [u64],
}

/// Where the gradients of keys go: of what [`Keys`] were.
#[derive(Debug)]
pub enum KeyGradients<'a> {
    /// Nowhere: of own keys there are none beside those of `x`.
    None,
    /// Added to these, `[batch, tokens, inputs]`.
    Memory(&'a mut [f32]),
    /// Written to these, in the shapes of what was given.
    Given {
        /// Of the keys.
        k: &'a mut [f32],
        /// Of the values.
        v: &'a mut [f32],
    },
}

impl MultiHeadAttention {
    /// Makes the layer's parameters: uniform (Glorot and Bengio, 2010), biases 0.
    ///
    /// # Errors
    /// A setting is out of its range, the scope has such parameters, or there is no memory for them.
    pub fn new(scope: &mut Scope<'_>, config: MultiHeadConfig) -> Result<MultiHeadAttention, Error> {
        config.check()?;
        let MultiHeadConfig { inputs, outputs, heads, share_kv_across_n_heads, dim_k, dim_v, .. } = config;
        let kv_heads = heads / share_kv_across_n_heads;
        let initial = |parts: usize, dim: usize| Initial::xavier(inputs, parts.saturating_mul(dim));
        let weights = if dim_k != dim_v {
            Weights::Apart {
                q: scope.add("w_q", &[1, heads, dim_k, inputs], initial(heads, dim_k))?,
                k: scope.add("w_k", &[kv_heads, dim_k, inputs], initial(kv_heads, dim_k))?,
                v: scope.add("w_v", &[kv_heads, dim_v, inputs], initial(kv_heads, dim_v))?,
            }
        } else if share_kv_across_n_heads > 1 {
            Weights::Shared {
                q: scope.add("w_q", &[1, heads, dim_k, inputs], initial(heads, dim_k))?,
                kv: scope.add("w_kv", &[2, kv_heads, dim_k, inputs], initial(2 * kv_heads, dim_k))?,
            }
        } else {
            Weights::Together(scope.add("w_qkv", &[3, heads, dim_k, inputs], initial(3 * heads, dim_k))?)
        };
        let attended = heads.saturating_mul(dim_v);
        let weight = scope.add("w_out", &[heads, dim_v, outputs], Initial::xavier(attended, outputs))?;
        let out = Matrix { weight, inputs: attended, outputs, order: Order::InputsFirst };
        let biases = match config.bias {
            Bias::None => None,
            Bias::Learned => Some([
                scope.add_vector("b_q", &[heads, dim_k], Initial::Constant(0.0))?,
                scope.add_vector("b_k", &[kv_heads, dim_k], Initial::Constant(0.0))?,
                scope.add_vector("b_v", &[kv_heads, dim_v], Initial::Constant(0.0))?,
                scope.add_vector("b_out", &[outputs], Initial::Constant(0.0))?,
            ]),
        };
        let dropout = (config.dropout > 0.0)
            .then(|| regard_attention::Dropout { probability: config.dropout, seed: scope.seed() });
        let options = Options { scale: config.scale, dropout, ..Options::default() };
        Ok(MultiHeadAttention { config, options, weights, out, biases })
    }

    /// What it is made of.
    pub fn config(&self) -> &MultiHeadConfig {
        &self.config
    }

    fn shape(&self, size: Size, keys: usize, heads: KeyHeads) -> Shape {
        let MultiHeadConfig { heads: queries, dim_k, dim_v, .. } = self.config;
        let kv_heads = self.kv_heads(heads);
        Shape { batch: size.batch, heads: queries, kv_heads, queries: size.tokens, keys, dim_k, dim_v }
    }

    /// The options of a pass: weights fall in training alone.
    fn options(&self, pass: &Pass<'_>) -> Options {
        let dropout = self.options.dropout.filter(|_| pass.mode != Mode::Evaluation);
        Options { isa: Some(pass.kernels.isa()), dropout, ..self.options.clone() }
    }

    /// Tokens of the keys of each sequence.
    fn tokens(&self, size: Size, keys: &Keys<'_>) -> usize {
        match *keys {
            Keys::Own => size.tokens,
            Keys::Memory { tokens, .. } | Keys::Given { tokens, .. } => tokens,
        }
    }

    /// What lies in the two places of what is projected: numbers of all rows.
    fn places(&self, size: Size, keys: &Keys<'_>, heads: KeyHeads) -> [usize; 2] {
        let rows = size.rows();
        match *keys {
            Keys::Own => [rows.saturating_mul(self.columns(Part::All, heads)), 0],
            Keys::Memory { tokens, .. } => {
                let keys = size.batch.saturating_mul(tokens).saturating_mul(self.columns(Part::Keys, heads));
                [rows.saturating_mul(self.columns(Part::Queries, heads)), keys]
            }
            Keys::Given { .. } => [rows.saturating_mul(self.columns(Part::Queries, heads)), 0],
        }
    }

    /// What [`MultiHeadAttention::attend`] takes from the tape.
    pub fn attend_need(&self, size: Size, keys: &Keys<'_>, heads: KeyHeads) -> Need {
        let MultiHeadConfig { outputs, heads: queries, dim_v, .. } = self.config;
        let rows = size.rows();
        let [own, other] = self.places(size, keys, heads).map(Need::of::<f32>);
        let [out, attended, lse] =
            [outputs, queries * dim_v, queries].map(|width| Need::of::<f32>(rows.saturating_mul(width)));
        own.and(other).and(out).and(attended).and(lse).and(Need::of::<u64>(size.batch))
    }

    /// What [`MultiHeadAttention::attend_backward`] takes from its frame.
    pub fn attend_backward_need(&self, size: Size, keys: &Keys<'_>, heads: KeyHeads) -> Need {
        let MultiHeadConfig { heads: queries, dim_v, .. } = self.config;
        let [own, other] = self.places(size, keys, heads).map(Need::of::<f32>);
        own.and(other).and(Need::of::<f32>(size.rows().saturating_mul(queries * dim_v)))
    }

    /// Attention of the tokens of `x [batch, tokens, inputs]` over these keys: `[batch, tokens, outputs]`, and what is kept.
    ///
    /// # Errors
    /// A tensor has another size than the others say.
    pub fn attend<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        keys: Keys<'a>,
        heads: KeyHeads,
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], MultiHeadKept<'a>), Error> {
        let MultiHeadConfig { inputs, outputs, heads: queries, dim_v, ref mask, .. } = self.config;
        self.check(size, x, &keys, heads)?;
        let (rows, [own_len, other_len]) = (size.rows(), self.places(size, &keys, heads));
        let out = tape.take(rows * outputs);
        let (own, other) = (tape.take(own_len), tape.take(other_len));
        let input = Rows::contiguous(x, rows, inputs)?;
        let part = if matches!(keys, Keys::Own) { Part::All } else { Part::Queries };
        self.project(pass, input, part, heads, own)?;
        if let Keys::Memory { rows: memory, tokens } = keys {
            let memory = Rows::contiguous(memory, size.batch * tokens, inputs)?;
            self.project(pass, memory, Part::Keys, heads, other)?;
        }
        let projected = [&*own, &*other];
        let (attended, lse) = (tape.take(rows * queries * dim_v), tape.take(rows * queries));
        let numbers = pass.numbers(size, tape);
        let inputs = self.inputs_of(size, projected, &keys, heads, numbers)?;
        let outputs_at = Outputs::state(
            TensorMut::of_rows(RowsMut::contiguous(attended, rows, queries * dim_v)?, size.batch, queries)?,
            TensorMut::of_rows(RowsMut::contiguous(lse, rows, queries)?, size.batch, queries)?,
        );
        let options = self.options(pass);
        let plan = pass.plans.get(self.shape(size, self.tokens(size, &keys), heads), mask, &options)?;
        plan.run(&inputs, outputs_at, pass.scratch, pass.pool)?;
        let attended = &*attended;
        self.finish(pass, rows, attended, out)?;
        Ok((out, MultiHeadKept { x, keys, heads, projected, attended, lse, numbers }))
    }

    /// The last projection.
    pub(crate) fn finish(
        &self,
        pass: &mut Pass<'_>,
        rows: usize,
        attended: &[f32],
        out: &mut [f32],
    ) -> Result<(), Error> {
        let through = Rows::contiguous(attended, rows, self.out.inputs)?;
        let bias = self.biases.map(|[.., bias]| bias);
        self.out.apply(pass, through, bias, RowsMut::contiguous(out, rows, self.out.outputs)?)
    }

    /// Adds the gradients of the parameters to `gradients`, that of `x` to `dx`, and those of the keys to `dkeys`.
    ///
    /// # Errors
    /// A tensor has another size than the others say, or `dkeys` are those of other [`Keys`].
    #[allow(clippy::too_many_arguments, reason = "both passes' inputs and the places that gradients go to")]
    pub fn attend_backward(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        kept: MultiHeadKept<'_>,
        dout: &[f32],
        gradients: &mut Gradients,
        dx: &mut [f32],
        dkeys: KeyGradients<'_>,
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        let MultiHeadConfig { inputs, outputs, heads: queries, dim_v, ref mask, .. } = self.config;
        let MultiHeadKept { x, keys, heads, projected, attended, lse, numbers } = kept;
        check_rows("gradient of results", dout, size, outputs)?;
        check_rows("gradient of the input", dx, size, inputs)?;
        let (rows, [own_len, other_len]) = (size.rows(), self.places(size, &keys, heads));
        let mut frame = frame.scope();
        let dattended = frame.take(rows * queries * dim_v);
        let (down, dother) = (frame.take(own_len), frame.take(other_len));

        let through = Rows::contiguous(attended, rows, queries * dim_v)?;
        let dout = Rows::contiguous(dout, rows, outputs)?;
        let to = RowsMut::contiguous(dattended, rows, queries * dim_v)?;
        self.out.differentiate(pass, through, dout, gradients, Some((Before::Replaced, to)))?;
        if let Some([.., bias]) = self.biases {
            pass.add_rows(dout, gradients.of_mut(bias))?;
        }

        let upstream = Upstream {
            out: Tensor::of_rows(through, size.batch, queries)?,
            lse: Tensor::of_rows(Rows::contiguous(lse, rows, queries)?, size.batch, queries)?,
            out_gradient: Tensor::of_rows(Rows::contiguous(dattended, rows, queries * dim_v)?, size.batch, queries)?,
            lse_gradient: None,
        };
        let call = self.inputs_of(size, projected, &keys, heads, numbers)?;
        let tokens = self.tokens(size, &keys);
        let (key_rows, kv_heads) = (size.batch * tokens, self.kv_heads(heads));
        let [q_width, k_width, v_width] = self.widths(heads);
        // Where the gradients of queries, keys and values go.
        let own_columns = if matches!(keys, Keys::Own) { q_width + k_width + v_width } else { q_width };
        let (dq, beside) = RowsMut::contiguous(down, rows, own_columns)?.split_columns_at(q_width);
        let mut memory = None;
        let (dk, dv) = match (&keys, dkeys) {
            (Keys::Own, KeyGradients::None) => beside.split_columns_at(k_width),
            (Keys::Memory { .. }, KeyGradients::Memory(to)) => {
                check_rows("gradient of the memory", to, Size { tokens, ..size }, inputs)?;
                memory = Some(to);
                RowsMut::contiguous(&mut *dother, key_rows, k_width + v_width)?.split_columns_at(k_width)
            }
            (Keys::Given { .. }, KeyGradients::Given { k, v }) => {
                let size = Size { tokens, ..size };
                check_rows("gradient of the keys", k, size, k_width)?;
                check_rows("gradient of the values", v, size, v_width)?;
                (RowsMut::contiguous(k, key_rows, k_width)?, RowsMut::contiguous(v, key_rows, v_width)?)
            }
            (_, dkeys) => {
                let expected = match keys {
                    Keys::Own => "none, as keys are the input's own",
                    Keys::Memory { .. } => "those of a memory, as keys are a memory's",
                    Keys::Given { .. } => "those of given keys and values, as these were given",
                };
                let has = match dkeys {
                    KeyGradients::None => "none",
                    KeyGradients::Memory(_) => "those of a memory",
                    KeyGradients::Given { .. } => "those of given keys and values",
                };
                return Err(Error::setting("gradients of keys", has, expected));
            }
        };
        let to = regard_attention::Gradients::new(
            TensorMut::of_rows(dq, size.batch, queries)?,
            TensorMut::of_rows(dk, size.batch, kv_heads)?,
            TensorMut::of_rows(dv, size.batch, kv_heads)?,
        );
        let options = self.options(pass);
        let plan = pass.plans.get(self.shape(size, tokens, heads), mask, &options)?;
        plan.backward(&call, &upstream, to, pass.scratch, pass.pool)?;

        let part = if matches!(keys, Keys::Own) { Part::All } else { Part::Queries };
        self.differentiate(pass, Rows::contiguous(x, rows, inputs)?, part, heads, down, gradients, dx)?;
        if let (Keys::Memory { rows: from, .. }, Some(dmemory)) = (keys, memory) {
            let from = Rows::contiguous(from, key_rows, inputs)?;
            self.differentiate(pass, from, Part::Keys, heads, dother, gradients, dmemory)?;
        }
        Ok(())
    }

    /// Queries, keys and values as heads.
    fn inputs_of<'t>(
        &self,
        size: Size,
        [own, other]: [&'t [f32]; 2],
        keys: &Keys<'t>,
        heads: KeyHeads,
        numbers: &'t [u64],
    ) -> Result<Inputs<'t, f32>, Error> {
        let (rows, [q, k, v]) = (size.rows(), self.widths(heads));
        let key_rows = size.batch * self.tokens(size, keys);
        let (queries, keys, values) = match *keys {
            Keys::Own => {
                let (queries, beside) = Rows::contiguous(own, rows, q + k + v)?.split_columns_at(q);
                let (keys, values) = beside.split_columns_at(k);
                (queries, keys, values)
            }
            Keys::Memory { .. } => {
                let (keys, values) = Rows::contiguous(other, key_rows, k + v)?.split_columns_at(k);
                (Rows::contiguous(own, rows, q)?, keys, values)
            }
            Keys::Given { k: keys, v: values, .. } => (
                Rows::contiguous(own, rows, q)?,
                Rows::contiguous(keys, key_rows, k)?,
                Rows::contiguous(values, key_rows, v)?,
            ),
        };
        let kv_heads = self.kv_heads(heads);
        Ok(Inputs {
            q: Tensor::of_rows(queries, size.batch, self.config.heads)?,
            k: Tensor::of_rows(keys, size.batch, kv_heads)?,
            v: Tensor::of_rows(values, size.batch, kv_heads)?,
            terms: Terms { sequence_ids: Some(numbers), ..Terms::default() },
        })
    }

    fn check(&self, size: Size, x: &[f32], keys: &Keys<'_>, heads: KeyHeads) -> Result<(), Error> {
        check_rows("input", x, size, self.config.inputs)?;
        let [_, k_width, v_width] = self.widths(heads);
        match *keys {
            Keys::Own => Ok(()),
            Keys::Memory { rows, tokens } => check_rows("memory", rows, Size { tokens, ..size }, self.config.inputs),
            Keys::Given { k, v, tokens } => {
                check_rows("keys", k, Size { tokens, ..size }, k_width)?;
                check_rows("values", v, Size { tokens, ..size }, v_width)
            }
        }
    }
}

impl Layer for MultiHeadAttention {
    type Kept<'a> = MultiHeadKept<'a>;

    fn inputs(&self) -> usize {
        self.config.inputs
    }

    fn outputs(&self) -> usize {
        self.config.outputs
    }

    fn forward_need(&self, size: Size) -> Need {
        self.attend_need(size, &Keys::Own, KeyHeads::All)
    }

    fn backward_need(&self, size: Size) -> Need {
        self.attend_backward_need(size, &Keys::Own, KeyHeads::All)
    }

    fn forward<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], MultiHeadKept<'a>), Error> {
        self.attend(pass, size, x, Keys::Own, KeyHeads::All, tape)
    }

    fn backward(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        kept: MultiHeadKept<'_>,
        dout: &[f32],
        gradients: &mut Gradients,
        dx: &mut [f32],
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        self.attend_backward(pass, size, kept, dout, gradients, dx, KeyGradients::None, frame)
    }
}
