//! Tokens of a model that was trained here: one by one, or all at once out of masks.

use std::collections::VecDeque;

use regard_layers::{LanguageModel, LanguageState, Objective, Parameters, SharedAttentionContext, Size, Workspace};
use regard_models::sampling::{Sampler, SamplingOptions};

use crate::error::Error;
use crate::interrupt;
use crate::progress;
use crate::writer::Source;

/// More rounds than these have a bar.
const ROUNDS: usize = 64;

/// Tokens of a prompt that are read at a time.
const PIECE: usize = 512;

/// What computes logits.
#[derive(Clone, Copy)]
pub(crate) struct Net<'m> {
    pub(crate) model: &'m LanguageModel,
    pub(crate) parameters: &'m Parameters,
    pub(crate) context: Option<&'m SharedAttentionContext>,
}

/// How a model that denoises writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    /// Tokens that are written.
    pub(crate) tokens: usize,
    /// Rounds in which that is done; as many as tokens at the most.
    pub(crate) rounds: usize,
}

/// Writes after a prompt.
pub(crate) struct LearnedSource<'m> {
    net: Net<'m>,
    workspace: Workspace,
    sampler: Sampler,
    /// What the model remembers of the tokens that it has read, where it writes one after the other.
    state: Option<LanguageState>,
    /// Tokens that the model sees at once.
    context: usize,
    rounds: Rounds,
    /// The prompt and what was written.
    tokens: Vec<u32>,
    /// What denoising has written and nobody asked for yet; nothing before it has.
    waiting: Option<VecDeque<u32>>,
    /// Of the token behind all that were read.
    logits: Vec<f32>,
}

impl<'m> LearnedSource<'m> {
    /// A source for texts of at most `context` tokens, the prompt included.
    pub(crate) fn new(
        net: Net<'m>,
        workspace: Workspace,
        sampling: SamplingOptions,
        context: usize,
        rounds: Rounds,
    ) -> Result<Self, Error> {
        let sampler = Sampler::new(sampling, net.model.config().vocabulary)?;
        let state = match net.model.config().objective {
            Objective::Causal => Some(net.model.state(1, context)?),
            Objective::Denoising => None,
        };
        let (tokens, logits) = (Vec::new(), vec![0.0; net.model.config().vocabulary]);
        Ok(LearnedSource { net, workspace, sampler, state, context, rounds, tokens, waiting: None, logits })
    }

    /// The workspace, to be used again.
    pub(crate) fn into_workspace(self) -> Workspace {
        self.workspace
    }

    /// Lets the model read the tokens that it has not read yet, a piece of them at a time, as long as that is to go on. Gives how
    /// many they were.
    fn read_on(
        &mut self,
        state: &mut LanguageState,
        go_on: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<usize, Error> {
        let Net { model, parameters, context } = self.net;
        let new = &self.tokens[state.tokens()..];
        let mut read = 0;
        while read < new.len() && go_on(read, new.len()) {
            let piece = &new[read..new.len().min(read + PIECE)];
            let size = Size { batch: 1, tokens: piece.len() };
            model.stream(parameters, &mut self.workspace, size, piece, state, context, &mut self.logits)?;
            read += piece.len();
        }
        Ok(read)
    }

    /// The token that follows by the model; none where the context is full.
    fn follow(&mut self, state: &mut LanguageState) -> Result<Option<u32>, Error> {
        // The token behind a full context needs no place in it.
        if self.tokens.is_empty() || self.tokens.len() > self.context {
            return Ok(None);
        }
        self.read_on(state, &mut |_, _| true)?;
        let token = self.sampler.sample(&mut self.logits)?;
        self.sampler.accept(token);
        self.tokens.push(token);
        Ok(Some(token))
    }

    /// Masks behind the prompt, of which each round fills in those that the model is most confident of (Nie et al., 2025, "Large
    /// Language Diffusion Models", section 2.4: low-confidence remasking).
    fn unmask(&mut self) -> Result<VecDeque<u32>, Error> {
        let Net { model, parameters, context } = self.net;
        let vocabulary = model.config().vocabulary;
        let (mask, prompt) = (vocabulary as u32 - 1, self.tokens.len());
        let room = self.context.saturating_sub(prompt).min(self.rounds.tokens);
        let rounds = self.rounds.rounds.clamp(1, room.max(1));
        self.tokens.resize(prompt + room, mask);
        let mut masked: Vec<usize> = (prompt..prompt + room).collect();
        let bar = (rounds > ROUNDS).then(|| progress::steps(rounds as u64, "unmasking"));
        for round in 0..rounds {
            if interrupt::pressed() {
                break;
            }
            let size = Size { batch: 1, tokens: self.tokens.len() };
            self.logits.resize(size.tokens * vocabulary, 0.0);
            model.predict(parameters, &mut self.workspace, size, &self.tokens, context, &mut self.logits)?;
            let mut guesses = Vec::with_capacity(masked.len());
            for &at in &masked {
                let logits = &mut self.logits[at * vocabulary..][..vocabulary];
                // A mask is never what a mask hides.
                logits[mask as usize] = f32::NEG_INFINITY;
                let token = self.sampler.sample(logits)?;
                guesses.push((confidence(logits, token), at, token));
            }
            guesses.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            for &(_, at, token) in &guesses[..masked.len().div_ceil(rounds - round)] {
                self.tokens[at] = token;
                self.sampler.accept(token);
            }
            masked.retain(|&at| self.tokens[at] == mask);
            bar.iter().for_each(|bar| bar.inc(1));
        }
        bar.iter().for_each(|bar| bar.finish_and_clear());
        // Where it was stopped, what came before the first mask is a text.
        let end = masked.first().copied().unwrap_or(self.tokens.len());
        Ok(self.tokens[prompt..end].iter().copied().collect())
    }
}

impl Source for LearnedSource<'_> {
    fn read_while(&mut self, prompt: &[u32], go_on: &mut dyn FnMut(usize, usize) -> bool) -> Result<usize, Error> {
        if prompt.is_empty() {
            return Err(regard_models::Error::NoTokens.into());
        }
        self.tokens.clear();
        self.tokens.extend(prompt);
        self.waiting = None;
        self.sampler.forget();
        prompt.iter().for_each(|&token| self.sampler.accept(token));
        // What denoises sees the prompt together with what it writes.
        let Some(mut state) = self.state.take() else { return Ok(0) };
        state.clear();
        let read = self.read_on(&mut state, go_on);
        self.state = Some(state);
        read
    }

    fn next_token(&mut self) -> Result<Option<u32>, Error> {
        if let Some(mut state) = self.state.take() {
            let token = self.follow(&mut state);
            self.state = Some(state);
            return token;
        }
        if self.waiting.is_none() {
            self.waiting = Some(self.unmask()?);
        }
        Ok(self.waiting.as_mut().and_then(VecDeque::pop_front))
    }
}

/// The probability that the softmax of `logits` gives to `token`.
fn confidence(logits: &[f32], token: u32) -> f64 {
    let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| f64::from(logit - peak).exp()).sum();
    f64::from(logits[token as usize] - peak).exp() / total
}

#[cfg(test)]
mod tests {
    use regard_layers::{ContextUse, Head, LanguageConfig, MixerKind};

    use super::*;

    #[test]
    fn every_mask_is_filled_in_however_many_rounds_there_are() {
        let config = LanguageConfig {
            vocabulary: 11,
            width: 16,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: 8,
            hidden: 32,
            mixer: MixerKind::Softmax,
            objective: Objective::Denoising,
            eps: 1e-5,
            rope_theta: 10_000.0,
            head: Head::Own,
            context: ContextUse::None,
            dropout: 0.0,
        };
        let mut parameters = Parameters::new(3);
        let model = LanguageModel::new(&mut parameters, config).unwrap();
        let net = Net { model: &model, parameters: &parameters, context: None };
        for (tokens, rounds, expected) in [(7, 1, 7), (7, 3, 7), (7, 100, 7), (50, 4, 17)] {
            let rounds = Rounds { tokens, rounds };
            let workspace = Workspace::new().unwrap();
            let mut source = LearnedSource::new(net, workspace, SamplingOptions::default(), 20, rounds).unwrap();
            source.read_while(&[1, 2, 3], &mut |_, _| true).unwrap();
            let mut written = Vec::new();
            while let Some(token) = source.next_token().unwrap() {
                written.push(token);
            }
            assert_eq!(expected, written.len());
            assert!(written.iter().all(|&token| token < 10), "{written:?}");
        }
    }
}
