//! Writes a text: prompt in, tokens out, until something says stop.

use std::time::Instant;

use regard_models::generate::{Counts, Generator};
use regard_models::tokenizer::{DecodeStream, Tokenizer};
use serde::Serialize;

use crate::error::Error;
use crate::interrupt::Listener;
use crate::progress;
use regard_models::generate::Stops;

/// A prompt of more tokens has a bar.
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
    /// The stop string that ended it, if one did.
    pub(crate) stop: Option<String>,
    /// The prompt's pace. What the cache already held is not fed again.
    pub(crate) prompt: Pace,
    /// The text's pace, choice of tokens included. The last token is not fed.
    pub(crate) generation: Pace,
}

/// What reads a prompt and then gives token after token.
pub(crate) trait Source {
    /// Takes in a prompt, and gives the number of tokens that were lacking. Before each piece it is asked whether to go on, with
    /// the tokens that are taken in and those that are to be.
    fn read_while(&mut self, prompt: &[u32], go_on: &mut dyn FnMut(usize, usize) -> bool) -> Result<usize, Error>;

    /// The next token; none where there is no room for it.
    fn next_token(&mut self) -> Result<Option<u32>, Error>;

    /// How guesses have fared.
    fn counts(&self) -> Counts {
        Counts::default()
    }
}

impl Source for Generator<'_> {
    fn read_while(&mut self, prompt: &[u32], go_on: &mut dyn FnMut(usize, usize) -> bool) -> Result<usize, Error> {
        Ok(Generator::read_while(self, prompt, go_on)?)
    }

    fn next_token(&mut self) -> Result<Option<u32>, Error> {
        Ok(Generator::next_token(self)?)
    }

    fn counts(&self) -> Counts {
        Generator::counts(self)
    }
}

/// A source, and the tokeniser whose tokens it gives.
pub(crate) struct Writer<'m, S> {
    tokenizer: &'m Tokenizer,
    source: S,
}

impl<'m> Writer<'m, Generator<'m>> {
    /// Tokens that the session can hold.
    pub(crate) fn context(&self) -> usize {
        self.source.session().context()
    }
}

impl<'m, S: Source> Writer<'m, S> {
    /// A writer of what a source gives.
    pub(crate) fn new(tokenizer: &'m Tokenizer, source: S) -> Self {
        Self { tokenizer, source }
    }

    /// How guesses have fared.
    pub(crate) fn counts(&self) -> Counts {
        self.source.counts()
    }

    /// Writes at most `most` tokens after `prompt`, which must be shorter than the context and not empty, and gives
    /// each piece of text to `show` as soon as it is certain.
    ///
    /// What the source already holds of the prompt is kept.
    ///
    /// # Errors
    /// The model's, and whatever `show` returns.
    pub(crate) fn write(
        &mut self,
        prompt: &[u32],
        most: usize,
        stops: Stops,
        show: &mut dyn FnMut(&str) -> Result<(), Error>,
    ) -> Result<Written, Error> {
        let listener = Listener::new();
        let start = Instant::now();
        let mut bar = None;
        let fed = self.source.read_while(prompt, &mut |done, total| {
            if total > PIECE {
                bar.get_or_insert_with(|| progress::steps(total as u64, "reading the prompt"))
                    .set_position(done as u64);
            }
            !listener.pressed()
        })?;
        bar.iter().for_each(|bar| bar.finish_and_clear());
        let prompt = Pace { fed, seconds: start.elapsed().as_secs_f64() };
        let start = Instant::now();
        let mut text = Text::new(self.tokenizer, most, stops);
        let ending = loop {
            let ending = match listener.pressed() {
                true => Some(text.end(Ending::Interrupt)),
                false => text.take(self.source.next_token()?),
            };
            match text.fresh() {
                "" => {}
                fresh => show(fresh)?,
            }
            if let Some(ending) = ending {
                break ending;
            }
        };
        // The last token was not taken in.
        let generation = Pace { fed: text.tokens.saturating_sub(1), seconds: start.elapsed().as_secs_f64() };
        Ok(Written { ending, prompt, generation, tokens: text.tokens, stop: text.stop(), text: text.written })
    }
}

/// A text that comes token by token.
pub(crate) struct Text<'a> {
    /// What is certain to be its text.
    pub(crate) written: String,
    /// Its tokens.
    pub(crate) tokens: usize,
    /// How much of it was asked for.
    asked: usize,
    most: usize,
    tokenizer: &'a Tokenizer,
    stream: DecodeStream<'a>,
    stops: Stops,
}

impl<'a> Text<'a> {
    /// A text of at most so many tokens, which ends before a stop string.
    pub(crate) fn new(tokenizer: &'a Tokenizer, most: usize, stops: Stops) -> Self {
        Self { written: String::new(), tokens: 0, asked: 0, most, tokenizer, stream: tokenizer.stream(), stops }
    }

    /// Takes the next token, none where the context is full, and tells whether the text has ended with it.
    pub(crate) fn take(&mut self, token: Option<u32>) -> Option<Ending> {
        let Some(token) = token else { return Some(self.end(Ending::Context)) };
        if self.tokenizer.ends_generation(token) {
            return Some(self.end(Ending::End));
        }
        self.tokens += 1;
        self.stops.push(self.stream.push(token), &mut self.written);
        let ending = match self.stops.hit() {
            Some(_) => Ending::Stop,
            None if self.tokens == self.most => Ending::Length,
            None => return None,
        };
        Some(self.end(ending))
    }

    /// Ends the text: what was held back is part of it.
    pub(crate) fn end(&mut self, ending: Ending) -> Ending {
        self.stops.push(self.stream.finish(), &mut self.written);
        self.stops.finish(&mut self.written);
        ending
    }

    /// What has come since this was asked last.
    pub(crate) fn fresh(&mut self) -> &str {
        let from = std::mem::replace(&mut self.asked, self.written.len());
        &self.written[from..]
    }

    /// The stop string that ended it, if one did.
    pub(crate) fn stop(&self) -> Option<String> {
        self.stops.hit().map(str::to_owned)
    }
}
