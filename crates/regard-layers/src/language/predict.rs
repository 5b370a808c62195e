//! What a language model says: of all tokens at once, or of the next ones of a text that goes on.

use regard_memory::{Frame, Need, Rows};

use super::LanguageModel;
use crate::layer::check_rows;
use crate::mixer::MixerState;
use crate::{
    Batch, Error, Layer, Mode, Objective, Parameters, Pass, SharedAttentionContext, Size, Workspace, cross_entropy,
};

/// What a language model remembers of a batch of texts, so that their next tokens can be read: see [`LanguageModel::stream`].
#[derive(Debug)]
pub struct LanguageState {
    mixers: Vec<MixerState>,
    batch: usize,
    tokens: usize,
    /// Whether all mixers have read all tokens.
    whole: bool,
}

impl LanguageState {
    /// Tokens of each text that were read.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.mixers.iter_mut().for_each(MixerState::clear);
        (self.tokens, self.whole) = (0, true);
    }

    fn check(&self, size: Size, layers: usize) -> Result<(), Error> {
        if size.batch != self.batch {
            return Err(Error::setting("batch", size.batch, format!("{}, as of the state", self.batch)));
        }
        if self.mixers.len() != layers {
            let expected = format!("one of {layers}");
            return Err(Error::setting("state", format!("one of {} layers", self.mixers.len()), expected));
        }
        if !self.whole {
            return Err(Error::setting("state", "one that an error left half written", "cleared"));
        }
        self.mixers.iter().try_for_each(|mixer| mixer.check_room(size.tokens))
    }
}

impl LanguageModel {
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
        check_rows("logits", logits, size, self.config.vocabulary)?;
        let need = self.predict_need(size, context);
        let (mut tape, mut pass) = workspace.pass(parameters, Mode::Evaluation, need)?;
        let normed = self.hidden(&mut pass, size, tokens, context, None, &mut tape)?;
        self.logits(&mut pass, Rows::contiguous(normed, size.rows(), self.config.width)?, logits)
    }

    /// What the model remembers of `batch` texts before their first token. Softmax attention has room for `capacity` tokens of each;
    /// recurrences remember the same few numbers however many there are.
    ///
    /// # Errors
    /// The model denoises, so that tokens see those behind them; or there is no memory for it.
    pub fn state(&self, batch: usize, capacity: usize) -> Result<LanguageState, Error> {
        if self.config.objective == Objective::Denoising {
            return Err(Error::setting("objective", "denoising", "causal, where tokens are read one after the other"));
        }
        let mixers = self.blocks.iter().map(|block| block.mixer().state(batch, capacity));
        Ok(LanguageState { mixers: mixers.collect::<Result<_, _>>()?, batch, tokens: 0, whole: true })
    }

    /// Reads the next tokens of texts, `[batch, tokens]`, at least one of each, and gives the logits `[batch, vocabulary]` of what
    /// may follow the last ones. Reading a text in pieces gives what reading it at once gives, within rounding.
    ///
    /// ```
    /// # use regard_layers::*;
    /// # let config = LanguageConfig {
    /// #     vocabulary: 50, width: 32, layers: 2, heads: 4, kv_heads: 2, head_dim: 8, hidden: 48,
    /// #     mixer: MixerKind::Linear(LinearRule::Gated), objective: Objective::Causal, eps: 1e-5, rope_theta: 10_000.0,
    /// #     head: Head::Tied, context: ContextUse::None, dropout: 0.0,
    /// # };
    /// # let mut parameters = Parameters::new(7);
    /// let model = LanguageModel::new(&mut parameters, config)?;
    /// let (mut workspace, mut logits) = (Workspace::new()?, [0.0; 50]);
    /// let mut state = model.state(1, 100)?;
    /// for tokens in [&[3, 1, 4, 1, 5][..], &[9]] {
    ///     let size = Size { batch: 1, tokens: tokens.len() };
    ///     model.stream(&parameters, &mut workspace, size, tokens, &mut state, None, &mut logits)?;
    /// }
    /// assert_eq!(state.tokens(), 6);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// There are no tokens, one is beyond the vocabulary, the state is another model's or has no room for them, or `logits` is of
    /// another size; then nothing is read.
    #[allow(clippy::too_many_arguments, reason = "what is read, what is remembered, and what comes of it")]
    pub fn stream(
        &self,
        parameters: &Parameters,
        workspace: &mut Workspace,
        size: Size,
        tokens: &[u32],
        state: &mut LanguageState,
        context: Option<&SharedAttentionContext>,
        logits: &mut [f32],
    ) -> Result<(), Error> {
        self.check(size, tokens)?;
        self.check_context(context)?;
        if size.tokens == 0 {
            return Err(Error::setting("tokens", 0, "at least 1"));
        }
        check_rows("logits", logits, Size { tokens: 1, ..size }, self.config.vocabulary)?;
        self.embedding.check_numbers(tokens)?;
        state.check(size, self.blocks.len())?;
        let need = self.predict_need(size, context);
        let (mut tape, mut pass) = workspace.pass(parameters, Mode::Evaluation, need)?;
        state.whole = false;
        let normed = self.hidden(&mut pass, size, tokens, context, Some(&mut state.mixers), &mut tape)?;
        let width = self.config.width;
        // Without sequences there is nothing behind the first.
        let before = ((size.tokens - 1) * width).min(normed.len());
        let last = Rows::new(&normed[before..], size.batch, width, size.tokens * width)?;
        self.logits(&mut pass, last, logits)?;
        (state.whole, state.tokens) = (true, state.tokens + size.tokens);
        Ok(())
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
        let normed = self.hidden(&mut pass, size, tokens, context, None, &mut tape)?;
        let logits = tape.take(size.rows() * self.config.vocabulary);
        self.logits(&mut pass, Rows::contiguous(normed, size.rows(), self.config.width)?, logits)?;
        cross_entropy(&pass, logits, self.config.vocabulary, targets, weights, &mut tape)
    }

    /// What the last norm gives; behind what blocks remember, if that is given.
    fn hidden<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        tokens: &[u32],
        context: Option<&SharedAttentionContext>,
        mut states: Option<&mut [MixerState]>,
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
            let y = match &mut states {
                Some(states) => block.stream(pass, size, x, &mut states[layer], &mut scope)?,
                None => block.forward(pass, size, x, &mut scope)?.0,
            };
            next.copy_from_slice(y);
            std::mem::swap(&mut x, &mut next);
        }
        self.norm.apply(pass, x, next);
        Ok(next)
    }
}
