//! A language model: tokens in, how likely each next one is out.

use regard_attention::Direction;
use regard_kernels::Activation;
use regard_masks::Mask;
use regard_memory::{Frame, Need, Rows, RowsMut};

use crate::{
    Before, Bias, ContextInlet, Embedding, Error, FeedForward, FeedForwardKind, FlashAttention, FlashConfig, Gradients,
    HeadSizes, Initial, Layer, Linear, LinearAttention, LinearConfig, LinearRule, Mixer, Mode, Norm, NormKind,
    Parameters, Pass, SharedAttentionContext, Side, Size, StateSpace, StateSpaceConfig, TransformerBlock, Workspace,
    cross_entropy, cross_entropy_need,
};

/// A language model of pre-norm blocks: token embedding, blocks (RMSNorm, a mixer, SwiGLU), a norm, and logits. With softmax
/// attention it is a Llama, and its parameters have the names that these have in `transformers`.
#[derive(Clone, Debug)]
pub struct LanguageModel {
    config: LanguageConfig,
    embedding: Embedding,
    blocks: Vec<TransformerBlock>,
    /// Where all blocks but the first take in the shared context.
    inlets: Vec<ContextInlet>,
    norm: Norm,
    /// The logits' own weights; without them they are the embedding's.
    head: Option<Linear>,
}

/// What a language model is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LanguageConfig {
    /// Tokens that have an embedding and a logit.
    pub vocabulary: usize,
    /// Numbers of a token between blocks.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// Numbers within a feed-forward layer.
    pub hidden: usize,
    /// What lets tokens see each other.
    pub mixer: MixerKind,
    /// What it is trained for.
    pub objective: Objective,
    /// What keeps the norms' roots from 0.
    pub eps: f32,
    /// The base of the rotary positions of softmax attention.
    pub rope_theta: f32,
    /// Whether logits are made with the embedding's weights.
    pub head: Head,
    /// Whether blocks share a context.
    pub context: ContextUse,
    /// The probability that an attention weight falls, in training.
    pub dropout: f32,
}

/// What lets tokens see each other, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MixerKind {
    /// Softmax attention.
    Softmax,
    /// Linear attention by a rule.
    Linear(LinearRule),
    /// Mamba-2, of twice the width, in heads of `head_dim`, with keys and queries of 64.
    StateSpace,
}

/// What a model is trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Objective {
    /// Each token from those before it.
    Causal,
    /// Tokens that were masked, from all others (masked diffusion: Nie et al., 2025; Sahoo et al., 2024).
    Denoising,
}

/// Which weights make logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Head {
    /// The embedding's.
    Tied,
    /// Its own.
    Own,
}

/// Whether blocks share a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContextUse {
    /// They do not.
    None,
    /// They do: see [`SharedAttentionContext`].
    Shared,
}

/// Whether a block's intermediate results are kept for the backward pass, or computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recomputation {
    /// They are kept.
    None,
    /// Of each block only the input is kept (Chen et al., 2016).
    Blocks,
}

/// What a model learns from: rows `[batch, tokens]`.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Sequences and tokens.
    pub size: Size,
    /// What it is shown.
    pub tokens: &'a [u32],
    /// What it shall say at each place.
    pub targets: &'a [u32],
    /// What each place counts; they add up to 1 where the loss is a mean.
    pub weights: &'a [f32],
}

/// What a step goes by beside the batch.
struct Step<'s, 'b> {
    batch: Batch<'b>,
    recomputation: Recomputation,
    gradients: &'s mut Gradients,
    context: Option<&'s mut SharedAttentionContext>,
}

impl LanguageModel {
    /// Makes the model's parameters: normal with a deviation of 0.02, those that lead back to the residual with `0.02/√(2·layers)`
    /// (Radford et al., 2019).
    ///
    /// # Errors
    /// A setting is out of its range, or there is no memory for the parameters.
    pub fn new(parameters: &mut Parameters, config: LanguageConfig) -> Result<LanguageModel, Error> {
        let LanguageConfig { vocabulary, width, layers, hidden, eps, .. } = config;
        for (setting, has) in [("vocabulary", vocabulary), ("layers", layers), ("hidden", hidden)] {
            if has == 0 {
                return Err(Error::setting(setting, has, "at least 1"));
            }
        }
        let normal = [Initial::Normal(0.02), Initial::Normal(0.02 / (2.0 * layers as f32).sqrt())];
        let mut root = parameters.root();
        let embedding = Embedding::new(&mut root.scope("model.embed_tokens"), vocabulary, width, normal[0])?;
        let (mut blocks, mut inlets) = (Vec::with_capacity(layers), Vec::new());
        for layer in 0..layers {
            let mut scope = root.scope(&format!("model.layers.{layer}"));
            if config.context == ContextUse::Shared && layer > 0 {
                inlets.push(ContextInlet::new(&mut scope.scope("context"))?);
            }
            let first = Norm::new(&mut scope.scope("input_layernorm"), NormKind::Rms, width, eps)?;
            let mixer = config.mixer(&mut scope.scope("self_attn"), normal)?;
            let second = Norm::new(&mut scope.scope("post_attention_layernorm"), NormKind::Rms, width, eps)?;
            let swiglu = FeedForwardKind::Gated(Activation::Silu);
            let feed_forward = FeedForward::with(&mut scope.scope("mlp"), swiglu, width, hidden, Bias::None, normal)?;
            blocks.push(TransformerBlock::new([first, second], mixer, feed_forward)?);
        }
        let norm = Norm::new(&mut root.scope("model.norm"), NormKind::Rms, width, eps)?;
        let head = match config.head {
            Head::Tied => None,
            Head::Own => Some(Linear::with(&mut root.scope("lm_head"), width, vocabulary, Bias::None, normal[0])?),
        };
        Ok(LanguageModel { config, embedding, blocks, inlets, norm, head })
    }

    /// What it is made of.
    pub fn config(&self) -> &LanguageConfig {
        &self.config
    }

    /// Numbers of all rows between blocks.
    fn rows_need(&self, size: Size) -> Need {
        Need::of::<f32>(size.rows().saturating_mul(self.config.width))
    }

    fn logits_need(&self, size: Size) -> Need {
        let logits = Need::of::<f32>(size.rows().saturating_mul(self.config.vocabulary));
        logits.and(cross_entropy_need(size.rows()))
    }

    /// What [`LanguageModel::learn`] takes: the activations.
    pub fn learn_need(
        &self,
        size: Size,
        recomputation: Recomputation,
        context: Option<&SharedAttentionContext>,
    ) -> Need {
        let rows = self.rows_need(size);
        let observed = context.map_or(Need::NONE, SharedAttentionContext::observe_need);
        let inlet = context.map_or(Need::NONE, |context| context.need(size.rows()));
        let (mut kept, mut passing) = (rows, self.norm.need(size.rows()).or(self.logits_need(size)));
        for block in &self.blocks {
            let (forward, backward) = (block.forward_need(size), block.backward_need(size));
            match recomputation {
                Recomputation::None => {
                    kept = kept.and(forward).and(inlet);
                    passing = passing.or(backward).or(observed).or(inlet);
                }
                Recomputation::Blocks => {
                    kept = kept.and(rows).and(inlet);
                    passing = passing.or(forward.and(backward.or(observed))).or(inlet);
                }
            }
        }
        // The last norm's results, and the gradient that goes back.
        kept.and(rows.times(2)).and(passing)
    }

    /// The loss of a batch, and the gradients of all parameters, added to `gradients`. What blocks see of each other goes into
    /// `context`, where they share one; it is moved by [`SharedAttentionContext::update`].
    ///
    /// # Errors
    /// A token is beyond the vocabulary, or the batch's parts are of different sizes.
    #[allow(clippy::too_many_arguments, reason = "a step reads and writes everything that a run consists of")]
    pub fn learn(
        &self,
        parameters: &Parameters,
        workspace: &mut Workspace,
        mode: Mode,
        batch: Batch<'_>,
        recomputation: Recomputation,
        gradients: &mut Gradients,
        context: Option<&mut SharedAttentionContext>,
    ) -> Result<f64, Error> {
        self.check(batch.size, batch.tokens)?;
        self.check_context(context.as_deref())?;
        let need = self.learn_need(batch.size, recomputation, context.as_deref());
        let (mut tape, mut pass) = workspace.pass(parameters, mode, need)?;
        let x = tape.take(batch.tokens.len() * self.config.width);
        self.embedding.forward(&pass, batch.tokens, x)?;
        let mut step = Step { batch, recomputation, gradients, context };
        let (loss, d) = self.descend(0, &mut pass, &mut step, x, &mut tape)?;
        self.embedding.backward(&pass, batch.tokens, d, step.gradients)?;
        Ok(loss)
    }

    /// Goes through the blocks from `layer` on to the loss, and back again: gives the loss, and its gradient by `x`. What a block
    /// keeps stays on the stack meanwhile.
    fn descend<'a>(
        &self,
        layer: usize,
        pass: &mut Pass<'_>,
        step: &mut Step<'_, '_>,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(f64, &'a mut [f32]), Error> {
        let Some(block) = self.blocks.get(layer) else { return self.finish(pass, step, x, tape) };
        let size = step.batch.size;
        let inlet = layer.checked_sub(1).and_then(|inlet| self.inlets.get(inlet));
        let with_context: &'a [f32] = match (inlet, &step.context) {
            (Some(&inlet), Some(context)) => context.apply(pass, inlet, x, tape)?,
            _ => x,
        };
        let (loss, d) = match step.recomputation {
            Recomputation::None => {
                let (y, kept) = block.observed(pass, size, with_context, step.context.as_deref_mut(), tape)?;
                let (loss, d) = self.descend(layer + 1, pass, step, y, tape)?;
                block.backward_in(pass, size, kept, d, step.gradients, tape)?;
                (loss, d)
            }
            Recomputation::Blocks => {
                let y = tape.take(x.len());
                {
                    let mut scope = tape.scope();
                    let context = step.context.as_deref_mut();
                    y.copy_from_slice(block.observed(pass, size, with_context, context, &mut scope)?.0);
                }
                let (loss, d) = self.descend(layer + 1, pass, step, y, tape)?;
                let mut scope = tape.scope();
                let (_, kept) = block.forward(pass, size, with_context, &mut scope)?;
                block.backward_in(pass, size, kept, d, step.gradients, &mut scope)?;
                (loss, d)
            }
        };
        if let (Some(&inlet), Some(context)) = (inlet, &step.context) {
            context.apply_backward(pass, inlet, x, d, step.gradients, tape)?;
        }
        Ok((loss, d))
    }

    /// The last norm, the logits and the loss, and back.
    fn finish<'a>(
        &self,
        pass: &mut Pass<'_>,
        step: &mut Step<'_, '_>,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(f64, &'a mut [f32]), Error> {
        let Step { batch: Batch { size, targets, weights, .. }, gradients, .. } = step;
        let (rows, width, vocabulary) = (size.rows(), self.config.width, self.config.vocabulary);
        let (normed, d) = (tape.take(x.len()), tape.take_zeroed(x.len()));
        self.norm.apply(pass, x, normed);
        let normed_rows = Rows::contiguous(&*normed, rows, width)?;
        let loss = {
            let mut scope = tape.scope();
            let logits = scope.take(rows * vocabulary);
            self.logits(pass, normed_rows, logits)?;
            let loss = cross_entropy(pass, logits, vocabulary, targets, weights, &mut scope)?;
            let dlogits = Rows::contiguous(&*logits, rows, vocabulary)?;
            let dnormed = RowsMut::contiguous(d, rows, width)?;
            match &self.head {
                Some(head) => {
                    head.differentiate(pass, normed_rows, dlogits, gradients, Some((Before::Replaced, dnormed)))?;
                }
                None => {
                    let place = self.embedding.weight();
                    let table = Rows::contiguous(pass.parameters.of(place), vocabulary, width)?;
                    let to = RowsMut::contiguous(gradients.of_mut(place), vocabulary, width)?;
                    pass.multiply(Side::Transposed(dlogits), Side::AsIs(normed_rows), Before::Kept, to)?;
                    pass.multiply(Side::AsIs(dlogits), Side::AsIs(table), Before::Replaced, dnormed)?;
                }
            }
            loss
        };
        // The gradient of the norm's results gives way to that of its input.
        normed.copy_from_slice(d);
        d.fill(0.0);
        self.norm.differentiate(pass, x, normed, gradients, d, tape)?;
        Ok((loss, d))
    }

    fn logits(&self, pass: &mut Pass<'_>, normed: Rows<'_, f32>, logits: &mut [f32]) -> Result<(), Error> {
        let (vocabulary, width) = (self.config.vocabulary, self.config.width);
        let out = RowsMut::contiguous(logits, normed.rows(), vocabulary)?;
        match &self.head {
            Some(head) => head.apply(pass, normed, out),
            None => {
                let table = Rows::contiguous(pass.parameters.of(self.embedding.weight()), vocabulary, width)?;
                pass.multiply(Side::AsIs(normed), Side::Transposed(table), Before::Replaced, out)
            }
        }
    }

    /// What [`LanguageModel::predict`] takes.
    fn predict_need(&self, size: Size, context: Option<&SharedAttentionContext>) -> Need {
        let blocks = self.blocks.iter().map(|block| block.forward_need(size)).fold(Need::NONE, Need::or);
        let inlet = context.map_or(Need::NONE, |context| context.need(size.rows()));
        self.rows_need(size).times(2).and(blocks.and(inlet).or(self.logits_need(size)))
    }

    /// The logits `[batch, tokens, vocabulary]` of tokens `[batch, tokens]`.
    ///
    /// # Errors
    /// A token is beyond the vocabulary, or `logits` is of another size.
    pub fn predict(
        &self,
        parameters: &Parameters,
        workspace: &mut Workspace,
        size: Size,
        tokens: &[u32],
        context: Option<&SharedAttentionContext>,
        logits: &mut [f32],
    ) -> Result<(), Error> {
        self.check(size, tokens)?;
        self.check_context(context)?;
        crate::layer::check_rows("logits", logits, size, self.config.vocabulary)?;
        let need = self.predict_need(size, context);
        let (mut tape, mut pass) = workspace.pass(parameters, Mode::Evaluation, need)?;
        let normed = self.hidden(&mut pass, size, tokens, context, &mut tape)?;
        self.logits(&mut pass, Rows::contiguous(normed, size.rows(), self.config.width)?, logits)
    }

    /// The logits `[batch, vocabulary]` of the last token of each sequence, of tokens `[batch, tokens]`.
    ///
    /// # Errors
    /// As [`LanguageModel::predict`], or there are no tokens.
    pub fn predict_last(
        &self,
        parameters: &Parameters,
        workspace: &mut Workspace,
        size: Size,
        tokens: &[u32],
        context: Option<&SharedAttentionContext>,
        logits: &mut [f32],
    ) -> Result<(), Error> {
        self.check(size, tokens)?;
        self.check_context(context)?;
        if size.tokens == 0 {
            return Err(Error::setting("tokens", 0, "at least 1"));
        }
        crate::layer::check_rows("logits", logits, Size { tokens: 1, ..size }, self.config.vocabulary)?;
        let need = self.predict_need(size, context);
        let (mut tape, mut pass) = workspace.pass(parameters, Mode::Evaluation, need)?;
        let normed = self.hidden(&mut pass, size, tokens, context, &mut tape)?;
        let width = self.config.width;
        // Without sequences there is nothing behind the first.
        let before = ((size.tokens - 1) * width).min(normed.len());
        let last = Rows::new(&normed[before..], size.batch, width, size.tokens * width)?;
        self.logits(&mut pass, last, logits)
    }

    /// The loss of a batch, without gradients.
    ///
    /// # Errors
    /// As [`LanguageModel::learn`].
    pub fn evaluate(
        &self,
        parameters: &Parameters,
        workspace: &mut Workspace,
        batch: Batch<'_>,
        context: Option<&SharedAttentionContext>,
    ) -> Result<f64, Error> {
        let Batch { size, tokens, targets, weights } = batch;
        self.check(size, tokens)?;
        self.check_context(context)?;
        let need = self.predict_need(size, context);
        let (mut tape, mut pass) = workspace.pass(parameters, Mode::Evaluation, need)?;
        let normed = self.hidden(&mut pass, size, tokens, context, &mut tape)?;
        let logits = tape.take(size.rows() * self.config.vocabulary);
        self.logits(&mut pass, Rows::contiguous(normed, size.rows(), self.config.width)?, logits)?;
        cross_entropy(&pass, logits, self.config.vocabulary, targets, weights, &mut tape)
    }

    /// What the last norm gives.
    fn hidden<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        tokens: &[u32],
        context: Option<&SharedAttentionContext>,
        tape: &mut Frame<'a>,
    ) -> Result<&'a [f32], Error> {
        let len = tokens.len() * self.config.width;
        let (mut x, mut next) = (tape.take::<f32>(len), tape.take(len));
        self.embedding.forward(pass, tokens, x)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let mut scope = tape.scope();
            let inlet = layer.checked_sub(1).and_then(|inlet| self.inlets.get(inlet));
            if let (Some(&inlet), Some(context)) = (inlet, context) {
                let with_context = context.apply(pass, inlet, x, &mut scope)?;
                x.copy_from_slice(with_context);
            }
            // Results may not be written over what the block still reads.
            let y = block.forward(pass, size, x, &mut scope)?.0;
            next.copy_from_slice(y);
            std::mem::swap(&mut x, &mut next);
        }
        self.norm.apply(pass, x, next);
        Ok(next)
    }

    fn check(&self, size: Size, tokens: &[u32]) -> Result<(), Error> {
        if tokens.len() != size.rows() {
            return Err(Error::shape("tokens", &[tokens.len()], format!("[{}, {}]", size.batch, size.tokens)));
        }
        Ok(())
    }

    fn check_context(&self, context: Option<&SharedAttentionContext>) -> Result<(), Error> {
        match (self.config.context, context) {
            (ContextUse::None, Some(_)) => {
                Err(Error::setting("shared context", "given", "none, as the model has none"))
            }
            (ContextUse::Shared, None) => {
                Err(Error::setting("shared context", "none", "given, as the model shares one"))
            }
            (_, Some(context)) if context.width() != self.config.width => {
                Err(Error::setting("width of the shared context", context.width(), self.config.width))
            }
            _ => Ok(()),
        }
    }
}

impl LanguageConfig {
    fn mixer(&self, scope: &mut crate::Scope<'_>, initial: [Initial; 2]) -> Result<Mixer, Error> {
        let LanguageConfig { width, heads, kv_heads, head_dim, .. } = *self;
        let sizes = HeadSizes { width, heads, kv_heads, dim_k: head_dim, dim_v: head_dim };
        Ok(match self.mixer {
            MixerKind::Softmax => {
                let mask = match self.objective {
                    Objective::Causal => Mask::causal(),
                    Objective::Denoising => Mask::full(),
                };
                let config = FlashConfig::new(sizes, mask).with_rotary(self.rope_theta);
                let config = FlashConfig { dropout: self.dropout, initial: Some(initial), ..config };
                Mixer::Softmax(FlashAttention::new(scope, config)?)
            }
            MixerKind::Linear(rule) => {
                let direction = match self.objective {
                    Objective::Causal => Direction::Causal,
                    Objective::Denoising => Direction::Both,
                };
                let config = LinearConfig { direction, initial: Some(initial), ..LinearConfig::new(sizes, rule) };
                Mixer::Linear(LinearAttention::new(scope, config)?)
            }
            MixerKind::StateSpace => {
                if self.objective == Objective::Denoising {
                    return Err(regard_attention::Error::Causal.into());
                }
                if !(2 * width).is_multiple_of(head_dim.max(1)) {
                    return Err(Error::setting(
                        "head_dim",
                        head_dim,
                        format!("a divisor of {}, twice the width", 2 * width),
                    ));
                }
                let sizes = StateSpaceConfig::new(width, 2 * width / head_dim.max(1));
                let config = StateSpaceConfig { head_dim, eps: self.eps, ..sizes };
                Mixer::StateSpace(StateSpace::with(scope, config, Some(initial))?)
            }
        })
    }
}
