//! Softmax attention between its projections.

use regard_attention::{Inputs, Options, Outputs, Shape, Terms, Upstream};
use regard_kernels::Rotary;
use regard_masks::Mask;
use regard_memory::{Frame, Need, Rows};

use crate::key_cache::KeyCache;
use crate::layer::check_rows;
use crate::projections::Projections;
use crate::rotary::Turn;
use crate::workspace::{heads_of, heads_of_mut};
use crate::{Bias, Error, Gradients, HeadSizes, Initial, Layer, Mode, Parameter, Parameters, Pass, Scope, Size};

/// Exact softmax attention of tokens among each other, computed in tiles, between its projections: `out(attention(q(x), k(x),
/// v(x)))`. Parameters `q_proj`, `k_proj`, `v_proj`, `o_proj`, each a [`Linear`](crate::Linear) layer's, and with sinks
/// `sinks [heads]`.
///
/// ```
/// use ndarray::Array3;
/// use regard_layers::{FlashAttention, FlashConfig, HeadSizes, Mode, Parameters, Workspace, run};
/// use regard_masks::Mask;
///
/// let mut parameters = Parameters::new(7);
/// // Four query heads that share two key/value heads; rotary positions.
/// let sizes = HeadSizes { kv_heads: 2, ..HeadSizes::new(32, 4) };
/// let config = FlashConfig::new(sizes, Mask::causal()).with_rotary(10_000.0);
/// let layer = FlashAttention::new(&mut parameters.scope("attention"), config)?;
/// let x = Array3::from_shape_fn((2, 9, 32), |(b, t, c)| ((b * 31 + t * 7 + c) as f32).sin());
/// let y = run(&layer, &parameters, &mut Workspace::new()?, Mode::Evaluation, x.view())?;
/// assert_eq!(y.dim(), (2, 9, 32));
/// # Ok::<(), regard_layers::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FlashAttention {
    projections: Projections,
    mask: Mask,
    options: Options,
    rotary: Option<Rotary>,
    sinks: Option<Parameter>,
}

/// What softmax attention between projections is made of.
#[derive(Clone, Debug)]
pub struct FlashConfig {
    /// Widths and heads.
    pub sizes: HeadSizes,
    /// Which pairs live.
    pub mask: Mask,
    /// What scores are multiplied by; `1/√dim_k` unless given.
    pub scale: Option<f64>,
    /// Scores are bent into `(−cap, cap)`.
    pub softcap: Option<f64>,
    /// Rotary positions of queries and keys: half-split, as in Hugging Face's models.
    pub rotary: Option<Rotary>,
    /// Whether each head learns a logit that joins its rows' denominators.
    pub sinks: Sinks,
    /// Biases of the projections of queries, keys and values, and of the last one.
    pub bias: [Bias; 2],
    /// The probability that a weight falls, in training.
    pub dropout: f32,
    /// What weights are at first: of the three projections, and of the last one. Uniform within `1/√inputs` unless given.
    pub initial: Option<[Initial; 2]>,
}

/// Whether heads have sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sinks {
    /// They have none.
    None,
    /// They learn one each.
    Learned,
}

impl FlashConfig {
    /// Without biases, rotary positions, sinks and dropout.
    pub fn new(sizes: HeadSizes, mask: Mask) -> FlashConfig {
        FlashConfig {
            sizes,
            mask,
            scale: None,
            softcap: None,
            rotary: None,
            sinks: Sinks::None,
            bias: [Bias::None; 2],
            dropout: 0.0,
            initial: None,
        }
    }

    /// With rotary positions of all dimensions at this base.
    #[must_use]
    pub fn with_rotary(self, theta: f32) -> FlashConfig {
        FlashConfig { rotary: Some(self.sizes.rotary(theta)), ..self }
    }
}

/// What attention keeps for its backward pass.
#[derive(Debug)]
pub struct FlashKept<'a> {
    x: &'a [f32],
    /// Queries, keys and values.
    projected: [&'a [f32]; 3],
    /// What attention gave, and its log-sum-exp.
    attended: &'a [f32],
    lse: &'a [f32],
    /// What dropout knows the sequences by.
    numbers: &'a [u64],
}

/// What softmax attention remembers of a batch of sequences: their keys and values.
#[derive(Debug)]
pub struct FlashState {
    cache: KeyCache,
}

impl FlashState {
    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.cache.clear();
    }

    pub(crate) fn check_room(&self, more: usize) -> Result<(), Error> {
        self.cache.check_room(more)
    }
}

impl FlashAttention {
    /// Makes the layer's parameters.
    ///
    /// # Errors
    /// A setting is out of its range, the scope has such parameters, or there is no memory for them.
    pub fn new(scope: &mut Scope<'_>, config: FlashConfig) -> Result<FlashAttention, Error> {
        let FlashConfig { sizes, mask, scale, softcap, rotary, sinks, bias, dropout, initial } = config;
        sizes.check_rotary(rotary.as_ref())?;
        if !(0.0..1.0).contains(&dropout) {
            return Err(Error::setting("dropout", dropout, "at least 0 and below 1"));
        }
        let projections = Projections::new(scope, sizes, bias, initial)?;
        let sinks = match sinks {
            Sinks::None => None,
            Sinks::Learned => Some(scope.add_vector("sinks", &[sizes.heads], Initial::Constant(0.0))?),
        };
        let dropout = (dropout > 0.0).then(|| regard_attention::Dropout { probability: dropout, seed: scope.seed() });
        let options = Options { scale, softcap, dropout, ..Options::default() };
        Ok(FlashAttention { projections, mask, options, rotary, sinks })
    }

    fn shape(&self, size: Size) -> Shape {
        let HeadSizes { heads, kv_heads, dim_k, dim_v, .. } = self.projections.sizes;
        Shape { batch: size.batch, heads, kv_heads, queries: size.tokens, keys: size.tokens, dim_k, dim_v }
    }

    /// The options of a pass: weights fall in training alone.
    fn options(&self, pass: &Pass<'_>) -> Options {
        let dropout = self.options.dropout.filter(|_| pass.mode != Mode::Evaluation);
        Options { isa: Some(pass.kernels.isa()), dropout, ..self.options.clone() }
    }

    /// Queries, keys and values of tokens that stand at the positions from `first` on.
    fn project<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        first: usize,
        x: &[f32],
        tape: &mut Frame<'a>,
    ) -> Result<[&'a mut [f32]; 3], Error> {
        let [q, k, v] = self.projections.project(pass, size, x, tape)?;
        if let Some(rotary) = &self.rotary {
            let dim_k = self.projections.sizes.dim_k;
            pass.rotate(rotary, Turn::Forth, size, first, dim_k, q)?;
            pass.rotate(rotary, Turn::Forth, size, first, dim_k, k)?;
        }
        Ok([q, k, v])
    }

    /// What the layer remembers of `batch` sequences, of up to `capacity` tokens each, before their first one.
    ///
    /// # Errors
    /// A size is 0 or too large for the memory.
    pub fn state(&self, batch: usize, capacity: usize) -> Result<FlashState, Error> {
        let HeadSizes { kv_heads, dim_k, dim_v, .. } = self.projections.sizes;
        Ok(FlashState { cache: KeyCache::new(kv_heads, [dim_k, dim_v], batch, capacity)? })
    }

    /// The results of the next tokens of sequences, `x [batch, tokens, width]`, which see those of before. With a causal mask all
    /// tokens in chunks equal all in one pass, within rounding. Takes [`Layer::forward_need`] from the tape.
    ///
    /// # Errors
    /// `x` has another size, or the state is another layer's or has no room for them; then nothing is remembered of them.
    pub fn stream<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &[f32],
        state: &mut FlashState,
        tape: &mut Frame<'a>,
    ) -> Result<&'a mut [f32], Error> {
        let HeadSizes { heads, kv_heads, dim_k, dim_v, .. } = self.projections.sizes;
        check_rows("input", x, size, self.inputs())?;
        let cache = &mut state.cache;
        cache.check(size, kv_heads, [dim_k, dim_v])?;
        cache.check_room(size.tokens)?;
        let out = tape.take(size.rows() * self.outputs());
        let mut scope = tape.scope();
        let [q, k, v] = self.project(pass, size, cache.len(), x, &mut scope)?;
        let keys = Rows::contiguous(&*k, size.rows(), kv_heads * dim_k)?;
        cache.append(pass, size, keys, Rows::contiguous(&*v, size.rows(), kv_heads * dim_v)?)?;
        let attended = scope.take(size.rows() * heads * dim_v);
        let terms = Terms { sinks: self.sinks.map(|sinks| pass.parameters.of(sinks)), ..Terms::default() };
        let options = self.options(pass);
        cache.attend(pass, size, heads, (&self.mask, &options), terms, q, attended)?;
        self.projections.finish(pass, size, attended, out)?;
        Ok(out)
    }

    fn inputs_of<'t>(
        &self,
        parameters: &'t Parameters,
        size: Size,
        [q, k, v]: [&'t [f32]; 3],
        numbers: &'t [u64],
    ) -> Result<Inputs<'t, f32>, Error> {
        let HeadSizes { heads, kv_heads, dim_k, dim_v, .. } = self.projections.sizes;
        Ok(Inputs {
            q: heads_of(q, size, heads, dim_k)?,
            k: heads_of(k, size, kv_heads, dim_k)?,
            v: heads_of(v, size, kv_heads, dim_v)?,
            terms: Terms {
                sinks: self.sinks.map(|sinks| parameters.of(sinks)),
                sequence_ids: Some(numbers),
                ..Terms::default()
            },
        })
    }
}

impl Layer for FlashAttention {
    type Kept<'a> = FlashKept<'a>;

    fn inputs(&self) -> usize {
        self.projections.sizes.width
    }

    fn outputs(&self) -> usize {
        self.projections.sizes.width
    }

    fn forward_need(&self, size: Size) -> Need {
        let lse = Need::of::<f32>(size.rows().saturating_mul(self.projections.sizes.heads));
        let kept = self.projections.sizes.needs(size).into_iter().fold(lse, Need::and);
        kept.and(self.projections.out_need(size)).and(Need::of::<u64>(size.batch))
    }

    fn backward_need(&self, size: Size) -> Need {
        let sinks = Need::of::<f32>(self.projections.sizes.heads);
        self.projections.sizes.needs(size).into_iter().fold(sinks, Need::and)
    }

    fn forward<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], FlashKept<'a>), Error> {
        let (rows, HeadSizes { heads, dim_v, .. }) = (size.rows(), self.projections.sizes);
        let out = tape.take(rows * self.outputs());
        let [q, k, v] = self.project(pass, size, 0, x, tape)?;
        let (attended, lse) = (tape.take(rows * heads * dim_v), tape.take(rows * heads));
        let (projected, numbers) = ([&*q, &*k, &*v], pass.numbers(size, tape));
        let inputs = self.inputs_of(pass.parameters, size, projected, numbers)?;
        let to = Outputs::state(heads_of_mut(attended, size, heads, dim_v)?, heads_of_mut(lse, size, heads, 1)?);
        let options = self.options(pass);
        pass.plans.get(self.shape(size), &self.mask, &options)?.run(&inputs, to, pass.scratch, pass.pool)?;
        self.projections.finish(pass, size, attended, out)?;
        Ok((out, FlashKept { x, projected, attended, lse, numbers }))
    }

    fn backward(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        kept: FlashKept<'_>,
        dout: &[f32],
        gradients: &mut Gradients,
        dx: &mut [f32],
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        let HeadSizes { heads, kv_heads, dim_k, dim_v, .. } = self.projections.sizes;
        let FlashKept { x, projected, attended, lse, numbers } = kept;
        let mut frame = frame.scope();
        let [dq, dk, dv, dattended] =
            self.projections.sizes.widths().map(|width| frame.take::<f32>(size.rows() * width));
        self.projections.finish_backward(pass, size, attended, dout, gradients, dattended)?;

        let upstream = Upstream {
            out: heads_of(attended, size, heads, dim_v)?,
            lse: heads_of(lse, size, heads, 1)?,
            out_gradient: heads_of(dattended, size, heads, dim_v)?,
            lse_gradient: None,
        };
        let dsinks = frame.take_zeroed(heads);
        let to = regard_attention::Gradients {
            sinks: self.sinks.map(|_| &mut *dsinks),
            ..regard_attention::Gradients::new(
                heads_of_mut(dq, size, heads, dim_k)?,
                heads_of_mut(dk, size, kv_heads, dim_k)?,
                heads_of_mut(dv, size, kv_heads, dim_v)?,
            )
        };
        let inputs = self.inputs_of(pass.parameters, size, projected, numbers)?;
        let options = self.options(pass);
        let plan = pass.plans.get(self.shape(size), &self.mask, &options)?;
        plan.backward(&inputs, &upstream, to, pass.scratch, pass.pool)?;
        if let Some(sinks) = self.sinks {
            pass.kernels.add(dsinks, gradients.of_mut(sinks))?;
        }
        if let Some(rotary) = &self.rotary {
            pass.rotate(rotary, Turn::Back, size, 0, dim_k, dq)?;
            pass.rotate(rotary, Turn::Back, size, 0, dim_k, dk)?;
        }
        self.projections.project_backward(pass, size, x, [dq, dk, dv], gradients, dx)
    }
}
