//! Writes a text: prompt in, tokens out, until something says stop.

use std::time::Instant;

use regard_models::sampling::{Sampler, SamplingOptions};
use regard_models::{Model, Session};
use serde::Serialize;

use crate::error::Error;
use crate::interrupt::Listener;
use crate::progress;
use crate::stops::Stops;

/// Tokens of a prompt that are fed at once: enough to use the machine fully, few enough that Ctrl-C is heard soon.
const PIECE: usize = 512;

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ending {
    /// The model ended it.
    End,
    /// A stop string came up.
    Stop,
    /// It has as many tokens as were allowed.
    Length,
    /// The context is full.
    Context,
    /// Ctrl-C.
    Interrupt,
}

impl Ending {
    /// What there is to say about it, where the end is not the text's own.
    pub(crate) fn note(self, context: usize) -> Option<String> {
        match self {
            Self::End | Self::Stop => None,
            Self::Length => Some("stopped at --max-tokens".into()),
            Self::Context => {
                Some(format!("stopped because the context of {context} tokens is full; --context raises it"))
            }
            Self::Interrupt => Some("stopped by Ctrl-C".into()),
        }
    }
}

/// Tokens and the time that they took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// Tokens that went through the model.
    pub(crate) fed: usize,
    /// Seconds that this took.
    pub(crate) seconds: f64,
}

impl Pace {
    /// Tokens a second; 0 when there were none.
    pub(crate) fn rate(self) -> f64 {
        if self.fed == 0 { 0.0 } else { self.fed as f64 / self.seconds }
    }
}

/// A text that was written.
#[derive(Debug)]
pub(crate) struct Written {
    /// The text, without stop strings and the model's own end.
    pub(crate) text: String,
    /// Tokens of the text.
    pub(crate) tokens: usize,
    /// Why it ended.
    pub(crate) ending: Ending,
    /// The prompt's pace. What the cache already held is not fed again.
    pub(crate) prompt: Pace,
    /// The text's pace, choice of tokens included. The last token is not fed.
    pub(crate) generation: Pace,
}

/// A session with the tokens that it holds, and a sampler that goes through all its texts.
pub(crate) struct Writer<'m> {
    model: &'m Model,
    session: Session<'m>,
    sampler: Sampler,
    held: Vec<u32>,
}

impl<'m> Writer<'m> {
    /// A writer that holds nothing yet.
    pub(crate) fn new(model: &'m Model, session: Session<'m>, sampling: SamplingOptions) -> Result<Self, Error> {
        let sampler = Sampler::new(sampling, model.description().vocabulary)?;
        Ok(Self { model, session, sampler, held: Vec::new() })
    }

    /// Tokens that the session can hold.
    pub(crate) fn context(&self) -> usize {
        self.session.context()
    }

    /// Writes at most `most` tokens after `prompt`, which must be shorter than the context and not empty, and gives
    /// each piece of text to `show` as soon as it is certain.
    ///
    /// What the session already holds of the prompt is kept.
    ///
    /// # Errors
    /// The model's, and whatever `show` returns.
    pub(crate) fn write(
        &mut self,
        prompt: &[u32],
        most: usize,
        stops: &mut Stops,
        show: &mut dyn FnMut(&str) -> Result<(), Error>,
    ) -> Result<Written, Error> {
        let listener = Listener::new();
        let mut text = Text { written: String::new(), stops, show };
        let start = Instant::now();
        let (fed, first) = self.read(prompt, &listener)?;
        let prompt = Pace { fed, seconds: start.elapsed().as_secs_f64() };
        let start = Instant::now();
        let (tokens, ending, fed) = match first {
            Some(first) => self.go_on(first, most, &mut text, &listener)?,
            None => (0, Ending::Interrupt, 0),
        };
        let generation = Pace { fed, seconds: start.elapsed().as_secs_f64() };
        Ok(Written { text: text.written, tokens, ending, prompt, generation })
    }

    /// Feeds what the session lacks of the prompt: how many tokens that were, and the first token after them, unless
    /// it was interrupted.
    fn read(&mut self, prompt: &[u32], listener: &Listener) -> Result<(usize, Option<u32>), Error> {
        let common = prompt.iter().zip(&self.held).take_while(|(a, b)| a == b).count();
        // The last token is fed in any case: its logits choose the first new one.
        let common = common.min(prompt.len().saturating_sub(1));
        self.session.truncate(common);
        self.held.truncate(common);
        let rest = &prompt[common..];
        let bar = (rest.len() > PIECE).then(|| progress::steps(rest.len() as u64, "reading the prompt"));
        let mut first = None;
        for piece in rest.chunks(PIECE) {
            if listener.pressed() {
                break;
            }
            let logits = self.session.feed(piece)?;
            self.held.extend(piece);
            piece.iter().for_each(|&token| self.sampler.accept(token));
            if self.held.len() == prompt.len() {
                first = Some(self.sampler.sample(logits)?);
            }
            bar.iter().for_each(|bar| bar.inc(piece.len() as u64));
        }
        bar.iter().for_each(|bar| bar.finish_and_clear());
        Ok((self.held.len() - common, first))
    }

    /// From the first token to the end: tokens of the text, why it ended, tokens fed.
    fn go_on(
        &mut self,
        first: u32,
        most: usize,
        text: &mut Text<'_>,
        listener: &Listener,
    ) -> Result<(usize, Ending, usize), Error> {
        let tokenizer = self.model.tokenizer();
        let mut stream = tokenizer.stream();
        let (mut token, mut tokens, mut fed) = (first, 0, 0);
        let ending = loop {
            if tokenizer.ends_generation(token) {
                break Ending::End;
            }
            tokens += 1;
            text.push(stream.push(token))?;
            if text.stops.hit().is_some() {
                break Ending::Stop;
            }
            if tokens == most {
                break Ending::Length;
            }
            if self.session.len() == self.session.context() {
                break Ending::Context;
            }
            if listener.pressed() {
                break Ending::Interrupt;
            }
            self.sampler.accept(token);
            let logits = self.session.feed(&[token])?;
            self.held.push(token);
            fed += 1;
            token = self.sampler.sample(logits)?;
        };
        text.push(stream.finish())?;
        text.finish()?;
        Ok((tokens, ending, fed))
    }
}

/// The text on its way to whoever reads it.
struct Text<'a> {
    written: String,
    stops: &'a mut Stops,
    show: &'a mut dyn FnMut(&str) -> Result<(), Error>,
}

impl Text<'_> {
    fn push(&mut self, piece: &str) -> Result<(), Error> {
        self.shown(|stops, written| stops.push(piece, written))
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.shown(|stops, written| stops.finish(written))
    }

    fn shown(&mut self, step: impl FnOnce(&mut Stops, &mut String)) -> Result<(), Error> {
        let before = self.written.len();
        step(self.stops, &mut self.written);
        if self.written.len() == before { Ok(()) } else { (self.show)(&self.written[before..]) }
    }
}
